//! Text of a route -> tokens with their places (`edgehub.md` 4.1).
//!
//! The rules that surprise: an ID is any run of characters except whitespace and `( ) < > @ , ; : \ " / [ ] ? = { }`, so
//! `a-b`, `a||b` and `1-3` are each one property name, and operators need spaces. The longest match wins; on a tie the
//! rule listed first does (keywords, literals and operators before ID). So `'a'b` is one property name, `$` alone is one,
//! and a run with brackets that does not begin with `$` is an error as a whole.
//! Must not know: the grammar.

use super::TEXT_BYTES_MAX;
use super::advice;
use super::error::{CompileError, Span};

/// What a token is. Names and numbers are read from the text by their span.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Select,
    From,
    Where,
    Into,
    And,
    Or,
    Not,
    True,
    False,
    Null,
    Undefined,
    Number,
    /// The unescaped text.
    Text(String),
    /// A property, function or source segment name.
    Id,
    /// `$name`.
    Sys,
    /// Punctuation and operators.
    Sign(&'static str),
    End,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) span: Span,
}

/// Signs made of characters that no ID can hold; longer ones first.
const SIGNS: [&str; 13] = ["<=", ">=", "<>", "??", "<", ">", "=", "(", ")", ",", "/", "{", "}"];

/// Signs made of ID characters: they count only when they are the whole run.
const RUN_SIGNS: [&str; 5] = ["||", "+", "-", "*", "%"];

/// All tokens of `text`; the last one is [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, CompileError> {
    read(text, false)
}

/// All tokens of a source alone; the last one is [`Kind::End`].
pub(super) fn source_tokens(text: &str) -> Result<Vec<Token>, CompileError> {
    read(text, true)
}

fn read(text: &str, in_source: bool) -> Result<Vec<Token>, CompileError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(CompileError::new(
            0..0,
            format!("the route has {} bytes", text.len()),
            format!("split it; at most {TEXT_BYTES_MAX} bytes are allowed"),
        ));
    }
    let mut lexer = Lexer { text, at: 0, in_source, out: Vec::new() };
    while lexer.step()? {}
    lexer.push(Kind::End, text.len());
    Ok(lexer.out)
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    /// Between FROM and the next keyword, where `/*` can be the wildcard.
    in_source: bool,
    out: Vec<Token>,
}

impl<'t> Lexer<'t> {
    /// Reads one token (or whitespace, or a comment); false at the end.
    fn step(&mut self) -> Result<bool, CompileError> {
        let rest = &self.text[self.at..];
        let Some(c) = rest.chars().next() else {
            return Ok(false);
        };
        if c.is_whitespace() {
            self.at += c.len_utf8();
        } else if let Some(len) = self.comment(rest) {
            self.at += len;
        } else if c == '"' {
            let (text, len) = quoted(rest, self.at)?;
            self.push(Kind::Text(text), self.at + len);
        } else if c == '\'' {
            self.apostrophe(rest)?;
        } else if c == '$' && run(&rest[1..], is_path) > 0 {
            self.push(Kind::Sys, self.at + run(rest, is_path));
        } else if run(rest, is_path) > run(rest, is_id) {
            return Err(self.brackets(rest));
        } else if is_id(c) {
            self.word(rest);
        } else {
            let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) else {
                return Err(CompileError::new(
                    self.at..self.at + c.len_utf8(),
                    format!("`{c}` has no meaning in a route"),
                    advice::stray(c),
                ));
            };
            self.push(Kind::Sign(sign), self.at + sign.len());
        }
        Ok(true)
    }

    fn push(&mut self, kind: Kind, end: usize) {
        match kind {
            Kind::From => self.in_source = true,
            Kind::Where | Kind::Into => self.in_source = false,
            _ => {}
        }
        self.out.push(Token { kind, span: self.at..end });
        self.at = end;
    }

    /// The length of a comment that starts here. A `/*` without `*/` is the tokens `/` and `*`, and so is one that
    /// touches its source path or is all of it, as in `FROM /messages/* INTO $upstream /* all */`.
    fn comment(&self, rest: &str) -> Option<usize> {
        let body = rest.strip_prefix("/*")?;
        let begins = self.out.last().is_some_and(|t| t.kind == Kind::From);
        let word = body.split_whitespace().next().and_then(keyword);
        if begins && matches!(word, Some(Kind::Where | Kind::Into)) {
            return None;
        }
        let segment = |t: &Token| matches!(t.kind, Kind::Id | Kind::Number | Kind::Sign("*"));
        let touches =
            self.in_source && self.out.last().is_some_and(|t| segment(t) && t.span.end == self.at);
        if touches {
            return None;
        }
        body.find("*/").map(|at| at + 4)
    }

    /// `'` opens a string, but is an ID character too: the longer match wins, the string on a tie.
    fn apostrophe(&mut self, rest: &'t str) -> Result<(), CompileError> {
        let (text, len) = quoted(rest, self.at)?;
        let path = run(rest, is_path);
        if path <= len {
            self.push(Kind::Text(text), self.at + len);
            Ok(())
        } else if path == run(rest, is_id) {
            self.push(Kind::Id, self.at + path);
            Ok(())
        } else {
            Err(self.brackets(rest))
        }
    }

    /// The run that opens `rest` holds `[` or `]`: it is one token that fits nowhere.
    fn brackets(&self, rest: &str) -> CompileError {
        let word = &rest[..run(rest, is_path)];
        // `$body["a"]` is `$body[`, a string and what is here.
        if let [.., Token { kind: Kind::Sys, span }, Token { kind: Kind::Text(name), .. }] =
            &self.out[..]
            && let Some(path) = self.text[span.clone()].strip_suffix('[')
            && word.starts_with(']')
        {
            let todo = format!("names take no quotes: write {path}.{name}");
            let span = span.end - 1..self.at + 1;
            return CompileError::new(span, "a bracket holds an index, not a name", todo);
        }
        let span = self.at..self.at + word.len();
        CompileError::new(span, "`[` and `]` cannot be in a name", advice::brackets(word))
    }

    fn word(&mut self, rest: &'t str) {
        let len = run(rest, is_id);
        let word = &rest[..len];
        if word == "!" && rest[len..].starts_with('=') {
            self.push(Kind::Sign("!="), self.at + 2);
            return;
        }
        let kind = keyword(word)
            .or_else(|| RUN_SIGNS.iter().find(|s| **s == word).map(|s| Kind::Sign(s)))
            .or_else(|| is_number(word).then_some(Kind::Number))
            .unwrap_or(Kind::Id);
        self.push(kind, self.at + len);
    }
}

/// Keywords in any case; `true false null undefined` in lower case only (`TRUE` is a property name).
fn keyword(word: &str) -> Option<Kind> {
    let exact = match word {
        "true" => Some(Kind::True),
        "false" => Some(Kind::False),
        "null" => Some(Kind::Null),
        "undefined" => Some(Kind::Undefined),
        _ => None,
    };
    let table = [
        ("SELECT", Kind::Select),
        ("FROM", Kind::From),
        ("WHERE", Kind::Where),
        ("INTO", Kind::Into),
        ("AND", Kind::And),
        ("OR", Kind::Or),
        ("NOT", Kind::Not),
    ];
    exact.or_else(|| table.into_iter().find(|(k, _)| k.eq_ignore_ascii_case(word)).map(|(_, k)| k))
}

/// Digits, `0x` and hex digits, reals with point and exponent; a minus directly in front belongs to the number, but not
/// to a hexadecimal one. On purpose narrower than Rust's own reader, which takes `+5`, `5.` and `inf`: names here.
fn is_number(word: &str) -> bool {
    if let Some(hex) = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        return !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    }
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let word = word.strip_prefix('-').unwrap_or(word);
    let (real, exponent) = match word.split_once(['e', 'E']) {
        Some((real, exponent)) => (real, exponent.strip_prefix(['+', '-']).unwrap_or(exponent)),
        None => (word, "0"),
    };
    let (whole, fraction) = real.split_once('.').unwrap_or((real, "0"));
    let whole_may_be_empty = real.starts_with('.');
    (digits(whole) || whole_may_be_empty) && digits(fraction) && digits(exponent)
}

/// The value of a number token: a hexadecimal one is 64 bits in two's complement, `None` if it has more (`edgehub.md` 4.1).
pub(super) fn number(word: &str) -> Option<f64> {
    match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok().map(|bits| bits.cast_signed() as f64),
        None => word.parse().ok(),
    }
}

fn is_id(c: char) -> bool {
    !c.is_whitespace() && !"()<>@,;:\\\"/[]?={}".contains(c)
}

/// What `$name` and body paths are made of.
fn is_path(c: char) -> bool {
    is_id(c) || c == '[' || c == ']'
}

fn run(rest: &str, belongs: impl Fn(char) -> bool) -> usize {
    rest.find(|c| !belongs(c)).unwrap_or(rest.len())
}

/// The text of the string that opens `rest`, and its length in the route with both quotes. `at` is its place.
fn quoted(rest: &str, at: usize) -> Result<(String, usize), CompileError> {
    let mut chars = rest.char_indices();
    let quote = chars.next().map(|(_, c)| c);
    let mut units: Vec<u16> = Vec::new();
    let mut buffer = [0; 2];
    while let Some((i, c)) = chars.next() {
        if Some(c) == quote {
            let text = String::from_utf16(&units).map_err(|_| {
                CompileError::new(
                    at..at + i + 1,
                    "the string has half of a \\u surrogate pair",
                    "write both halves",
                )
            })?;
            return Ok((text, i + 1));
        }
        if c != '\\' {
            units.extend_from_slice(c.encode_utf16(&mut buffer));
            continue;
        }
        let escaped = chars.next();
        match escaped {
            Some((_, c @ ('"' | '\'' | '\\'))) => {
                units.extend_from_slice(c.encode_utf16(&mut buffer));
            }
            Some((u, 'u')) => {
                let unit = rest.get(u + 1..u + 5).and_then(|hex| {
                    hex.bytes()
                        .all(|b| b.is_ascii_hexdigit())
                        .then(|| u16::from_str_radix(hex, 16).ok())?
                });
                let Some(unit) = unit else {
                    return Err(bad_escape(at + i..at + u + 1));
                };
                units.push(unit);
                chars.nth(3);
            }
            Some((e, c)) => return Err(bad_escape(at + i..at + e + c.len_utf8())),
            None => break,
        }
    }
    Err(CompileError::new(
        at..at + 1,
        "the string that opens here is not closed",
        format!("add the closing {}", quote.unwrap_or('"')),
    ))
}

fn bad_escape(span: Span) -> CompileError {
    CompileError::new(
        span,
        "unknown escape in a string",
        r#"write \" \' \\ or \u and four hex digits; a plain backslash is \\"#,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds in short form: signs and words as written, strings as `s:..`, IDs as `i:..`.
    fn show(text: &str) -> String {
        let all = match tokens(text) {
            Ok(all) => all,
            Err(e) => return format!("error {:?} {}", e.span, e.what),
        };
        let words = all.iter().filter(|t| t.kind != Kind::End).map(|t| match &t.kind {
            Kind::Text(s) => format!("s:{s}"),
            Kind::Id => format!("i:{}", &text[t.span.clone()]),
            Kind::Sys => format!("$:{}", &text[t.span.clone()]),
            Kind::Number => format!("n:{}", &text[t.span.clone()]),
            Kind::Sign(s) => (*s).to_owned(),
            other => format!("{other:?}"),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn check(table: &[(&str, &str)]) {
        for (text, expected) in table {
            assert_eq!(show(text), *expected, "{text}");
        }
    }

    #[test]
    fn words_numbers_and_signs() {
        check(&[
            ("select FROM wHeRe into and OR Not", "Select From Where Into And Or Not"),
            ("true false null undefined", "True False Null Undefined"),
            ("TRUE Null", "i:TRUE i:Null"),
            ("UNDEFINED Undefined False", "i:UNDEFINED i:Undefined i:False"),
            ("a-b a.b a+b 1-3 -x a%b a||b", "i:a-b i:a.b i:a+b i:1-3 i:-x i:a%b i:a||b"),
            ("a - b || c * d % e + f", "i:a - i:b || i:c * i:d % i:e + i:f"),
            ("1/0", "n:1 / n:0"),
            ("1 1.5 .5 1e3 0x1F -3 1.5x 0x", "n:1 n:1.5 n:.5 n:1e3 n:0x1F n:-3 i:1.5x i:0x"),
            ("inf nan e . 1..2", "i:inf i:nan i:e i:. i:1..2"),
            ("a!=b", "i:a! = i:b"),
            ("a != b <> c == d", "i:a != i:b <> i:c = = i:d"),
            ("a <= b >= c ?? d", "i:a <= i:b >= i:c ?? i:d"),
        ]);
    }

    #[test]
    fn strings_system_names_comments_and_strays() {
        check(&[
            ("'a b' \"c\" 'x'", "s:a b s:c s:x"),
            ("'a'b", "i:'a'b"),
            ("a'b", "i:a'b"),
            (r#"'\'' "\"" '\\' '\u00e9' '\uD83D\uDE00'"#, "s:' s:\" s:\\ s:é s:😀"),
            (r"'\n'", "error 1..3 unknown escape in a string"),
            (r"'\u12'", "error 1..3 unknown escape in a string"),
            (r"'\uD83D'", "error 0..8 the string has half of a \\u surrogate pair"),
            ("x 'open", "error 2..3 the string that opens here is not closed"),
            ("x 'open\\", "error 2..3 the string that opens here is not closed"),
            ("{$a} $body.x[1].y $", "{ $:$a } $:$body.x[1].y i:$"),
            ("$ $) $[0] $$ $a'b", "i:$ i:$ ) $:$[0] $:$$ $:$a'b"),
            ("a$b not$x -$x", "i:a$b i:not$x i:-$x"),
            ("e3 -e3 E+5 .e3 .5e3 1e", "i:e3 i:-e3 i:E+5 i:.e3 n:.5e3 i:1e"),
            ("1e+5 1E-5 1.5e05 1e5.5 1e+", "n:1e+5 n:1E-5 n:1.5e05 i:1e5.5 i:1e+"),
            ("+5 --5 -5 -.5 -0 -1e+5", "i:+5 i:--5 n:-5 n:-.5 n:-0 n:-1e+5"),
            ("5. 1.e3 -5. 1_0 ١", "i:5. i:1.e3 i:-5. i:1_0 i:١"),
            ("0X1f -0x1F 0x1G 0xe+3", "n:0X1f i:-0x1F i:0x1G i:0xe+3"),
            ("x=-5 x>-5 (-5)", "i:x = n:-5 i:x > n:-5 ( n:-5 )"),
            ("5-3 5 -3 5 - 3", "i:5-3 n:5 n:-3 n:5 - n:3"),
            ("! !a !=a a! =", "i:! i:!a != i:a i:a! ="),
            ("!== !!= != =", "!= = i:!! = != ="),
            ("** ||| |a& %% +- -(a)", "i:** i:||| i:|a& i:%% i:+- - ( i:a )"),
            ("a||'x' 'x'||a", "i:a||'x' i:'x'||a"),
            ("a='x'AND b", "i:a = i:'x'AND i:b"),
            ("(a)and(b)", "( i:a ) And ( i:b )"),
            ("fromage into_ nota", "i:fromage i:into_ i:nota"),
            ("<=> =< => <>=", "<= > = < = > <> ="),
            ("???", "error 2..3 `?` has no meaning in a route"),
            ("a /* b */ c", "i:a i:c"),
            ("a /* b", "i:a / * i:b"),
            ("FROM /messages/* INTO $x /* c */", "From / i:messages / * Into $:$x"),
            ("FROM /messages/* /* c */ INTO $x", "From / i:messages / * Into $:$x"),
            ("FROM /* c */ /messages", "From / i:messages"),
            ("FROM /* INTO $x /* c */", "From / * Into $:$x"),
            ("FROM /*\nwhere a = '*/' INTO $x", "From / * Where i:a = s:*/ Into $:$x"),
            ("FROM /* into_ */ /a", "From / i:a"),
            (
                "FROM /messages/modules/7/* INTO $x /* c */",
                "From / i:messages / i:modules / n:7 / * Into $:$x",
            ),
            ("FROM /messages/*/* INTO $x /* c */", "From / i:messages / * / * Into $:$x"),
            ("FROM /a WHERE b /* c */ = 1", "From / i:a Where i:b = n:1"),
            ("a /*/ b /**/ c", "i:a i:c"),
            ("'/* a */' /* ' */ b", "s:/* a */ i:b"),
            ("a\u{2003}b\u{3000}c\u{200b}d", "i:a i:b i:c\u{200b}d"),
            ("a[b", "error 0..3 `[` and `]` cannot be in a name"),
            ("a /x[0].y b", "error 3..9 `[` and `]` cannot be in a name"),
            ("]", "error 0..1 `[` and `]` cannot be in a name"),
            ("and[", "error 0..4 `[` and `]` cannot be in a name"),
            ("'a'[0]", "error 0..6 `[` and `]` cannot be in a name"),
            ("'a b'[0]", "error 5..8 `[` and `]` cannot be in a name"),
            ("'a[b]' 'a[ b'", "s:a[b] s:a[ b"),
            ("\"a\"b", "s:a i:b"),
            ("a?b", "error 1..2 `?` has no meaning in a route"),
            ("a??b", "i:a ?? i:b"),
            ("a\\b", "error 1..2 `\\` has no meaning in a route"),
            ("a;", "error 1..2 `;` has no meaning in a route"),
            ("\u{201c}x\u{201d}", "i:\u{201c}x\u{201d}"),
            ("a\u{a0}b", "i:a i:b"),
        ]);
    }

    #[test]
    fn a_route_of_100_kb_is_refused() {
        assert!(show(&"x".repeat(100_000)).starts_with("error 0..0 the route has 100000 bytes"));
    }
}
