//! Text as a number, as `as_number` reads it: .NET's `double.TryParse` with `NumberStyles.Any` and the invariant culture
//! (`edgehub.md` 4.6).
//!
//! Invariants: the result is never NaN; what a sensor writes (`21.5`, `-3`, `1e6`) is read without allocating.
//! Must not know: values, expressions.

/// The number that `text` is; `None` = it is none.
pub(super) fn parse(text: &str) -> Option<f64> {
    let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
    if text.bytes().all(plain)
        && let Ok(number) = text.parse()
    {
        return Some(number);
    }
    Reader { rest: text, digits: String::new(), sign: Sign::None, currency: false }
        .read()
        .or_else(|| infinity(text.trim()))
}

/// `NaN` in all its spellings has no value here.
fn infinity(text: &str) -> Option<f64> {
    let is = |word: &str| text.eq_ignore_ascii_case(word);
    if is("Infinity") || is("+Infinity") {
        Some(f64::INFINITY)
    } else if is("-Infinity") {
        Some(f64::NEG_INFINITY)
    } else {
        None
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Sign {
    None,
    Plus,
    Minus,
    /// Opened and not closed yet.
    Parenthesis,
    Closed,
}

/// Everything that may stand around digits, each at most once, and what may stand between them.
struct Reader<'t> {
    rest: &'t str,
    /// What was read, as Rust reads it.
    digits: String,
    sign: Sign,
    currency: bool,
}

impl Reader<'_> {
    fn read(mut self) -> Option<f64> {
        self.leading();
        self.mantissa();
        if !self.digits.contains(|c: char| c.is_ascii_digit()) {
            return None;
        }
        self.exponent();
        self.trailing();
        if self.sign == Sign::Parenthesis || !self.rest.bytes().all(|b| b == 0) {
            return None;
        }
        let number: f64 = self.digits.parse().ok()?;
        let negative = matches!(self.sign, Sign::Minus | Sign::Closed);
        Some(if negative { -number } else { number })
    }

    fn take(&mut self, c: char) -> bool {
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn white(&mut self) -> bool {
        self.rest.starts_with([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']) && {
            self.rest = &self.rest[1..];
            true
        }
    }

    /// `+` or `-`, if no sign was before.
    fn take_sign(&mut self) -> bool {
        let sign = match self.rest.as_bytes().first() {
            Some(b'+') => Sign::Plus,
            Some(b'-') => Sign::Minus,
            _ => return false,
        };
        let free = self.sign == Sign::None;
        if free {
            (self.sign, self.rest) = (sign, &self.rest[1..]);
        }
        free
    }

    fn take_currency(&mut self) -> bool {
        let hit = !self.currency && self.take('¤');
        self.currency |= hit;
        hit
    }

    /// White space, one sign or `(`, one currency sign. After a sign, white space may only follow the currency sign.
    fn leading(&mut self) {
        loop {
            let opens = self.sign == Sign::None && self.rest.starts_with('(');
            if opens {
                (self.sign, self.rest) = (Sign::Parenthesis, &self.rest[1..]);
            }
            let white = (self.sign == Sign::None || self.currency) && self.white();
            if !(opens || white || self.take_sign() || self.take_currency()) {
                return;
            }
        }
    }

    /// Digits, one point, and commas anywhere between the first digit and the point.
    fn mantissa(&mut self) {
        let (mut digit_seen, mut point_seen) = (false, false);
        while let Some(b) = self.rest.bytes().next() {
            match b {
                b'0'..=b'9' => digit_seen = true,
                b'.' if !point_seen => point_seen = true,
                b',' if digit_seen && !point_seen => {}
                _ => return,
            }
            if b != b',' {
                self.digits.push(char::from(b));
            }
            self.rest = &self.rest[1..];
        }
    }

    /// An `e` without digits after it is left where it is.
    fn exponent(&mut self) {
        let Some(after) = self.rest.strip_prefix(['e', 'E']) else {
            return;
        };
        let unsigned = after.strip_prefix(['+', '-']).unwrap_or(after);
        let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            let len = self.rest.len() - unsigned.len() + digits;
            self.digits.push_str(&self.rest[..len]);
            self.rest = &self.rest[len..];
        }
    }

    fn trailing(&mut self) {
        loop {
            let closes = self.sign == Sign::Parenthesis && self.take(')');
            if closes {
                self.sign = Sign::Closed;
            }
            if !(closes || self.white() || self.take_sign() || self.take_currency()) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_number() {
        let infinity = f64::INFINITY;
        let table = [
            ("0", 0.0),
            ("21.5", 21.5),
            ("-3", -3.0),
            ("+3", 3.0),
            ("007", 7.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("-.5", -0.5),
            ("1e3", 1000.0),
            ("1E3", 1000.0),
            ("1e+3", 1000.0),
            ("1e-3", 0.001),
            ("1.5e2", 150.0),
            (" 7", 7.0),
            ("7 ", 7.0),
            ("\t\r\n\u{b}\u{c} 7 \t\r\n\u{b}\u{c}", 7.0),
            ("7\0\0", 7.0),
            ("7 \0", 7.0),
            ("7-", -7.0),
            ("7+", 7.0),
            ("7 -", -7.0),
            ("7- ", -7.0),
            ("(7)", -7.0),
            (" (7) ", -7.0),
            ("(7 )", -7.0),
            ("(1,234.5)", -1234.5),
            ("1,234", 1234.0),
            ("1,2,3", 123.0),
            ("1,,2", 12.0),
            ("1,", 1.0),
            ("1,234.5e1", 12345.0),
            ("¤7", 7.0),
            ("7¤", 7.0),
            ("7 ¤", 7.0),
            ("¤ 7", 7.0),
            ("-¤7", -7.0),
            ("-¤ 7", -7.0),
            ("¤-7", -7.0),
            ("(¤7)", -7.0),
            ("(¤ 7)", -7.0),
            ("7¤-", -7.0),
            ("7-¤", -7.0),
            ("1e400", infinity),
            ("-1e400", -infinity),
            ("1,0e400", infinity),
            ("1e99999999999999999999", infinity),
            ("1e-400", 0.0),
            ("Infinity", infinity),
            ("infinity", infinity),
            ("INFINITY", infinity),
            ("+Infinity", infinity),
            ("-infinity", -infinity),
            (" Infinity ", infinity),
            ("\u{a0}Infinity", infinity),
            ("1797693134862315708145274237317043567980e269", 1.797_693_134_862_315_7e308),
            ("9007199254740993", 9_007_199_254_740_992.0),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), Some(expected), "{text:?}");
        }
        assert!(parse("-0").is_some_and(|zero| zero == 0.0 && zero.is_sign_negative()));
    }

    #[test]
    fn what_is_no_number() {
        let table = [
            "",
            " ",
            "x",
            ".",
            "-",
            "+",
            "()",
            "(",
            ")",
            "(7",
            "7)",
            "((7))",
            "-(7)",
            "(-7)",
            "(7)-",
            "-7-",
            "+7-",
            "--7",
            "- 7",
            "+ 7",
            "( 7)",
            ",7",
            "-,7",
            ".,5",
            "1.2,3",
            "1.2.3",
            "1 2",
            "1e",
            "1e+",
            "e5",
            "1e1.5",
            "1e5,0",
            "0x1F",
            "1_000",
            "7%",
            "$7",
            "¤¤7",
            "¤7¤",
            "¤",
            "inf",
            "-inf",
            "nan",
            "NaN",
            "-NaN",
            "+NaN",
            "∞",
            "-∞",
            "\u{a0}7",
            "7\u{a0}",
            "７",
            "٧",
            "\u{2212}7",
            "7x",
            "\u{0}7",
            "7\08",
            "true",
            "Infinity1",
            "- Infinity",
            "(Infinity)",
            "1'000",
            "1d",
            "1f",
        ];
        for text in table {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ ()¤0-9,.eE+\\-a\\x00]{0,16}|.{0,16}") {
            proptest::prop_assert!(parse(&text).is_none_or(|number| !number.is_nan()));
        }

        #[test]
        fn what_rust_writes_is_read_back(number in proptest::num::f64::NORMAL) {
            let texts =
                [format!("{number}"), format!("{number:e}"), format!(" {number}"), format!("{number}¤")];
            for text in texts {
                proptest::prop_assert_eq!(parse(&text), Some(number));
            }
        }
    }
}
