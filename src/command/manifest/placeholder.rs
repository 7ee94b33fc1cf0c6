//! `${NAME}`: what a template leaves open, and a manifest must not.
//!
//! Owns: finding and filling placeholders. Must not know: where values come from.

use serde_json::{Map, Value};

use super::finding::Findings;

/// Calls `at` for each text in a value, with the path to it.
fn each_text(value: &Value, path: &str, at: &mut dyn FnMut(&str, &str)) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}/{key}") };
    match value {
        Value::String(text) => at(path, text),
        Value::Object(object) => {
            object.iter().for_each(|(key, value)| each_text(value, &below(key), at));
        }
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(n, value)| each_text(value, &below(&n.to_string()), at));
        }
        _ => {}
    }
}

pub(super) fn examine(document: &Map<String, Value>, is_template: bool, found: &mut Findings) {
    for (key, value) in document {
        each_text(value, key, &mut |path, text| {
            let Some((_, rest)) = text.split_once("${") else { return };
            let name = rest.split('}').next().unwrap_or_default();
            let is_folder = name.starts_with("MODULES.") || name.starts_with("MODULEDIR");
            if is_template && is_folder && path.contains("/systemModules/") {
                let todo =
                    "name the image by a variable: nobody expands this form under systemModules";
                found.error(path, format!("${{{name}}} stays as it is"), todo);
            } else if !is_template {
                let todo = "generate the manifest: sphere-gateway manifest generate";
                found.error(path, format!("the placeholder ${{{name}}} is open"), todo);
            }
        });
    }
}

/// Fills `${NAME}` in every text of a value. What `value_of` does not know is left, and named in `open`.
pub(super) fn fill(
    value: &mut Value,
    value_of: &dyn Fn(&str) -> Option<String>,
    open: &mut Vec<String>,
) {
    match value {
        Value::String(text) => *text = filled(text, value_of, open),
        Value::Object(object) => object.values_mut().for_each(|value| fill(value, value_of, open)),
        Value::Array(list) => list.iter_mut().for_each(|value| fill(value, value_of, open)),
        _ => {}
    }
}

fn filled(text: &str, value_of: &dyn Fn(&str) -> Option<String>, open: &mut Vec<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((name, behind)) = after.split_once('}') else {
            rest = &rest[before.len()..];
            break;
        };
        match value_of(name) {
            Some(value) => out.push_str(&value),
            None => {
                out.push_str(&format!("${{{name}}}"));
                if !open.iter().any(|known| known == name) {
                    open.push(name.to_owned());
                }
            }
        }
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_once_and_nothing_else_is_touched() {
        let value_of = |name: &str| match name {
            "A" => Some("a".to_owned()),
            // What a value holds is not filled again, and needs no escapes.
            "B" => Some("${A}\"\\".to_owned()),
            _ => None,
        };
        for (text, expected, still_open) in [
            ("$upstream {$x} $A", "$upstream {$x} $A", ""),
            ("${A}/x:${A}${B}", "a/x:a${A}\"\\", ""),
            ("é${C}-${D}${C}", "é${C}-${D}${C}", "C D"),
            ("${A", "${A", ""),
            ("${A}${", "a${", ""),
        ] {
            let mut open = Vec::new();
            assert_eq!(filled(text, &value_of, &mut open), expected);
            assert_eq!(open.join(" "), still_open, "{text}");
        }
    }
}
