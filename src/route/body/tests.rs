//! What bodies answer: forms of JSON by paths, encodings, reasons, sizes.

use bytes::Bytes;

use super::fuzz::lookup;
use super::*;
use crate::clock::UnixMillis;
use crate::identity::{ClientName, DeviceId, Identity};
use crate::message::{Message, Properties, Source, SystemKey, SystemProperties};

fn message(content_type: &str, encoding: &str, body: impl Into<Bytes>) -> Message {
    let mut system = SystemProperties::default();
    system.set(SystemKey::ContentType, content_type);
    system.set(SystemKey::ContentEncoding, encoding);
    let device = ClientName::Device(DeviceId::parse("d").unwrap());
    Message {
        source: Source { sender: Identity::vouched(device) },
        system,
        properties: Properties::default(),
        body: body.into(),
        received: UnixMillis(0),
    }
}

/// In short form: `s:text`, `n:1.5`, or the reason.
fn show(found: Result<&Found<'_>, &Unreadable>) -> String {
    match found {
        Ok(Found::Missing) => "missing".into(),
        Ok(Found::Null) => "null".into(),
        Ok(Found::Bool(b)) => b.to_string(),
        Ok(Found::Number(n)) => format!("n:{n:?}"),
        Ok(Found::Text(text)) => format!("s:{text}"),
        Ok(Found::Composite) => "composite".into(),
        Err(reason) => format!("! {reason}"),
    }
}

/// What `body` has at each of `paths` (words), asked together and asked alone.
fn ask(paths: &str, body: impl Into<Bytes>) -> String {
    let message = message("application/json", "utf-8", body);
    let mut table = BodyPaths::default();
    let mut alone = Vec::new();
    let slots: Vec<Slot> = paths
        .split(' ')
        .map(|text| {
            let path = BodyPath::parse(text, 0).unwrap_or_else(|e| panic!("{text}: {e}"));
            let mut own = BodyPaths::default();
            let slot = own.add(&path);
            alone.push(show(own.of(&message).get(slot)));
            table.add(&path)
        })
        .collect();
    let body = table.of(&message);
    let together: Vec<String> = slots.into_iter().map(|slot| show(body.get(slot))).collect();
    assert_eq!(together, alone, "{paths}: one path's answer depends on the others");
    together.join(" | ")
}

#[test]
fn values_at_paths() {
    let table = [
        // Every kind of value.
        (r#"{"a":null}"#, "a", "null"),
        (r#"{"a":true,"b":false}"#, "a b", "true | false"),
        (r#"{"a":"x","b":""}"#, "a b", "s:x | s:"),
        (r#"{"a":{},"b":[]}"#, "a b", "composite | composite"),
        (r#"{"a":{"b":1},"b":[1]}"#, "a b", "composite | composite"),
        (r#"{"t":"2024-01-01T00:00:00Z"}"#, "t", "s:2024-01-01T00:00:00Z"),
        // Numbers are doubles.
        (r#"{"a":0,"b":-0,"c":-0.0}"#, "a b c", "n:0.0 | n:-0.0 | n:-0.0"),
        (r#"{"a":1,"b":-1,"c":1.5,"d":-1.5e-3}"#, "a b c d", "n:1.0 | n:-1.0 | n:1.5 | n:-0.0015"),
        (r#"{"a":1e3,"b":1E+3,"c":1e-3}"#, "a b c", "n:1000.0 | n:1000.0 | n:0.001"),
        (r#"{"a":9007199254740993}"#, "a", "n:9007199254740992.0"),
        (r#"{"a":-9223372036854775808}"#, "a", "n:-9.223372036854776e18"),
        (r#"{"a":18446744073709551615}"#, "a", "n:1.8446744073709552e19"),
        (r#"{"a":18446744073709551616}"#, "a", "n:1.8446744073709552e19"),
        (r#"{"a":123456789012345678901234567890}"#, "a", "n:1.2345678901234568e29"),
        (r#"{"a":1.7976931348623157e308}"#, "a", "n:1.7976931348623157e308"),
        (r#"{"a":5e-324,"b":1e-400}"#, "a b", "n:5e-324 | n:0.0"),
        // Names.
        (r#"{"a":1}"#, "A", "missing"),
        (r#"{"é":1}"#, "é", "n:1.0"),
        (r#"{"\u0061":1}"#, "a", "n:1.0"),
        (r#"{"\u00e9\ud83d\ude00":1}"#, "é😀", "n:1.0"),
        (r#"{"a.b":1,"a":{"b":2}}"#, "a.b", "n:2.0"),
        (r#"{"a[0]":1,"a":[2]}"#, "a[0]", "n:2.0"),
        (r#"{"":1,"a":{"":2}}"#, "a", "composite"),
        (r#"{"a":{"0":1}}"#, "a[0]", "missing"),
        (
            r#"{"aa":1,"a":2,"ab":3,"aaa":4}"#,
            "a aa ab aaa b",
            "n:2.0 | n:1.0 | n:3.0 | n:4.0 | missing",
        ),
        // Text.
        (r#"{"a":"\"\\\/\b\f\n\r\t"}"#, "a", "s:\"\\/\u{8}\u{c}\n\r\t"),
        (r#"{"a":"\u0000\u00e9\ud83d\ude00"}"#, "a", "s:\0é😀"),
        (r#"{"a":"é😀"}"#, "a", "s:é😀"),
        // Objects in objects.
        (
            r#"{"a":{"b":{"c":"x"}}}"#,
            "a.b.c a.b a a.c b",
            "s:x | composite | composite | missing | missing",
        ),
        (r#"{"a":{"b":1,"c":{"d":2}},"e":3}"#, "e a.c.d a.b", "n:3.0 | n:2.0 | n:1.0"),
        (r#"{"a":{"c":9},"x":{"a":{"b":1}}}"#, "a.b x.a.b", "missing | n:1.0"),
        // Below what is no object.
        (r#"{"a":1}"#, "a.b", "missing"),
        (r#"{"a":null}"#, "a.b a", "missing | null"),
        (r#"{"a":"x"}"#, "a.length a[0]", "missing | missing"),
        (r#"{"a":[{"b":1}]}"#, "a.b", "missing"),
        (r#"{}"#, "a a.b a[0]", "missing | missing | missing"),
        // Arrays.
        (r#"{"a":[1,"x",null]}"#, "a[0] a[1] a[2] a[3]", "n:1.0 | s:x | null | missing"),
        (r#"{"a":[]}"#, "a[0] a", "missing | composite"),
        (r#"{"a":[1,2,3]}"#, "a[2] a[0]", "n:3.0 | n:1.0"),
        (r#"{"a":[1,2,3]}"#, "a[4294967295]", "missing"),
        (r#"{"a":[ 1 , 2 ] , "b":3}"#, "a[1] a[2] a[5] b", "n:2.0 | missing | missing | n:3.0"),
        (
            r#"{"a":[[1,2],[3,[4]]]}"#,
            "a[0][1] a[1][0] a[1][1][0] a[1][1]",
            "n:2.0 | n:3.0 | n:4.0 | composite",
        ),
        (r#"{"a":[[],[[]]]}"#, "a[0][0] a[1][0] a[1][0][0]", "missing | composite | missing"),
        (r#"{"a":[{"b":1},{"b":[2]}]}"#, "a[0].b a[1].b[0] a[2].b", "n:1.0 | n:2.0 | missing"),
        (r#"{"a":{"b":[{"c":[0,{"d":true}]}]}}"#, "a.b[0].c[1].d", "true"),
        (r#"{"a":[{"b":1}]}"#, "a[0] a[0].b", "composite | n:1.0"),
        (r#"{"a":{"b":1}}"#, "a[0] a.b", "missing | n:1.0"),
        // White space, and what is skipped.
        (" \t\r\n{ \"a\" : 1 } \n", "a", "n:1.0"),
        (r#"{"x":[[[]],{"a":{"a":7}}],"y":"}\"]","a":1}"#, "a", "n:1.0"),
        (r#"{"x":{"a":7},"a":1,"y":[{"a":8}]}"#, "a", "n:1.0"),
    ];
    for (body, paths, expected) in table {
        assert_eq!(ask(paths, body), expected, "{body}");
    }
}

#[test]
fn of_duplicate_names_the_last_counts_as_a_whole() {
    let table = [
        (r#"{"a":1,"a":2}"#, "a", "n:2.0"),
        (r#"{"a":1,"b":2,"a":"x"}"#, "a b", "s:x | n:2.0"),
        (r#"{"a":1,"a":null}"#, "a", "null"),
        (r#"{"a":1,"a":{}}"#, "a", "composite"),
        (r#"{"a":1,"\u0061":2}"#, "a", "n:2.0"),
        (r#"{"a":{"b":1},"a":{"c":2}}"#, "a a.b a.c", "composite | missing | n:2.0"),
        (r#"{"a":{"b":1},"a":{}}"#, "a.b", "missing"),
        (r#"{"a":{"b":1},"a":5}"#, "a a.b", "n:5.0 | missing"),
        (r#"{"a":5,"a":{"b":1}}"#, "a a.b", "composite | n:1.0"),
        (r#"{"a":{"b":1},"a":[1]}"#, "a.b a[0]", "missing | n:1.0"),
        (r#"{"a":[1,2,3],"a":[4]}"#, "a[0] a[1] a[2]", "n:4.0 | missing | missing"),
        (r#"{"a":[{"b":1}],"a":[{"c":1}]}"#, "a[0].b a[0].c", "missing | n:1.0"),
        (
            r#"{"a":{"b":{"c":1}},"a":{"b":{"d":2}}}"#,
            "a.b.c a.b.d a.b",
            "missing | n:2.0 | composite",
        ),
        (r#"{"a":{"b":{"c":1}},"a":{}}"#, "a.b.c a.b", "missing | missing"),
        (r#"{"a":{"b":{"c":1},"b":{}}}"#, "a.b.c a.b", "missing | composite"),
        (r#"{"a":{"b":1},"a":{},"a":{"b":3}}"#, "a.b", "n:3.0"),
        (r#"{"a":{"b":1},"a":{"b":2},"a":{}}"#, "a.b", "missing"),
        (r#"{"a":{"b":{"c":1}},"a":{},"a":{"b":{}}}"#, "a.b.c a.b", "missing | composite"),
        (
            r#"{"x":{"a":1},"a":{"b":1},"x":{"a":{"b":2}}}"#,
            "x.a a.b x.a.b",
            "composite | n:1.0 | n:2.0",
        ),
    ];
    for (body, paths, expected) in table {
        assert_eq!(ask(paths, body), expected, "{body}");
    }
}

#[test]
fn bodies_that_cannot_be_read() {
    const NO: &str = "! the body is no JSON at line ";
    let table = [
        ("", "! the body is empty: it must be a JSON object".to_owned()),
        ("\u{feff}", "! the body is empty: it must be a JSON object".into()),
        (" ", format!("{NO}1 column 1: EOF while parsing a value")),
        ("{", format!("{NO}1 column 1: EOF while parsing an object")),
        ("{\"a\"", format!("{NO}1 column 4: EOF while parsing an object")),
        ("{\"a\":", format!("{NO}1 column 5: EOF while parsing a value")),
        ("{\"a\":1", format!("{NO}1 column 6: EOF while parsing an object")),
        ("{\n\"b\":tru}", format!("{NO}2 column 8: expected ident")),
        ("{\"a\":1,}", format!("{NO}1 column 8: trailing comma")),
        ("{\"a\":[1,]}", format!("{NO}1 column 9: trailing comma")),
        ("{\"b\":[1,]}", format!("{NO}1 column 9: expected value")),
        ("{\"a\" 1}", format!("{NO}1 column 6: expected `:`")),
        ("{a:1}", format!("{NO}1 column 2: key must be a string")),
        ("{'a':1}", format!("{NO}1 column 2: key must be a string")),
        ("{1:1}", format!("{NO}1 column 2: key must be a string")),
        ("{\"a\":01}", format!("{NO}1 column 7: invalid number")),
        ("{\"b\":01}", format!("{NO}1 column 7: invalid number")),
        ("{\"b\":+1}", format!("{NO}1 column 6: expected value")),
        ("{\"b\":.5}", format!("{NO}1 column 6: expected value")),
        ("{\"b\":1.}", format!("{NO}1 column 8: invalid number")),
        ("{\"b\":1e}", format!("{NO}1 column 8: invalid number")),
        ("{\"b\":0x10}", format!("{NO}1 column 7: expected `,` or `}}`")),
        ("{\"b\":NaN}", format!("{NO}1 column 6: expected value")),
        ("{\"b\":Infinity}", format!("{NO}1 column 6: expected value")),
        ("{\"b\":TRUE}", format!("{NO}1 column 6: expected value")),
        ("{\"b\":undefined}", format!("{NO}1 column 6: expected value")),
        ("{\"b\":\"\\x\"}", format!("{NO}1 column 8: invalid escape")),
        (
            "{\"b\":\"\n\"}",
            format!(
                "{NO}1 column 6: control character (\\u0000-\\u001F) found while parsing a string"
            ),
        ),
        ("{\"b\":1 /* c */}", format!("{NO}1 column 8: expected `,` or `}}`")),
        ("// c\n{}", format!("{NO}1 column 1: expected value")),
        ("{\"b\":1}x", format!("{NO}1 column 8: trailing characters")),
        ("{}{}", format!("{NO}1 column 3: trailing characters")),
        ("{} \n null", format!("{NO}2 column 2: trailing characters")),
        ("{}\0", format!("{NO}1 column 3: trailing characters")),
        ("secret", format!("{NO}1 column 1: expected value")),
        ("[", format!("{NO}1 column 1: EOF while parsing a list")),
        ("\u{feff}\u{feff}{}", format!("{NO}1 column 1: expected value")),
    ];
    for (body, expected) in table {
        assert_eq!(ask("a", body), expected, "{body:?}");
    }
    let no_object = format!("! {}", Unreadable::NoObject);
    for body in [
        "[]",
        "[{\"a\":1}]",
        "\"secret\"",
        "1",
        "-1.5",
        "true",
        "null",
        " 7 ",
        "18446744073709551616",
    ] {
        assert_eq!(ask("a a[0]", body), format!("{no_object} | {no_object}"), "{body:?}");
    }
}

#[test]
fn what_does_not_fit_disturbs_nothing_else() {
    let table = [
        (r#"{"a":1e400}"#, "a", "n:inf"),
        (
            r#"{"a":-1e400,"b":[1e400,{"c":"x","d":1e999}]}"#,
            "a b[1].c b[1].d b[0] b",
            "n:-inf | s:x | n:inf | n:inf | composite",
        ),
        (r#"{"a":1e400,"b":1,"a":2}"#, "a b", "n:2.0 | n:1.0"),
        (r#"{"a":1e400,"b":"\ud83d"}"#, "a b", "n:inf | s:\u{fffd}"),
        (
            r#"{"a":1e400,"b":true,"c":null,"d":18446744073709551616}"#,
            "a b c d",
            "n:inf | true | null | n:1.8446744073709552e19",
        ),
        (
            r#"{"a":1e400,"b":tru}"#,
            "a",
            "! the body is no JSON at line 1 column 19: expected ident",
        ),
        (
            r#"[1e400]"#,
            "a",
            "! the body is JSON but no object: put the values into { }, each with a name",
        ),
        (r#"{"b":1e400,"a":1}"#, "a", "n:1.0"),
        (r#"{"a":{"b":1e400}}"#, "a", "composite"),
        (r#"{"a":[1e400,2]}"#, "a[1]", "n:2.0"),
        (r#"{"b":1,"a":"\ud83d"}"#, "a b", "s:\u{fffd} | n:1.0"),
        (r#"{"\ude00":2,"a":"x\ude00"}"#, "a", "s:x\u{fffd}"),
        (r#"{"a":"\ud83d",}"#, "a", "! the body is no JSON at line 1 column 15: trailing comma"),
        (r#"{"b":"\ud83d","a":1}"#, "a", "n:1.0"),
    ];
    for (body, paths, expected) in table {
        assert_eq!(ask(paths, body), expected, "{body}");
    }
}

#[test]
fn numbers_are_the_nearest_doubles() {
    // Texts of 17 digits and more, where an approximate reader is off by one bit now and then.
    let mut random = Random(0x5eed_0006);
    for _ in 0..20_000 {
        let exponent = i64::try_from(random.below(600)).expect("small") - 300;
        let text = format!("{}.{}e{exponent}", random.below(10), random.next());
        let body = format!("{{\"a\":{text}}}");
        let expected: f64 = text.parse().expect("a number");
        assert_eq!(ask("a", body), format!("n:{expected:?}"), "{text}");
    }
}

#[test]
fn content_type_and_encoding_decide() {
    let json = r#"{"a":"é😀"}"#;
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let utf32 =
        |text: &str| text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect::<Vec<u8>>();
    let big = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
    let cut = |mut bytes: Vec<u8>| {
        bytes.push(b'x');
        bytes
    };
    let bad = "! the body is no JSON at line 1 column ";
    let table: Vec<(&str, &str, Vec<u8>, String)> = vec![
        ("application/json", "utf-8", json.into(), "s:é😀".into()),
        ("Application/JSON; charset=x", " UTF-8 ", json.into(), "s:é😀".into()),
        ("application/json", "utf-16", utf16(json), "s:é😀".into()),
        ("application/json", "UTF-32", utf32(json), "s:é😀".into()),
        ("application/json", "utf-8", "\u{feff}{\"a\":1}".into(), "n:1.0".into()),
        ("application/json", "utf-16", utf16("\u{feff}{\"a\":1}"), "n:1.0".into()),
        ("application/json", "utf-32", utf32("\u{feff}{\"a\":1}"), "n:1.0".into()),
        ("application/json", "utf-8", b"{\"a\":\"x\xffy\xc3\"}".into(), "s:x\u{fffd}y\u{fffd}".into()),
        ("application/json", "utf-8", b"{\"\xff\":2,\"a\":1}".into(), "n:1.0".into()),
        ("application/json", "utf-8", b"{\"a\":1}\xff".into(), format!("{bad}8: trailing characters")),
        ("application/json", "utf-16", cut(utf16("{\"a\":1}")), format!("{bad}8: trailing characters")),
        ("application/json", "utf-32", cut(utf32("{\"a\":1}")), format!("{bad}8: trailing characters")),
        ("application/json", "utf-16", json.into(), format!("{bad}1: expected value")),
        ("application/json", "utf-16", big(json), format!("{bad}1: expected value")),
        ("application/json", "utf-32", utf16(json), format!("{bad}1: expected value")),
        ("application/json", "utf-8", utf16("{}"), format!("{bad}2: key must be a string")),
        ("application/json", "utf-16", vec![], format!("! {}", Unreadable::Empty)),
        ("application/json", "utf-16", b"\xff\xfe".into(), format!("! {}", Unreadable::Empty)),
        ("", "utf-8", json.into(), format!("! {}", Unreadable::NoContentType)),
        ("application/json", "", json.into(), format!("! {}", Unreadable::NoContentEncoding)),
        (
            "text/plain",
            "utf-8",
            json.into(),
            "! the content type is text/plain: only application/json is read".into(),
        ),
        (
            "application/json; charset=utf-8",
            "gzip",
            json.into(),
            "! the content encoding is gzip: only utf-8, utf-16 and utf-32 (little endian) are read".into(),
        ),
    ];
    for (content_type, encoding, body, expected) in table {
        let message = message(content_type, encoding, body.clone());
        let mut table = BodyPaths::default();
        let slot = table.add(&BodyPath::parse("a", 0).unwrap());
        assert_eq!(
            show(table.of(&message).get(slot)),
            expected,
            "{content_type} {encoding} {body:?}"
        );
    }
    let mut nothing = message("", "", json);
    nothing.system = SystemProperties::default();
    let paths = BodyPaths::default();
    assert_eq!(paths.of(&nothing).get(Slot(0)), Err(&Unreadable::NoContentType));
}

#[test]
fn the_same_path_has_the_same_slot_and_plain_text_is_not_copied() {
    let mut table = BodyPaths::default();
    let mut slot = |text: &str| table.add(&BodyPath::parse(text, 0).unwrap());
    let all = [slot("a.b"), slot("a"), slot("a[1]"), slot("a[01][2]"), slot("b"), slot("A")];
    let again = [slot("a.b"), slot("a"), slot("a[01]"), slot("a[1][2]"), slot("b"), slot("A")];
    assert_eq!(all, again);
    for (i, one) in all.iter().enumerate() {
        assert!(!all[..i].contains(one), "{one:?}");
    }
    let json = message("application/json", "utf-8", r#"{"a":{"b":"plain"}}"#);
    let body = table.of(&json);
    assert!(matches!(body.get(all[0]), Ok(Found::Text(Cow::Borrowed("plain")))));
    assert_eq!(body.get(all[1]), Ok(&Found::Composite));
    assert_eq!(body.get(all[4]), Ok(&Found::Missing));
}

/// Runs `test` in a thread with as much stack as a task has.
fn with_2_mb_of_stack(test: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(2 << 20).spawn(test).unwrap().join().unwrap();
}

#[test]
fn deep_nesting_needs_no_stack() {
    with_2_mb_of_stack(|| {
        for levels in [100, 127, 128, 129, 10_000, 100_000] {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            let (objects, ends) = ("{\"a\":".repeat(levels), "}".repeat(levels));
            let hundred = ["a"; 100].join(".");
            let table = [
                (format!("{{\"x\":{open}{close},\"a\":1}}"), "a x", "n:1.0 | composite"),
                (format!("{{\"x\":{objects}1{ends},\"a\":1}}"), "a x.a.a", "n:1.0 | composite"),
                (format!("{objects}1{ends}"), "a.a.a a.b", "composite | missing"),
                (
                    format!("{{\"a\":{open}1{close}}}"),
                    "a[0][0][0] a[0][0][1]",
                    "composite | missing",
                ),
                (format!("{{\"x\":{open}}}"), "a", "! the body is no JSON at line 1 column "),
                (format!("{objects}{open}{close}{ends}"), &*hundred, "composite"),
                (open, "a", "! the body is no JSON at line 1 column "),
            ];
            for (body, paths, expected) in table {
                let got = ask(paths, body);
                assert!(got.starts_with(expected), "{levels} {paths}: {got}");
            }
        }
    });
}

#[test]
fn the_longest_path_is_read_to_its_end() {
    with_2_mb_of_stack(|| {
        let path = "a".to_owned() + &"[1]".repeat(99);
        let body = |value: &str| format!("{{\"a\":{}{value}{}}}", "[0,".repeat(99), "]".repeat(99));
        for (value, expected) in
            [("7", "n:7.0"), ("[[[[[[]]]]]]", "composite"), ("{\"a\":{}}", "composite")]
        {
            assert_eq!(ask(&path, body(value)), expected, "{value}");
        }
    });
}

#[test]
fn bodies_of_256_kib() {
    const SIZE: usize = 256 * 1024;
    let fill = |head: &str, piece: &str, tail: &str| {
        let count = (SIZE - head.len() - tail.len()) / piece.len();
        format!("{head}{}{tail}", piece.repeat(count))
    };
    let long = "x".repeat(SIZE - 8);
    let table = [
        (format!("{{\"a\":\"{long}\"}}"), "a", format!("s:{long}")),
        (format!("{{\"{long}\":1}}"), "a", "missing".into()),
        (
            fill("{\"a\":[", "1,", "2]}"),
            "a[131066] a[131067] a[131068]",
            "n:1.0 | n:2.0 | missing".into(),
        ),
        (fill("{", "\"a\":{\"b\":1},", "\"a\":{}}"), "a a.b", "composite | missing".into()),
        (fill("{", "\"a\":1,", "\"a\":2}"), "a", "n:2.0".into()),
        (fill("{\"b\":{", "\"a\":1,", "\"a\":2},\"a\":3}"), "a b", "n:3.0 | composite".into()),
        (fill("{\"a\":\"", "\\u00e9", "\"}"), "a", format!("s:{}", "é".repeat((SIZE - 8) / 6))),
        (fill("{", " ", "}"), "a", "missing".into()),
    ];
    for (body, paths, expected) in table {
        let start: String = body.chars().take(20).collect();
        assert!(body.len() <= SIZE + 32 && body.len() > SIZE - 32, "{start} {}", body.len());
        let got = ask(paths, body);
        assert!(got == expected, "{start}: {}", short(&got));
    }
}

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33) % limit
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[usize::try_from(self.below(all.len() as u64)).expect("small")]
    }

    /// A JSON value: few names, so that paths meet them, duplicates included.
    fn json(&mut self, depth: u64, out: &mut String) {
        let space = self.of(&["", "", "", " ", "\n\t"]);
        out.push_str(space);
        let kinds = if depth == 0 { 4 } else { 10 };
        match self.below(kinds) {
            0 => out.push_str(self.of(&["null", "true", "false"])),
            1 => out.push_str(self.of(&[
                "0",
                "-1",
                "1.5",
                "-0.0",
                "1e3",
                "0.1",
                "18446744073709551616",
            ])),
            2 => out.push_str(self.of(&["\"\"", "\"x\"", "\"\\u00e9\\n\"", "\"é\"", "\"}],\""])),
            3 => out.push_str(self.of(&["{}", "[]", "[1,2,3]", "{\"a\":[{\"b\":1}]}"])),
            4..=7 => self.object(depth, out),
            _ => {
                out.push('[');
                for i in 0..self.below(4) {
                    out.push_str(if i > 0 { "," } else { "" });
                    self.json(depth - 1, out);
                }
                out.push(']');
            }
        }
        out.push_str(space);
    }

    fn object(&mut self, depth: u64, out: &mut String) {
        out.push('{');
        for i in 0..self.below(5) {
            out.push_str(if i > 0 { "," } else { "" });
            out.push_str(self.of(&[
                "\"a\"",
                "\"a\"",
                "\"b\"",
                "\"\\u0061\"",
                "\"é\"",
                "\"\"",
                "\"long name\"",
            ]));
            out.push(':');
            self.json(depth - 1, out);
        }
        out.push('}');
    }

    fn path(&mut self) -> String {
        let mut path = self.of(&["a", "b", "é"]).to_owned();
        for _ in 0..self.below(4) {
            path.push_str(self.of(&[".a", ".b", ".é", "[0]", "[1]", "[2]"]));
        }
        path
    }
}

#[test]
fn one_pass_finds_what_a_reader_that_keeps_everything_finds() {
    let mut kinds = std::collections::HashSet::new();
    for seed in 1..=20_000_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut text = String::new();
        random.object(4, &mut text);
        let whole: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut table = BodyPaths::default();
        let paths: Vec<BodyPath> =
            (0..=random.below(12)).map(|_| BodyPath::parse(&random.path(), 0).unwrap()).collect();
        let slots: Vec<Slot> = paths.iter().map(|path| table.add(path)).collect();
        let message = message("application/json", "utf-8", text.clone());
        let body = table.of(&message);
        for (path, slot) in paths.iter().zip(slots) {
            let expected = lookup(&whole, path);
            assert_eq!(body.get(slot), Ok(&expected), "seed {seed}: {path} of {text}");
            kinds.insert(std::mem::discriminant(&expected.into_owned()));
        }
    }
    assert_eq!(kinds.len(), 6, "every kind of answer was met");
}
