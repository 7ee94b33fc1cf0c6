//! What functions come to.

use super::*;

#[test]
fn numbers() {
    check_values(
        &sample(),
        &[
            ("abs(-2)", "2"),
            ("abs(2)", "2"),
            ("abs(-1e400)", "inf"),
            ("exp(0)", "1"),
            ("exp(1000)", "inf"),
            ("exp(-1e400)", "0"),
            ("power(2, 10)", "1024"),
            ("power(2, -1)", "0.5"),
            ("power(0, 0)", "1"),
            ("power(-1, 0.5)", "undefined"),
            ("power(-1, 1e400)", "1"),
            ("square(-3)", "9"),
            ("ceiling(1.2)", "2"),
            ("ceiling(-1.2)", "-1"),
            ("ceiling(-0.2)", "-0"),
            ("floor(1.8)", "1"),
            ("floor(-1.2)", "-2"),
            ("sign(-3)", "-1"),
            ("sign(3)", "1"),
            ("sign(0)", "0"),
            ("sign(- 0)", "0"),
            ("sign(-1e400)", "-1"),
            ("sqrt(9)", "3"),
            ("sqrt(-1)", "undefined"),
            ("sqrt(1e400)", "inf"),
            ("ABS(-2)", "2"),
            ("abs(as_number(missing))", "undefined"),
            ("abs($body.m)", "2.5"),
            ("abs($body.s)", "undefined"),
            ("abs($body.t)", "undefined"),
            ("abs($body.null)", "undefined"),
            ("abs($body.missing)", "undefined"),
            ("abs($body.o)", "undefined"),
            ("power($body.n, 2)", "9"),
            ("power(2, $body.n)", "8"),
            ("power($body.s, 2)", "undefined"),
            ("power(2, $body.s)", "undefined"),
            ("sign($body.m)", "-1"),
            ("abs(1 / 0)", "inf"),
            ("abs(0 / 0)", "undefined"),
        ],
    );
}

#[test]
fn text_as_number() {
    check_values(
        &sample(),
        &[
            ("as_number('3')", "3"),
            ("as_number(' -3.5 ')", "-3.5"),
            ("as_number('1,000')", "1000"),
            ("as_number('(5)')", "-5"),
            ("as_number('1e3')", "1000"),
            ("as_number('¤5')", "5"),
            ("as_number('1e999')", "inf"),
            ("as_number('-infinity')", "-inf"),
            ("as_number('NaN')", "undefined"),
            ("as_number('0x10')", "undefined"),
            ("as_number('')", "undefined"),
            ("as_number(level)", "undefined"),
            ("as_number(n)", "21.5"),
            ("as_number(empty)", "undefined"),
            ("as_number(none)", "undefined"),
            ("as_number(missing)", "undefined"),
            ("as_number(7)", "7"),
            ("as_number(0 / 0)", "undefined"),
            ("as_number($body.n)", "3"),
            ("as_number($body.num)", "12"),
            ("as_number($body.s)", "undefined"),
            ("as_number($body.t)", "undefined"),
            ("as_number($body.null)", "undefined"),
            ("as_number($body.o)", "undefined"),
            ("as_number($body.hollow)", "undefined"),
        ],
    );
}

#[test]
fn texts() {
    check_values(
        &sample(),
        &[
            ("concat('a', 'b')", "'ab'"),
            ("concat('a', 'b', 'c', 'd', 'e')", "'abcde'"),
            ("concat(level, none)", "'high'"),
            ("concat(none, none)", "''"),
            ("concat(none, 'a', none, 'b')", "'ab'"),
            ("concat('a', missing)", "undefined"),
            ("concat('a', 'b', 'c', missing)", "undefined"),
            ("concat($body.s, '!')", "'text!'"),
            ("concat($body.n, '!')", "undefined"),
            ("length('')", "0"),
            ("length('abc')", "3"),
            ("length(pair)", "4"),
            ("length('\\uD83D\\uDE00')", "2"),
            ("length('é')", "1"),
            ("length(none)", "undefined"),
            ("length(missing)", "undefined"),
            ("length($body.s)", "4"),
            ("length($body.n)", "undefined"),
            ("length($body.missing)", "undefined"),
            ("lower('ABC')", "'abc'"),
            ("lower(level)", "'high'"),
            ("lower('İ')", "'İ'"),
            ("lower(none)", "undefined"),
            ("lower(missing)", "undefined"),
            ("lower($body.t)", "undefined"),
            ("upper(level)", "'HIGH'"),
            ("upper('ß')", "'ß'"),
            ("upper('ı')", "'ı'"),
            ("upper('äöü')", "'ÄÖÜ'"),
            ("upper($body.s)", "'TEXT'"),
            ("upper(none)", "undefined"),
            ("upper(lower('Ab'))", "'AB'"),
        ],
    );
}

#[test]
fn cutting_text() {
    check_values(
        &sample(),
        &[
            ("substring(word, 0)", "'abc'"),
            ("substring(word, 1)", "'bc'"),
            ("substring(word, 3)", "''"),
            ("substring(word, 4)", "undefined"),
            ("substring(word, -1)", "undefined"),
            ("substring(word, 1.9)", "'bc'"),
            ("substring(word, 2.9)", "'c'"),
            ("substring(word, 3.1)", "undefined"),
            ("substring(word, -0.1)", "undefined"),
            ("substring(word, - 0)", "'abc'"),
            ("substring(word, 1e400)", "undefined"),
            ("substring('', 0)", "''"),
            ("substring(word, 0, 3)", "'abc'"),
            ("substring(word, 1, 1)", "'b'"),
            ("substring(word, 1, 0)", "''"),
            ("substring(word, 1, 2)", "'bc'"),
            ("substring(word, 1, 3)", "undefined"),
            ("substring(word, 3, 0)", "undefined"),
            ("substring('', 0, 0)", "undefined"),
            ("substring(word, 1, -1)", "undefined"),
            ("substring(word, 1.5, 1.5)", "'b'"),
            ("substring(word, 1.5, 1.6)", "undefined"),
            ("substring(word, 2.5, 0.5)", "''"),
            ("substring(word, 0, 1e400)", "undefined"),
            ("substring(pair, 1, 2)", "'\u{1f600}'"),
            ("substring(pair, 1, 1)", "'\u{fffd}'"),
            ("substring(pair, 2)", "'\u{fffd}b'"),
            ("substring(pair, 3)", "'b'"),
            ("substring(none, 0)", "undefined"),
            ("substring(missing, 0)", "undefined"),
            ("substring(word, as_number(missing))", "undefined"),
            ("substring(word, 0, as_number(missing))", "undefined"),
            ("substring($body.s, 1)", "'ext'"),
            ("substring($body.s, $body.n)", "'t'"),
            ("substring($body.n, 1)", "undefined"),
            ("substring(word, $body.s)", "undefined"),
            ("substring(word, 0, $body.s)", "undefined"),
            ("substring(concat(word, 'd'), 2)", "'cd'"),
        ],
    );
}

#[test]
fn looking_into_text() {
    check_values(
        &sample(),
        &[
            ("index_of(word, 'c')", "2"),
            ("index_of(word, 'x')", "-1"),
            ("index_of(word, '')", "0"),
            ("index_of(pair, 'b')", "3"),
            ("index_of(word, 'C')", "-1"),
            ("index_of(none, 'a')", "undefined"),
            ("index_of('a', none)", "undefined"),
            ("index_of(missing, 'a')", "undefined"),
            ("index_of($body.s, 'x')", "2"),
            ("index_of($body.n, 'x')", "undefined"),
            ("starts_with(word, 'ab')", "true"),
            ("starts_with(word, 'AB')", "false"),
            ("starts_with(word, '')", "true"),
            ("starts_with(word, 'abcd')", "false"),
            ("starts_with(none, 'a')", "undefined"),
            ("starts_with(word, missing)", "undefined"),
            ("starts_with($body.s, 't')", "true"),
            ("starts_with($body.t, 't')", "undefined"),
            ("ends_with(word, 'bc')", "true"),
            ("ends_with(word, 'b')", "false"),
            ("ends_with(word, '')", "true"),
            ("ends_with(missing, 'b')", "undefined"),
            ("ends_with(word, none)", "undefined"),
            ("ends_with(word, $body.n)", "undefined"),
            ("contains(word, 'b')", "true"),
            ("contains(word, 'B')", "false"),
            ("contains(pair, '\\uD83D\\uDE00')", "true"),
            ("contains(word, none)", "undefined"),
            ("contains('text', $body.s)", "true"),
            ("contains($body.missing, 'x')", "undefined"),
        ],
    );
}

/// Columns: `is_defined`, `is_null`, `is_bool`, `is_number`, `is_string`.
#[test]
fn what_a_value_is() {
    let table = [
        ("true", "TFTFF"),
        ("(missing = 'x')", "FFUFF"),
        ("1", "TFFTF"),
        ("1e400", "TFFFF"),
        ("(0 / 0)", "FFFFF"),
        ("'x'", "TFFFT"),
        ("''", "TFFFT"),
        ("level", "TFFFT"),
        ("none", "TTFFF"),
        ("missing", "FFFFF"),
        ("$to", "TFFFT"),
        ("$nonsense", "FFFFF"),
        ("null", "TTFFF"),
        ("(null AND true)", "TTFFF"),
        ("undefined", "FFFFF"),
        ("$a[0]", "FFFFF"),
        ("$body.t", "TFTFF"),
        ("$body.n", "TFFTF"),
        ("($body.n / 0)", "TFFFF"),
        ("$body.s", "TFFFT"),
        ("$body.null", "TTFFF"),
        ("$body.missing", "TTFFF"),
        ("$body.o", "FUUFF"),
        ("$body.a", "FUUFF"),
        ("$body.hidden", "TFFFT"),
        ("$body.hollow", "TTFFF"),
        ("as_number(n)", "TFFTF"),
        ("as_number(level)", "FFFFF"),
        ("as_number(inf)", "TFFFF"),
        ("is_null(level)", "TFTFF"),
    ];
    let tests = ["is_defined", "is_null", "is_bool", "is_number", "is_string"];
    for (arg, expected) in table {
        for (test, expected) in tests.iter().zip(expected.chars()) {
            let text = format!("{test}({arg})");
            assert_eq!(truth(&text, &sample()), expected, "{text}");
        }
    }
    check_truths(
        &unreadable(),
        &[
            ("is_defined($body.n)", 'F'),
            ("is_null($body.n)", 'U'),
            ("is_bool($body.n)", 'U'),
            ("is_number($body.n)", 'F'),
        ],
    );
}

#[test]
fn twin_changes() {
    let changed = |body| Sample { body, ..sample() };
    let full = changed(r#"{"properties":{"reported":{"fan":null,"o":{"x":1}}},"tags":{"a":1}}"#);
    // As the gateway's own notifications are.
    let patch = changed(r#"{"fan":null,"o":{"x":1},"tags":{"b":1}}"#);
    let bad = changed("[]");
    let table = [
        ("twin_change_includes(properties.reported.fan)", 'T', 'T', 'U'),
        ("twin_change_includes(properties.reported.o)", 'T', 'T', 'U'),
        ("twin_change_includes(properties.reported.o.x)", 'T', 'T', 'U'),
        ("twin_change_includes(properties.reported.o.y)", 'F', 'F', 'U'),
        ("twin_change_includes(tags.a)", 'T', 'F', 'U'),
        ("twin_change_includes(properties.desired.a)", 'F', 'F', 'U'),
    ];
    for (text, in_full, in_patch, in_bad) in table {
        for (message, expected) in [(&full, in_full), (&patch, in_patch), (&bad, in_bad)] {
            let (condition, paths) = compile_for(text, true).unwrap();
            let facts = Facts { subject: message, body: paths.of(message) };
            let expected = match expected {
                'T' => Tri::True,
                'F' => Tri::False,
                _ => Tri::Undefined,
            };
            assert_eq!(condition.evaluate(&facts), expected, "{text}");
            let explained = condition.explain(&facts);
            assert_eq!(explained.note.is_some(), expected != Tri::True, "{text}");
        }
    }
}
