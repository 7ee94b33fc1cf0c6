//! createOptions: what Docker creates a container with, as a manifest carries it.
//!
//! A module twin's value has 512 characters at most. A manifest cuts the JSON text into chunks: `createOptions`,
//! `createOptions01` .. `createOptions07`. A template may have an object instead; who generates the manifest cuts it.
//! Owns: cutting and joining. Must not know: what the options mean.

use serde_json::{Map, Value};

/// Characters of a chunk.
pub(super) const CHUNK_CHARS_MAX: usize = 512;

/// Chunks of a module.
pub(super) const CHUNKS_MAX: usize = 8;

/// The name of a chunk; `at` from 0.
fn key(at: usize) -> String {
    if at == 0 { "createOptions".to_owned() } else { format!("createOptions{at:02}") }
}

/// The options as compact JSON, cut into named chunks; the error is their length, which is too much.
pub(super) fn cut(text: &str) -> Result<Vec<(String, String)>, usize> {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() > CHUNK_CHARS_MAX * CHUNKS_MAX {
        return Err(chars.len());
    }
    let chunks = chars.chunks(CHUNK_CHARS_MAX).map(|chunk| chunk.iter().collect());
    Ok(chunks.enumerate().map(|(at, chunk)| (key(at), chunk)).collect())
}

/// Why there are no options to be read: what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) todo: &'static str,
}

fn wrong(what: impl Into<String>, todo: &'static str) -> Wrong {
    Wrong { what: what.into(), todo }
}

/// The options of a module's `settings`, and how many characters they have as a manifest carries them. None is `{}`.
pub(super) fn join(
    settings: &Map<String, Value>,
    is_template: bool,
) -> Result<(Map<String, Value>, usize), Wrong> {
    let known: Vec<String> = (0..CHUNKS_MAX).map(key).collect();
    let is_chunk = |name: &&String| name.to_ascii_lowercase().starts_with("createoptions");
    if let Some(name) = settings.keys().filter(is_chunk).find(|name| !known.contains(name)) {
        let todo = "write createOptions, then createOptions01 to createOptions07, and no more";
        return Err(wrong(format!("{name} is not the name of a chunk"), todo));
    }
    if let (true, Some(Value::Object(options))) = (is_template, settings.get("createOptions")) {
        let chars = Value::Object(options.clone()).to_string().chars().count();
        return fitting(options.clone(), chars);
    }
    let text = joined(settings, &known)?;
    let chars = text.chars().count();
    if text.trim().is_empty() {
        return Ok((Map::new(), 0));
    }
    match serde_json::from_str(&text) {
        Ok(Value::Object(options)) => fitting(options, chars),
        Ok(_) => Err(wrong("createOptions is JSON, but no object", "write {\"HostConfig\": ..}")),
        Err(error) => {
            let todo =
                "correct it, or write it as an object in the template and generate the manifest";
            Err(wrong(format!("createOptions, its chunks joined, is not JSON ({error})"), todo))
        }
    }
}

fn fitting(
    options: Map<String, Value>,
    chars: usize,
) -> Result<(Map<String, Value>, usize), Wrong> {
    if chars > CHUNK_CHARS_MAX * CHUNKS_MAX {
        let max = CHUNK_CHARS_MAX * CHUNKS_MAX;
        let what = format!("createOptions has {chars} characters, and {max} is the most");
        return Err(wrong(what, "leave out what is the default"));
    }
    Ok((options, chars))
}

fn joined(settings: &Map<String, Value>, known: &[String]) -> Result<String, Wrong> {
    let mut text = String::new();
    let mut ended_before = None;
    for name in known {
        let chunk = match settings.get(name) {
            None => {
                ended_before.get_or_insert(name);
                continue;
            }
            Some(Value::String(chunk)) => chunk,
            Some(Value::Object(_)) => {
                let todo =
                    "write it as one JSON string, or generate the manifest from the template";
                return Err(wrong(
                    format!("{name} is an object, and a manifest wants a string"),
                    todo,
                ));
            }
            Some(_) => return Err(wrong(format!("{name} is no string"), "write a JSON string")),
        };
        if let Some(missing) = ended_before {
            let what = format!("{name} is there, but {missing} is not: it is not read");
            return Err(wrong(what, "number the chunks without a gap"));
        }
        let chars = chunk.chars().count();
        if chars > CHUNK_CHARS_MAX {
            let what = format!("{name} has {chars} characters, and {CHUNK_CHARS_MAX} is the most");
            return Err(wrong(what, "cut it: go on in createOptions01, createOptions02 .."));
        }
        text.push_str(chunk);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn what_is_cut_is_joined_again() {
        for (length, chunks) in [(2, 1), (512, 1), (513, 2), (1024, 2), (4096, 8)] {
            // A character of two bytes sits on each border.
            let text = format!("{{\"k\":\"{}\"}}", "é".repeat(length.max(8) - 8));
            let cut = cut(&text).expect("it fits");
            assert_eq!(cut.len(), chunks, "{length}");
            assert!(cut.iter().all(|(_, chunk)| chunk.chars().count() <= CHUNK_CHARS_MAX));
            let manifest = cut.into_iter().map(|(key, chunk)| (key, chunk.into())).collect();
            let (options, chars) = join(&manifest, false).expect("it is whole");
            assert_eq!(
                (Value::Object(options).to_string(), chars),
                (text.clone(), text.chars().count())
            );
        }
        assert_eq!(cut(&"x".repeat(4097)), Err(4097));
    }

    #[test]
    fn what_edge_agent_would_not_read_is_told() {
        let check =
            |value: Value, is_template, part: &str| match join(&settings(value), is_template) {
                Err(Wrong { what, .. }) => assert!(what.contains(part), "{what}"),
                Ok(_) => panic!("nothing found instead of {part}"),
            };
        check(json!({"createOptions": {}}), false, "is an object, and a manifest wants a string");
        check(json!({"createOptions": 1}), false, "no string");
        check(json!({"createOptions": "{"}), false, "is not JSON");
        check(json!({"createOptions": "[]"}), true, "no object");
        check(json!({"createOptions": "x".repeat(513)}), false, "513 characters");
        check(
            json!({"createOptions": "{", "createOptions02": "}"}),
            false,
            "createOptions01 is not",
        );
        check(json!({"createOptions": "{}", "createOptions08": " "}), false, "createOptions08");
        check(json!({"createOptions": "{}", "createOptions1": " "}), false, "createOptions1 is");
        check(json!({"createoptions": "{}"}), false, "createoptions");
        check(json!({"createOptions": {"k": "x".repeat(4096)}}), true, "4104 characters");
        for (value, is_template) in [
            (json!({}), false),
            (json!({"createOptions": ""}), false),
            (json!({"createOptions": "{", "createOptions01": "}"}), false),
            (json!({"createOptions": {}}), true),
        ] {
            let joined = join(&settings(value), is_template).expect("fine");
            assert!(joined.0.is_empty());
        }
    }
}
