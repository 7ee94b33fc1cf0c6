//! Why a route does not compile, where, and what to do.
//!
//! Owns: [`CompileError`] and its rendering with a caret under the place. Must not know: the language.

use std::ops::Range;

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
        let indent = line.chars().count();
        line.extend(marked.iter().take(CONTEXT_CHARS));
        line.extend(after.iter().take(CONTEXT_CHARS));
        if marked.len() > CONTEXT_CHARS || after.len() > CONTEXT_CHARS {
            line.push('…');
        }
        let carets = "^".repeat(marked.len().clamp(1, CONTEXT_CHARS));
        format!("{line}\n{:indent$}{carets} {self}", "")
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// One column for each character, so that the caret stands under the right one.
fn printable(c: char) -> char {
    if c.is_control() { ' ' } else { c }
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
    fn a_long_line_is_cut_and_an_end_place_gets_one_caret() {
        let text = "x".repeat(500);
        let error = CompileError::new(500..500, "short", "go on");
        let rendered = error.render(&text);
        assert_eq!(rendered, format!("…{}\n{}^ short: go on", "x".repeat(60), " ".repeat(61)));
    }

    #[test]
    fn a_span_outside_the_text_does_not_panic() {
        let error = CompileError::new(900..1000, "a", "b");
        assert_eq!(error.render("é"), "é\n ^ a: b");
    }
}
