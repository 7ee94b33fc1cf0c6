//! What compiles: every operator with every pair of types, and what the errors say.

use super::super::super::value::Type;
use super::*;

/// One expression of each type, in the order of the matrices' rows and columns.
const OF_EACH: [(char, &str); 6] = [
    ('B', "(1 = 1)"),
    ('N', "1"),
    ('S', "level"),
    ('0', "null"),
    ('U', "undefined"),
    ('Q', "$body.n"),
];

/// The type of `text`; `.` = it does not compile.
fn type_of(text: &str) -> char {
    match compile_for(text, false).map(|(condition, _)| condition.root.kind) {
        Err(_) => '.',
        Ok(Type::Bool) => 'B',
        Ok(Type::Number) => 'N',
        Ok(Type::Text) => 'S',
        Ok(Type::Null) => '0',
        Ok(Type::Undefined) => 'U',
        Ok(Type::Body) => 'Q',
    }
}

/// Rows: the left operand; columns: the right one. Each in the order B N S 0 U Q.
fn check_matrix(operators: &[&str], matrix: [&str; 6]) {
    for operator in operators {
        for ((_, left), row) in OF_EACH.iter().zip(matrix) {
            for ((_, right), expected) in OF_EACH.iter().zip(row.chars()) {
                let text = format!("{left} {operator} {right}");
                assert_eq!(type_of(&text), expected, "{text}");
            }
        }
    }
}

#[test]
fn each_of_the_types_has_its_expression() {
    for (expected, text) in OF_EACH {
        assert_eq!(type_of(text), expected, "{text}");
    }
}

#[test]
fn arithmetic_takes_numbers_and_body_values() {
    let matrix = ["......", ".N...Q", "......", "......", "......", ".Q...Q"];
    check_matrix(&["*", "/", "%", "+", "-"], matrix);
}

#[test]
fn concat_takes_texts_and_body_values() {
    check_matrix(&["||"], ["......", "......", "..S..S", "......", "......", "..S..S"]);
}

#[test]
fn comparison_takes_two_of_one_kind() {
    let matrix = ["B....B", ".B...B", "..B..B", "...B.B", "....B.", "BBBB.B"];
    check_matrix(&["=", "!=", "<>", "<", "<=", ">", ">="], matrix);
}

#[test]
fn coalesce_takes_two_of_one_kind() {
    check_matrix(&["??"], ["B....Q", ".N...Q", "..S..Q", "...0.Q", "....U.", "QQQQ.Q"]);
}

#[test]
fn and_is_null_with_null_and_or_without_anything_else() {
    check_matrix(&["AND"], ["B..0BB", "......", "......", "0..000", "B..0BB", "BBB0BB"]);
    check_matrix(&["OR"], ["B..BBB", "......", "......", "B..0BB", "B..BBB", "BBBBBB"]);
}

#[test]
fn only_what_follows_a_body_value_at_the_front_of_a_chain_may_be_anything() {
    let table = [
        ("$body.t AND level", 'B'),
        ("$body.t OR 1", 'B'),
        ("$body.t AND true AND level", '.'),
        ("$body.t AND level AND level", '.'),
        ("true AND $body.t AND level", '.'),
        ("true AND $body.t", 'B'),
        ("true AND true AND $body.t", 'B'),
        ("true AND true AND null", '0'),
        ("null OR null OR null", '0'),
        ("null OR null OR true", 'B'),
    ];
    for (text, expected) in table {
        assert_eq!(type_of(text), expected, "{text}");
    }
}

#[test]
fn signs_in_front() {
    let negate = ".N...Q";
    let not = "B..B.B";
    for (sign, row) in [("-", negate), ("NOT", not)] {
        for ((_, operand), expected) in OF_EACH.iter().zip(row.chars()) {
            let text = format!("{sign} {operand}");
            assert_eq!(type_of(&text), expected, "{text}");
        }
    }
}

/// Which types each argument takes, as letters.
#[test]
fn functions_check_each_argument() {
    let numeric = ["abs", "exp", "square", "ceiling", "floor", "sign", "sqrt"];
    let mut table: Vec<(&str, Vec<&str>, char)> =
        numeric.iter().map(|name| (*name, vec!["NQ"], 'N')).collect();
    table.extend([
        ("power", vec!["NQ", "NQ"], 'N'),
        ("as_number", vec!["NSQ"], 'N'),
        ("concat", vec!["SQ", "SQ"], 'S'),
        ("concat", vec!["SQ", "SQ", "SQ"], 'S'),
        ("concat", vec!["SQ"; 7], 'S'),
        ("length", vec!["SQ"], 'N'),
        ("lower", vec!["SQ"], 'S'),
        ("upper", vec!["SQ"], 'S'),
        ("substring", vec!["SQ", "NQ"], 'S'),
        ("substring", vec!["SQ", "NQ", "NQ"], 'S'),
        ("index_of", vec!["SQ", "SQ"], 'N'),
        ("starts_with", vec!["SQ", "SQ"], 'B'),
        ("ends_with", vec!["SQ", "SQ"], 'B'),
        ("contains", vec!["SQ", "SQ"], 'B'),
        ("is_defined", vec!["BNS0UQ"], 'B'),
        ("is_null", vec!["BNS0UQ"], 'B'),
        ("is_bool", vec!["BNS0UQ"], 'B'),
        ("is_number", vec!["BNS0UQ"], 'B'),
        ("is_string", vec!["BNS0UQ"], 'B'),
    ]);
    for (name, takes, gives) in table {
        // One argument after the other gets every type, while the others are body values.
        for at in 0..takes.len() {
            for (letter, arg) in OF_EACH {
                let mut args = vec!["$body.n"; takes.len()];
                args[at] = arg;
                let text = format!("{name}({})", args.join(", "));
                let expected = if takes[at].contains(letter) { gives } else { '.' };
                assert_eq!(type_of(&text), expected, "{text}");
            }
        }
        let none = format!("{name}()");
        assert_eq!(type_of(&none), '.', "{none}");
        if !["concat", "substring"].contains(&name) {
            let more = format!("{name}({})", vec!["$body.n"; takes.len() + 1].join(", "));
            assert_eq!(type_of(&more), '.', "{more}");
        }
    }
    for text in ["concat(level)", "substring(level)", "substring(level, 1, 2, 3)", "power(1)"] {
        assert_eq!(type_of(text), '.', "{text}");
    }
    assert_eq!(type_of("CONCAT(level, 'x')"), 'S');
}

#[test]
fn names_and_literals_have_types() {
    let table = [
        ("", 'U'),
        ("level", 'S'),
        ("TRUE", 'S'),
        ("$to", 'S'),
        ("{$to}", 'S'),
        ("$", 'S'),
        ("$body", 'S'),
        ("{$body}", 'S'),
        ("$body.a", 'Q'),
        ("$BODY.a", 'Q'),
        ("{$Body.a}", 'Q'),
        ("$body.a[0].b", 'Q'),
        ("$bodyx", 'S'),
        ("$a[0]", 'U'),
        ("{$a[0]}", 'U'),
        ("$body[0]", 'U'),
        ("$]", 'U'),
        ("'x'", 'S'),
        ("1", 'N'),
        ("-1", 'N'),
        ("- 1", 'N'),
        ("1e400", 'N'),
        ("0xFF", 'N'),
        ("0xFFFFFFFFFFFFFFFF", 'N'),
        ("0x1FFFFFFFFFFFFFFFF", 'U'),
        ("null", '0'),
        ("undefined", 'U'),
        ("NULL", 'S'),
        ("true = true = false", 'B'),
        ("1 = 1 = 1", '.'),
        ("(level)", 'S'),
        ("level ?? 'x' ?? 'y'", 'S'),
        ("level ?? 'x' = 'x'", '.'),
        ("(level ?? 'x') = 'x'", 'B'),
        ("$body.n ?? 1 ?? 'x'", 'Q'),
    ];
    for (text, expected) in table {
        assert_eq!(type_of(text), expected, "{text}");
    }
}

/// The place, what is wrong, and what to do.
fn error(text: &str, twin_changes: bool) -> String {
    let error = compile_for(text, twin_changes).map(|_| ()).expect_err(text);
    format!("{}: {}: {}", &text[error.span.clone()], error.what, error.todo)
}

#[rustfmt::skip]
#[test]
fn errors_say_where_what_and_what_to_do() {
    let table = [
        ("level > 3", ">: `>` cannot compare text with a number: properties are text: write as_number(level) > 3"),
        ("3 = key", "=: `=` cannot compare a number with text: properties are text: write 3 = as_number(key), or '3' = key"),
        ("$to != 7", "!=: `!=` cannot compare text with a number: properties are text: write as_number($to) != 7, or $to != '7'"),
        ("level <> 7", "<>: `!=` cannot compare text with a number: properties are text: write as_number(level) != 7, or level != '7'"),
        ("'3' < 4", "<: `<` cannot compare text with a number: write the number without quotes: 3 < 4"),
        ("length(level) > '3'", ">: `>` cannot compare a number with text: write the number without quotes: length(level) > 3"),
        ("lower(level) > 3", ">: `>` cannot compare text with a number: write as_number(lower(level)) > 3"),
        ("alert = true", "=: `=` cannot compare text with a truth value: properties are text: write alert = 'true'"),
        ("alert != is_defined(b)", "!=: `!=` cannot compare text with a truth value: text and a truth value: join conditions with AND or OR, or compare alert with text"),
        ("true < 1", "<: `<` cannot compare a truth value with a number: compare two of one kind"),
        ("a = null", "=: `=` cannot compare text with null: properties are never null: write NOT is_defined(a)"),
        ("null != a", "!=: `!=` cannot compare null with text: properties are never null: write is_defined(a)"),
        ("1 = null", "=: `=` cannot compare a number with null: a number is never null: write NOT is_defined(1)"),
        ("a = undefined", "=: `=` cannot compare text with undefined: what is compared with undefined is undefined: write NOT is_defined(a)"),
        ("a != undefined", "!=: `!=` cannot compare text with undefined: what is compared with undefined is undefined: write is_defined(a)"),
        ("$body.a = undefined", "=: `=` cannot compare a body value with undefined: what the body does not have is null: write $body.a = null"),
        ("$body['a'] = 'x'", "['a']: the names of a body path follow a dot, not in brackets: write $body.a"),
        ("'x' = $Body['a'][0].b", "['a'][0].b: the names of a body path follow a dot, not in brackets: write $body.a[0].b"),
        ("NOT {$body['a']}", "['a']: the names of a body path follow a dot, not in brackets: write $body.a"),
        ("length($body['a']) > 3", "['a']: the names of a body path follow a dot, not in brackets: write $body.a"),
        ("$other['a'] = 'x'", "=: `=` cannot compare undefined with text: what is compared with undefined is undefined: write NOT is_defined('x')"),
        ("undefined = null", "=: `=` cannot compare undefined with null: null and undefined are two things: take one out"),
        ("a = b = c", "=: `=` cannot compare a truth value with text: only two things can be compared at once: join comparisons with AND or OR"),
        ("1 < 2 < 3", "<: `<` cannot compare a truth value with a number: only two things can be compared at once: join comparisons with AND or OR"),
        ("NOT a = 'x'", "a: NOT takes a truth value, found text: NOT binds tighter than `=`: write NOT (a = 'x')"),
        ("NOT NOT a > 'x'", "a: NOT takes a truth value, found text: NOT binds tighter than `>`: write NOT (a > 'x')"),
        ("NOT a", "a: NOT takes a truth value, found text: write NOT is_defined(a), or compare it: a != 'true'"),
        ("NOT 1", "1: NOT takes a truth value, found a number: compare it with something: NOT (.. = ..)"),
        ("NOT undefined", "undefined: NOT takes a truth value, found undefined: undefined is neither true nor false: take it out"),
        ("- (a)", "(a): `-` takes a number, found text: properties are text: write - as_number(a)"),
        ("- '3'", "'3': `-` takes a number, found text: write - 3 without quotes"),
        ("a AND b", "a: AND joins truth values, found text: properties are text: write a = 'true', or is_defined(a)"),
        ("true OR 1", "1: OR joins truth values, found a number: compare it with something, for instance level = 'high'"),
        ("3 + '4'", "+: `+` takes two numbers, found a number and text: write 4 without quotes"),
        ("a + 'x'", "+: `+` takes two numbers, found text and text: text is joined with `||`: write a || 'x'"),
        ("a * 2", "*: `*` takes two numbers, found text and a number: properties are text: write as_number(a)"),
        ("1 + null", "+: `+` takes two numbers, found a number and null: calculate with numbers only"),
        ("1 + true", "+: `+` takes two numbers, found a number and a truth value: calculate with numbers only"),
        ("a || 1", "||: `||` joins two texts, found text and a number: write '1' in quotes"),
        ("a || null", "||: `||` joins two texts, found text and null: only properties, text in quotes and body values can be joined"),
        ("key ?? 3", "??: `??` takes two of one kind, found text and a number: write key ?? '3', or as_number(key) ?? 3"),
        ("undefined ?? 'x'", "??: `??` takes two of one kind, found undefined and text: take `undefined` and `??` out"),
        ("a ?? 'x' = 'x'", "??: `??` takes two of one kind, found text and a truth value: `??` binds loosest: put what belongs together in parentheses, (level ?? '') = 'high'"),
        ("is_defind(a)", "is_defind: there is no function `is_defind`: did you mean is_defined?"),
        ("true AND foo(1)", "foo: there is no function `foo`: there are: abs, exp, square, ceiling, floor, sign, sqrt, power, as_number, is_defined, is_null, is_bool, is_number, is_string, concat, length, lower, upper, substring, index_of, starts_with, ends_with, contains, twin_change_includes"),
        ("abs(a)", "a: abs takes a number, found text: properties are text: write as_number(a)"),
        ("abs('3')", "'3': abs takes a number, found text: write 3 without quotes"),
        ("length(1)", "1: length takes text, found a number: write '1' in quotes"),
        ("length(null)", "null: length takes text, found null: write length(text)"),
        ("length()", "length(): length takes text, found nothing: write length(text)"),
        ("power(1)", "power(1): power takes a number and a number, found 1 argument: write power(number, number)"),
        ("contains(a, 3)", "3: contains takes text as argument 2, found a number: write '3' in quotes"),
        ("contains(a, 1 = 1)", "1 = 1: contains takes text as argument 2, found a truth value: write contains(text, text)"),
        ("concat('x')", "concat('x'): concat takes 2 or more texts, found 1 argument: write concat(text, text, ..)"),
        ("twin_change_includes(tags.a)", "twin_change_includes: `twin_change_includes` is for routes from /twinChangeNotifications/* alone: write FROM /twinChangeNotifications/*, or take the function out"),
    ];
    for (text, expected) in table {
        assert_eq!(error(text, false), expected, "{text}");
    }
}

#[rustfmt::skip]
#[test]
fn twin_changes_take_a_bare_path() {
    let table = [
        ("twin_change_includes('tags.a')", "'tags.a': twin_change_includes takes a path, found text in quotes: write the path without quotes: twin_change_includes(tags.a)"),
        ("twin_change_includes($body.a)", "$body.a: twin_change_includes takes a path, found something else: write twin_change_includes(properties.reported.name)"),
        ("twin_change_includes()", "twin_change_includes(): twin_change_includes takes a path, found nothing: write twin_change_includes(properties.reported.name)"),
        ("twin_change_includes(a)", "a: `a` is no path of a twin: begin it with properties.reported. or properties.desired. or tags."),
        ("twin_change_includes(properties.a)", "properties.a: `properties.a` is no path of a twin: begin it with properties.reported. or properties.desired. or tags."),
    ];
    for (text, expected) in table {
        assert_eq!(error(text, true), expected, "{text}");
    }
    for path in ["properties.reported.fan", "Properties.Desired.a.b", "TAGS.x"] {
        assert!(compile_for(&format!("twin_change_includes({path})"), true).is_ok(), "{path}");
        assert!(compile_for(&format!("TWIN_change_Includes({path})"), true).is_ok(), "{path}");
    }
}

#[test]
fn the_place_of_a_bad_path_is_in_the_text() {
    for text in ["true AND $body.a..b", "true AND {$body.a..b}", "true AND { $body.a..b }"] {
        let error = compile_for(text, false).map(|_| ()).expect_err(text);
        assert!(text.get(error.span.clone()).is_some(), "{text}: {:?}", error.span);
        assert!(error.span.start > text.find('$').unwrap(), "{text}: {:?}", error.span);
    }
}
