//! The questions of the measured routes as plain code: no language, no types, no undefined.

use serde_json::Value;
use sphere_gateway::message::Message;

pub(crate) fn is_device(message: &Message) -> bool {
    message.source.sender.module().is_none()
}

pub(crate) fn property_equals(message: &Message) -> bool {
    property(message, "level") == Some("high")
}

pub(crate) fn property_in_range(message: &Message) -> bool {
    let speed = property(message, "speed").and_then(|speed| speed.parse::<f64>().ok());
    speed.is_some_and(|speed| speed > 0.0 && speed < 1.0)
}

pub(crate) fn text_functions(message: &Message) -> bool {
    let holds = |name, test: fn(&str) -> bool| property(message, name).is_some_and(test);
    holds("line", |line| line.starts_with("north")) && holds("unit", |unit| unit.contains("-7"))
}

pub(crate) fn body_number(message: &Message) -> bool {
    body(message).is_some_and(|body| body["temperature"].as_f64().is_some_and(|t| t > 0.0))
}

pub(crate) fn body_two(message: &Message) -> bool {
    body(message).is_some_and(|body| body["state"] == "running" && body["alerts"][1]["code"] == 17)
}

fn body(message: &Message) -> Option<Value> {
    serde_json::from_slice(&message.body).ok()
}

fn property<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    message.properties.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?.1
}
