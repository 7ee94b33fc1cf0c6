//! What IoT Hub takes as reported properties.
//!
//! Owns: the limits, and the words of a refusal ([`check_patch`], [`check_document`]). They are the hub's own: a patch that is
//! answered 204 while the hub is away must not be refused by it later. Must not know: what is stored.

use serde_json::Value;

use super::merge::Object;

/// Objects and arrays within each other.
const DEPTH_MAX: usize = 10;
/// Bytes of a key.
const KEY_BYTES_MAX: usize = 1024;
/// Bytes of a string.
const TEXT_BYTES_MAX: usize = 4096;
/// -2^52 ..= 2^52 - 1.
const INTEGERS: (i64, i64) = (-(1 << 52), (1 << 52) - 1);
/// Bytes of all reported properties, as the hub counts them ([`size`]).
const SECTION_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a patch as JSON: what the hub takes as one request.
pub(super) const PATCH_BYTES_MAX: usize = 32 * 1024;

/// Why something is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// 400 or 413.
    pub(super) status: u16,
    /// For the counter.
    pub(super) label: &'static str,
    /// For the client.
    pub(super) words: String,
}

fn refused(label: &'static str, words: impl Into<String>) -> Refused {
    Refused { status: 400, label, words: words.into() }
}

/// Reads and judges a patch of reported properties.
///
/// # Errors
/// It is no JSON object, or breaks a limit.
pub(super) fn check_patch(body: &[u8]) -> Result<Object, Refused> {
    if body.len() > PATCH_BYTES_MAX {
        let words = format!("more than {PATCH_BYTES_MAX} bytes of JSON");
        return Err(Refused { status: 413, label: "too_large", words });
    }
    let value: Value = serde_json::from_slice(body)
        .map_err(|e| refused("malformed", format!("it is not JSON: {e}")))?;
    let Value::Object(mut patch) = value else {
        return Err(refused("malformed", "reported properties are an object"));
    };
    if let Some(text) = huge_integer(body) {
        return Err(refused("number", format!("{text} is not within {INTEGERS:?}")));
    }
    // Some clients send it along; the hub takes no notice of it.
    patch.remove("$version");
    check_object(&patch, 1, false)?;
    Ok(patch)
}

/// An integer with more digits than [`INTEGERS`] have, of JSON that is well formed. Beyond 64 bits it would be read as a fraction,
/// and the hub be told another number than the client.
fn huge_integer(json: &[u8]) -> Option<&str> {
    /// 16 digits and a sign.
    const BYTES_MAX: usize = 17;
    let mut at = 0;
    while let Some(first) = json.get(at) {
        let start = at;
        at += 1;
        match first {
            b'"' => {
                while let Some(byte) = json.get(at).filter(|byte| **byte != b'"') {
                    at += if *byte == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let goes_on = |b: &&u8| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                at = start + json[start..].iter().take_while(goes_on).count();
                let text = &json[start..at];
                if text.len() > BYTES_MAX && text[1..].iter().all(u8::is_ascii_digit) {
                    return std::str::from_utf8(text).ok();
                }
            }
            _ => {}
        }
    }
    None
}

/// Judges the whole of the reported properties.
///
/// # Errors
/// They are larger than the hub keeps.
pub(super) fn check_document(reported: &Object) -> Result<(), Refused> {
    let bytes = document_bytes(reported);
    if bytes <= SECTION_BYTES_MAX {
        return Ok(());
    }
    let words = format!(
        "the reported properties would have {bytes} bytes; {SECTION_BYTES_MAX} are allowed"
    );
    Err(Refused { status: 413, label: "too_large", words })
}

/// Bytes of all of it, as the hub counts them.
pub(super) fn document_bytes(reported: &Object) -> usize {
    reported.iter().map(|(key, value)| key.len() + size(value)).sum()
}

/// Bytes as the hub counts them: keys and texts as they are, numbers 8, booleans 4.
fn size(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(object) => object.iter().map(|(key, value)| key.len() + size(value)).sum(),
    }
}

fn check_object(object: &Object, depth: usize, in_array: bool) -> Result<(), Refused> {
    for (key, value) in object {
        check_key(key)?;
        check_value(key, value, depth, in_array)?;
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), Refused> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(refused(
            "key",
            format!("a name is empty or longer than {KEY_BYTES_MAX} bytes"),
        ));
    }
    let bad = |c: &char| c.is_control() || c.is_whitespace() || matches!(c, '.' | '$' | '#');
    match key.chars().find(bad) {
        Some(c) => Err(refused("key", format!("the name {key:?} holds {c:?}"))),
        None => Ok(()),
    }
}

fn check_value(key: &str, value: &Value, depth: usize, in_array: bool) -> Result<(), Refused> {
    match value {
        Value::Null if in_array => {
            Err(refused("null", format!("null within the array at {key:?}")))
        }
        Value::Null | Value::Bool(_) => Ok(()),
        Value::Number(number) => {
            let in_range = match (number.as_i64(), number.is_f64()) {
                (_, true) => true,
                (Some(n), _) => (INTEGERS.0..=INTEGERS.1).contains(&n),
                (None, _) => false,
            };
            let words = || format!("{number} at {key:?} is not within {INTEGERS:?}");
            in_range.then_some(()).ok_or_else(|| refused("number", words()))
        }
        Value::String(text) if text.len() > TEXT_BYTES_MAX => {
            let words = format!("the text at {key:?} is longer than {TEXT_BYTES_MAX} bytes");
            Err(refused("text", words))
        }
        Value::String(_) => Ok(()),
        Value::Array(_) | Value::Object(_) if depth > DEPTH_MAX => {
            Err(refused("depth", format!("{key:?} is nested deeper than {DEPTH_MAX}")))
        }
        Value::Array(items) => {
            items.iter().try_for_each(|item| check_value(key, item, depth + 1, true))
        }
        Value::Object(inner) => check_object(inner, depth + 1, in_array),
    }
}
