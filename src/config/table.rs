//! The start-up table: which settings are honoured, ignored or unknown.
//!
//! Owns: masking and layout. Must not know: what a setting does.

use super::known::SECRET_WORDS;

/// Longest value shown.
const VALUE_CHARS_MAX: usize = 120;

/// Widest the column of values is made for the sake of a long one.
const VALUE_COLUMN_MAX: usize = 40;

/// What becomes of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    Honoured,
    /// Not set: the default serves.
    Default,
    Ignored(&'static str),
    /// Not set, and it would be ignored.
    NotSet(&'static str),
    Unknown(String),
}

/// One line of the table. `value` is masked already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) standing: Standing,
}

impl Row {
    pub(super) fn new(name: &str, value: &str, standing: Standing) -> Self {
        Self { name: name.to_owned(), value: masked(name, value), standing }
    }

    /// Whether it is the row of this variable, however that is spelled.
    pub(super) fn is_for(&self, name: &str) -> bool {
        self.name.replace(':', "__").eq_ignore_ascii_case(name)
    }
}

/// The value as it may be shown: connection strings without their key, other secrets not at all, no line breaks.
pub(super) fn masked(name: &str, value: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let shown = if lower.contains("connectionstring") {
        let parts = value.split(';').map(|part| match part.split_once('=') {
            Some((key, _)) if is_secret(key) => format!("{key}=****"),
            Some(_) => part.to_owned(),
            // Not a name=value pair: it may be a key that lost its name.
            None if part.is_empty() => String::new(),
            None => "****".to_owned(),
        });
        parts.collect::<Vec<_>>().join(";")
    } else if is_secret(&lower) && !lower.ends_with("file") && !value.is_empty() {
        "****".to_owned()
    } else {
        without_user_info(value)
    };
    let mut line: String =
        shown.chars().map(|c| if c.is_control() { ' ' } else { c }).take(VALUE_CHARS_MAX).collect();
    if shown.chars().nth(VALUE_CHARS_MAX).is_some() {
        line.push('…');
    }
    line
}

/// `http://user:password@proxy:8080` -> `http://****@proxy:8080`.
fn without_user_info(value: &str) -> String {
    let parts = value.split_once("://").and_then(|(scheme, rest)| {
        let authority = rest.find('/').map_or(rest, |end| &rest[..end]);
        authority.rfind('@').map(|at| format!("{scheme}://****{}", &rest[at..]))
    });
    parts.unwrap_or_else(|| value.to_owned())
}

pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word)) || name.contains("signature")
}

/// One line each: name, value, standing.
pub(super) fn render(rows: &[Row]) -> String {
    let width =
        |of: fn(&Row) -> &str| rows.iter().map(|r| of(r).chars().count()).max().unwrap_or(0);
    let names = width(|r| &r.name);
    let values = width(|r| &r.value).min(VALUE_COLUMN_MAX);
    let mut out = String::new();
    for Row { name, value, standing } in rows {
        let standing = match standing {
            Standing::Honoured => "honoured".to_owned(),
            Standing::Default => "default".to_owned(),
            Standing::Ignored(why) => format!("ignored: {why}"),
            Standing::NotSet(why) => format!("not set, ignored if it were: {why}"),
            Standing::Unknown(hint) => format!("unknown{hint}"),
        };
        out.push_str(&format!("{name:names$}  {value:values$}  {standing}\n"));
    }
    out
}
