//! The parts of a parsed route, untyped, each with its place in the text.
//!
//! Owns: the tree between [`super::parse`] and the compiler, and its plain form: one blank between words, keywords in
//! capitals, no parentheses but those that are needed.
//! Invariants: the plain form parses to the same tree, places aside.
//! Must not know: types, messages.

use std::fmt::{self, Write as _};

use super::error::Span;

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
    /// `$upstream`
    Upstream,
    /// The argument of `BrokeredEndpoint`.
    Brokered { address: String, span: Span },
}

/// A condition, untyped.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ast {
    pub(super) node: Node,
    pub(super) span: Span,
}

/// What an expression is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// A string in quotes, unescaped.
    Text(String),
    /// A number; `None` is a hexadecimal one of more than 64 bits, which is undefined.
    Number(Option<f64>),
    Bool(bool),
    Null,
    Undefined,
    /// An application property.
    Property(String),
    /// `$name`, or `{$name}` when `braces`; the name is without `$`. Body queries (`$body.path`) are among them.
    System {
        name: String,
        braces: bool,
    },
    Not(Box<Ast>),
    Negate(Box<Ast>),
    /// Two or more, in a row.
    And(Vec<Ast>),
    /// Two or more, in a row.
    Or(Vec<Ast>),
    Binary {
        operator: Operator,
        operator_span: Span,
        left: Box<Ast>,
        right: Box<Ast>,
    },
    Call {
        name: String,
        name_span: Span,
        args: Vec<Ast>,
    },
}

/// Operators with two operands, but AND and OR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Operator {
    Multiply,
    Divide,
    Remainder,
    Add,
    Subtract,
    Concat,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
    Coalesce,
}

impl Operator {
    /// As it is written; `<>` means the same as `!=`.
    pub(super) const fn sign(self) -> &'static str {
        match self {
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Concat => "||",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Coalesce => "??",
        }
    }

    /// How tight it binds: greater is tighter.
    pub(super) const fn level(self) -> u8 {
        match self {
            Self::Coalesce => 0,
            Self::Equal | Self::NotEqual => 3,
            Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual => 4,
            Self::Add | Self::Subtract | Self::Concat => 5,
            Self::Multiply | Self::Divide | Self::Remainder => 6,
        }
    }
}

/// The levels of what is no [`Operator`]; see [`Operator::level`].
pub(super) const LEVEL_OR: u8 = 1;
pub(super) const LEVEL_AND: u8 = 2;
const LEVEL_PREFIX: u8 = 7;
const LEVEL_PRIMARY: u8 = 8;

impl Node {
    /// How tight its outermost operator binds.
    fn level(&self) -> u8 {
        match self {
            Self::Or(_) => LEVEL_OR,
            Self::And(_) => LEVEL_AND,
            Self::Binary { operator, .. } => operator.level(),
            Self::Not(_) | Self::Negate(_) => LEVEL_PREFIX,
            _ => LEVEL_PRIMARY,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = String::new();
        for segment in &self.source {
            write!(rest, "/{}", segment.text)?;
        }
        if let Some(condition) = &self.condition {
            write!(rest, " WHERE {condition}")?;
        }
        write!(rest, " INTO {}", self.sink)?;
        // Unless a `/*` is all of the source, a `*/` that comes later would make it a comment.
        let all = self.source.len() == 1 && self.source[0].text == "*";
        let comment = rest.strip_prefix("/*").filter(|after| !all && after.contains("*/"));
        match comment {
            Some(after) => write!(f, "FROM / *{after}"),
            None => write!(f, "FROM {rest}"),
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream => f.write_str("$upstream"),
            Self::Brokered { address, .. } => {
                f.write_str("BrokeredEndpoint(")?;
                write_quoted(f, address, '"')?;
                f.write_str(")")
            }
        }
    }
}

impl fmt::Display for Ast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Node::Text(text) => write_quoted(f, text, '\''),
            Node::Number(number) => write_number(f, *number),
            Node::Bool(b) => write!(f, "{b}"),
            Node::Null => f.write_str("null"),
            Node::Undefined => f.write_str("undefined"),
            Node::Property(name) => f.write_str(name),
            Node::System { name, braces: false } => write!(f, "${name}"),
            Node::System { name, braces: true } => write!(f, "{{${name}}}"),
            Node::Not(operand) => {
                f.write_str("NOT ")?;
                operand.write_within(f, LEVEL_PREFIX)
            }
            // The blank keeps `-` and a name or number two tokens.
            Node::Negate(operand) => {
                f.write_str("- ")?;
                operand.write_within(f, LEVEL_PREFIX)
            }
            Node::And(parts) => write_joined(f, parts, " AND ", LEVEL_AND + 1),
            Node::Or(parts) => write_joined(f, parts, " OR ", LEVEL_OR + 1),
            Node::Binary { operator, left, right, .. } => {
                left.write_within(f, operator.level())?;
                write!(f, " {} ", operator.sign())?;
                right.write_within(f, operator.level() + 1)
            }
            Node::Call { name, args, .. } => {
                write!(f, "{name}(")?;
                write_joined(f, args, ", ", 0)?;
                f.write_str(")")
            }
        }
    }
}

impl Ast {
    /// Writes it where only what binds as tight as `level` can stand without parentheses.
    fn write_within(&self, f: &mut fmt::Formatter<'_>, level: u8) -> fmt::Result {
        if self.node.level() < level { write!(f, "({self})") } else { write!(f, "{self}") }
    }

    /// Sets all places to 0, so that trees of different texts can be compared.
    pub(super) fn forget_places(&mut self) {
        self.span = 0..0;
        match &mut self.node {
            Node::Not(operand) | Node::Negate(operand) => operand.forget_places(),
            Node::And(parts) | Node::Or(parts) => parts.iter_mut().for_each(Self::forget_places),
            Node::Binary { operator_span, left, right, .. } => {
                *operator_span = 0..0;
                left.forget_places();
                right.forget_places();
            }
            Node::Call { name_span, args, .. } => {
                *name_span = 0..0;
                args.iter_mut().for_each(Self::forget_places);
            }
            _ => {}
        }
    }
}

impl Route {
    /// Sets all places to 0, so that trees of different texts can be compared.
    pub(super) fn forget_places(&mut self) {
        self.source.iter_mut().for_each(|segment| segment.span = 0..0);
        if let Some(condition) = &mut self.condition {
            condition.forget_places();
        }
        if let Sink::Brokered { span, .. } = &mut self.sink {
            *span = 0..0;
        }
    }
}

fn write_joined(f: &mut fmt::Formatter<'_>, parts: &[Ast], by: &str, level: u8) -> fmt::Result {
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            f.write_str(by)?;
        }
        part.write_within(f, level)?;
    }
    Ok(())
}

/// In these quotes, or in the other ones if that saves escapes. On one line.
fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str, quote: char) -> fmt::Result {
    let other = if quote == '"' { '\'' } else { '"' };
    let quote = if text.contains(quote) && !text.contains(other) { other } else { quote };
    f.write_char(quote)?;
    for c in text.chars() {
        if c == quote || c == '\\' {
            write!(f, "\\{c}")?;
        } else if c.is_control() {
            write!(f, "\\u{:04x}", u32::from(c))?;
        } else {
            f.write_char(c)?;
        }
    }
    f.write_char(quote)
}

/// A number that reads as the same double again; what has more than 64 bits is hexadecimal.
fn write_number(f: &mut fmt::Formatter<'_>, number: Option<f64>) -> fmt::Result {
    match number {
        None => write!(f, "0x1{:016}", 0),
        Some(n) if n.is_infinite() => f.write_str(if n > 0.0 { "1e999" } else { "-1e999" }),
        Some(n) if n == 0.0 || (1e-5..1e15).contains(&n.abs()) => write!(f, "{n}"),
        Some(n) => write!(f, "{n:e}"),
    }
}
