//! By which topic what is sent to a client goes.
//!
//! Owns: that a topic matches the filter that the client subscribed with, to the letter. Must not know: who is connected, QoS.

use bytes::Bytes;

use super::output::Outbound;
use crate::identity::ClientName;
use crate::iothub::topics;
use crate::mqtt::packet::Utf8Bytes;

/// Topic and payload of `content` for the client that calls itself `claim`, and spells it as in `prefix` where that differs.
/// `None` = no topic can say it.
pub(super) fn address(
    content: Outbound,
    claim: &ClientName,
    prefix: Option<&str>,
) -> Option<(Utf8Bytes, Bytes)> {
    let (topic, payload) = match content {
        Outbound::TwinResponse { status, rid, version, body } => {
            (topics::twin_response(status, &rid, version), body)
        }
        Outbound::Desired { version, body } => (topics::desired_patch(version), body),
        Outbound::Method { rid, name, body } => (topics::method_request(&name, &rid), body),
        Outbound::CloudToDevice { system, properties, body } => {
            let topic = topics::cloud_to_device(claim, &system, &properties);
            (under(prefix, claim, topic), body)
        }
        Outbound::Input { input, message } => {
            let (sender, system) = (message.told_sender(), &message.system);
            let topic = topics::module_input(claim, &input, &sender, system, &message.properties)?;
            (under(prefix, claim, topic), message.body)
        }
    };
    // [MQTT-3.3.2-2]
    if topic.contains(['+', '#']) {
        return None;
    }
    Some((Utf8Bytes::new(Bytes::from(topic)).ok()?, payload))
}

/// How a client that calls itself `claim` spells its own topics, as a rule.
pub(super) fn usual_prefix(claim: &ClientName) -> String {
    match claim.module() {
        None => format!("devices/{}", claim.device()),
        Some(module) => format!("devices/{}/modules/{module}", claim.device()),
    }
}

/// The levels of a filter that name the client: of one that [`authorisation`](crate::iothub::authorisation) grants. `None` =
/// it names nobody.
pub(super) fn prefix(filter: &str) -> Option<&str> {
    let rest = filter.strip_prefix("devices/")?;
    let levels = if rest.split('/').nth(1) == Some("modules") { 4 } else { 2 };
    let end = filter.match_indices('/').nth(levels - 1)?.0;
    Some(&filter[..end])
}

fn under(prefix: Option<&str>, claim: &ClientName, topic: String) -> String {
    match prefix {
        None => topic,
        Some(prefix) => format!("{prefix}{}", &topic[usual_prefix(claim).len()..]),
    }
}
