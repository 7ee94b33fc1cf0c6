//! The limits of a twin's sections (fact sheet A7).

use serde_json::{Map, Value};

use super::{Refused, refused};

/// Desired, and reported, properties: IoT Hub's 32 KB.
pub(super) const PROPERTIES_BYTES_MAX: usize = 32 * 1024;
/// Tags: IoT Hub's 8 KB.
pub(super) const TAGS_BYTES_MAX: usize = 8 * 1024;
/// Deepest nesting, below the section itself.
const DEPTH_MAX: usize = 10;
/// Longest key, bytes.
const KEY_BYTES_MAX: usize = 1024;
/// Longest text, bytes.
const TEXT_BYTES_MAX: usize = 4096;
/// Whole numbers that are taken.
const INTEGERS: std::ops::RangeInclusive<i64> = -4_503_599_627_370_496..=4_503_599_627_370_495;

/// Checks a whole section.
pub(super) fn check(section: &Map<String, Value>, bytes_max: usize) -> Result<(), Refused> {
    let bytes = object_bytes(section, 0)?;
    if bytes > bytes_max {
        return refused(413, format!("{bytes} bytes; {bytes_max} are allowed"));
    }
    Ok(())
}

/// Gives the size: keys and values; a number counts 8 bytes, a boolean 4.
fn object_bytes(object: &Map<String, Value>, depth: usize) -> Result<usize, Refused> {
    if depth > DEPTH_MAX {
        return refused(400, format!("nested deeper than {DEPTH_MAX}"));
    }
    let mut bytes = 0;
    for (key, value) in object {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return refused(400, "a key is empty or longer than 1 KB");
        }
        if key.chars().any(|c| c.is_control() || ".$# ".contains(c)) {
            return refused(400, format!("the key {key:?} has a character that is not allowed"));
        }
        bytes += key.len() + value_bytes(value, depth)?;
    }
    Ok(bytes)
}

fn value_bytes(value: &Value, depth: usize) -> Result<usize, Refused> {
    Ok(match value {
        Value::Object(inner) => object_bytes(inner, depth + 1)?,
        Value::Array(items) => {
            let mut bytes = 0;
            for item in items {
                bytes += value_bytes(item, depth + 1)?;
            }
            bytes
        }
        Value::String(text) if text.len() > TEXT_BYTES_MAX => {
            return refused(400, "a text is longer than 4 KB");
        }
        Value::String(text) => text.len(),
        Value::Number(number) if !number.is_f64() => {
            match number.as_i64().is_some_and(|n| INTEGERS.contains(&n)) {
                true => 8,
                false => return refused(400, format!("{number} has more than 53 bits")),
            }
        }
        Value::Number(_) => 8,
        Value::Bool(_) => 4,
        Value::Null => 0,
    })
}
