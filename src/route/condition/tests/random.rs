//! What holds for all conditions: random ones, well typed, over random messages.

use super::*;

/// Makes the same condition of the same seed.
struct Maker(u64);

impl Maker {
    fn below(&mut self, n: u64) -> u64 {
        // Steele, Lea and Flood's splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        let at = self.below(of.len() as u64);
        of[usize::try_from(at).unwrap()]
    }

    fn bool(&mut self, depth: u32) -> String {
        if depth == 0 {
            return self.one(&["true", "false", "(missing = 'x')", "(level = 'high')"]).to_owned();
        }
        let d = depth - 1;
        match self.below(9) {
            0 => format!("NOT {}", self.truthy(d, true)),
            1 => format!("({})", self.chain("AND", d)),
            2 => format!("({})", self.chain("OR", d)),
            3 => {
                let name = self.one(&["starts_with", "ends_with", "contains"]);
                format!("{name}({}, {})", self.text(d), self.text(d))
            }
            4 => {
                let name =
                    self.one(&["is_defined", "is_null", "is_bool", "is_number", "is_string"]);
                format!("{name}({})", self.any(d))
            }
            5 => format!("({} ?? {})", self.bool(d), self.bool(d)),
            n => {
                let sign = self.one(&["=", "!=", "<>", "<", "<=", ">", ">="]);
                let (left, right) = match n {
                    6 => (self.number(d), self.number(d)),
                    7 => (self.text(d), self.text(d)),
                    _ => (self.body(d), self.any(d).replace("undefined", "null")),
                };
                format!("({left} {sign} {right})")
            }
        }
    }

    /// An operand of AND, OR and NOT; null only where the whole is no null for it.
    fn truthy(&mut self, depth: u32, null: bool) -> String {
        match self.below(6) {
            0 => self.body(depth),
            1 if null => "null".to_owned(),
            _ => self.bool(depth),
        }
    }

    fn chain(&mut self, joiner: &str, depth: u32) -> String {
        let mut operands = vec![self.truthy(depth, false)];
        for _ in 0..=self.below(3) {
            operands.push(self.truthy(depth, joiner == "OR"));
        }
        operands.join(&format!(" {joiner} "))
    }

    fn number(&mut self, depth: u32) -> String {
        if depth == 0 {
            return self
                .one(&["0", "1", "-2.5", "3", "1e400", "-1e400", "0xFF", "as_number(n)"])
                .to_owned();
        }
        let d = depth - 1;
        match self.below(6) {
            0 => format!(
                "({} {} {})",
                self.number(d),
                self.one(&["+", "-", "*", "/", "%"]),
                self.numeric(d)
            ),
            1 => format!("- {}", self.number(d)),
            2 => {
                let name = self.one(&["abs", "exp", "square", "ceiling", "floor", "sign", "sqrt"]);
                format!("{name}({})", self.numeric(d))
            }
            3 => format!("length({})", self.text(d)),
            4 => format!("index_of({}, {})", self.text(d), self.text(d)),
            _ => format!("as_number({})", self.text(d)),
        }
    }

    fn numeric(&mut self, depth: u32) -> String {
        // Two numbers give a number only, so a body value stays inside a call.
        format!(
            "power({}, 1)",
            if self.below(3) == 0 { self.body(depth) } else { self.number(depth) }
        )
    }

    fn text(&mut self, depth: u32) -> String {
        if depth == 0 {
            let names = [
                "'x'", "''", "level", "pair", "none", "missing", "empty", "$to", "{$to}", "n",
                "'12'",
            ];
            return self.one(&names).to_owned();
        }
        let d = depth - 1;
        match self.below(6) {
            0 => format!("({} || {})", self.text(d), self.text(d)),
            1 => format!("{}({})", self.one(&["lower", "upper"]), self.text(d)),
            2 => format!("substring({}, {})", self.text(d), self.number(d)),
            3 => format!("substring({}, {}, {})", self.text(d), self.number(d), self.number(d)),
            4 => format!(
                "concat({}, {}, {}, {})",
                self.text(d),
                self.body(d),
                self.text(d),
                self.text(d)
            ),
            _ => format!("({} ?? {})", self.text(d), self.text(d)),
        }
    }

    fn body(&mut self, depth: u32) -> String {
        let paths = [
            "$body.t",
            "$body.f",
            "$body.n",
            "$body.s",
            "$body.null",
            "$body.missing",
            "$body.o",
            "$body.a[1]",
            "$body.hidden",
            "{$body.hidden}",
            "$body.hollow",
        ];
        match self.below(5) {
            0 if depth > 0 => format!("({} + {})", self.body(depth - 1), self.number(depth - 1)),
            1 if depth > 0 => format!("- {}", self.body(depth - 1)),
            2 if depth > 0 => format!("({} ?? {})", self.body(depth - 1), self.text(depth - 1)),
            _ => self.one(&paths).to_owned(),
        }
    }

    fn any(&mut self, depth: u32) -> String {
        match self.below(6) {
            0 => self.bool(depth),
            1 => self.number(depth),
            2 => self.text(depth),
            3 => self.body(depth),
            4 => "null".to_owned(),
            _ => "undefined".to_owned(),
        }
    }
}

fn messages() -> [Sample; 3] {
    let bare = Sample { properties: vec![], system: vec![], body: "" };
    [sample(), unreadable(), bare]
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 2000, ..Default::default() })]

    /// `truth` compares what evaluation and explanation say.
    #[test]
    fn a_condition_and_its_opposite(seed in proptest::num::u64::ANY, depth in 0u32..5) {
        let text = Maker(seed).bool(depth);
        for message in messages() {
            let opposite = match truth(&text, &message) {
                'T' => 'F',
                'F' => 'T',
                _ => 'U',
            };
            proptest::prop_assert_eq!(truth(&format!("NOT {text}"), &message), opposite, "{}", &text);
            let or = truth(&format!("{text} OR NOT {text}"), &message);
            proptest::prop_assert_eq!(or, if opposite == 'U' { 'U' } else { 'T' }, "{}", &text);
            let and = truth(&format!("{text} AND NOT {text}"), &message);
            proptest::prop_assert_eq!(and, if opposite == 'U' { 'U' } else { 'F' }, "{}", &text);
        }
    }

    #[test]
    fn a_value_is_never_nan_and_warnings_are_in_the_text(seed in proptest::num::u64::ANY, depth in 0u32..5) {
        let text = Maker(seed).any(depth);
        let (condition, _) = compile(&text);
        for warning in condition.warnings() {
            proptest::prop_assert!(text.get(warning.span.clone()).is_some());
        }
        for message in messages() {
            let value = explain(&text, &message).value;
            proptest::prop_assert!(value.number().is_none_or(|number| !number.is_nan()), "{}", &text);
            // What is warned of as never true is never true.
            if condition.warnings().iter().any(|w| w.what.ends_with("selects nothing")) {
                proptest::prop_assert_ne!(truth(&text, &message), 'T', "{}", &text);
            }
        }
    }

    #[test]
    fn any_words_are_compiled_or_refused(
        words in proptest::collection::vec(
            proptest::sample::select(&[
                "NOT", "AND", "OR", "(", ")", "=", "<>", "<", ">=", "+", "-", "*", "%", "||", "??", "'x'", "'3'", "level",
                "missing", "none", "$to", "{$to}", "$body.n", "$body.o", "$body.t", "$a[0]", "1", "0x1F", "null",
                "undefined", "true", "false", "is_defined(", "as_number(", "substring(", "concat(", ",", "length(",
                "twin_change_includes(", "tags.a",
            ][..]),
            0..14,
        ),
        twin_changes in proptest::bool::ANY,
    ) {
        let text = words.join(" ");
        match compile_for(&text, twin_changes) {
            Err(error) => proptest::prop_assert!(text.get(error.span.clone()).is_some(), "{}", error),
            Ok((condition, paths)) => {
                for message in messages() {
                    let facts = Facts { subject: &message, body: paths.of(&message) };
                    condition.evaluate(&facts);
                    check_tree(&text, &condition.explain(&facts));
                }
                condition.warnings();
            }
        }
    }
}
