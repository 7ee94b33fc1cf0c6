//! A typed condition and a message -> a value (`edgehub.md` 4.4, 4.5).
//!
//! Invariant: properties are borrowed, never copied. Must not know: the text, how types were found.

use std::cmp::Ordering;

use super::super::body::{Found, Slot};
use super::super::functions::{self, Function, JoinedBytes, Run};
use super::super::syntax::Operator;
use super::super::value::{Tri, Type, Value};
use super::{Expr, Facts, Node};

/// Functions with more arguments than this gather them on the heap: only `concat` can.
const ARGS_ON_STACK: usize = 3;

impl Expr {
    /// What it comes to.
    pub(super) fn value<'v>(&'v self, facts: &'v Facts<'_>) -> Value<'v> {
        match &self.node {
            Node::Literal(value) => value.borrowed(),
            Node::Property(name) => property(facts, name).unwrap_or(Value::Undefined),
            Node::System { hides, name } => hidden_by(facts, hides.as_deref())
                .or_else(|| facts.subject.system(name).map(Value::text))
                .unwrap_or(Value::Undefined),
            Node::Nothing { .. } => Value::Undefined,
            Node::Body { hides, slot, .. } => {
                hidden_by(facts, hides.as_deref()).unwrap_or_else(|| body(facts, *slot))
            }
            Node::Negate(operand) => operand
                .value(facts)
                .number()
                .map_or(Value::Undefined, |number| Value::from(-number)),
            // Null is a static type here: no message changes it.
            Node::And(_) | Node::Or(_) if self.kind == Type::Null => Value::Null,
            Node::Not(_) | Node::And(_) | Node::Or(_) | Node::TwinChange(_) => {
                self.truth(facts).into()
            }
            Node::Binary(operator, left, right) => binary(*operator, left, right, facts),
            Node::Call(function, args) => call(function, args, facts),
        }
    }

    /// What it comes to as a truth value: undefined if it is none.
    pub(super) fn truth(&self, facts: &Facts<'_>) -> Tri {
        match &self.node {
            Node::Not(operand) if operand.kind == Type::Null => Tri::True,
            Node::Not(operand) => !operand.truth(facts),
            Node::And(operands) if self.kind == Type::Bool => {
                kleene(operands.iter(), Tri::False, facts)
            }
            // `null OR b` is b (`edgehub.md` 4.4).
            Node::Or(operands) if self.kind == Type::Bool => {
                kleene(operands.iter().filter(|o| o.kind != Type::Null), Tri::True, facts)
            }
            Node::TwinChange(change) => change.is_told(facts).map_or(Tri::Undefined, Tri::from),
            _ => self.value(facts).truth(),
        }
    }
}

/// Three-valued AND (`decides` = false) and OR (`decides` = true): one operand that decides is enough, whatever the others
/// are; else one that is undefined makes all undefined.
fn kleene<'e>(operands: impl Iterator<Item = &'e Expr>, decides: Tri, facts: &Facts<'_>) -> Tri {
    let mut result = !decides;
    for operand in operands {
        let truth = operand.truth(facts);
        if truth == decides {
            return decides;
        }
        if truth == Tri::Undefined {
            result = Tri::Undefined;
        }
    }
    result
}

/// An application property, if the message has it.
pub(super) fn property<'v>(facts: &'v Facts<'_>, name: &str) -> Option<Value<'v>> {
    facts.subject.property(name).map(|value| value.map_or(Value::NoText, Value::text))
}

/// The application property that hides a system property or a body value (`edgehub.md` 4.4).
pub(super) fn hidden_by<'v>(facts: &'v Facts<'_>, name: Option<&str>) -> Option<Value<'v>> {
    name.and_then(|name| property(facts, name))
}

fn body<'v>(facts: &'v Facts<'_>, slot: Slot) -> Value<'v> {
    match facts.body.get(slot) {
        Ok(Found::Missing | Found::Null) => Value::Null,
        Ok(Found::Bool(b)) => Value::Bool(*b),
        Ok(Found::Number(number)) => Value::from(*number),
        Ok(Found::Text(text)) => Value::text(text),
        Ok(Found::Composite) | Err(_) => Value::Undefined,
    }
}

fn binary<'v>(
    operator: Operator,
    left: &'v Expr,
    right: &'v Expr,
    facts: &'v Facts<'_>,
) -> Value<'v> {
    let body = left.kind == Type::Body || right.kind == Type::Body;
    let left = left.value(facts);
    if operator == Operator::Coalesce && left.is_defined() {
        return left;
    }
    let right = right.value(facts);
    match operator {
        Operator::Coalesce => right,
        Operator::Concat => functions::concat(&mut [left, right]),
        Operator::Multiply => arithmetic(&left, &right, |a, b| a * b),
        Operator::Divide => arithmetic(&left, &right, |a, b| a / b),
        Operator::Remainder => arithmetic(&left, &right, |a, b| a % b),
        Operator::Add => arithmetic(&left, &right, |a, b| a + b),
        Operator::Subtract => arithmetic(&left, &right, |a, b| a - b),
        Operator::Less => compare(&left, &right, body, Ordering::is_lt),
        Operator::LessOrEqual => compare(&left, &right, body, Ordering::is_le),
        Operator::Greater => compare(&left, &right, body, Ordering::is_gt),
        Operator::GreaterOrEqual => compare(&left, &right, body, Ordering::is_ge),
        Operator::Equal => compare(&left, &right, body, Ordering::is_eq),
        Operator::NotEqual => compare(&left, &right, body, Ordering::is_ne),
    }
}

fn arithmetic(left: &Value<'_>, right: &Value<'_>, f: fn(f64, f64) -> f64) -> Value<'static> {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => Value::from(f(*a, *b)),
        _ => Value::Undefined,
    }
}

/// `body`: whether one of the two is a body value.
fn compare(
    left: &Value<'_>,
    right: &Value<'_>,
    body: bool,
    holds: fn(Ordering) -> bool,
) -> Value<'static> {
    let order = if body { left.order_with_body(right) } else { left.order(right) };
    order.map_or(Value::Undefined, |order| Value::Bool(holds(order)))
}

fn call<'v>(function: &Function, args: &'v [Expr], facts: &'v Facts<'_>) -> Value<'v> {
    match (function.run, args) {
        (Run::Test(test), [arg]) => test(arg.kind, &arg.value(facts)).into(),
        (Run::Values(run), args) if args.len() <= ARGS_ON_STACK => {
            let mut values = [const { Value::Undefined }; ARGS_ON_STACK];
            for (value, arg) in values.iter_mut().zip(args) {
                *value = arg.value(facts);
            }
            run(&mut values[..args.len()])
        }
        (Run::Values(run), args) => match joinable(args, facts) {
            Some(mut values) => run(&mut values),
            None => Value::Undefined,
        },
        (Run::Test(_) | Run::TwinChange, _) => Value::Undefined,
    }
}

/// The values of the arguments of `concat`. Nothing is asked after the one that makes it undefined, so that not all of
/// what is too long together is in memory at once.
fn joinable<'v>(args: &'v [Expr], facts: &'v Facts<'_>) -> Option<Vec<Value<'v>>> {
    let (mut values, mut sum) = (Vec::with_capacity(args.len()), JoinedBytes::default());
    for arg in args {
        let value = arg.value(facts);
        if !sum.takes(&value) {
            return None;
        }
        values.push(value);
    }
    Some(values)
}
