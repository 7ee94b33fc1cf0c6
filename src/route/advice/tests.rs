//! Tables of names and words, and what is said of them.

use super::*;

#[rustfmt::skip]
#[test]
fn names_that_can_hardly_be_meant() {
    let table = [
        ("\u{201c}$connectionModuleId\u{201d}", "write $connectionModuleId without quotes"),
        ("\u{201c}high\u{201d}", "write 'high' with plain quotes for text, high without"),
        ("\u{201c}very", "it holds a typographic quote, plain ones are ' and \""),
        ("it\u{2019}s", "it holds a typographic quote, plain ones are ' and \""),
        ("`level`", "write 'level' with plain quotes"),
        ("level\u{200b}", "the invisible character U+200B"),
        ("\u{feff}level", "the invisible character U+FEFF"),
        ("a\u{2013}1", "with a typographic \u{2013}: write - with blanks"),
        ("TRUE", "write true in lower case"),
        ("False", "write false in lower case"),
        ("NULL", "write null in lower case"),
        ("Undefined", "write undefined in lower case"),
        ("'x'AND", "put a blank after the closing quote, 'x' AND"),
        ("'it's'", "write \"it's\" in double quotes, or 'it\\'s'"),
        ("'it's", "put text with a ' in double quotes, or write \\' for it"),
        ("'x'or", "put a blank after the closing quote, 'x' or"),
        ("'a'||b", "put a blank after the closing quote, 'a' ||b"),
        ("a||'x'", "text begins with its quote"),
        ("it's", "text begins with its quote"),
        ("a||b", "for an operator write a || b"),
        ("a&&b", "for an operator write a AND b"),
        ("a|b", "for an operator write a OR b"),
        ("!a", "for an operator write NOT a"),
        ("a!", "put a blank in front of !=, a != ..."),
        ("temp+1", "for an operator write temp + 1"),
        ("a%b", "for an operator write a % b"),
        ("a*2", "for an operator write a * 2"),
        ("x-1", "for an operator write x - 1"),
        ("1-3", "for an operator write 1 - 3"),
        ("my-key-1", "for an operator write my-key - 1"),
        ("-x", "for an operator write - x"),
        ("a-", "for an operator write a -"),
        ("+5", "not as a number"),
        ("5.", "not as a number"),
        ("-0x1F", "not as a number"),
        ("--5", "for an operator write - -5"),
        ("1_000", "not as a number"),
    ];
    for (name, expected) in table {
        let got = suspicious_name(name).unwrap_or_default();
        assert!(got.starts_with(&format!("`{name}` is read as the name of a property")), "{name}: {got}");
        assert!(got.contains(expected), "{name}: {got}");
    }
    for name in ["level", "my-key", "a.b", "iothub-message-id", "e3", "x1", "é", "$", "a_b", "x:y", "m#1"] {
        assert_eq!(suspicious_name(name), None, "{name}");
    }
}

#[test]
fn names_in_brackets_become_names_after_dots() {
    let table = [
        ("body['a']", Some("$body.a")),
        ("Body[\"a\"]", Some("$body.a")),
        ("body[a]", Some("$body.a")),
        ("body['a']['b'][0].c", Some("$body.a.b[0].c")),
        ("body[0]", None),
        ("body[]", None),
        ("body[", None),
        ("body", None),
        ("body.a", None),
        ("body.a['b']", None),
        ("body[0]['a']", None),
        ("bodies['a']", None),
        ("a['b']", None),
        ("é", None),
    ];
    for (word, expected) in table {
        assert_eq!(body_with_dots(word).as_deref(), expected, "{word}");
    }
}

#[test]
fn slips_of_the_finger() {
    let table = [
        ("WEHRE", Some("WHERE")),
        ("inot", Some("INTO")),
        ("INTOO", Some("INTO")),
        ("FORM", Some("FROM")),
        ("whre", Some("WHERE")),
        ("level", None),
        ("", None),
        ("x", None),
    ];
    for (word, expected) in table {
        assert_eq!(nearest(word, ["FROM", "WHERE", "INTO"]), expected, "{word}");
    }
}
