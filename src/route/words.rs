//! A route in words, for people who did not write it.
//!
//! Must not know: messages, values.

use super::error::CompileError;
use super::parse;
use super::source::{Scope, Source};
use super::syntax::{Ast, Node, Operator, Segment, Sink};

/// A route in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteWords {
    /// Which messages it looks at, for instance "telemetry of all devices and modules".
    pub source: String,
    /// Which of those it takes, for instance "$connectionModuleId is not defined"; `None` = all.
    pub condition: Option<String>,
    /// Where they go, for instance "IoT Hub".
    pub sink: String,
    /// The text in its plain form: one blank between words, keywords in capitals, no superfluous parentheses. It compiles to
    /// the same.
    pub plain: String,
}

/// Puts the route `text` in words.
///
/// # Errors
/// The text is no route. Types are not checked.
pub fn words(text: &str) -> Result<RouteWords, CompileError> {
    let route = parse::route(text)?;
    Ok(RouteWords {
        source: source(&route.source),
        condition: route.condition.as_ref().map(|ast| condition(ast, true)),
        sink: sink(&route.sink),
        plain: route.to_string(),
    })
}

fn source(segments: &[Segment]) -> String {
    let source = Source::new(segments);
    match source.scope() {
        Scope::Everything => "all messages and twin changes".into(),
        Scope::TwinChanges => "twin changes of all devices and modules".into(),
        Scope::Telemetry => "telemetry of all devices and modules".into(),
        Scope::Modules => "messages of all modules".into(),
        Scope::Module(module) => format!("messages of module {module}"),
        Scope::Outputs(module) => format!("messages of module {module}, all outputs"),
        Scope::Output(module, output) => format!("messages of module {module}, output {output}"),
        Scope::Nothing => format!("nothing: no message comes from {source}"),
    }
}

fn sink(sink: &Sink) -> String {
    let Sink::Brokered { address, .. } = sink else {
        return "IoT Hub".into();
    };
    match address.trim().trim_matches('/').split('/').collect::<Vec<_>>()[..] {
        [_, module, _, input] => format!("module {module}, input {input}"),
        _ => format!("the endpoint {address}"),
    }
}

/// What must hold, or must not (`holds` is false). "Not" here is that of three-valued logic: what has no value stays so.
fn condition(ast: &Ast, holds: bool) -> String {
    let is = if holds { "is" } else { "is not" };
    match &ast.node {
        Node::Not(operand) if holds && !is_joined(operand) => condition(operand, false),
        Node::Not(operand) if holds => format!("not ({})", condition(operand, true)),
        Node::And(parts) if holds => joined(parts, " and "),
        Node::Or(parts) if holds => joined(parts, " or "),
        Node::Binary { operator, left, right, .. } if holds && comparison(*operator).is_some() => {
            let verb = comparison(*operator).unwrap_or_default();
            format!("{} {verb} {}", operand(left), operand(right))
        }
        Node::Call { name, args, .. } => call(name, args, holds).unwrap_or_else(|| {
            let call = operand(ast);
            if holds { call } else { format!("not {call}") }
        }),
        Node::System { name, .. } if is_body(name) => {
            format!("{} is {holds}", operand(ast))
        }
        Node::Bool(b) if holds => if *b { "always" } else { "never" }.into(),
        Node::Null
        | Node::Undefined
        | Node::Text(_)
        | Node::Number(_)
        | Node::Property(_)
        | Node::System { .. } => {
            format!("{} {is} true", operand(ast))
        }
        _ if holds => operand(ast),
        _ => format!("not ({})", condition(ast, true)),
    }
}

/// AND and OR in one another get parentheses, so that nobody has to know which binds tighter.
fn joined(parts: &[Ast], by: &str) -> String {
    let part = |ast: &Ast| {
        let words = condition(ast, true);
        if is_joined(ast) { format!("({words})") } else { words }
    };
    parts.iter().map(part).collect::<Vec<_>>().join(by)
}

fn is_joined(ast: &Ast) -> bool {
    matches!(ast.node, Node::And(_) | Node::Or(_) | Node::Binary { .. } | Node::Not(_))
        && !matches!(&ast.node, Node::Binary { operator, .. } if comparison(*operator).is_some())
        && !matches!(&ast.node, Node::Not(inner) if !is_joined(inner))
}

/// A value.
fn operand(ast: &Ast) -> String {
    match &ast.node {
        Node::Property(name) => format!("property {name}"),
        Node::System { name, .. } if is_body(name) => {
            format!("body value {}", &name["body.".len()..])
        }
        Node::Binary { operator: Operator::Coalesce, left, right, .. } => {
            format!("({}, or {} if that is not defined)", operand(left), operand(right))
        }
        Node::Binary { operator, left, right, .. } if comparison(*operator).is_none() => {
            let (left_words, right_words) = (part(left), part(right));
            format!("{left_words} {} {right_words}", operator.sign())
        }
        Node::Negate(inner) => format!("- {}", part(inner)),
        Node::Call { name, args, .. } if call(name, args, true).is_none() => {
            let args: Vec<String> = args.iter().map(operand).collect();
            format!("{}({})", name.to_ascii_lowercase(), args.join(", "))
        }
        Node::Not(_) | Node::And(_) | Node::Or(_) | Node::Binary { .. } | Node::Call { .. } => {
            format!("({})", condition(ast, true))
        }
        _ => ast.to_string(),
    }
}

/// A value of an operation.
fn part(ast: &Ast) -> String {
    match &ast.node {
        Node::Binary { operator, .. }
            if *operator != Operator::Coalesce && comparison(*operator).is_none() =>
        {
            format!("({})", operand(ast))
        }
        _ => operand(ast),
    }
}

fn comparison(operator: Operator) -> Option<&'static str> {
    Some(match operator {
        Operator::Equal => "is equal to",
        Operator::NotEqual => "is not equal to",
        Operator::Less => "is less than",
        Operator::LessOrEqual => "is less than or equal to",
        Operator::Greater => "is greater than",
        Operator::GreaterOrEqual => "is greater than or equal to",
        _ => return None,
    })
}

/// Functions that ask something, as a sentence; `None` = another one, or not with so many arguments.
fn call(name: &str, args: &[Ast], holds: bool) -> Option<String> {
    let (is, does) = if holds { ("is", "") } else { ("is not", "does not ") };
    let verb = |with: &str, without: &str| {
        if holds { with.to_owned() } else { format!("{does}{without}") }
    };
    let name = name.to_ascii_lowercase();
    Some(match (&name[..], args) {
        ("is_defined", [Ast { node: Node::System { name, .. }, .. }])
            if name.eq_ignore_ascii_case("connectionModuleId") =>
        {
            let sender = if holds { "a module" } else { "no module" };
            format!("the sender is {sender} (${name} {is} defined)")
        }
        ("is_defined", [arg]) => format!("{} {is} defined", operand(arg)),
        ("is_null", [arg]) => format!("{} {is} null", operand(arg)),
        ("is_bool", [arg]) => format!("{} {is} a truth value", operand(arg)),
        ("is_number", [arg]) => format!("{} {is} a number", operand(arg)),
        ("is_string", [arg]) => format!("{} {is} text", operand(arg)),
        ("starts_with", [text, start]) => {
            format!("{} {} {}", operand(text), verb("starts with", "start with"), operand(start))
        }
        ("ends_with", [text, end]) => {
            format!("{} {} {}", operand(text), verb("ends with", "end with"), operand(end))
        }
        ("contains", [text, part]) => {
            format!("{} {} {}", operand(text), verb("contains", "contain"), operand(part))
        }
        ("twin_change_includes", [path]) => {
            format!("the twin change {} {path}", verb("includes", "include"))
        }
        _ => return None,
    })
}

fn is_body(name: &str) -> bool {
    name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("body."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rustfmt::skip]
    #[test]
    fn sources_in_words() {
        let table = [
            ("/*", "all messages and twin changes"),
            ("/**", "all messages and twin changes"),
            ("/messages", "telemetry of all devices and modules"),
            ("/messages/", "telemetry of all devices and modules"),
            ("/MESSAGES/*", "telemetry of all devices and modules"),
            ("/messages*", "telemetry of all devices and modules"),
            ("/messages/modules/*", "messages of all modules"),
            ("/messages/modules", "messages of all modules"),
            ("/messages/Modules/m1/*", "messages of module m1"),
            ("/messages/modules/m*", "messages of module m"),
            ("/messages/modules/m1/outputs/*", "messages of module m1, all outputs"),
            ("/messages/modules/m1/outputs/o1", "messages of module m1, output o1"),
            ("/messages/modules/m1/outputs/o1/*", "messages of module m1, output o1"),
            ("/twinChangeNotifications/*", "twin changes of all devices and modules"),
            ("/messages/modules/*/outputs/*", "nothing: no message comes from /messages/modules/*/outputs"),
            ("/messages/devices/d", "nothing: no message comes from /messages/devices/d"),
            ("/messages/modules/m1/inputs/i", "nothing: no message comes from /messages/modules/m1/inputs/i"),
            ("/messages/modules/m/outputs/o/x", "nothing: no message comes from /messages/modules/m/outputs/o/x"),
            ("/twinChangeNotifications/d", "nothing: no message comes from /twinChangeNotifications/d"),
            ("/mess*", "nothing: no message comes from /mess"),
            ("/deviceLifecycleEvents", "nothing: no message comes from /deviceLifecycleEvents"),
        ];
        for (source, expected) in table {
            let said = words(&format!("FROM {source} INTO $upstream")).unwrap();
            assert_eq!(said.source, expected, "{source}");
            assert_eq!(said.condition, None);
        }
    }

    #[rustfmt::skip]
    #[test]
    fn conditions_in_words() {
        let table = [
            ("NOT IS_DEFINED($connectionModuleId)", "the sender is no module ($connectionModuleId is not defined)"),
            ("not (is_defined({$connectionmoduleid}))", "the sender is no module ($connectionmoduleid is not defined)"),
            ("IS_DEFINED($connectionModuleId)", "the sender is a module ($connectionModuleId is defined)"),
            ("IS_DEFINED(level)", "property level is defined"),
            ("NOT NOT IS_DEFINED(level)", "not (property level is not defined)"),
            ("NOT is_defined($to)", "$to is not defined"),
            ("level = 'high'", "property level is equal to 'high'"),
            ("NOT (level = 'high')", "not (property level is equal to 'high')"),
            ("level <> \"low\"", "property level is not equal to 'low'"),
            ("$body.temp.max[0] > 20.5", "body value temp.max[0] is greater than 20.5"),
            ("$Body.x < 1", "body value x is less than 1"),
            ("1 <= $body.x", "1 is less than or equal to body value x"),
            ("$body.x >= null", "body value x is greater than or equal to null"),
            ("$body = 'x'", "$body is equal to 'x'"),
            ("$body.alarm AND NOT $body.muted", "body value alarm is true and body value muted is false"),
            ("a = 'x' AND b = 'y' AND c = 'z'", "property a is equal to 'x' and property b is equal to 'y' and property c is equal to 'z'"),
            ("a = 'x' OR b = 'y' AND c = 'z'", "property a is equal to 'x' or (property b is equal to 'y' and property c is equal to 'z')"),
            ("(a = 'x' OR b = 'y') AND is_null(c)", "(property a is equal to 'x' or property b is equal to 'y') and property c is null"),
            ("NOT (is_number(a) OR is_bool(b))", "not (property a is a number or property b is a truth value)"),
            ("NOT is_string($body.x) AND NOT is_null($body.x)", "body value x is not text and body value x is not null"),
            ("starts_with(a, 'x') AND NOT ends_with(a, 'y')", "property a starts with 'x' and property a does not end with 'y'"),
            ("contains(lower(a), b) OR NOT contains(a, 'c')", "lower(property a) contains property b or property a does not contain 'c'"),
            ("as_number(level) + 1 * 2 = 3", "as_number(property level) + (1 * 2) is equal to 3"),
            ("(as_number(a) - 1) % 7 = - as_number(b)", "(as_number(property a) - 1) % 7 is equal to - as_number(property b)"),
            ("(a ?? 'none') = 'none'", "(property a, or 'none' if that is not defined) is equal to 'none'"),
            ("true = (a = 'b')", "true is equal to (property a is equal to 'b')"),
            ("is_defined(a) = is_defined(b)", "(property a is defined) is equal to (property b is defined)"),
            ("a || b = 'xy'", "property a || property b is equal to 'xy'"),
            ("twin_change_includes(properties.reported.x)", "the twin change includes properties.reported.x"),
            ("true", "always"),
            ("false", "never"),
            ("true OR a = 'x'", "always or property a is equal to 'x'"),
            ("level", "property level is true"),
            ("undefined", "undefined is true"),
            ("starts_with(a)", "starts_with(property a)"),
            ("NOT odd(a, 1)", "not odd(property a, 1)"),
        ];
        for (condition, expected) in table {
            let text = format!("FROM /messages/* WHERE {condition} INTO $upstream");
            assert_eq!(words(&text).unwrap().condition.as_deref(), Some(expected), "{condition}");
        }
    }

    #[test]
    fn sinks_in_words() {
        let table = [
            ("$UPSTREAM", "IoT Hub"),
            ("BrokeredEndpoint('/modules/m/inputs/i')", "module m, input i"),
            ("BrokeredEndpoint('modules/m/inputs/i/')", "module m, input i"),
            ("BrokeredEndpoint('m')", "the endpoint m"),
        ];
        for (sink, expected) in table {
            assert_eq!(words(&format!("FROM /* INTO {sink}")).unwrap().sink, expected, "{sink}");
        }
    }

    #[test]
    fn the_whole_route() {
        let said =
            words("from /messages/* where not (is_defined ($connectionModuleId)) into $upstream");
        let expected = RouteWords {
            source: "telemetry of all devices and modules".into(),
            condition: Some("the sender is no module ($connectionModuleId is not defined)".into()),
            sink: "IoT Hub".into(),
            plain: "FROM /messages/* WHERE NOT is_defined($connectionModuleId) INTO $upstream"
                .into(),
        };
        assert_eq!(said, Ok(expected));
        assert_eq!(words("FROM /messages/*").unwrap_err().span, 16..16);
    }
}
