//! What to write instead, where types do not fit.
//!
//! Owns: the words of type errors. Must not know: how types are found ([`super::types`]).

use super::super::error::{CompileError, Span};
use super::super::functions::{Function, Takes};
use super::super::syntax::{Ast, Node, Operator};
use super::super::value::Type;

/// An expression and its type.
type Operand<'a> = (&'a Ast, Type);

/// How `ast` may be written; `..` for what is long.
fn shown(ast: &Ast) -> String {
    match &ast.node {
        Node::Text(text) if text.contains('\'') => format!("\"{text}\""),
        Node::Text(text) => format!("'{text}'"),
        Node::Number(Some(number)) => number.to_string(),
        Node::Bool(b) => b.to_string(),
        Node::Null => "null".to_owned(),
        Node::Undefined => "undefined".to_owned(),
        Node::Property(name) => name.clone(),
        Node::System { name, braces: false } => format!("${name}"),
        Node::System { name, braces: true } => format!("{{${name}}}"),
        Node::Call { name, args, .. } => {
            let args: Vec<String> = args.iter().map(shown).collect();
            format!("{name}({})", args.join(", "))
        }
        _ => "..".to_owned(),
    }
}

/// In quotes, if it is written without.
fn in_quotes(ast: &Ast) -> String {
    match ast.node {
        Node::Number(_) | Node::Bool(_) => format!("'{}'", shown(ast)),
        _ => shown(ast),
    }
}

fn is_property(ast: &Ast) -> bool {
    matches!(ast.node, Node::Property(_) | Node::System { .. })
}

fn is_comparison(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::Equal
            | Operator::NotEqual
            | Operator::Less
            | Operator::LessOrEqual
            | Operator::Greater
            | Operator::GreaterOrEqual
    )
}

/// The number that a text in quotes holds.
fn number_in_quotes(ast: &Ast) -> Option<f64> {
    match &ast.node {
        Node::Text(text) => super::super::number::parse(text),
        _ => None,
    }
}

/// `$body['a']`, which has no value anywhere, where a value is needed.
fn name_in_brackets(ast: &Ast) -> Option<CompileError> {
    let Node::System { name, .. } = &ast.node else {
        return None;
    };
    let path = super::super::advice::body_with_dots(name)?;
    // With braces, `}` is behind it.
    let end = ast.span.end - usize::from(matches!(ast.node, Node::System { braces: true, .. }));
    let start = (end + "body".len()).checked_sub(name.len())?.max(ast.span.start);
    let what = "the names of a body path follow a dot, not in brackets";
    Some(CompileError::new(start..end, what, format!("write {path}")))
}

const NOT_TAKES: &str = "NOT takes a truth value";

pub(super) fn not(operand: &Ast, kind: Type) -> CompileError {
    if let Some(error) = name_in_brackets(operand) {
        return error;
    }
    let what = format!("{NOT_TAKES}, found {}", kind.words());
    let todo = match kind {
        Type::Undefined => "undefined is neither true nor false: take it out".to_owned(),
        Type::Text if is_property(operand) => {
            let name = shown(operand);
            format!("write NOT is_defined({name}), or compare it: {name} != 'true'")
        }
        _ => "compare it with something: NOT (.. = ..)".to_owned(),
    };
    CompileError::new(operand.span.clone(), what, todo)
}

/// `NOT a = 'x'` is `(NOT a) = 'x'`: who wrote it meant something else.
pub(super) fn not_in_front(
    mut error: CompileError,
    operator: Operator,
    left: &Ast,
    right: &Ast,
) -> CompileError {
    if let Node::Not(operand) = &left.node
        && error.what.starts_with(NOT_TAKES)
    {
        let mut innermost = operand;
        while let Node::Not(deeper) = &innermost.node {
            innermost = deeper;
        }
        let sign = operator.sign();
        error.todo = format!(
            "NOT binds tighter than `{sign}`: write NOT ({} {sign} {})",
            shown(innermost),
            shown(right)
        );
    }
    error
}

pub(super) fn negate(operand: &Ast, kind: Type) -> CompileError {
    let what = format!("`-` takes a number, found {}", kind.words());
    CompileError::new(operand.span.clone(), what, to_number(operand, kind, "- "))
}

/// How to get a number; `before` is what stands in front of it.
fn to_number(ast: &Ast, kind: Type, before: &str) -> String {
    match (kind, number_in_quotes(ast)) {
        (Type::Text, Some(number)) => format!("write {before}{number} without quotes"),
        (Type::Text, None) if is_property(ast) => {
            format!("properties are text: write {before}as_number({})", shown(ast))
        }
        (Type::Text, None) => format!("write {before}as_number({})", shown(ast)),
        _ => "calculate with numbers only".to_owned(),
    }
}

/// An operand of AND or OR.
pub(super) fn operand(joiner: &str, ast: &Ast, kind: Type) -> CompileError {
    let what = format!("{joiner} joins truth values, found {}", kind.words());
    let todo = if is_property(ast) {
        let name = shown(ast);
        format!("properties are text: write {name} = 'true', or is_defined({name})")
    } else {
        "compare it with something, for instance level = 'high'".to_owned()
    };
    CompileError::new(ast.span.clone(), what, todo)
}

pub(super) fn binary(
    operator: Operator,
    sign: &Span,
    left: Operand<'_>,
    right: Operand<'_>,
) -> CompileError {
    if let Some(error) = name_in_brackets(left.0).or_else(|| name_in_brackets(right.0)) {
        return error;
    }
    let (l, r) = (left.1.words(), right.1.words());
    let name = operator.sign();
    let (what, todo) = match operator {
        Operator::Concat => {
            (format!("`||` joins two texts, found {l} and {r}"), join_texts(left, right))
        }
        Operator::Coalesce => {
            (format!("`??` takes two of one kind, found {l} and {r}"), coalesce(left, right))
        }
        _ if is_comparison(operator) => {
            (format!("`{name}` cannot compare {l} with {r}"), compare(operator, left, right))
        }
        _ => (
            format!("`{name}` takes two numbers, found {l} and {r}"),
            calculate(operator, left, right),
        ),
    };
    CompileError::new(sign.clone(), what, todo)
}

fn join_texts(left: Operand<'_>, right: Operand<'_>) -> String {
    let wrong = if matches!(left.1, Type::Text | Type::Body) { right } else { left };
    match wrong.0.node {
        Node::Number(_) | Node::Bool(_) => format!("write {} in quotes", in_quotes(wrong.0)),
        _ => "only properties, text in quotes and body values can be joined".to_owned(),
    }
}

fn coalesce(left: Operand<'_>, right: Operand<'_>) -> String {
    match (left.1, right.1) {
        (_, Type::Undefined) | (Type::Undefined, _) => "take `undefined` and `??` out".to_owned(),
        (Type::Text, Type::Number) => format!(
            "write {left} ?? {}, or as_number({left}) ?? {}",
            in_quotes(right.0),
            shown(right.0),
            left = shown(left.0)
        ),
        (Type::Text, Type::Bool) if !matches!(right.0.node, Node::Bool(_)) => {
            "`??` binds loosest: put what belongs together in parentheses, (level ?? '') = 'high'"
                .to_owned()
        }
        (Type::Text, _) => format!("write {} ?? '..'", shown(left.0)),
        (Type::Bool, Type::Text) => {
            "`??` binds loosest: put what belongs together in parentheses, (level ?? '') = 'high'"
                .to_owned()
        }
        _ => "give a substitute of the same kind".to_owned(),
    }
}

fn calculate(operator: Operator, left: Operand<'_>, right: Operand<'_>) -> String {
    let literal = |ast: &Ast| matches!(ast.node, Node::Text(_)) && number_in_quotes(ast).is_none();
    if operator == Operator::Add && (literal(left.0) || literal(right.0)) {
        return format!(
            "text is joined with `||`: write {} || {}",
            in_quotes(left.0),
            in_quotes(right.0)
        );
    }
    let wrong = if matches!(left.1, Type::Number | Type::Body) { right } else { left };
    to_number(wrong.0, wrong.1, "")
}

fn compare(operator: Operator, left: Operand<'_>, right: Operand<'_>) -> String {
    if let Node::Binary { operator: before, .. } = left.0.node
        && is_comparison(before)
    {
        return "only two things can be compared at once: join comparisons with AND or OR"
            .to_owned();
    }
    // The other side is what the advice is about.
    let (odd, other) = match (left.1, right.1) {
        (Type::Null | Type::Undefined, _) => (left.1, right),
        (_, Type::Null | Type::Undefined) => (right.1, left),
        _ => return compare_values(operator, left, right),
    };
    match (odd, other.1) {
        (Type::Null, Type::Text) if is_property(other.0) => {
            format!("properties are never null: write {}", defined(operator, other.0))
        }
        (Type::Undefined, Type::Null) | (Type::Null, Type::Undefined) => {
            "null and undefined are two things: take one out".to_owned()
        }
        (Type::Null, _) => {
            format!("{} is never null: write {}", other.1.words(), defined(operator, other.0))
        }
        (_, Type::Body) => format!(
            "what the body does not have is null: write {} {} null",
            shown(other.0),
            operator.sign()
        ),
        _ => format!(
            "what is compared with undefined is undefined: write {}",
            defined(operator, other.0)
        ),
    }
}

/// What a comparison with `null` or `undefined` was meant to be.
fn defined(operator: Operator, ast: &Ast) -> String {
    let not = if operator == Operator::NotEqual { "" } else { "NOT " };
    format!("{not}is_defined({})", shown(ast))
}

fn compare_values(operator: Operator, left: Operand<'_>, right: Operand<'_>) -> String {
    let sign = operator.sign();
    let (text, other) = match (left.1, right.1) {
        (Type::Text, kind) => (left.0, kind),
        (kind, Type::Text) => (right.0, kind),
        _ => return "compare two of one kind".to_owned(),
    };
    let text_is_left = std::ptr::eq(text, left.0);
    let pair = |text: String, other: String| {
        let (a, b) = if text_is_left { (text, other) } else { (other, text) };
        format!("{a} {sign} {b}")
    };
    let value = if text_is_left { right.0 } else { left.0 };
    if let (Type::Number, Some(number)) = (other, number_in_quotes(text)) {
        return format!(
            "write the number without quotes: {}",
            pair(number.to_string(), shown(value))
        );
    }
    let subject = if is_property(text) { "properties are text: write" } else { "write" };
    let as_text = pair(shown(text), in_quotes(value));
    let as_number = pair(format!("as_number({})", shown(text)), shown(value));
    let equality = matches!(operator, Operator::Equal | Operator::NotEqual);
    let literal = matches!(value.node, Node::Number(_) | Node::Bool(_));
    match other {
        // Text has an order too, but '10' comes before '9'.
        Type::Number if equality && literal => format!("{subject} {as_number}, or {as_text}"),
        Type::Number => format!("{subject} {as_number}"),
        _ if literal => format!("{subject} {as_text}"),
        _ => format!(
            "text and a truth value: join conditions with AND or OR, or compare {} with text",
            shown(text)
        ),
    }
}

/// Too few arguments, or too many.
pub(super) fn count(function: &Function, ast: &Ast, found: usize) -> CompileError {
    let Function { name, usage, .. } = function;
    let found = match found {
        0 => "nothing".to_owned(),
        1 => "1 argument".to_owned(),
        n => format!("{n} arguments"),
    };
    let what = format!("{name} takes {}, found {found}", function.takes_words());
    CompileError::new(ast.span.clone(), what, format!("write {usage}"))
}

/// An argument of the wrong type.
pub(super) fn argument(function: &Function, index: usize, arg: &Ast, kind: Type) -> CompileError {
    if let Some(error) = name_in_brackets(arg) {
        return error;
    }
    let name = function.name;
    let takes = function.takes(index);
    let which =
        if function.most == 1 { String::new() } else { format!(" as argument {}", index + 1) };
    let what = format!("{name} takes {}{which}, found {}", takes.words(), kind.words());
    let todo = match (takes, kind) {
        (_, Type::Null | Type::Undefined) => format!("write {}", function.usage),
        (Takes::Number, Type::Text) => to_number(arg, kind, ""),
        (Takes::Text, Type::Number | Type::Bool) if in_quotes(arg) != shown(arg) => {
            format!("write {} in quotes", in_quotes(arg))
        }
        _ => format!("write {}", function.usage),
    };
    CompileError::new(arg.span.clone(), what, todo)
}

/// An argument that should be a path.
pub(super) fn path(function: &Function, arg: &Ast) -> CompileError {
    let name = function.name;
    let (found, todo) = match &arg.node {
        Node::Text(text) => {
            ("text in quotes", format!("write the path without quotes: {name}({text})"))
        }
        _ => ("something else", format!("write {}", function.usage)),
    };
    CompileError::new(arg.span.clone(), format!("{name} takes a path, found {found}"), todo)
}
