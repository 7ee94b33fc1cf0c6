//! Why a route does not compile, where, and what to do.
//!
//! Owns: [`CompileError`] and its rendering with a caret under the place. Must not know: the language.

use std::ops::Range;

use super::advice::is_invisible;
use super::cells;

/// A place in a route's text, in bytes, on character boundaries.
pub type Span = Range<usize>;

/// Characters shown either side of the caret of a long line.
const CONTEXT_CHARS: usize = 60;

/// Why a route does not compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {todo}")]
pub struct CompileError {
    /// The place. Empty at the end of the text means that something is missing there.
    pub span: Span,
    /// What is wrong, in plain words.
    pub what: String,
    /// What to do about it.
    pub todo: String,
}

impl CompileError {
    pub(super) fn new(span: Span, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { span, what: what.into(), todo: todo.into() }
    }

    /// The column of the place, in characters, counted from 1, in its line.
    pub fn column(&self, text: &str) -> usize {
        let start = floor_boundary(text, self.span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        text[line_start..start].chars().count() + 1
    }

    /// "column 12", or "line 3, column 12" of a text of several lines. Both count from 1; columns count characters.
    pub fn place(&self, text: &str) -> String {
        let column = self.column(text);
        if !text.contains('\n') {
            return format!("column {column}");
        }
        let start = floor_boundary(text, self.span.start);
        format!("line {}, column {column}", text[..start].matches('\n').count() + 1)
    }

    /// What is wrong and what to do, on one line.
    pub fn one_line(&self) -> String {
        self.to_string().chars().map(|c| if breaks_line(c) { ' ' } else { c }).collect()
    }

    /// The line of the place, a caret under it, what is wrong and what to do.
    ///
    /// ```text
    /// FROM /messages/* WHERE a == 'x' INTO $upstream
    ///                           ^ `=` cannot follow `=`: ...
    /// ```
    pub fn render(&self, text: &str) -> String {
        let start = floor_boundary(text, self.span.start);
        let end = floor_boundary(text, self.span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let before: Vec<char> = text[line_start..start].chars().map(printable).collect();
        let marked: Vec<char> =
            text[start..end.min(line_end).max(start)].chars().map(printable).collect();
        let after: Vec<char> = text[start + (end.min(line_end).max(start) - start)..line_end]
            .chars()
            .map(printable)
            .collect();

        let skipped = before.len().saturating_sub(CONTEXT_CHARS);
        let mut line = String::new();
        if skipped > 0 {
            line.push('…');
        }
        line.extend(&before[skipped..]);
        let indent: usize = line.chars().map(cells::of).sum();
        line.extend(marked.iter().take(CONTEXT_CHARS));
        line.extend(after.iter().take(CONTEXT_CHARS));
        if marked.len() > CONTEXT_CHARS || after.len() > CONTEXT_CHARS {
            line.push('…');
        }
        let marked: usize = marked.iter().take(CONTEXT_CHARS).copied().map(cells::of).sum();
        let carets = "^".repeat(marked.max(1));
        format!("{line}\n{:indent$}{carets} {}", "", self.one_line())
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn breaks_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// What is shown of a character; how wide that is, [`cells`] knows.
fn printable(c: char) -> char {
    match c {
        c if breaks_line(c) => ' ',
        c if is_invisible(c) => '·',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_place() {
        let text = "FROM /é\n\tWHERE a == b";
        let at = text.find("==").unwrap();
        let error = CompileError::new(at..at + 2, "no such operator", "write `=`");
        assert_eq!(error.column(text), 10);
        assert_eq!(error.render(text), " WHERE a == b\n         ^^ no such operator: write `=`");
    }

    #[test]
    fn the_caret_counts_the_cells_of_a_terminal() {
        let table = [
            ("温度 = '高' AND 名 == 'x'", "==", 16, "温度 = '高' AND 名 == 'x'", 19, 2),
            ("😀 == 1", "==", 3, "😀 == 1", 3, 2),
            ("e\u{301} == 1", "==", 4, "e\u{301} == 1", 2, 2),
            ("a = 温度", "温度", 5, "a = 温度", 4, 4),
            ("a\u{200b} == 1", "==", 4, "a· == 1", 3, 2),
            ("a\u{2028}== 1", "==", 3, "a == 1", 2, 2),
        ];
        for (text, place, column, line, indent, carets) in table {
            let at = text.find(place).unwrap();
            let error = CompileError::new(at..at + place.len(), "a", "b");
            let expected = format!("{line}\n{}{} a: b", " ".repeat(indent), "^".repeat(carets));
            assert_eq!((error.column(text), error.render(text)), (column, expected), "{text}");
        }
    }

    #[test]
    fn the_place_names_the_line_where_there_are_several() {
        let table = [
            ("ab", 1, "column 2"),
            ("ab\ncd", 1, "line 1, column 2"),
            ("ab\ncd", 4, "line 2, column 2"),
            ("é\n\n温x", 7, "line 3, column 2"),
            ("ab\n", 3, "line 2, column 1"),
        ];
        for (text, at, expected) in table {
            assert_eq!(CompileError::new(at..at, "a", "b").place(text), expected, "{text:?} {at}");
        }
    }

    #[test]
    fn an_error_is_said_on_one_line() {
        let error = CompileError::new(0..1, "found `a\nb`", "c\u{2028}d\te");
        assert_eq!(error.one_line(), "found `a b`: c d e");
        assert_eq!(error.render("x"), "x\n^ found `a b`: c d e");
    }

    #[test]
    fn a_long_line_is_cut_and_an_end_place_gets_one_caret() {
        let text = "x".repeat(500);
        let error = CompileError::new(500..500, "short", "go on");
        let rendered = error.render(&text);
        assert_eq!(rendered, format!("…{}\n{}^ short: go on", "x".repeat(60), " ".repeat(61)));
    }

    #[test]
    fn what_nobody_sees_is_shown() {
        let text = "FROM\u{200b} /\u{a0}x\r\ny";
        let error = CompileError::new(0..7, "a", "b");
        assert_eq!(error.render(text), "FROM· /\u{a0}x \n^^^^^ a: b");
    }

    #[test]
    fn a_span_outside_the_text_does_not_panic() {
        let error = CompileError::new(900..1000, "a", "b");
        assert_eq!(error.render("é"), "é\n ^ a: b");
    }
}
