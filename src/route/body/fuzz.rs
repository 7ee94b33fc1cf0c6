//! The body of a fuzz target, shared by `tests/fuzz` and the seeded stand-in in `cargo test`. Not part of the API.

use serde::de::IgnoredAny;
use serde_json::Value as Json;

use super::decode::Encoding;
use super::path::Step;
use super::{BodyPath, BodyPaths, Found, read};

/// Reads `input` as paths, one a line, and after an empty line a body. Paths must survive printing; what is found in the
/// body must be what a reader that keeps everything finds there. Returns how many values were found.
///
/// # Panics
/// When a promise does not hold.
pub fn body_paths(input: &[u8]) -> usize {
    let split = input.windows(2).position(|pair| pair == b"\n\n");
    let (paths, body) = split.map_or((input, &b""[..]), |at| (&input[..at], &input[at + 2..]));
    let text = String::from_utf8_lossy(body);
    let mut plan = BodyPaths::default();
    let mut asked = Vec::new();
    for line in String::from_utf8_lossy(paths).lines() {
        match BodyPath::parse(line, 1) {
            Ok(path) => {
                assert_eq!(BodyPath::parse(&path.to_string(), 0).as_ref(), Ok(&path));
                let slot = plan.add(&path);
                assert_eq!(plan.add(&path), slot, "the same path, the same slot");
                asked.push((path, slot));
            }
            Err(error) => {
                let span = error.span;
                assert!(span.start >= 1 && line.get(span.start - 1..span.end - 1).is_some());
            }
        }
    }
    for encoding in [Encoding::Utf16, Encoding::Utf32] {
        // What these come to is up to the body; that they come to something is not.
        drop(read::read(plan.nodes(), &encoding.text(body)));
    }
    let found = read::read(plan.nodes(), &text);
    let whole = serde_json::from_str::<Json>(&text);
    match (&found, whole) {
        (Ok(found), Ok(whole)) => {
            assert!(whole.is_object());
            for (path, slot) in &asked {
                assert_eq!(found[slot.0], lookup(&whole, path), "{path}");
            }
        }
        (Err(_), Ok(whole)) => assert!(!whole.is_object(), "a JSON object can be read"),
        // A reader that keeps everything also refuses what no path leads to, and what is nested too deep.
        (Ok(_), Err(_)) => assert!(serde_json::from_str::<IgnoredAny>(&text).is_ok()),
        (Err(_), Err(_)) => {}
    }
    let found = found.unwrap_or_default();
    asked
        .iter()
        .filter(|(_, slot)| !matches!(found.get(slot.0), None | Some(Found::Missing)))
        .count()
}

/// What `path` leads to in `body`, by going there.
pub(super) fn lookup<'b>(body: &'b Json, path: &BodyPath) -> Found<'b> {
    let there = path.steps().iter().try_fold(body, |here, step| match step {
        Step::Name(name) => here.as_object()?.get(&**name),
        Step::Index(index) => here.as_array()?.get(*index),
    });
    match there {
        None => Found::Missing,
        Some(Json::Null) => Found::Null,
        Some(Json::Bool(b)) => Found::Bool(*b),
        Some(Json::Number(n)) => Found::Number(n.as_f64().expect("every number is a double")),
        Some(Json::String(text)) => Found::Text(text.into()),
        Some(Json::Array(_) | Json::Object(_)) => Found::Composite,
    }
}

#[cfg(test)]
mod tests {
    use super::body_paths;
    use crate::mqtt::fuzz::mutations;

    const SEEDS: [&[u8]; 10] = [
        b"a\nb.c\nb.d[1]\n\n{\"a\":1,\"b\":{\"c\":\"x\",\"d\":[1,2]}}",
        b"a[0]\na[2]\na[2][0].b\na\n\n{\"a\":[null,true,[{\"b\":-1.5e3}]]}",
        b"a.b\na.c\n\n{\"a\":{\"b\":1},\"a\":{\"c\":2},\"\\u0061\":{\"c\":3}}",
        b"a\n\n{\"a\":\"\\ud83d\\ude00 \\n\",\"b\":\"\\ud83d\"}",
        b"a\nb\n\n {\"b\":1e400,\"a\":123456789012345678901234567890}\n",
        b"x.y.z\nx.y\nx\n\n{\"x\":{\"y\":{\"z\":{}}}}",
        b"a\n\n[[[[[[[[{\"a\":1}]]]]]]]]",
        b"a['b']\na[*]\na..b\na[1:2]\n.\n[0]\na.\na[-1]\n\n{}",
        b"\xc3\xa9[1]\n\n{\"\xc3\xa9\":[0,\"\xff\"]}",
        b"a.b[0]\na.b\n\n{\"a\":{\"b\":[[]],\"b\":{}},\"a\":[]}",
    ];

    #[test]
    fn a_hundred_thousand_mutated_bodies() {
        let mut found = 0;
        mutations(&SEEDS, 0x5eed_0005, 100_000, |input| {
            found += usize::from(body_paths(input) > 0);
        });
        assert!(found > 3000, "the mutations still reach the reader: {found}");
    }
}
