//! What operators come to.

use super::*;

#[test]
fn literals() {
    check_values(
        &sample(),
        &[
            ("", "undefined"),
            ("undefined", "undefined"),
            ("null", "null"),
            ("true", "true"),
            ("false", "false"),
            ("'x'", "'x'"),
            ("''", "''"),
            ("0", "0"),
            ("1.5", "1.5"),
            (".5", "0.5"),
            ("1e3", "1000"),
            ("1E-2", "0.01"),
            ("1e400", "inf"),
            ("-1e400", "-inf"),
            ("-7", "-7"),
            ("- 7", "-7"),
            ("- - 7", "7"),
            ("- 0", "-0"),
            ("0x1F", "31"),
            ("0X1f", "31"),
            ("0x7FFFFFFFFFFFFFFF", "9223372036854776000"),
            ("0x8000000000000000", "-9223372036854776000"),
            ("0xFFFFFFFFFFFFFFFF", "-1"),
            ("0x1FFFFFFFFFFFFFFFF", "undefined"),
        ],
    );
}

#[test]
fn properties_and_what_hides_them() {
    check_values(
        &sample(),
        &[
            ("level", "'high'"),
            ("LEVEL", "'high'"),
            ("empty", "''"),
            ("none", "no text"),
            ("missing", "undefined"),
            ("to", "undefined"),
            ("$to", "'shadow'"),
            ("$TO", "'shadow'"),
            ("{$to}", "'real'"),
            ("{ $to }", "'real'"),
            ("$cid", "'c1'"),
            ("$contentTYPE", "'application/json'"),
            ("$connectionDeviceId", "'Leaf-1'"),
            ("$connectionModuleId", "undefined"),
            ("$level", "undefined"),
            ("$", "'dollar'"),
            ("$body", "undefined"),
            ("$a[0]", "undefined"),
            ("{$a[0]}", "undefined"),
            ("$body.hidden", "'shade'"),
            ("$BODY.hidden", "'shade'"),
            ("{$body.hidden}", "1"),
            ("$body.hollow", "no text"),
            ("{$body.hollow}", "2"),
        ],
    );
}

#[test]
fn body_values() {
    check_values(
        &sample(),
        &[
            ("$body.t", "true"),
            ("$body.f", "false"),
            ("$body.n", "3"),
            ("$body.N", "4"),
            ("$body.m", "-2.5"),
            ("$body.s", "'text'"),
            ("$body.null", "null"),
            ("$body.missing", "null"),
            ("$body.o", "undefined"),
            ("$body.o.x", "1"),
            ("$body.o.y", "null"),
            ("$body.o.z", "null"),
            ("$body.s.x", "null"),
            ("$body.a", "undefined"),
            ("$body.a[0]", "1"),
            ("$body.a[1]", "'two'"),
            ("$body.a[2][0]", "3"),
            ("$body.a[9]", "null"),
            ("$body.date", "'2024-01-01T00:00:00Z'"),
            ("{$BODY.n}", "3"),
        ],
    );
    let table = ["$body.n", "$body.missing", "{$body.hidden}", "$body.n = 3", "$body.n = null"];
    for text in table {
        assert_eq!(value(text, &unreadable()), "undefined", "{text}");
    }
    assert_eq!(value("$body.hidden", &unreadable()), "'shade'");
}

#[test]
fn arithmetic() {
    check_values(
        &sample(),
        &[
            ("1 + 2", "3"),
            ("1 - 2", "-1"),
            ("2 * 3", "6"),
            ("7 / 2", "3.5"),
            ("7 % 2", "1"),
            ("-7 % 2", "-1"),
            ("7 % -2", "1"),
            ("7.5 % 2", "1.5"),
            ("1 + 2 * 3", "7"),
            ("(1 + 2) * 3", "9"),
            ("8 / 2 / 2", "2"),
            ("1 - 2 - 3", "-4"),
            ("1 / 0", "inf"),
            ("-1 / 0", "-inf"),
            ("1 / -0", "-inf"),
            ("0 / 0", "undefined"),
            ("1 % 0", "undefined"),
            ("1e400 - 1e400", "undefined"),
            ("1e400 * 0", "undefined"),
            ("1e400 + 1", "inf"),
            ("1 / 1e400", "0"),
            ("1e400 % 2", "undefined"),
            ("2 % 1e400", "2"),
            ("as_number(missing) + 1", "undefined"),
            ("1 + as_number(level)", "undefined"),
            ("$body.n + 1", "4"),
            ("1 - $body.n", "-2"),
            ("$body.n * $body.m", "-7.5"),
            ("$body.n % 2", "1"),
            ("$body.n / $body.zero", "inf"),
            ("$body.zero / $body.zero", "undefined"),
            ("$body.zero % 0", "undefined"),
            ("$body.s + 1", "undefined"),
            ("$body.num + 1", "undefined"),
            ("$body.t + 1", "undefined"),
            ("$body.null + 1", "undefined"),
            ("$body.o + 1", "undefined"),
            ("1 + $body.missing", "undefined"),
            ("- $body.n", "-3"),
            ("- - $body.n", "3"),
            ("- $body.s", "undefined"),
            ("- $body.null", "undefined"),
            ("- as_number(level)", "undefined"),
        ],
    );
}

#[test]
fn joining_texts() {
    check_values(
        &sample(),
        &[
            ("'a' || 'b'", "'ab'"),
            ("level || '-' || word", "'high-abc'"),
            ("'' || ''", "''"),
            ("empty || level", "'high'"),
            ("none || 'x'", "'x'"),
            ("none || none", "''"),
            ("missing || 'x'", "undefined"),
            ("'x' || missing", "undefined"),
            ("$body.s || '!'", "'text!'"),
            ("'!' || $body.s", "'!text'"),
            ("$body.n || '!'", "undefined"),
            ("$body.null || '!'", "undefined"),
            ("$body.o || '!'", "undefined"),
            ("$body.hollow || '!'", "'!'"),
        ],
    );
}

#[test]
fn what_is_in_the_message_is_borrowed() {
    let table = [
        "level",
        "$to",
        "{$to}",
        "$body.s",
        "'literal'",
        "missing ?? level",
        "level || empty",
        "concat(none, level)",
        "lower(level)",
        "substring(pair, 1, 2)",
        "upper(substring($body.num, 1))",
    ];
    for text in table {
        let (message, (condition, paths)) = (sample(), compile(text));
        let facts = Facts { subject: &message, body: paths.of(&message) };
        let value = condition.root.value(&facts);
        assert!(matches!(value, Value::Text(std::borrow::Cow::Borrowed(_))), "{text}");
    }
}

/// Every operand of AND and OR, with its truth value.
const OPERANDS: [(&str, char); 11] = [
    ("true", 'T'),
    ("false", 'F'),
    ("(missing = 'x')", 'U'),
    ("undefined", 'U'),
    ("$body.t", 'T'),
    ("$body.f", 'F'),
    ("$body.n", 'U'),
    ("$body.s", 'U'),
    ("$body.null", 'U'),
    ("$body.o", 'U'),
    ("(NOT null)", 'T'),
];

#[test]
fn and_and_or_are_three_valued() {
    let and = |a, b| match (a, b) {
        ('F', _) | (_, 'F') => 'F',
        ('T', 'T') => 'T',
        _ => 'U',
    };
    let or = |a, b| match (a, b) {
        ('T', _) | (_, 'T') => 'T',
        ('F', 'F') => 'F',
        _ => 'U',
    };
    for (left, l) in OPERANDS {
        for (right, r) in OPERANDS {
            let text = format!("{left} AND {right}");
            assert_eq!(truth(&text, &sample()), and(l, r), "{text}");
            let text = format!("{left} OR {right}");
            assert_eq!(truth(&text, &sample()), or(l, r), "{text}");
            for (third, t) in OPERANDS {
                let text = format!("{left} AND {right} AND {third}");
                assert_eq!(truth(&text, &sample()), and(and(l, r), t), "{text}");
                let text = format!("{left} OR {right} OR {third}");
                assert_eq!(truth(&text, &sample()), or(or(l, r), t), "{text}");
            }
        }
    }
}

#[test]
fn not_turns_what_is_true_or_false() {
    let not = |truth| match truth {
        'T' => 'F',
        'F' => 'T',
        _ => 'U',
    };
    for (operand, truth_of) in OPERANDS.into_iter().filter(|(text, _)| *text != "undefined") {
        let text = format!("NOT {operand}");
        assert_eq!(truth(&text, &sample()), not(truth_of), "{text}");
        let text = format!("NOT NOT {operand}");
        assert_eq!(truth(&text, &sample()), truth_of, "{text}");
    }
    check_truths(
        &sample(),
        &[("NOT null", 'T'), ("NOT (null AND true)", 'T'), ("NOT NOT null", 'F')],
    );
}

#[test]
fn null_in_and_and_or() {
    check_values(
        &sample(),
        &[
            ("null AND true", "null"),
            ("null AND false", "null"),
            ("true AND null", "null"),
            ("false AND null", "null"),
            ("undefined AND null", "null"),
            ("null AND undefined", "null"),
            ("$body.f AND null", "null"),
            ("true AND true AND null", "null"),
            ("null OR true", "true"),
            ("true OR null", "true"),
            ("null OR false", "false"),
            ("false OR null", "false"),
            ("null OR undefined", "undefined"),
            ("null OR null", "null"),
            ("null OR null OR true", "true"),
            ("null OR $body.t", "true"),
            ("null OR $body.n", "undefined"),
            ("(null AND true) OR true", "true"),
            ("(null AND true) = null", "true"),
        ],
    );
    // As a whole, null is false.
    check_truths(
        &sample(),
        &[("null", 'F'), ("null AND true", 'F'), ("null OR null", 'F'), ("null ?? null", 'F')],
    );
}

#[test]
fn after_a_body_value_anything_may_stand() {
    check_truths(
        &sample(),
        &[
            ("$body.t AND level", 'U'),
            ("$body.f AND level", 'F'),
            ("$body.t OR level", 'T'),
            ("$body.f OR 1", 'U'),
            ("$body.t AND 1 AND false", 'F'),
        ],
    );
}

#[test]
fn coalesce_takes_the_first_that_has_a_value() {
    check_values(
        &sample(),
        &[
            ("level ?? 'x'", "'high'"),
            ("missing ?? 'x'", "'x'"),
            ("missing ?? gone ?? 'x'", "'x'"),
            ("missing ?? gone", "undefined"),
            ("none ?? 'x'", "no text"),
            ("empty ?? 'x'", "''"),
            ("$nonsense ?? 'x'", "'x'"),
            ("as_number(level) ?? 3", "3"),
            ("as_number(n) ?? 3", "21.5"),
            ("(0 / 0) ?? 1", "1"),
            ("(missing = 'x') ?? true", "true"),
            ("missing = 'x' ?? false", "false"),
            ("null ?? null", "null"),
            ("undefined ?? undefined", "undefined"),
            ("$body.n ?? 1", "3"),
            ("$body.missing ?? 1", "null"),
            ("$body.o ?? 1", "1"),
            ("$body.o ?? $body.s", "'text'"),
            ("level ?? $body.s", "'high'"),
            ("missing ?? $body.n", "3"),
            ("$body.o ?? null", "null"),
        ],
    );
}

#[test]
fn only_true_is_true_as_a_whole() {
    check_truths(
        &sample(),
        &[
            ("", 'U'),
            ("undefined", 'U'),
            ("level", 'U'),
            ("'true'", 'U'),
            ("1", 'U'),
            ("TRUE", 'U'),
            ("$to", 'U'),
            ("true", 'T'),
            ("$body.t", 'T'),
            ("$body.f", 'F'),
            ("$body.n", 'U'),
            ("$body.s", 'U'),
            ("$body.null", 'U'),
            ("$body.missing", 'U'),
            ("$body.o", 'U'),
            ("$body.t ?? false", 'T'),
        ],
    );
}

#[test]
fn the_deepest_tree_that_compiles_is_evaluated_and_explained() {
    // The comparison, and three additions a parenthesis.
    let deep = |n: usize| format!("{}0{} = 0", "(".repeat(n), " + 1 + 1 + 1)".repeat(n));
    let highest = (0..).take_while(|n| super::super::super::parse::condition(&deep(*n)).is_ok());
    let highest = highest.last().expect("none is high");
    assert!(highest > 20, "{highest}");
    assert_eq!(truth(&deep(highest), &sample()), 'F');
}

#[test]
fn operators_bind_as_in_the_grammar() {
    check_truths(
        &sample(),
        &[
            ("true OR false AND false", 'T'),
            ("(true OR false) AND false", 'F'),
            ("NOT false AND false", 'F'),
            ("1 + 1 = 2", 'T'),
            ("1 < 2 = true", 'T'),
            ("2 * 3 > 5 AND 'a' || 'b' = 'ab'", 'T'),
            ("(missing ?? 'x') = 'x'", 'T'),
            ("is_defined(level) AND NOT is_defined(missing)", 'T'),
        ],
    );
}
