//! The syntax of a path into a JSON body: `name`, `name[3]`, joined by dots (`edgehub.md` 4.5).
//!
//! Owns: [`BodyPath`]. Invariants: the first step is a name; a path has at most [`STEPS_MAX`] steps.
//! Must not know: JSON, expressions.

use std::fmt;
use std::ops::Range;

use super::short;
use crate::route::error::CompileError;

/// Most names and indexes of one path. A reader of JSON goes down one level for each, and 128 levels are as deep as it
/// goes; a real path has a handful.
pub(super) const STEPS_MAX: usize = 100;

/// A path into a JSON body. It prints as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::route) struct BodyPath(Vec<Step>);

/// One level down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// To the member of an object.
    Name(Box<str>),
    /// To the element of an array, from 0.
    Index(usize),
}

impl BodyPath {
    /// Parses a path; `at` is its place in the route's text.
    pub(in crate::route) fn parse(text: &str, at: usize) -> Result<Self, CompileError> {
        let mut reader = Reader { text, at, pos: 0 };
        let mut steps = Vec::new();
        loop {
            steps.push(Step::Name(reader.name()?.into()));
            while reader.next() == Some('[') {
                steps.push(Step::Index(reader.index()?));
            }
            if steps.len() > STEPS_MAX {
                return Err(reader.refuse(
                    0..text.len(),
                    format!("the path has more than {STEPS_MAX} names and indexes"),
                    "send what a route asks for nearer to the top of the body",
                ));
            }
            match reader.next() {
                None => return Ok(Self(steps)),
                Some('.') => reader.pos += 1,
                Some(_) => return Err(reader.after_bracket()),
            }
        }
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl fmt::Display for BodyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Name(name) if i == 0 => f.write_str(name)?,
                Step::Name(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

struct Reader<'t> {
    text: &'t str,
    /// The place of `text` in the route.
    at: usize,
    pos: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.pos..]
    }

    fn next(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn refuse(
        &self,
        span: Range<usize>,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) -> CompileError {
        CompileError::new(self.at + span.start..self.at + span.end, what, todo)
    }

    fn name(&mut self) -> Result<&'t str, CompileError> {
        let rest = self.rest();
        let len = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, place) = (&rest[..len], self.pos..self.pos + len);
        if name.is_empty() {
            return Err(self.no_name());
        }
        if let Some((i, c)) = name.char_indices().find(|(_, c)| !belongs(*c)) {
            return Err(self.foreign(c, self.pos + i));
        }
        if name == "*" {
            return Err(self.refuse(
                place,
                "a path leads to one value, `*` to many",
                "write the name, or an index such as [0]",
            ));
        }
        if name.bytes().all(|b| b.is_ascii_digit()) {
            return Err(self.refuse(
                place,
                format!(
                    "`{}` stands where a name must be, and no name has digits only",
                    short(name)
                ),
                format!("for an element of an array write [{}] without a dot", short(name)),
            ));
        }
        self.pos += len;
        Ok(name)
    }

    /// Nothing stands where a name must be.
    fn no_name(&self) -> CompileError {
        let pos = self.pos;
        match self.next() {
            None if pos == 0 => self.refuse(
                0..0,
                "the path is empty",
                "write the name of a value after the dot, as in $body.temperature",
            ),
            None => self.refuse(
                pos - 1..pos,
                "the path ends with a dot",
                "take the dot out, or write a name after it",
            ),
            Some('[') if pos == 0 => self.refuse(
                0..1,
                "a path begins with a name: the body is an object, not an array",
                "write the name of the array in front, as in $body.values[0]",
            ),
            Some('[') => self.refuse(
                pos - 1..pos,
                "a dot stands in front of a bracket",
                "take the dot out: a[0], not a.[0]",
            ),
            Some(_) => self.refuse(
                pos.saturating_sub(1)..pos + 1,
                "a name is missing in front of a dot",
                "write every name on the way, with one dot between two: nothing searches at any depth",
            ),
        }
    }

    /// `c` at `pos` is part of no name.
    fn foreign(&self, c: char, pos: usize) -> CompileError {
        let place = pos..pos + c.len_utf8();
        match c {
            '\'' | '"' => self.refuse(
                place,
                format!("`{c}` cannot be part of a name"),
                "names take no quotes: write .a, not .'a'",
            ),
            ']' => self.refuse(place, "`]` closes no bracket", "take it out"),
            c if c.is_whitespace() || c.is_control() => self.refuse(
                place,
                "white space cannot be part of a path",
                "take it out; a name that has any cannot be asked for: name it otherwise in the body",
            ),
            c => self.refuse(
                place,
                format!("`{c}` cannot be part of a name"),
                "take it out; a name that has it cannot be asked for: name it otherwise in the body",
            ),
        }
    }

    /// The index in the bracket that opens here.
    fn index(&mut self) -> Result<usize, CompileError> {
        let rest = self.rest();
        let Some(close) = rest.find(']') else {
            let end = self.text.len();
            return Err(self.refuse(
                self.pos..end,
                "the bracket is not closed",
                "write ] after the index",
            ));
        };
        let inner = &rest[1..close];
        let place = self.pos..self.pos + close + 1;
        if inner.is_empty() || !inner.bytes().all(|b| b.is_ascii_digit()) {
            let (what, todo) = no_index(inner);
            return Err(self.refuse(place, what, todo));
        }
        // No body has so many elements: more than `u32` is a slip.
        let Ok(index) = inner.parse::<u32>() else {
            return Err(self.refuse(
                place,
                format!("no array has an element {}", short(inner)),
                format!("write at most {}", u32::MAX),
            ));
        };
        self.pos += close + 1;
        Ok(usize::try_from(index).unwrap_or(usize::MAX))
    }

    /// Neither a dot nor a bracket follows a bracket.
    fn after_bracket(&self) -> CompileError {
        let rest = self.rest();
        let len = rest.find(['.', '[']).unwrap_or(rest.len());
        let name = &rest[..len];
        match name.chars().find(|c| !belongs(*c)) {
            Some(c) if name.starts_with(c) => self.foreign(c, self.pos),
            _ if name.starts_with(['+', '-', '*', '%', '|', '&', '!']) => self.refuse(
                self.pos..self.pos + len,
                "an operator follows a bracket at once",
                "operators need a space on both sides, as in $body.a[0] + 1",
            ),
            _ => self.refuse(
                self.pos..self.pos + len,
                "a name follows a bracket",
                "put a dot between them, as in a[0].b",
            ),
        }
    }
}

/// What is wrong with the text in a bracket, and what to write instead.
fn no_index(inner: &str) -> (String, String) {
    let trimmed = inner.trim();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (what, todo) = if trimmed.is_empty() {
        ("the index is missing", "write a number from 0, as in [0]")
    } else if trimmed == "*" {
        ("a path leads to one value, `[*]` to many", "write one index, as in [0]")
    } else if trimmed.contains(['\'', '"']) {
        ("a bracket holds an index, not a name", "names take no quotes: write .a, not ['a']")
    } else if trimmed.strip_prefix('-').is_some_and(digits) {
        ("an index counts from the front, from 0", "write a number from 0, as in [0]")
    } else if trimmed.contains(':') {
        ("a path leads to one value, a slice to many", "write one index, as in [0]")
    } else if trimmed.contains(',') {
        ("a bracket holds one index", "write one path for each, joined by OR or AND")
    } else if trimmed.starts_with(['?', '(']) {
        ("there are no filters", "write one index, as in [0]")
    } else if trimmed.starts_with(char::is_alphabetic) && trimmed.chars().all(belongs) {
        let todo = format!("for a member of an object write .{}", short(trimmed));
        return (format!("`{}` is no index", short(trimmed)), todo);
    } else {
        return (format!("`{}` is no index", short(inner)), "write digits only, as in [0]".into());
    };
    (what.into(), todo.into())
}

/// Whether `c` can be part of a name.
fn belongs(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !"()<>@,;:\\\"'/[]?={}.".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let table = [
            ("a", "a"),
            ("temperature", "temperature"),
            ("a.b", "a b"),
            ("a.b.c.d", "a b c d"),
            ("a[0]", "a #0"),
            ("a[007]", "a #7"),
            ("a[4294967295]", "a #4294967295"),
            ("a[1][2][3]", "a #1 #2 #3"),
            ("a[1][2].b[3].c", "a #1 #2 b #3 c"),
            ("A.a", "A a"),
            ("1a", "1a"),
            ("a1.2b[3]", "a1 2b #3"),
            ("-1", "-1"),
            ("a-b.c_d", "a-b c_d"),
            ("a+b", "a+b"),
            ("a*", "a*"),
            ("**", "**"),
            ("$a.$b", "$a $b"),
            ("a$", "a$"),
            ("!a|b&c^d~e%f#g`h", "!a|b&c^d~e%f#g`h"),
            ("é.日本[0].😀", "é 日本 #0 😀"),
            ("٣", "٣"),
            ("true.null", "true null"),
            ("properties.reported.x", "properties reported x"),
        ];
        for (text, expected) in table {
            let path = BodyPath::parse(text, 7).unwrap_or_else(|e| panic!("{text}: {e}"));
            let steps = path.steps().iter().map(|step| match step {
                Step::Name(name) => name.to_string(),
                Step::Index(index) => format!("#{index}"),
            });
            assert_eq!(steps.collect::<Vec<_>>().join(" "), expected, "{text}");
            let printed = path.to_string();
            assert_eq!(BodyPath::parse(&printed, 0), Ok(path), "{text} prints as {printed}");
        }
    }

    /// Each row: a path, the place in it that is wrong, and parts of what the error says.
    fn refused(table: &[(&str, &str, &str, &str)]) {
        for (text, place, what, todo) in table {
            // The text around the path is made up.
            let route = format!("é $body.{text} = 1");
            let at = "é $body.".len();
            let error = BodyPath::parse(text, at).expect_err(text);
            assert_eq!(route.get(error.span.clone()), Some(*place), "{text}: {error}");
            assert!(error.span.start >= at && error.span.end <= at + text.len(), "{text}");
            assert!(error.what.contains(what), "{text}: {error}");
            assert!(error.todo.contains(todo), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_no_name() {
        refused(&[
            ("", "", "the path is empty", "as in $body.temperature"),
            ("a.", ".", "ends with a dot", "take the dot out"),
            ("a[0].", ".", "ends with a dot", "take the dot out"),
            (".", ".", "a name is missing", "write every name"),
            (".a", ".", "a name is missing", "write every name"),
            ("a..b", "..", "a name is missing", "nothing searches at any depth"),
            ("a...b", "..", "a name is missing", "one dot between two"),
            ("[0]", "[", "begins with a name", "$body.values[0]"),
            ("[0].a", "[", "begins with a name", "$body.values[0]"),
            ("a.[0]", ".", "in front of a bracket", "a[0], not a.[0]"),
            ("0", "0", "digits only", "write [0] without a dot"),
            ("a.12", "12", "digits only", "write [12] without a dot"),
            ("a.12.b", "12", "digits only", "write [12] without a dot"),
            ("*", "*", "`*` to many", "an index such as [0]"),
            ("a.*", "*", "`*` to many", "an index such as [0]"),
            ("a.*.b", "*", "`*` to many", "an index such as [0]"),
            ("'a'", "'", "cannot be part of a name", "names take no quotes: write .a"),
            ("a.\"b\"", "\"", "cannot be part of a name", "names take no quotes: write .a"),
            ("it's", "'", "cannot be part of a name", "names take no quotes"),
            ("a b", " ", "white space", "take it out"),
            ("a\u{a0}", "\u{a0}", "white space", "take it out"),
            (" a", " ", "white space", "take it out"),
            ("a. b", " ", "white space", "take it out"),
            ("a\u{0}", "\u{0}", "white space", "take it out"),
            ("a(b)", "(", "`(` cannot be part", "name it otherwise"),
            ("a@b", "@", "`@` cannot be part", "name it otherwise"),
            ("a/b", "/", "`/` cannot be part", "name it otherwise"),
            ("é?", "?", "`?` cannot be part", "name it otherwise"),
            ("a.b{c}", "{", "`{` cannot be part", "name it otherwise"),
            ("a=1", "=", "`=` cannot be part", "name it otherwise"),
            ("a\\u0062", "\\", "`\\` cannot be part", "name it otherwise"),
        ]);
    }

    #[test]
    fn what_is_no_index() {
        refused(&[
            ("a['b']", "['b']", "an index, not a name", "names take no quotes: write .a"),
            ("a[\"b\"].c", "[\"b\"]", "an index, not a name", "names take no quotes: write .a"),
            ("a['b].c']", "['b]", "an index, not a name", "names take no quotes"),
            ("a[]", "[]", "the index is missing", "as in [0]"),
            ("a[ ]", "[ ]", "the index is missing", "as in [0]"),
            ("a[-1]", "[-1]", "counts from the front", "a number from 0"),
            ("a[*]", "[*]", "`[*]` to many", "as in [0]"),
            ("a[1:2]", "[1:2]", "a slice to many", "as in [0]"),
            ("a[:]", "[:]", "a slice to many", "as in [0]"),
            ("a[1,2]", "[1,2]", "holds one index", "one path for each"),
            ("a[?(@.x)]", "[?(@.x)]", "there are no filters", "as in [0]"),
            ("a[(@.length)]", "[(@.length)]", "there are no filters", "as in [0]"),
            ("a[b]", "[b]", "`b` is no index", "write .b"),
            ("a[b.c]", "[b.c]", "`b.c` is no index", "digits only"),
            ("a[+1]", "[+1]", "`+1` is no index", "digits only"),
            ("a[ 1]", "[ 1]", "` 1` is no index", "digits only"),
            ("a[1.5]", "[1.5]", "`1.5` is no index", "digits only"),
            ("a[0x1]", "[0x1]", "`0x1` is no index", "digits only"),
            ("a[[0]]", "[[0]", "`[0` is no index", "digits only"),
            ("a[٣]", "[٣]", "`٣` is no index", "digits only"),
            ("a[4294967296]", "[4294967296]", "no array has", "at most 4294967295"),
            ("a[1", "[1", "is not closed", "write ]"),
            ("a[", "[", "is not closed", "write ]"),
            ("a[0][", "[", "is not closed", "write ]"),
            ("a]", "]", "closes no bracket", "take it out"),
            ("a[0]]", "]", "closes no bracket", "take it out"),
            ("a[0]b", "b", "a name follows a bracket", "as in a[0].b"),
            ("a[0]+1", "+1", "an operator follows a bracket at once", "as in $body.a[0] + 1"),
            ("a[0]-b.c", "-b", "an operator follows a bracket at once", "as in $body.a[0] + 1"),
            ("a[0]bc.d", "bc", "a name follows a bracket", "as in a[0].b"),
            ("a[0]'", "'", "cannot be part of a name", "names take no quotes"),
        ]);
    }

    #[test]
    fn a_path_has_a_hundred_steps_at_most() {
        for (text, steps) in
            [("a".to_owned() + &"[0]".repeat(99), 100), (["a"; 100].join("."), 100)]
        {
            let path = BodyPath::parse(&text, 0).expect("as long as can be");
            assert_eq!(path.steps().len(), steps);
        }
        for text in ["a".to_owned() + &"[0]".repeat(100), ["a"; 101].join(".")] {
            let error = BodyPath::parse(&text, 3).expect_err("one too many");
            assert_eq!(error.span, 3..3 + text.len(), "{error}");
        }
    }

    #[test]
    fn an_error_quotes_little_of_a_long_path() {
        for text in ["1".repeat(30_000), format!("a[{}]", "x".repeat(30_000))] {
            let error = BodyPath::parse(&text, 0).expect_err("no path");
            assert!(error.to_string().len() < 300, "{error}");
        }
    }
}
