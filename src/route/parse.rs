//! Tokens -> the parts of a route: source, condition tree, sink. Recursive descent, one function a grammar rule.
//!
//! Owns: the grammar and the advice for what does not fit it. Must not know: types and messages ([`super::condition`]).

use super::DEPTH_MAX;
use super::error::{CompileError, Span};
use super::token::{Kind, Token, tokens};

/// A parsed route.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Route {
    pub(super) source: Vec<Segment>,
    pub(super) condition: Option<Ast>,
    pub(super) sink: Sink,
}

/// One `/item` of the source.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Segment {
    pub(super) text: String,
    pub(super) span: Span,
}

/// Where matching messages go.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Sink {
    Upstream,
    /// The argument of `BrokeredEndpoint`.
    Brokered {
        address: String,
        span: Span,
    },
}

/// A condition, untyped.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ast {
    pub(super) node: Node,
    pub(super) span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    Bool(bool),
    /// An application property.
    Property(String),
    /// `$name`, or `{$name}` when `braces`; the name is without `$`.
    System {
        name: String,
        braces: bool,
    },
    Not(Box<Ast>),
    And(Vec<Ast>),
    Or(Vec<Ast>),
    Equal {
        left: Box<Ast>,
        right: Box<Ast>,
        negated: bool,
    },
    Call {
        name: String,
        name_span: Span,
        args: Vec<Ast>,
    },
}

/// Parses a whole route.
pub(super) fn route(text: &str) -> Result<Route, CompileError> {
    let tokens = tokens(text)?;
    Parser { text, tokens, at: 0, depth: 0 }.route().map_err(|e| with_quote_advice(text, e))
}

/// Quotes pasted from a web page are the likeliest reason for any error in a route that holds them.
fn with_quote_advice(text: &str, mut error: CompileError) -> CompileError {
    if text.contains(['\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}']) {
        error.todo.push_str("; the text has typographic quotes: replace them by \" or '");
    }
    error
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
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
            self.at += 1;
        }
        hit
    }

    fn take_sign(&mut self, sign: &'static str) -> bool {
        self.take(&Kind::Sign(sign))
    }

    fn word(&self, token: &Token) -> &str {
        &self.text[token.span.clone()]
    }

    /// "`x`" or "the end of the route".
    fn name(&self, token: &Token) -> String {
        if token.kind == Kind::End {
            "the end of the route".to_owned()
        } else {
            format!("`{}`", self.word(token))
        }
    }

    fn unexpected(&self, expected: &str, todo: &str) -> CompileError {
        let token = self.peek();
        let what = format!("expected {expected}, found {}", self.name(token));
        CompileError::new(token.span.clone(), what, todo)
    }

    /// Fails with "expected .. found .." unless `kind` comes next.
    fn expect(&mut self, kind: &Kind, expected: &str, todo: &str) -> Result<(), CompileError> {
        if self.take(kind) { Ok(()) } else { Err(self.unexpected(expected, todo)) }
    }

    fn route(&mut self) -> Result<Route, CompileError> {
        if self.take(&Kind::Select) {
            let todo = "write SELECT *, or leave SELECT out";
            self.expect(&Kind::Sign("*"), "`*` after SELECT", todo)?;
        }
        let todo = "a route reads: FROM /messages/* WHERE condition INTO $upstream";
        self.expect(&Kind::From, "FROM", todo)?;
        let source = self.source()?;
        let condition = if self.take(&Kind::Where) { Some(self.condition()?) } else { None };
        if !self.take(&Kind::Into) {
            return Err(self.missing_into(condition.is_some()));
        }
        let sink = self.sink()?;
        match self.peek().kind {
            Kind::End => Ok(Route { source, condition, sink }),
            Kind::Where => {
                Err(self.unexpected("the end of the route", "move WHERE in front of INTO"))
            }
            _ => Err(self.unexpected(
                "the end of the route",
                "take out what follows the sink; one route has one sink",
            )),
        }
    }

    fn missing_into(&self, after_condition: bool) -> CompileError {
        let todo = match self.peek().kind {
            Kind::Sign("=") => "write one `=` for equality",
            Kind::Sign(_) => "this version's conditions know NOT, AND, OR, =, != and <>",
            Kind::Number | Kind::Id | Kind::Sys | Kind::Text(_) if after_condition => {
                "join conditions with AND or OR; operators need a space on both sides"
            }
            _ => {
                "end the route with INTO $upstream or INTO BrokeredEndpoint(\"/modules/<module>/inputs/<input>\")"
            }
        };
        self.unexpected(if after_condition { "an operator or INTO" } else { "WHERE or INTO" }, todo)
    }

    fn source(&mut self) -> Result<Vec<Segment>, CompileError> {
        let mut segments = Vec::new();
        while self.take_sign("/") {
            let kind = &self.peek().kind;
            // `/messages/` equals `/messages` (`edgehub.md` 4.2).
            if !segments.is_empty() && matches!(kind, Kind::Where | Kind::Into) {
                break;
            }
            if !matches!(kind, Kind::Id | Kind::Number | Kind::Sign("*")) {
                let todo = "write /messages/* or /messages/modules/<module>/outputs/<output>";
                return Err(self.unexpected("a name or `*` after `/`", todo));
            }
            let token = self.next();
            segments.push(Segment { text: self.word(&token).to_owned(), span: token.span });
        }
        if segments.is_empty() {
            return Err(
                self.unexpected("a source such as /messages/*", "start the source with `/`")
            );
        }
        Ok(segments)
    }

    fn sink(&mut self) -> Result<Sink, CompileError> {
        const FORMS: &str =
            "write $upstream or BrokeredEndpoint(\"/modules/<module>/inputs/<input>\")";
        let token = self.peek().clone();
        match token.kind {
            Kind::Sys if self.word(&token).eq_ignore_ascii_case("$upstream") => {
                self.next();
                Ok(Sink::Upstream)
            }
            Kind::Sys => {
                let what = format!("unknown system endpoint {}", self.name(&token));
                Err(CompileError::new(token.span, what, FORMS))
            }
            Kind::Id if self.word(&token).eq_ignore_ascii_case("BrokeredEndpoint") => {
                self.next();
                self.expect(&Kind::Sign("("), "`(`", FORMS)?;
                let argument = self.peek().clone();
                let Kind::Text(address) = argument.kind else {
                    return Err(self.unexpected("the endpoint in quotes", FORMS));
                };
                self.next();
                self.expect(&Kind::Sign(")"), "`)`", FORMS)?;
                Ok(Sink::Brokered { address, span: argument.span })
            }
            Kind::Id => {
                let what = format!("unknown endpoint {}", self.name(&token));
                Err(CompileError::new(token.span, what, FORMS))
            }
            _ => Err(self.unexpected("a sink", FORMS)),
        }
    }

    /// Runs `rule` one level deeper.
    fn deeper<T>(
        &mut self,
        rule: impl FnOnce(&mut Self) -> Result<T, CompileError>,
    ) -> Result<T, CompileError> {
        if self.depth == DEPTH_MAX {
            return Err(CompileError::new(
                self.peek().span.clone(),
                format!("the condition is nested more than {DEPTH_MAX} levels deep"),
                "write it flatter: AND and OR chains need no parentheses",
            ));
        }
        self.depth += 1;
        let result = rule(self);
        self.depth -= 1;
        result
    }

    fn condition(&mut self) -> Result<Ast, CompileError> {
        self.deeper(Self::or)
    }

    fn or(&mut self) -> Result<Ast, CompileError> {
        self.chain(&Kind::Or, Self::and, Node::Or)
    }

    fn and(&mut self) -> Result<Ast, CompileError> {
        self.chain(&Kind::And, Self::equality, Node::And)
    }

    /// `part { joiner part }`. A chain is one node, however long, so that its length costs no stack.
    fn chain(
        &mut self,
        joiner: &Kind,
        part: fn(&mut Self) -> Result<Ast, CompileError>,
        node: fn(Vec<Ast>) -> Node,
    ) -> Result<Ast, CompileError> {
        let first = part(self)?;
        if self.peek().kind != *joiner {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take(joiner) {
            parts.push(part(self)?);
        }
        let span = parts[0].span.start..parts[parts.len() - 1].span.end;
        Ok(Ast { node: node(parts), span })
    }

    fn equality(&mut self) -> Result<Ast, CompileError> {
        let mut left = self.unary()?;
        let mut chained = 0;
        while let Kind::Sign(sign @ ("=" | "!=" | "<>")) = self.peek().kind {
            let operator = self.next();
            if self.peek().kind == Kind::Sign("=") {
                return Err(self.unexpected("a value", "write one `=` for equality"));
            }
            // `a = b = c` is ((a = b) = c): each step nests one level deeper in the tree.
            chained += 1;
            if self.depth + chained > DEPTH_MAX {
                return Err(CompileError::new(
                    operator.span,
                    format!("more than {DEPTH_MAX} comparisons in a row"),
                    "join comparisons with AND or OR",
                ));
            }
            let right = self.unary()?;
            let span = left.span.start..right.span.end;
            let (left_box, right) = (Box::new(left), Box::new(right));
            let node = Node::Equal { left: left_box, right, negated: sign != "=" };
            left = Ast { node, span };
        }
        Ok(left)
    }

    /// NOT binds tighter than comparison: `NOT a = b` is `(NOT a) = b`.
    fn unary(&mut self) -> Result<Ast, CompileError> {
        let start = self.peek().span.start;
        if !self.take(&Kind::Not) {
            return self.primary();
        }
        let operand = self.deeper(Self::unary)?;
        let span = start..operand.span.end;
        Ok(Ast { node: Node::Not(Box::new(operand)), span })
    }

    fn primary(&mut self) -> Result<Ast, CompileError> {
        let token = self.peek().clone();
        let node = match &token.kind {
            Kind::Text(text) => Node::Text(text.clone()),
            Kind::True => Node::Bool(true),
            Kind::False => Node::Bool(false),
            Kind::Id => return self.name_or_call(),
            Kind::Sys => Node::System { name: self.word(&token)[1..].to_owned(), braces: false },
            Kind::Sign("{") => return self.braces(),
            Kind::Sign("(") => return self.parentheses(),
            Kind::Number | Kind::Null | Kind::Undefined => {
                let what = format!("{} is not supported by this version", self.name(&token));
                let todo = "compare properties with strings, as in level = '3'";
                return Err(CompileError::new(token.span, what, todo));
            }
            _ => {
                let todo = "write a property name, a string in quotes, true, false, NOT or IS_DEFINED(name)";
                return Err(self.unexpected("a value", todo));
            }
        };
        self.next();
        Ok(Ast { node, span: token.span })
    }

    fn name_or_call(&mut self) -> Result<Ast, CompileError> {
        let token = self.next();
        let name = self.word(&token).to_owned();
        if !self.take_sign("(") {
            return Ok(Ast { node: Node::Property(name), span: token.span });
        }
        let mut args = Vec::new();
        if self.peek().kind != Kind::Sign(")") {
            args.push(self.condition()?);
            while self.take_sign(",") {
                args.push(self.condition()?);
            }
        }
        let end = self.peek().span.end;
        self.expect(&Kind::Sign(")"), "`)`", "close the call's parenthesis")?;
        let span = token.span.start..end;
        Ok(Ast { node: Node::Call { name, name_span: token.span, args }, span })
    }

    /// `{$name}`: the system property, never an application property of that name.
    fn braces(&mut self) -> Result<Ast, CompileError> {
        let start = self.next().span.start;
        let token = self.peek().clone();
        self.expect(&Kind::Sys, "a system property", "write {$name}")?;
        let name = self.word(&token)[1..].to_owned();
        let end = self.peek().span.end;
        self.expect(&Kind::Sign("}"), "`}`", "write {$name}")?;
        Ok(Ast { node: Node::System { name, braces: true }, span: start..end })
    }

    fn parentheses(&mut self) -> Result<Ast, CompileError> {
        let start = self.next().span.start;
        let inner = self.condition()?;
        let end = self.peek().span.end;
        self.expect(
            &Kind::Sign(")"),
            "`)`",
            "close the parenthesis; operators need a space on both sides",
        )?;
        Ok(Ast { node: inner.node, span: start..end })
    }
}
