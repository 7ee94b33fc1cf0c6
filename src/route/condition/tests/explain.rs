//! What is said about a condition: notes for one message, warnings for all.

use super::*;

/// Every part that has a note, in the order of the text: "part: note".
fn notes(text: &str, message: &dyn Subject) -> Vec<String> {
    fn gather(text: &str, part: &Explained, out: &mut Vec<String>) {
        if let Some(note) = &part.note {
            out.push(format!("{}: {note}", &text[part.span.clone()]));
        }
        for part in &part.parts {
            gather(text, part, out);
        }
    }
    let mut out = Vec::new();
    gather(text, &explain(text, message), &mut out);
    out
}

#[rustfmt::skip]
#[test]
fn notes_say_why() {
    let table: &[(&str, &[&str])] = &[
        ("level = 'high'", &[]),
        ("level = 'low'", &[]),
        ("1 = 1 AND true", &[]),
        ("missing = 'x'", &["missing: the message has no property `missing`"]),
        ("none = 'x'", &["none = 'x': a property without a value compares with nothing", "none: the property `none` has no value"]),
        ("$to = 'real'", &["$to: the application property `$to` hides the system property; {$to} skips it"]),
        ("{$to} = 'real'", &[]),
        ("NOT is_defined($connectionModuleId)", &["$connectionModuleId: connectionModuleId: the sender is no module"]),
        ("is_defined($userId)", &["$userId: the message has no system property `userId`"]),
        ("is_defined($a[0])", &["$a[0]: no property can be called so"]),
        ("$body.gone = 1", &["$body.gone = 1: null is compared with a number, which is never equal", "$body.gone: the body has nothing at `gone`, which counts as null"]),
        ("$body.null = null", &[]),
        ("$body.s = 1", &["$body.s = 1: text is compared with a number, which is never equal"]),
        ("$body.s > 1", &["$body.s > 1: text is compared with a number: truth values come first, then numbers, text and null"]),
        ("$body.o = 1", &["$body.o: an object or an array cannot be compared"]),
        ("$body.hidden = 1", &["$body.hidden = 1: text is compared with a number, which is never equal", "$body.hidden: the application property `$body.hidden` hides the body value; {$body.hidden} skips it"]),
        ("$body.n AND true", &["$body.n AND true: AND takes a number as undefined"]),
        ("true OR $body.s", &["true OR $body.s: OR takes text as undefined"]),
        ("NOT $body.n", &["NOT $body.n: NOT takes a number as undefined"]),
        ("NOT null", &["NOT null: NOT null is true"]),
        ("null AND true", &["null AND true: null in AND makes null, which selects nothing"]),
        ("as_number(level) > 3", &["as_number(level): the text is not a number"]),
        ("as_number(missing) > 3", &["missing: the message has no property `missing`"]),
        ("0 / 0 = 1", &["0 / 0: the result is not a number"]),
        ("$body.s + 1 = 2", &["$body.s + 1: text is not a number"]),
        ("- $body.s = 2", &["- $body.s: text is not a number"]),
        ("$body.n || 'x' = 'x'", &["$body.n || 'x': a number is not text"]),
        ("sqrt(-1) = 1", &["sqrt(-1): the result is not a number"]),
        ("substring(level, 9) = ''", &["substring(level, 9): the start or the length is not within the text"]),
        ("length($body.n) = 1", &["length($body.n): length takes text, not a number"]),
        ("substring(level, $body.s) = 'x'", &["substring(level, $body.s): substring takes a number, not text"]),
        ("contains(level, missing)", &["contains(level, missing): argument 2 is undefined", "missing: the message has no property `missing`"]),
        ("(missing ?? 'x') = 'x'", &["(missing ?? 'x'): the left side has no value: the right side counts", "missing: the message has no property `missing`"]),
        // What evaluation leaves out is asked all the same.
        ("false AND missing = 'x'", &["missing: the message has no property `missing`"]),
        ("true OR missing = 'x'", &["missing: the message has no property `missing`"]),
    ];
    for (text, expected) in table {
        assert_eq!(notes(text, &sample()), *expected, "{text}");
    }
}

#[test]
fn a_body_that_cannot_be_read_says_why() {
    let notes = notes("$body.n = 3", &unreadable());
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("$body.n: "), "{notes:?}");
}

#[test]
fn every_part_is_there_with_its_place_and_value() {
    let text = "NOT (level = 'low') AND length(word) + 1 > 3";
    let explained = explain(text, &sample());
    fn list(text: &str, part: &Explained, out: &mut Vec<(String, String)>) {
        out.push((text[part.span.clone()].to_owned(), show(&part.value)));
        for part in &part.parts {
            list(text, part, out);
        }
    }
    let mut parts = Vec::new();
    list(text, &explained, &mut parts);
    let expected = [
        (text, "true"),
        ("NOT (level = 'low')", "true"),
        ("(level = 'low')", "false"),
        ("level", "'high'"),
        ("'low'", "'low'"),
        ("length(word) + 1 > 3", "true"),
        ("length(word) + 1", "4"),
        ("length(word)", "3"),
        ("word", "'abc'"),
        ("1", "1"),
        ("3", "3"),
    ];
    let expected = expected.map(|(part, value)| (part.to_owned(), value.to_owned()));
    assert_eq!(parts, expected);
}

#[rustfmt::skip]
#[test]
fn warnings_say_what_cannot_be_meant() {
    let table: &[(&str, &[&str])] = &[
        ("true", &[]),
        ("level = 'high'", &[]),
        ("NOT is_defined($connectionModuleId)", &[]),
        ("$body.t", &[]),
        ("$body.missing = null", &[]),
        ("$edgeHubOriginInterface = 'internal' AND $dt-subject = 'x' AND is_defined($iothub-interface-id)", &[]),
        ("false OR level = 'x'", &[]),
        ("1 = 1", &[]),
        ("level", &["level: text is not true: this selects nothing"]),
        ("TRUE", &["TRUE: `TRUE` is read as the name of a property", "TRUE: text is not true: this selects nothing"]),
        ("1 + 1", &["1 + 1: a number is not true: this selects nothing"]),
        ("null", &["null: null is not true: this selects nothing"]),
        ("", &[": undefined is not true: this selects nothing"]),
        ("false", &["false: it is always false: this selects nothing"]),
        ("level = 'x' AND false", &["false: it is always false: this selects nothing"]),
        ("level = 'x' AND 1 = 2", &["1 = 2: it is always false: this selects nothing"]),
        ("level = 'x' AND (false OR 1 > 2)", &["false: it is always false: this selects nothing"]),
        ("level = 'x' AND null", &["null: null in AND makes it null, which selects nothing"]),
        ("level = 'x' AND undefined", &["undefined: undefined is not true: this selects nothing"]),
        ("$a[0] = undefined", &["$a[0] = undefined: it is always undefined: this selects nothing"]),
        ("level > lower('x') AND 0 / 0 = 1", &["0 / 0 = 1: it is always undefined: this selects nothing"]),
        ("NOT true", &["NOT true: it is always false: this selects nothing"]),
        ("NOT NOT (1 = 2)", &["NOT NOT (1 = 2): it is always false: this selects nothing"]),
        ("$body.a+1 > 3", &["$body.a+1: `$body.a+1` is read as a path of the body"]),
        ("{$body.a[0].temp-1} > 3", &["{$body.a[0].temp-1}: `$body.a[0].temp-1` is read as a path of the body"]),
        ("$body.max-temp > 3", &[]),
        ("is_defined($body['a']) OR level = 'x'", &["$body['a']: the names of a body path follow a dot, not in brackets"]),
        ("is_defined($a['a']) OR level = 'x'", &[]),
        ("level = 'it's'", &["'it's': `'it's'` is read as the name of a property"]),
        ("is_defined($nonsense)", &["$nonsense: there is no system property `nonsense`"]),
        ("as_number('x') > as_number(n)", &["as_number('x') > as_number(n): it is always undefined: this selects nothing", "'x': as_number('x') is always undefined"]),
    ];
    for (text, expected) in table {
        let (condition, _) = compile(text);
        let found: Vec<String> =
            condition.warnings().iter().map(|w| format!("{}: {}", &text[w.span.clone()], w.what)).collect();
        assert_eq!(found, *expected, "{text}");
        for warning in condition.warnings() {
            assert!(!warning.todo.is_empty(), "{text}");
        }
    }
}

#[test]
fn a_system_property_that_is_none_gets_the_nearest_name() {
    let table = [
        ("$conectionDeviceId", "did you mean $connectionDeviceId?"),
        ("$contenttyp", "did you mean $contentType?"),
        ("$iothub-connection-device-id", "did you mean $connectionDeviceId?"),
        ("$iothub-connection-module-id", "did you mean $connectionModuleId?"),
        ("$iothub-creation-time-utc", "did you mean $creationTime?"),
        ("$correlationId", "did you mean $cid?"),
        ("$.mid", "did you mean $messageId?"),
        ("$content-type", "did you mean $contentType?"),
        ("{$deviceId}", "did you mean $connectionDeviceId?"),
        ("$body", "name a value of the body: $body.temperature"),
        ("$temperature", "if it is an application property, write temperature without the $"),
    ];
    for (name, expected) in table {
        let text = format!("is_defined({name})");
        let (condition, _) = compile(&text);
        let todos: Vec<String> = condition.warnings().into_iter().map(|w| w.todo).collect();
        assert_eq!(todos, [expected], "{text}");
    }
}

/// A message with a property `p` of 64 KiB.
fn long() -> Sample {
    let p: &'static str = "x".repeat(64 << 10).leak();
    Sample { properties: vec![("p", Some(p)), ("none", None)], ..sample() }
}

#[rustfmt::skip]
#[test]
fn a_text_that_would_be_too_long_is_undefined() {
    let note = "the text would be longer than 256 KiB";
    let table: &[(&str, Value<'_>, Option<&str>)] = &[
        ("length(concat(p, p, p, p))", Value::Number(262_144.0), None),
        ("length(p || p || p || p)", Value::Number(262_144.0), None),
        ("length(concat(concat(p, p), none, upper(concat(p, p))))", Value::Number(262_144.0), None),
        ("concat(p, p, p, p, 'y')", Value::Undefined, Some(note)),
        ("concat(p, p, none, p, p, p)", Value::Undefined, Some(note)),
        ("concat(p || p, p || p, 'y')", Value::Undefined, Some(note)),
        ("p || p || p || p || 'y'", Value::Undefined, Some(note)),
        ("concat(p, p, p, p, p, missing)", Value::Undefined, Some("argument 6 is undefined")),
        ("is_defined(concat(p, p, p, p, p))", Value::Bool(false), None),
    ];
    for (text, value, note) in table {
        let got = explain(text, &long());
        assert_eq!((&got.value, got.note.as_deref()), (value, *note), "{text}");
    }
    // A body is longer than what a condition makes; so may its text stay.
    let text: &'static str = format!(r#"{{"x":"{}"}}"#, "ɐ".repeat(140_000)).leak();
    let big = Sample { body: text, ..sample() };
    for (condition, expected) in [("length($body.x)", Value::Number(140_000.0)), ("lower($body.x) = $body.x", Value::Bool(true)), ("upper($body.x)", Value::Undefined)] {
        assert_eq!(explain(condition, &big).value, expected, "{condition}");
    }
    assert_eq!(explain("upper($body.x)", &big).note.as_deref(), Some(note));
}

#[test]
fn the_spaces_that_a_body_path_lacks() {
    let table = [
        ("$body.a+1 > 3", "for an operator write $body.a + 1"),
        ("$body.temp-1 > 3", "for an operator write $body.temp - 1"),
        ("$body.a.b||c = 'x'", "for an operator write $body.a.b || c"),
        ("level = 'it's'", "write \"it's\" in double quotes, or 'it\\'s'"),
        ("is_defined($body['a']) OR level = 'x'", "write $body.a"),
    ];
    for (text, expected) in table {
        let todos: Vec<String> = compile(text).0.warnings().into_iter().map(|w| w.todo).collect();
        assert_eq!(todos, [expected], "{text}");
    }
}

#[test]
fn what_an_explanation_keeps_is_bounded() {
    fn kept(part: &Explained) -> usize {
        let own = if let Value::Text(text) = &part.value { text.len() } else { 0 };
        own + part.parts.iter().map(kept).sum::<usize>()
    }
    let all = explain(&format!("length(concat(p{})) = 1", ",p".repeat(5000)), &long());
    assert!(kept(&all) < (1 << 20) + 5001 * 110, "{}", kept(&all));
    let arguments = &all.parts[0].parts[0].parts;
    assert_eq!(arguments[0].value, Value::text(&"x".repeat(64 << 10)));
    let cut = format!("{}…", "x".repeat(100));
    assert_eq!(arguments[5000].value, Value::text(&cut));
    // The whole is never cut.
    let text: &'static str = format!(r#"{{"x":"{}"}}"#, "y".repeat(3 << 20)).leak();
    let whole = explain("$body.x", &Sample { body: text, ..sample() });
    assert_eq!(whole.value, Value::text(&"y".repeat(3 << 20)));
}
