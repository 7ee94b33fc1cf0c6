//! Tokens -> the tree of a condition.
//!
//! Invariants: only parentheses and calls cost stack, and [`DEPTH_MAX`] bounds them; operators wait in a list of their
//! own. A tree is at most [`DEPTH_MAX`] high, so what walks it may recurse.

use super::Parser;
use crate::route::DEPTH_MAX;
use crate::route::advice::{self, Around};
use crate::route::error::{CompileError, Span};
use crate::route::syntax::{Ast, LEVEL_AND, LEVEL_OR, Node, Operator};
use crate::route::token::{self, Kind, Token};

/// A tree and how high it is.
struct Tall {
    ast: Ast,
    height: usize,
    /// It is an AND or OR that is not in parentheses: more can join it.
    open: bool,
}

/// What joins two operands.
#[derive(Clone, Copy, PartialEq)]
enum Joint {
    And,
    Or,
    Binary(Operator),
}

/// An operator that waits for its right operand.
struct Waiting {
    left: Tall,
    joint: Joint,
    span: Span,
}

impl Joint {
    /// The operator that a token is.
    fn of(kind: &Kind) -> Option<Self> {
        Some(Self::Binary(match kind {
            Kind::Or => return Some(Self::Or),
            Kind::And => return Some(Self::And),
            Kind::Sign("??") => Operator::Coalesce,
            Kind::Sign("=") => Operator::Equal,
            Kind::Sign("!=" | "<>") => Operator::NotEqual,
            Kind::Sign("<") => Operator::Less,
            Kind::Sign("<=") => Operator::LessOrEqual,
            Kind::Sign(">") => Operator::Greater,
            Kind::Sign(">=") => Operator::GreaterOrEqual,
            Kind::Sign("+") => Operator::Add,
            Kind::Sign("-") => Operator::Subtract,
            Kind::Sign("||") => Operator::Concat,
            Kind::Sign("*") => Operator::Multiply,
            Kind::Sign("/") => Operator::Divide,
            Kind::Sign("%") => Operator::Remainder,
            _ => return None,
        }))
    }

    const fn level(self) -> u8 {
        match self {
            Self::And => LEVEL_AND,
            Self::Or => LEVEL_OR,
            Self::Binary(operator) => operator.level(),
        }
    }
}

impl Tall {
    /// A leaf.
    fn leaf(node: Node, span: Span) -> Self {
        Self { ast: Ast { node, span }, height: 1, open: false }
    }
}

/// One level above trees of this height, if there is room.
fn above(height: usize, span: &Span) -> Result<usize, CompileError> {
    if height < DEPTH_MAX { Ok(height + 1) } else { Err(too_deep(span.clone())) }
}

fn too_deep(span: Span) -> CompileError {
    CompileError::new(
        span,
        format!("the condition is nested more than {DEPTH_MAX} levels deep"),
        "write it flatter: AND and OR chains need no parentheses and may be long, other operators in a row may not",
    )
}

impl Parser<'_> {
    pub(super) fn condition(&mut self) -> Result<Ast, CompileError> {
        Ok(self.expression()?.ast)
    }

    /// Operands joined by operators. All of them join from the left: whoever waits and binds as tight as the next operator
    /// gets the operand between them (`edgehub.md` 4.1).
    fn expression(&mut self) -> Result<Tall, CompileError> {
        if self.depth == DEPTH_MAX {
            return Err(too_deep(self.peek().span.clone()));
        }
        self.depth += 1;
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut operand = self.operand()?;
        loop {
            let next = Joint::of(&self.peek().kind);
            let first = |w: &mut Waiting| next.is_none_or(|next| w.joint.level() >= next.level());
            while let Some(operator) = waiting.pop_if(first) {
                operand = join(operator, operand)?;
            }
            let Some(joint) = next else { break };
            let span = self.next().span;
            waiting.push(Waiting { left: operand, joint, span });
            operand = self.operand()?;
        }
        self.depth -= 1;
        Ok(operand)
    }

    /// NOT and `-` bind tighter than any operator between two operands: `NOT a = b` is `(NOT a) = b`.
    fn operand(&mut self) -> Result<Tall, CompileError> {
        let mut prefixes: Vec<Token> = Vec::new();
        while matches!(self.peek().kind, Kind::Not | Kind::Sign("-")) {
            prefixes.push(self.next());
        }
        let mut operand = self.primary()?;
        while let Some(prefix) = prefixes.pop() {
            let height = above(operand.height, &prefix.span)?;
            let span = prefix.span.start..operand.ast.span.end;
            let inner = Box::new(operand.ast);
            let node =
                if prefix.kind == Kind::Not { Node::Not(inner) } else { Node::Negate(inner) };
            operand = Tall { ast: Ast { node, span }, height, open: false };
        }
        Ok(operand)
    }

    fn primary(&mut self) -> Result<Tall, CompileError> {
        let token = self.peek().clone();
        let node = match &token.kind {
            Kind::Text(text) => Node::Text(text.clone()),
            Kind::True => Node::Bool(true),
            Kind::False => Node::Bool(false),
            Kind::Null => Node::Null,
            Kind::Undefined => Node::Undefined,
            Kind::Number => Node::Number(token::number(self.word(&token))),
            Kind::Id => return self.name_or_call(),
            Kind::Sys => Node::System { name: self.word(&token)[1..].to_owned(), braces: false },
            Kind::Sign("{") => return self.braces(),
            Kind::Sign("(") => return self.parentheses(),
            _ => return Err(self.no_value()),
        };
        self.next();
        Ok(Tall::leaf(node, token.span))
    }

    fn name_or_call(&mut self) -> Result<Tall, CompileError> {
        let token = self.next();
        let name = self.word(&token).to_owned();
        let open = self.peek().span.clone();
        if !self.take_sign("(") {
            return Ok(Tall::leaf(Node::Property(name), token.span));
        }
        if let Some((what, todo)) = advice::no_function(&name) {
            return Err(CompileError::new(token.span, what, todo));
        }
        let (mut args, mut height) = (Vec::new(), 1);
        if self.peek().kind != Kind::Sign(")") {
            loop {
                let arg = self.expression()?;
                height = height.max(above(arg.height, &token.span)?);
                args.push(arg.ast);
                if !self.take_sign(",") {
                    break;
                }
            }
        }
        let end = self.peek().span.end;
        self.close(open, "an operator, `,` or `)`")?;
        let span = token.span.start..end;
        let node = Node::Call { name, name_span: token.span, args };
        Ok(Tall { ast: Ast { node, span }, height, open: false })
    }

    /// `{$name}`: the system property, never an application property of that name.
    fn braces(&mut self) -> Result<Tall, CompileError> {
        let start = self.next().span.start;
        let token = self.peek().clone();
        self.expect(&Kind::Sys, "a system property", "write {$name}")?;
        let name = self.word(&token)[1..].to_owned();
        let end = self.peek().span.end;
        self.expect(&Kind::Sign("}"), "`}`", "write {$name}")?;
        Ok(Tall::leaf(Node::System { name, braces: true }, start..end))
    }

    fn parentheses(&mut self) -> Result<Tall, CompileError> {
        let open = self.next().span;
        let mut inner = self.expression()?;
        inner.ast.span = open.start..self.peek().span.end;
        inner.open = false;
        self.close(open, "an operator or `)`")?;
        Ok(inner)
    }

    /// Takes the parenthesis that closes the one at `open`.
    fn close(&mut self, open: Span, expected: &str) -> Result<(), CompileError> {
        if self.take_sign(")") {
            return Ok(());
        }
        let ends = matches!(self.peek().kind, Kind::End | Kind::Into | Kind::Where | Kind::From);
        Err(if ends {
            let at = if self.peek().kind == Kind::End { "at" } else { "in front of" };
            let todo = format!("write `)` {at} {}", self.name(self.peek()));
            CompileError::new(open, "the parenthesis that opens here is not closed", todo)
        } else {
            self.no_operator(expected)
        })
    }

    /// There should be a value.
    fn no_value(&self) -> CompileError {
        let Around { before, found, .. } = self.around();
        let todo = match (before, &self.peek().kind) {
            (_, Kind::Sign("*" | "/")) if advice::comment(before, found).is_some() => {
                advice::comment(before, found).unwrap_or_default().into()
            }
            ("=", Kind::Sign("=")) => "write one `=` for equality".into(),
            ("=", Kind::Sign("<")) => "write <= for \"less than or equal\"".into(),
            ("=", Kind::Sign(">")) => "write >= for \"greater than or equal\"".into(),
            ("<=", Kind::Sign(">")) => "write = for \"equal\", != for \"not equal\"".into(),
            ("<", Kind::Sign(">")) => "write <> or != without a blank".into(),
            ("<" | ">" | "!=" | "<>" | "<=" | ">=", Kind::Sign("=" | "<" | ">")) => {
                "the comparisons are =, !=, <, <=, > and >=".into()
            }
            (_, Kind::End | Kind::Into | Kind::Where) if before.eq_ignore_ascii_case("WHERE") => {
                "write a condition after WHERE, or take WHERE out: then the route takes all messages of its source"
                    .into()
            }
            ("(", Kind::Sign(")")) => "write a condition in the parentheses".into(),
            (",", _) => "write an argument after `,`, or take `,` out".into(),
            (_, Kind::And | Kind::Or) => format!("write a condition in front of {found}"),
            (_, Kind::End | Kind::Into | Kind::Sign(")" | ",")) if !matches!(before, "" | "(" | ",") => {
                format!("write a value or a condition after {before}, or take {before} out")
            }
            _ => "write a property name, a string in quotes, a number, NOT or a function such as IS_DEFINED(name)"
                .into(),
        };
        self.unexpected("a value", todo)
    }

    /// After a value there should be an operator, or the end of what the value stands in.
    pub(super) fn no_operator(&self, expected: &str) -> CompileError {
        let around = self.around();
        let todo = match &self.peek().kind {
            Kind::Sign(")") => "take it out: no parenthesis is open".into(),
            Kind::Sign(",") if self.depth == 0 => "join conditions with AND or OR".into(),
            Kind::Where => "one WHERE is enough: join conditions with AND or OR".into(),
            Kind::From => "write a route for each FROM".into(),
            Kind::End => {
                "end the route with INTO $upstream or INTO BrokeredEndpoint(\"/modules/<module>/inputs/<input>\")"
                    .into()
            }
            kind => advice::for_no_operator(&around).unwrap_or_else(|| {
                let value = matches!(kind, Kind::Text(_) | Kind::Number);
                match around.before {
                    _ if expected.contains("`,`") => "put a comma between arguments".into(),
                    name if value && around.name_before => {
                        format!("put an operator between them, as in {name} = {}", around.found)
                    }
                    _ => "join conditions with AND or OR; operators need a space on both sides".into(),
                }
            }),
        };
        self.unexpected(expected, todo)
    }
}

/// The node of an operator and its operands.
fn join(Waiting { left, joint, span }: Waiting, right: Tall) -> Result<Tall, CompileError> {
    let whole = left.ast.span.start..right.ast.span.end;
    let height = left.height.max(right.height);
    let Joint::Binary(operator) = joint else {
        return chain(left, joint, right, &span);
    };
    if let Some((what, todo)) = advice::or_instead(operator, &left.ast, &right.ast) {
        return Err(CompileError::new(span, what, todo));
    }
    let height = above(height, &span)?;
    let (left, right) = (Box::new(left.ast), Box::new(right.ast));
    let node = Node::Binary { operator, operator_span: span, left, right };
    Ok(Tall { ast: Ast { node, span: whole }, height, open: false })
}

/// A chain of ANDs or of ORs is one node, however long, so that its length costs no stack.
fn chain(left: Tall, joint: Joint, right: Tall, sign: &Span) -> Result<Tall, CompileError> {
    let span = left.ast.span.start..right.ast.span.end;
    let right_height = above(right.height, sign)?;
    let (node, height) = match (joint, left.open, left.ast.node) {
        (Joint::And, true, Node::And(mut parts)) => {
            parts.push(right.ast);
            (Node::And(parts), left.height.max(right_height))
        }
        (Joint::Or, true, Node::Or(mut parts)) => {
            parts.push(right.ast);
            (Node::Or(parts), left.height.max(right_height))
        }
        (_, _, node) => {
            let parts = vec![Ast { node, span: left.ast.span }, right.ast];
            let node = if joint == Joint::And { Node::And(parts) } else { Node::Or(parts) };
            (node, right_height.max(above(left.height, sign)?))
        }
    };
    Ok(Tall { ast: Ast { node, span }, height, open: true })
}
