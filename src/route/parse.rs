//! Tokens -> the parts of a route: source, condition tree, sink. Recursive descent, one function a grammar rule.
//!
//! Owns: the grammar and the advice for what does not fit it (`expression` has the conditions).
//! Invariants: every text gives a tree or an error; no tree is higher than [`DEPTH_MAX`](super::DEPTH_MAX).
//! Must not know: types and messages ([`super::condition`]).

mod expression;
#[cfg(test)]
mod tests;

use super::advice::{self, Around};
use super::error::CompileError;
use super::syntax::{Ast, Node, Route, Segment, Sink};
use super::token::{self, Kind, Token};

const ROUTE: &str = "a route reads: FROM /messages/* WHERE condition INTO $upstream";
const ALONE: &str = "give the condition alone: what stands between WHERE and INTO";
const ENDPOINTS: &str = "write $upstream or BrokeredEndpoint(\"/modules/<module>/inputs/<input>\")";

/// Parses a whole route.
pub(super) fn route(text: &str) -> Result<Route, CompileError> {
    let parse = || Parser::new(text, token::tokens(text)?, "route").route();
    parse().map_err(|e| advice::with_pasted(text, e))
}

/// Parses a condition alone. An empty one is `undefined` (`edgehub.md` 4.4, final value).
pub(super) fn condition(text: &str) -> Result<Ast, CompileError> {
    let parse = || Parser::new(text, token::tokens(text)?, "condition").whole_condition();
    parse().map_err(|e| advice::with_pasted(text, e))
}

/// Parses a source alone.
pub(super) fn source(text: &str) -> Result<Vec<Segment>, CompileError> {
    let parse = || Parser::new(text, token::source_tokens(text)?, "source").whole_source();
    parse().map_err(|e| advice::with_pasted(text, e))
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Token>,
    at: usize,
    /// Open parentheses and calls.
    depth: usize,
    /// What the text is, for messages.
    whole: &'static str,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str, tokens: Vec<Token>, whole: &'static str) -> Self {
        Self { text, tokens, at: 0, depth: 0, whole }
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.at]
    }

    /// The next token; the final [`Kind::End`] is never passed.
    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        if token.kind != Kind::End {
            self.at += 1;
        }
        token
    }

    fn take(&mut self, kind: &Kind) -> bool {
        let hit = self.peek().kind == *kind;
        if hit {
            self.next();
        }
        hit
    }

    fn take_sign(&mut self, sign: &'static str) -> bool {
        self.take(&Kind::Sign(sign))
    }

    fn word(&self, token: &Token) -> &'t str {
        &self.text[token.span.clone()]
    }

    /// "`x`" or "the end of the route".
    fn name(&self, token: &Token) -> String {
        if token.kind == Kind::End {
            format!("the end of the {}", self.whole)
        } else {
            format!("`{}`", self.word(token))
        }
    }

    fn unexpected(&self, expected: &str, todo: impl Into<String>) -> CompileError {
        let token = self.peek();
        let what = format!("expected {expected}, found {}", self.name(token));
        CompileError::new(token.span.clone(), what, todo)
    }

    /// Fails with "expected .. found .." unless `kind` comes next.
    fn expect(&mut self, kind: &Kind, expected: &str, todo: &str) -> Result<(), CompileError> {
        if self.take(kind) { Ok(()) } else { Err(self.unexpected(expected, todo)) }
    }

    /// The words before, at and after the place where the parser is.
    fn around(&self) -> Around<'t> {
        let word = |at: usize| self.tokens.get(at).map_or("", |token| self.word(token));
        let before = self.at.checked_sub(1);
        Around {
            before: before.map_or("", word),
            name_before: before.is_some_and(|at| self.tokens[at].kind == Kind::Id),
            found: word(self.at),
            after: word(self.at + 1),
        }
    }

    fn route(&mut self) -> Result<Route, CompileError> {
        if self.take(&Kind::Select) {
            let todo =
                "write SELECT *, or leave SELECT out; a route passes messages on as they are";
            self.expect(&Kind::Sign("*"), "`*` after SELECT", todo)?;
        }
        if !self.take(&Kind::From) {
            let meant = match self.peek().kind {
                Kind::Sign("/") => Some("write FROM in front of the source".into()),
                _ => advice::keyword(self.around().found, &["FROM", "SELECT"]),
            };
            return Err(self.unexpected("FROM", meant.unwrap_or_else(|| ROUTE.into())));
        }
        let source = self.source()?;
        let condition = if self.take(&Kind::Where) { Some(self.condition()?) } else { None };
        if !self.take(&Kind::Into) {
            return Err(match condition {
                Some(_) => self.no_operator("an operator or INTO"),
                None => self.no_where(),
            });
        }
        let sink = self.sink()?;
        match self.peek().kind {
            Kind::End => Ok(Route { source, condition, sink }),
            _ => Err(self.unexpected("the end of the route", self.after_sink())),
        }
    }

    /// What is found here, alone or with what follows, begins a comment.
    fn comment(&self) -> Option<&'static str> {
        let Around { found, after, .. } = self.around();
        advice::comment("", found).or_else(|| advice::comment(found, after))
    }

    fn after_sink(&self) -> &'static str {
        match self.peek().kind {
            Kind::Where => "move WHERE in front of INTO",
            Kind::And | Kind::Or | Kind::Not => "move the condition in front of INTO, after WHERE",
            Kind::Sign(")") => "take it out: no parenthesis is open",
            _ if self.comment().is_some() => self.comment().unwrap_or_default(),
            _ => "take out what follows the sink; one route has one sink, write a route for each",
        }
    }

    fn whole_source(&mut self) -> Result<Vec<Segment>, CompileError> {
        let segments = self.source()?;
        match self.peek().kind {
            Kind::End => Ok(segments),
            _ => Err(self.unexpected("the end of the source", "write a path such as /messages/*")),
        }
    }

    fn whole_condition(&mut self) -> Result<Ast, CompileError> {
        match self.peek().kind {
            Kind::End => return Ok(Ast { node: Node::Undefined, span: self.peek().span.clone() }),
            Kind::Select | Kind::From | Kind::Where | Kind::Into => {
                return Err(self.unexpected("a condition", ALONE));
            }
            _ => {}
        }
        let condition = self.condition()?;
        match self.peek().kind {
            Kind::End => Ok(condition),
            Kind::Select | Kind::From | Kind::Where | Kind::Into => {
                Err(self.unexpected("the end of the condition", ALONE))
            }
            _ => Err(self.no_operator("an operator or the end of the condition")),
        }
    }

    /// After the source comes neither WHERE nor INTO.
    fn no_where(&self) -> CompileError {
        let Around { before, found, .. } = self.around();
        let glued = |word: &str| {
            let cut = before.strip_prefix('*').filter(|rest| rest.eq_ignore_ascii_case(word));
            cut.map(|rest| format!("put a blank between `*` and `{rest}`"))
        };
        let todo = match &self.peek().kind {
            _ if glued("WHERE").is_some() => glued("WHERE"),
            _ if glued("INTO").is_some() => glued("INTO"),
            _ if self.comment().is_some() => self.comment().map(str::to_owned),
            Kind::Id if advice::glued_into(found).is_some() => advice::glued_into(found),
            Kind::Sys if found.eq_ignore_ascii_case("$upstream") => {
                Some(format!("write INTO in front of {found}"))
            }
            Kind::Id if found.eq_ignore_ascii_case("BrokeredEndpoint") => {
                Some(format!("write INTO in front of {found}"))
            }
            Kind::Id => advice::keyword(found, &["WHERE", "INTO"])
                .or_else(|| Some(format!("write WHERE in front of the condition; {ROUTE}"))),
            Kind::Sys | Kind::Not | Kind::Text(_) | Kind::Number | Kind::Sign("(" | "{") => {
                Some(format!("write WHERE in front of the condition; {ROUTE}"))
            }
            Kind::Sign(",") => Some("one route has one source: write a route for each".into()),
            Kind::From => Some("one FROM is enough: write a route for each source".into()),
            Kind::And | Kind::Or => Some("the condition begins with WHERE".into()),
            _ => None,
        };
        let todo = todo.unwrap_or_else(|| {
            "end the route with INTO $upstream or INTO BrokeredEndpoint(\"/modules/<module>/inputs/<input>\")"
                .into()
        });
        self.unexpected("WHERE or INTO", todo)
    }

    fn source(&mut self) -> Result<Vec<Segment>, CompileError> {
        let mut segments = Vec::new();
        while self.take_sign("/") {
            let kind = &self.peek().kind;
            // `/messages/` equals `/messages` (`edgehub.md` 4.2).
            if !segments.is_empty() && matches!(kind, Kind::Where | Kind::Into | Kind::End) {
                break;
            }
            if !matches!(kind, Kind::Id | Kind::Number | Kind::Sign("*")) {
                let todo = match kind {
                    Kind::Text(_) => "write the name without quotes",
                    Kind::Sign("/") => "write one `/` between names",
                    _ => "write /messages/* or /messages/modules/<module>/outputs/<output>",
                };
                return Err(self.unexpected("a name or `*` after `/`", todo));
            }
            let token = self.next();
            segments.push(Segment { text: self.word(&token).to_owned(), span: token.span });
        }
        if segments.is_empty() {
            let todo = match self.peek().kind {
                Kind::Text(_) => "write the source without quotes: /messages/*",
                Kind::Sign("*") => "write /* for everything, or /messages/* for telemetry",
                Kind::End if self.text.contains("/*") => {
                    "the text between `/*` and `*/` is a comment: write / * apart, or take the comment out"
                }
                _ => "start the source with `/`, as in /messages/*",
            };
            return Err(self.unexpected("a source such as /messages/*", todo));
        }
        Ok(segments)
    }

    fn sink(&mut self) -> Result<Sink, CompileError> {
        let token = self.peek().clone();
        let word = self.word(&token);
        match &token.kind {
            Kind::Sys if word.eq_ignore_ascii_case("$upstream") => {
                self.next();
                Ok(Sink::Upstream)
            }
            Kind::Sys => {
                let what = format!("unknown system endpoint {}", self.name(&token));
                let meant = advice::keyword(word, &["$upstream"]);
                Err(CompileError::new(token.span, what, meant.unwrap_or_else(|| ENDPOINTS.into())))
            }
            Kind::Id if word.eq_ignore_ascii_case("BrokeredEndpoint") => {
                self.next();
                self.expect(&Kind::Sign("("), "`(`", ENDPOINTS)?;
                self.address()
            }
            Kind::Id => {
                let what = format!("unknown endpoint {}", self.name(&token));
                Err(CompileError::new(token.span, what, advice::endpoint(word)))
            }
            kind => {
                let todo = match kind {
                    Kind::Text(text) => advice::endpoint(text),
                    Kind::Sign("{") => "write $upstream without braces".into(),
                    Kind::Sign("/") => advice::endpoint("/"),
                    Kind::Into => "one INTO is enough".into(),
                    _ => ENDPOINTS.into(),
                };
                Err(self.unexpected("a sink", todo))
            }
        }
    }

    /// What follows `BrokeredEndpoint(`.
    fn address(&mut self) -> Result<Sink, CompileError> {
        let argument = self.next();
        let Kind::Text(address) = argument.kind else {
            self.at -= usize::from(argument.kind != Kind::End);
            let todo = match argument.kind {
                Kind::Sign("/") | Kind::Id | Kind::Sys => {
                    "put the address in quotes: BrokeredEndpoint(\"/modules/<module>/inputs/<input>\")"
                }
                _ => ENDPOINTS,
            };
            return Err(self.unexpected("the endpoint in quotes", todo));
        };
        let todo = match self.peek().kind {
            Kind::Sign(",") => "BrokeredEndpoint takes one address: write a route for each",
            _ => ENDPOINTS,
        };
        self.expect(&Kind::Sign(")"), "`)`", todo)?;
        Ok(Sink::Brokered { address, span: argument.span })
    }
}
