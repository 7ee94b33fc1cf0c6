//! The functions that a condition can call (`edgehub.md` 4.6).
//!
//! Owns: their names, what they take and give, and what they do. Invariant: a value that a function does not take at run
//! time (only a body value can be one) makes it undefined, never an error.
//! Must not know: expressions, messages.

use std::borrow::Cow;

use super::value::{Tri, Type, Value};
use super::{TEXT_BYTES_MADE_MAX, number, text};

/// A function.
#[derive(Debug)]
pub(super) struct Function {
    /// As it is written; any case counts.
    pub(super) name: &'static str,
    /// How to call it.
    pub(super) usage: &'static str,
    /// What each argument is; the last one stands for all that follow if there is no upper limit.
    pub(super) takes: &'static [Takes],
    /// The fewest arguments.
    pub(super) fewest: usize,
    /// The most arguments.
    pub(super) most: usize,
    pub(super) gives: Type,
    pub(super) run: Run,
}

/// What an argument may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Number,
    Text,
    NumberOrText,
    Any,
    /// A path without quotes.
    Path,
}

/// How a function works.
#[derive(Debug, Clone, Copy)]
pub(super) enum Run {
    /// From the values of its arguments.
    Values(for<'v> fn(&mut [Value<'v>]) -> Value<'v>),
    /// From the static type and the value of its only argument.
    Test(fn(Type, &Value<'_>) -> Tri),
    /// It asks the body whether a path is there.
    TwinChange,
}

impl Takes {
    /// Whether an argument of this static type will do.
    pub(super) fn accepts(self, given: Type) -> bool {
        match self {
            Self::Number => matches!(given, Type::Number | Type::Body),
            Self::Text => matches!(given, Type::Text | Type::Body),
            Self::NumberOrText => matches!(given, Type::Number | Type::Text | Type::Body),
            Self::Any => true,
            Self::Path => false,
        }
    }

    /// In plain words.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Text => "text",
            Self::NumberOrText => "text or a number",
            Self::Any => "anything",
            Self::Path => "a path",
        }
    }
}

impl Function {
    /// What the argument at `index` may be.
    pub(super) fn takes(&self, index: usize) -> Takes {
        self.takes[index.min(self.takes.len() - 1)]
    }

    /// What it takes in all, in plain words: "text, a number and a number".
    pub(super) fn takes_words(&self) -> String {
        if self.most == usize::MAX {
            return format!("{} or more texts", self.fewest);
        }
        let words = |n: usize| {
            let each: Vec<&str> = (0..n).map(|i| self.takes(i).words()).collect();
            match each.split_last() {
                Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
                _ => each.join(""),
            }
        };
        if self.fewest == self.most {
            words(self.most)
        } else {
            format!("{}, or {}", words(self.fewest), words(self.most))
        }
    }
}

/// The function `name`, in any case.
pub(super) fn find(name: &str) -> Option<&'static Function> {
    ALL.iter().find(|f| f.name.eq_ignore_ascii_case(name))
}

/// The names of all functions.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|f| f.name)
}

/// One number in, one out.
macro_rules! of_number {
    ($name:literal, $f:expr) => {
        Function {
            name: $name,
            usage: concat!($name, "(number)"),
            takes: &[Takes::Number],
            fewest: 1,
            most: 1,
            gives: Type::Number,
            run: Run::Values(|args| {
                let f: fn(f64) -> f64 = $f;
                args[0].number().map_or(Value::Undefined, |number| Value::from(f(number)))
            }),
        }
    };
}

/// One text in, another out.
macro_rules! of_text {
    ($name:literal, $gives:expr, $f:expr) => {
        Function {
            name: $name,
            usage: concat!($name, "(text)"),
            takes: &[Takes::Text],
            fewest: 1,
            most: 1,
            gives: $gives,
            run: Run::Values(|args| take_text(&mut args[0]).map_or(Value::Undefined, $f)),
        }
    };
}

/// A text and what to look for in it.
macro_rules! of_texts {
    ($name:literal, $gives:expr, $f:expr) => {
        Function {
            name: $name,
            usage: concat!($name, "(text, text)"),
            takes: &[Takes::Text],
            fewest: 2,
            most: 2,
            gives: $gives,
            run: Run::Values(|args| match args {
                [Value::Text(text), Value::Text(what)] => Value::from($f(&**text, &**what)),
                _ => Value::Undefined,
            }),
        }
    };
}

/// What a value is.
macro_rules! of_any {
    ($name:literal, $f:expr) => {
        Function {
            name: $name,
            usage: concat!($name, "(anything)"),
            takes: &[Takes::Any],
            fewest: 1,
            most: 1,
            gives: Type::Bool,
            run: Run::Test($f),
        }
    };
}

static ALL: &[Function] = &[
    of_number!("abs", f64::abs),
    of_number!("exp", f64::exp),
    of_number!("square", |x| x * x),
    of_number!("ceiling", f64::ceil),
    of_number!("floor", f64::floor),
    of_number!("sign", |x| if x == 0.0 { 0.0 } else { x.signum() }),
    of_number!("sqrt", f64::sqrt),
    Function {
        name: "power",
        usage: "power(number, number)",
        takes: &[Takes::Number],
        fewest: 2,
        most: 2,
        gives: Type::Number,
        run: Run::Values(|args| match args {
            [Value::Number(base), Value::Number(exponent)] => Value::from(base.powf(*exponent)),
            _ => Value::Undefined,
        }),
    },
    Function {
        name: "as_number",
        usage: "as_number(text)",
        takes: &[Takes::NumberOrText],
        fewest: 1,
        most: 1,
        gives: Type::Number,
        run: Run::Values(|args| match &args[0] {
            Value::Text(text) => number::parse(text).map_or(Value::Undefined, Value::from),
            Value::Number(number) => Value::Number(*number),
            _ => Value::Undefined,
        }),
    },
    of_any!("is_defined", |_, value| value.is_defined().into()),
    of_any!("is_null", is_null),
    of_any!("is_bool", is_bool),
    of_any!("is_number", is_number),
    of_any!("is_string", |_, value| matches!(value, Value::Text(_)).into()),
    Function {
        name: "concat",
        usage: "concat(text, text, ..)",
        takes: &[Takes::Text],
        fewest: 2,
        most: usize::MAX,
        gives: Type::Text,
        run: Run::Values(concat),
    },
    of_text!("length", Type::Number, |text| Value::from(as_f64(text::length(&text)))),
    of_text!("lower", Type::Text, |text| text::lower(text).map_or(Value::Undefined, Value::Text)),
    of_text!("upper", Type::Text, |text| text::upper(text).map_or(Value::Undefined, Value::Text)),
    Function {
        name: "substring",
        usage: "substring(text, start) or substring(text, start, length)",
        takes: &[Takes::Text, Takes::Number, Takes::Number],
        fewest: 2,
        most: 3,
        gives: Type::Text,
        run: Run::Values(substring),
    },
    of_texts!("index_of", Type::Number, |text, what| text::index_of(text, what)
        .map_or(-1.0, as_f64)),
    of_texts!("starts_with", Type::Bool, |text: &str, what: &str| text.starts_with(what)),
    of_texts!("ends_with", Type::Bool, |text: &str, what: &str| text.ends_with(what)),
    of_texts!("contains", Type::Bool, |text: &str, what: &str| text.contains(what)),
    Function {
        name: "twin_change_includes",
        usage: "twin_change_includes(properties.reported.name)",
        takes: &[Takes::Path],
        fewest: 1,
        most: 1,
        gives: Type::Bool,
        run: Run::TwinChange,
    },
];

fn take_text<'v>(value: &mut Value<'v>) -> Option<Cow<'v, str>> {
    match std::mem::replace(value, Value::Undefined) {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "no text has 2^53 characters")]
fn as_f64(n: usize) -> f64 {
    n as f64
}

/// Also what `||` does. A property without a value counts as empty.
pub(super) fn concat<'v>(args: &mut [Value<'v>]) -> Value<'v> {
    let (mut full, mut sum) = (0, JoinedBytes::default());
    for arg in &*args {
        if !sum.takes(arg) {
            return Value::Undefined;
        }
        full += usize::from(matches!(arg, Value::Text(text) if !text.is_empty()));
    }
    let mut texts = args.iter_mut().filter_map(take_text).filter(|text| !text.is_empty());
    Value::Text(if full > 1 {
        texts.collect::<String>().into()
    } else {
        texts.next().unwrap_or_default()
    })
}

/// How long the texts are that would be joined.
#[derive(Default)]
pub(super) struct JoinedBytes(usize);

impl JoinedBytes {
    /// Whether `value` can be joined to those before it: it is text, or a property without a value, and all together are
    /// not too long. If not, the result is undefined, whatever follows.
    pub(super) fn takes(&mut self, value: &Value<'_>) -> bool {
        match value {
            Value::Text(text) => {
                self.0 = self.0.saturating_add(text.len());
                self.0 <= TEXT_BYTES_MADE_MAX
            }
            Value::NoText => true,
            _ => false,
        }
    }
}

/// Both limits are checked before fractions are cut off.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "both are between 0 and the length of the text"
)]
fn substring<'v>(args: &mut [Value<'v>]) -> Value<'v> {
    let Some(text) = take_text(&mut args[0]) else {
        return Value::Undefined;
    };
    let units = text::length(&text);
    let length = as_f64(units);
    let (start, count) = match args[1..] {
        [Value::Number(start)] if (0.0..=length).contains(&start) => {
            (start as usize, units - start as usize)
        }
        [Value::Number(start), Value::Number(count)]
            if (0.0..length).contains(&start) && (0.0..=length - start).contains(&count) =>
        {
            (start as usize, count as usize)
        }
        _ => return Value::Undefined,
    };
    Value::Text(text::substring(text, start, count))
}

/// Of a property: whether it is there without a value. Of a body value: whether it is `null`, or not there.
fn is_null(given: Type, value: &Value<'_>) -> Tri {
    match (given, value) {
        (Type::Body, Value::Undefined) => Tri::Undefined,
        (_, value) => matches!(value, Value::Null | Value::NoText).into(),
    }
}

fn is_bool(given: Type, value: &Value<'_>) -> Tri {
    match (given, value) {
        (Type::Bool | Type::Body, Value::Undefined) => Tri::Undefined,
        (_, value) => matches!(value, Value::Bool(_)).into(),
    }
}

fn is_number(_: Type, value: &Value<'_>) -> Tri {
    value.number().is_some_and(f64::is_finite).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case() {
        assert_eq!(names().count(), 24);
        for name in names() {
            assert_eq!(find(name).map(|f| f.name), Some(name));
            assert_eq!(find(&name.to_uppercase()).map(|f| f.name), Some(name));
        }
        for name in ["", "is_defind", "isdefined", "lowercase"] {
            assert!(find(name).is_none(), "{name}");
        }
    }

    #[test]
    fn what_a_function_takes_is_said_in_words() {
        let table = [
            ("abs", "a number"),
            ("power", "a number and a number"),
            ("as_number", "text or a number"),
            ("concat", "2 or more texts"),
            ("substring", "text and a number, or text, a number and a number"),
            ("is_null", "anything"),
            ("twin_change_includes", "a path"),
        ];
        for (name, expected) in table {
            assert_eq!(find(name).unwrap().takes_words(), expected);
        }
    }
}
