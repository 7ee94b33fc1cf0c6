//! Tables of cases and property tests for the grammar, the plain form and what is said of errors.

use proptest::prelude::*;

use crate::route::DEPTH_MAX;
use crate::route::error::CompileError;
use crate::route::parse;
use crate::route::syntax::{Ast, Node, Operator, Route, Segment, Sink};

mod advice;

/// The tree with all its parentheses.
fn tree(ast: &Ast) -> String {
    let all = |parts: &[Ast], by: &str| parts.iter().map(tree).collect::<Vec<_>>().join(by);
    match &ast.node {
        Node::Not(operand) => format!("(NOT {})", tree(operand)),
        Node::Negate(operand) => format!("(- {})", tree(operand)),
        Node::And(parts) => format!("({})", all(parts, " AND ")),
        Node::Or(parts) => format!("({})", all(parts, " OR ")),
        Node::Binary { operator, left, right, .. } => {
            format!("({} {} {})", tree(left), operator.sign(), tree(right))
        }
        Node::Call { name, args, .. } => format!("{name}({})", all(args, ", ")),
        _ => ast.to_string(),
    }
}

#[test]
fn precedence() {
    let table = [
        ("a", "a"),
        ("((a))", "a"),
        ("NOT a = b", "((NOT a) = b)"),
        ("NOT a AND b", "((NOT a) AND b)"),
        ("NOT (a = b)", "(NOT (a = b))"),
        ("NOT NOT a", "(NOT (NOT a))"),
        ("- a * b", "((- a) * b)"),
        ("- NOT a + b", "((- (NOT a)) + b)"),
        ("a = NOT b = c", "((a = (NOT b)) = c)"),
        ("a * - b / c", "((a * (- b)) / c)"),
        ("- 5", "(- 5)"),
        ("-5 - -5", "(-5 - -5)"),
        ("a + b * c", "(a + (b * c))"),
        ("a * b + c", "((a * b) + c)"),
        ("a - b - c", "((a - b) - c)"),
        ("a / b * c % d", "(((a / b) * c) % d)"),
        ("a || b + c - d", "(((a || b) + c) - d)"),
        ("a + b < c", "((a + b) < c)"),
        ("a < b = c > d", "((a < b) = (c > d))"),
        ("a <= b >= c", "((a <= b) >= c)"),
        ("a = b != c <> d", "(((a = b) != c) != d)"),
        ("a = b AND c = d", "((a = b) AND (c = d))"),
        ("a OR b AND c", "(a OR (b AND c))"),
        ("a AND b OR c", "((a AND b) OR c)"),
        ("a AND b AND c", "(a AND b AND c)"),
        ("(a AND b) AND c", "((a AND b) AND c)"),
        ("a AND (b AND c)", "(a AND (b AND c))"),
        ("a OR b OR c AND d AND e OR f", "(a OR b OR (c AND d AND e) OR f)"),
        ("a ?? b OR c", "(a ?? (b OR c))"),
        ("a OR b ?? c", "((a OR b) ?? c)"),
        ("a ?? b ?? c", "((a ?? b) ?? c)"),
        ("a ?? b = c AND d ?? e", "((a ?? ((b = c) AND d)) ?? e)"),
        ("a = (b ?? c)", "(a = (b ?? c))"),
        ("a+b", "a+b"),
        ("f()", "f()"),
        ("f(a ?? b, - c)", "f((a ?? b), (- c))"),
        ("F (a)", "F(a)"),
        ("{$a} = $a", "({$a} = $a)"),
        ("a / b /* c */ * d", "((a / b) * d)"),
        ("a<b", "(a < b)"),
        ("a='x'", "(a = 'x')"),
        ("", "undefined"),
        (" /* nothing */ ", "undefined"),
    ];
    for (text, expected) in table {
        let got = parse::condition(text).map_or_else(|e| e.to_string(), |ast| tree(&ast));
        assert_eq!(got, expected, "{text}");
    }
}

#[test]
fn places() {
    let table = [
        ("a = (b + c)", "0..11"),
        (" (a) ", "1..4"),
        ("NOT  f(x)", "0..9"),
        ("a AND b AND (c)", "0..15"),
        ("{$a}", "0..4"),
        ("", "0..0"),
    ];
    for (text, expected) in table {
        assert_eq!(format!("{:?}", parse::condition(text).unwrap().span), expected, "{text}");
    }
}

#[rustfmt::skip]
#[test]
fn the_plain_form() {
    let table = [
        ("from /messages/* into $UPSTREAM", "FROM /messages/* INTO $upstream"),
        ("select * from / messages / INTO $upstream", "FROM /messages INTO $upstream"),
        (
            "FROM /*\nINTO brokeredEndpoint ( '/modules/m/inputs/i' )",
            "FROM /* INTO BrokeredEndpoint(\"/modules/m/inputs/i\")",
        ),
        ("FROM /messages/*\n WHERE((a='x'))INTO $upstream", "FROM /messages/* WHERE a = 'x' INTO $upstream"),
        ("FROM / *x/y WHERE a = '*/' INTO $upstream", "FROM / *x/y WHERE a = '*/' INTO $upstream"),
        ("FROM / */ */y INTO $upstream", "FROM / */*/y INTO $upstream"),
        ("FROM /* WHERE a = '*/' INTO $upstream", "FROM /* WHERE a = '*/' INTO $upstream"),
    ];
    for (text, expected) in table {
        let got = parse::route(text).map_or_else(|e| e.to_string(), |route| route.to_string());
        assert_eq!(got, expected, "{text}");
    }
    let conditions = [
        ("((a + b)) * (c * d)", "(a + b) * (c * d)"),
        ("(a * b) + (c * d) - (e - f)", "a * b + c * d - (e - f)"),
        ("not(is_defined( $connectionModuleId ))", "NOT is_defined($connectionModuleId)"),
        ("NOT (a = b) and (c or d)", "NOT (a = b) AND (c OR d)"),
        ("(NOT a) <> (b = c)", "NOT a != (b = c)"),
        ("-(a) - -(5) - -5", "- a - - 5 - -5"),
        ("(a AND b) AND c", "(a AND b) AND c"),
        ("{ $a }", "{$a}"),
        ("\"it's\" = 'say \\'no\\''", "\"it's\" = \"say 'no'\""),
        (r#"'\'\"' || "\\ \u0007 \u00e9""#, r#"'\'"' || '\\ \u0007 é'"#),
        ("0x1F + 1.50 + .5 + 1e3 + -0", "31 + 1.5 + 0.5 + 1000 + -0"),
        ("0xFFFFFFFFFFFFFFFF + 1e-9 + 123456789012345678", "-1 + 1e-9 + 1.2345678901234568e17"),
        ("0xFFFFFFFFFFFFFFFFF + 1e400 + -1e400", "0x10000000000000000 + 1e999 + -1e999"),
        ("", "undefined"),
    ];
    for (text, expected) in conditions {
        let got = parse::condition(text).map_or_else(|e| e.to_string(), |ast| ast.to_string());
        assert_eq!(got, expected, "{text}");
    }
}

/// How high a tree is.
fn height(ast: &Ast) -> usize {
    let highest = |parts: &[Ast]| parts.iter().map(height).max().unwrap_or(0);
    1 + match &ast.node {
        Node::Not(operand) | Node::Negate(operand) => height(operand),
        Node::And(parts) | Node::Or(parts) | Node::Call { args: parts, .. } => highest(parts),
        Node::Binary { left, right, .. } => height(left).max(height(right)),
        _ => 0,
    }
}

/// Texts that want a deep tree or a deep stack, each about `n` deep.
fn deep(n: usize) -> Vec<String> {
    let around = |open: &str, close: &str| format!("{}a{}", open.repeat(n), close.repeat(n));
    // The most that a parenthesis can have open in front of it.
    let busy = "NOT - 1 ?? 1 OR 1 AND 1 = 1 < 1 + 1 * (";
    let row: String = (0..n).rev().map(|i| format!("){}", "=1".repeat(i.min(100)))).collect();
    vec![
        around("(", ")"),
        around("NOT ", ""),
        around("- ", ""),
        around("f(", ")"),
        around("f(1, ", ", 2)"),
        around("(NOT ", ")"),
        around("(NOT (- ", "))"),
        around("a = ", ""),
        around("a ?? (", ")"),
        around("", " = 1"),
        around("", " + 1"),
        around("", " ?? 1 * 1"),
        around(busy, ")"),
        around("a AND (b OR ", ")"),
        format!("{}1{row}", "(".repeat(n)),
    ]
}

#[test]
fn depth_and_length_are_errors_not_crashes() {
    let body = || {
        for n in [3, 20, 49, 99, 100, 101, 1000, 10_000] {
            for text in deep(n) {
                for text in [text.clone(), format!("FROM /messages/* WHERE {text} INTO $upstream")]
                {
                    let read = parse::condition(&text).map(|ast| (height(&ast), ast.to_string()));
                    match read {
                        Ok((height, _)) => {
                            assert!(n < 101 && height <= DEPTH_MAX, "{n} {text:.60}")
                        }
                        Err(e) => assert!(e.render(&text).len() > 10),
                    }
                    drop(parse::route(&text));
                }
            }
        }
        for text in ["x".repeat(100_000), "(".repeat(100_000), "é ".repeat(50_000)] {
            assert!(parse::condition(&text).is_err() && parse::route(&text).is_err());
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(body).unwrap();
    thread.join().unwrap();
}

#[test]
fn what_fits_and_what_does_not() {
    let parentheses = |n: usize| format!("{}a{}", "(".repeat(n), ")".repeat(n));
    let row = |n: usize| format!("a{}", " = 1".repeat(n));
    assert!(parse::condition(&parentheses(DEPTH_MAX - 1)).is_ok());
    assert!(parse::condition(&parentheses(DEPTH_MAX)).is_err());
    assert!(parse::condition(&row(DEPTH_MAX - 1)).is_ok());
    assert_eq!(
        parse::condition(&row(DEPTH_MAX)).unwrap_err().what,
        "the condition is nested more than 100 levels deep"
    );
    // A long chain is no deep one.
    let chain = parse::condition(&format!("a{}", " AND a".repeat(5000))).unwrap();
    assert_eq!(height(&chain), 2);
    // Parentheses that hold rows: each is allowed alone, their sum is not.
    let rows = format!("{}a{}", "(".repeat(90), format!("){}", " = 1".repeat(9)).repeat(90));
    assert!(parse::condition(&rows).is_err());
}

fn operator() -> impl Strategy<Value = Operator> {
    prop::sample::select(
        &[
            Operator::Multiply,
            Operator::Divide,
            Operator::Remainder,
            Operator::Add,
            Operator::Subtract,
            Operator::Concat,
            Operator::Less,
            Operator::LessOrEqual,
            Operator::Greater,
            Operator::GreaterOrEqual,
            Operator::Equal,
            Operator::NotEqual,
            Operator::Coalesce,
        ][..],
    )
}

fn ast(node: Node) -> Ast {
    Ast { node, span: 0..0 }
}

fn leaf() -> impl Strategy<Value = Node> {
    let names =
        ["a", "x-1", "a||b", "$", "'a'b", "TRUE", "e3", "+5", "-x", "!", "é", "a\u{200b}", "**"];
    let system = ["to", "body", "body.a[1].b", "$", "[", "body.x+1", "5"];
    prop_oneof![
        Just(Node::Null),
        Just(Node::Undefined),
        any::<bool>().prop_map(Node::Bool),
        any::<String>().prop_map(Node::Text),
        "[a'\"\\\\*/ \n]{0,6}".prop_map(Node::Text),
        any::<f64>().prop_map(|n| Node::Number((!n.is_nan()).then_some(n))),
        (-20..20_i32).prop_map(|n| Node::Number(Some(f64::from(n) / 4.0))),
        prop::sample::select(names.to_vec()).prop_map(|name| Node::Property(name.to_owned())),
        (prop::sample::select(system.to_vec()), any::<bool>())
            .prop_map(|(name, braces)| Node::System { name: name.to_owned(), braces }),
    ]
}

/// Trees that a text can have.
fn trees() -> impl Strategy<Value = Ast> {
    leaf().prop_map(ast).prop_recursive(6, 40, 4, |inner| {
        let parts = || prop::collection::vec(inner.clone(), 2..4);
        let binary = (operator(), inner.clone(), inner.clone());
        prop_oneof![
            inner.clone().prop_map(|a| ast(Node::Not(Box::new(a)))),
            inner.clone().prop_map(|a| ast(Node::Negate(Box::new(a)))),
            parts().prop_map(|parts| ast(Node::And(parts))),
            parts().prop_map(|parts| ast(Node::Or(parts))),
            prop::collection::vec(inner.clone(), 0..3).prop_map(|args| {
                ast(Node::Call { name: "f_1".to_owned(), name_span: 0..0, args })
            }),
            binary.prop_map(|(operator, left, right)| {
                let (left, right) = (Box::new(left), Box::new(right));
                ast(Node::Binary { operator, operator_span: 0..0, left, right })
            }),
        ]
    })
}

fn routes() -> impl Strategy<Value = Route> {
    let names = ["messages", "*", "m*", "*x", "7", "a'b"];
    let name = prop::sample::select(names.to_vec());
    let segment = name.prop_map(|text| Segment { text: text.to_owned(), span: 0..0 });
    let sink = prop_oneof![
        Just(Sink::Upstream),
        "[a'\"\\\\*/ \n]{0,6}".prop_map(|address| Sink::Brokered { address, span: 0..0 }),
    ];
    (prop::collection::vec(segment, 1..6), prop::option::of(trees()), sink)
        .prop_map(|(source, condition, sink)| Route { source, condition, sink })
}

/// What is refused because it cannot be meant, though the grammar allows it.
fn refused_on_purpose(error: &CompileError) -> bool {
    error.what.contains("joins texts")
}

proptest! {
    #[test]
    fn a_printed_tree_reads_as_itself(tree in trees()) {
        let plain = tree.to_string();
        match parse::condition(&plain) {
            Ok(mut again) => {
                again.forget_places();
                prop_assert_eq!(&again, &tree, "{}", plain);
                prop_assert_eq!(again.to_string(), plain);
            }
            Err(e) => prop_assert!(refused_on_purpose(&e), "{}", e.render(&plain)),
        }
    }

    #[test]
    fn a_printed_route_reads_as_itself(route in routes()) {
        let plain = route.to_string();
        match parse::route(&plain) {
            Ok(mut again) => {
                again.forget_places();
                prop_assert_eq!(&again, &route, "{}", plain);
                prop_assert_eq!(again.to_string(), plain);
            }
            Err(e) => prop_assert!(refused_on_purpose(&e), "{}", e.render(&plain)),
        }
    }

    #[test]
    fn any_text_is_read_or_refused_with_a_place(text in any::<String>()) {
        crate::route::fuzz::route_text(text.as_bytes());
    }
}
