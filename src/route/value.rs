//! Values while a condition is evaluated, and what comparing them gives.
//!
//! Owns: three-valued truth, kinds, the order of values. Invariant: a number here is never NaN.
//! Must not know: expressions, messages.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::text;

/// Three-valued truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tri {
    /// False.
    False,
    /// True.
    True,
    /// Neither: something it depends on has no value.
    Undefined,
}

impl From<bool> for Tri {
    fn from(b: bool) -> Self {
        if b { Self::True } else { Self::False }
    }
}

impl std::ops::Not for Tri {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::False => Self::True,
            Self::True => Self::False,
            Self::Undefined => Self::Undefined,
        }
    }
}

/// What an expression has for one message. NaN is never a number here: it is undefined.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'m> {
    /// No value.
    Undefined,
    /// `null`: the literal, a `null` of the body, or a path that the body does not have.
    Null,
    /// A truth value.
    Bool(bool),
    /// A double; may be infinite.
    Number(f64),
    /// Text.
    Text(Cow<'m, str>),
    /// A property that is there without a value (`key` without `=` in a property bag).
    NoText,
}

impl From<Tri> for Value<'_> {
    fn from(truth: Tri) -> Self {
        match truth {
            Tri::False => Self::Bool(false),
            Tri::True => Self::Bool(true),
            Tri::Undefined => Self::Undefined,
        }
    }
}

impl From<bool> for Value<'_> {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<f64> for Value<'_> {
    /// NaN is undefined (`edgehub.md` 4.4).
    fn from(number: f64) -> Self {
        if number.is_nan() { Self::Undefined } else { Self::Number(number) }
    }
}

impl<'m> Value<'m> {
    /// Text that is borrowed.
    pub(super) fn text(text: &'m str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// The same, borrowed.
    pub(super) fn borrowed(&self) -> Value<'_> {
        match self {
            Self::Text(text) => Value::text(text),
            Self::Undefined => Value::Undefined,
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(*b),
            Self::Number(number) => Value::Number(*number),
            Self::NoText => Value::NoText,
        }
    }

    /// Whether there is a value. `null` and a property without a value are defined.
    pub(super) fn is_defined(&self) -> bool {
        *self != Self::Undefined
    }

    /// As an operand of AND, OR and NOT: what is no truth value is undefined.
    pub(super) fn truth(&self) -> Tri {
        match self {
            Self::Bool(b) => Tri::from(*b),
            _ => Tri::Undefined,
        }
    }

    /// The number, if it is one.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// In plain words.
    pub(super) fn words(&self) -> &'static str {
        match self {
            Self::Undefined => "undefined",
            Self::Null => "null",
            Self::Bool(_) => "a truth value",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::NoText => "a property without a value",
        }
    }

    /// The same, borrowing nothing.
    pub(super) fn into_owned(self) -> Value<'static> {
        match self {
            Self::Undefined => Value::Undefined,
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(b),
            Self::Number(number) => Value::Number(number),
            Self::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Self::NoText => Value::NoText,
        }
    }

    /// Which kind it is, in the order of kinds; `None` = it cannot be compared.
    pub(super) fn rank(&self) -> Option<u8> {
        match self {
            Self::Undefined | Self::NoText => None,
            Self::Bool(_) => Some(0),
            Self::Number(_) => Some(1),
            Self::Text(_) => Some(2),
            Self::Null => Some(3),
        }
    }

    /// The order of two values: by kind, then within the kind (`edgehub.md` 4.4, 4.5). `None` = one has no value to compare.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        let (left, right) = (self.rank()?, other.rank()?);
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Number(a), Self::Number(b)) => a.partial_cmp(b),
            (Self::Text(a), Self::Text(b)) => Some(text::compare(a, b)),
            _ => Some(left.cmp(&right)),
        }
    }

    /// The same where one of the two is a body value. There a property without a value is text: the first of all, before
    /// empty text, and equal to its like.
    pub(super) fn order_with_body(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::NoText, Self::NoText) => Some(Ordering::Equal),
            (Self::NoText, Self::Text(_)) => Some(Ordering::Less),
            (Self::Text(_), Self::NoText) => Some(Ordering::Greater),
            (Self::NoText, _) => Value::text("").order(other),
            (_, Self::NoText) => self.order(&Value::text("")),
            _ => self.order(other),
        }
    }
}

/// What is known about a value before any message comes (`edgehub.md` 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Number,
    Text,
    Null,
    Undefined,
    /// A value of the body: each message may have another kind there.
    Body,
}

impl Type {
    /// In plain words.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Bool => "a truth value",
            Self::Number => "a number",
            Self::Text => "text",
            Self::Null => "null",
            Self::Undefined => "undefined",
            Self::Body => "a body value",
        }
    }

    /// Whether values of the two may be compared, or stand in for one another: one kind, or a body value with anything that
    /// has a kind.
    pub(super) fn same_kind(self, other: Self) -> bool {
        match (self, other) {
            (Self::Body, Self::Undefined) | (Self::Undefined, Self::Body) => false,
            (Self::Body, _) | (_, Self::Body) => true,
            _ => self == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kinds in their order, two of each.
    fn all() -> Vec<Value<'static>> {
        vec![
            Value::Bool(false),
            Value::Bool(true),
            Value::Number(f64::NEG_INFINITY),
            Value::Number(3.0),
            Value::Number(f64::INFINITY),
            Value::text(""),
            Value::text("A"),
            Value::text("a"),
            Value::Null,
        ]
    }

    #[test]
    fn values_are_ordered_by_kind_and_then_within_it() {
        for (i, a) in all().iter().enumerate() {
            for (j, b) in all().iter().enumerate() {
                assert_eq!(a.order(b), Some(i.cmp(&j)), "{a:?} {b:?}");
            }
        }
        let zeros = (Value::Number(0.0), Value::Number(-0.0));
        assert_eq!(zeros.0.order(&zeros.1), Some(Ordering::Equal));
    }

    #[test]
    fn what_has_no_value_compares_with_nothing() {
        for none in [Value::Undefined, Value::NoText] {
            for other in all().iter().chain([&Value::Undefined, &Value::NoText]) {
                assert_eq!((none.order(other), other.order(&none)), (None, None), "{other:?}");
            }
        }
    }

    #[test]
    fn nan_is_no_value() {
        assert_eq!(Value::from(f64::NAN), Value::Undefined);
        assert_eq!(Value::from(f64::INFINITY), Value::Number(f64::INFINITY));
        assert!(!Value::from(f64::NAN).is_defined() && Value::NoText.is_defined());
    }

    #[test]
    fn same_kind_is_symmetric_and_a_body_value_goes_with_every_kind_but_undefined() {
        use Type::{Body, Bool, Null, Number, Text, Undefined};
        let all = [Bool, Number, Text, Null, Undefined, Body];
        for a in all {
            for b in all {
                let expected =
                    a == b || (a == Body || b == Body) && a != Undefined && b != Undefined;
                assert_eq!(a.same_kind(b), expected, "{a:?} {b:?}");
            }
        }
    }
}
