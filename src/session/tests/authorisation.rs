//! The table of who may do what, cell by cell, and what is in no cell.

use super::*;
use crate::iothub::authorisation::{Kind, RULES, Right};

/// Device and module with an id that has to be percent-encoded in a topic, and others that are not theirs.
const CLIENTS: [(&str, Kind); 2] = [("dev:1", Kind::Device), ("dev:1/m", Kind::Module)];

/// The form with the client's ids, and something for what is free.
fn filled(form: &str, device: &str, module: &str) -> String {
    [
        ("{device}", device),
        ("{module}", module),
        ("{properties}", "a=b&%24.on=out"),
        ("{status}", "200"),
        ("{rid}", "7"),
        ("{version}", "3"),
    ]
    .iter()
    .fold(form.to_owned(), |text, (free, with)| text.replace(free, with))
}

fn publishes(client: &str, topic: &str) -> Vec<Output> {
    Bench::connected(client).packet(publish(topic, "{}", Delivery::AtMostOnce))
}

fn subscribes(client: &str, filter: &str) -> (SubscribeReturnCode, Vec<Output>) {
    let filters = vec![(text(filter), QoS::AtMostOnce)];
    let mut bench = Bench::connected(client);
    let mut out = bench.packet(Packet::Subscribe(Subscribe { packet_id: id(1), filters }));
    assert!(!bench.session.is_closed(), "{filter}: a refused filter closes nothing");
    let Some(Output::Send(Packet::SubAck(suback))) = out.pop() else { panic!("{filter}: {out:?}") };
    (suback.codes[0], out)
}

/// What a right looks like when the session grants it.
fn is_granted(right: Right, out: &[Output]) -> bool {
    match (right, out) {
        (Right::Telemetry | Right::ModuleTelemetry, [Output::Route { .. }])
        | (Right::MethodResponse, [Output::MethodResponse { .. }])
        | (Right::TwinGet, [Output::TwinRequest(TwinRequest::Get { .. })])
        | (Right::TwinPatch, [Output::TwinRequest(TwinRequest::Patch { .. })]) => true,
        (Right::To(wanted), [Output::Subscriptions(granted)]) => {
            let has = |kind| granted.subscriptions.get(kind).is_some();
            Subscription::ALL.into_iter().all(|kind| has(kind) == (kind == wanted))
        }
        _ => false,
    }
}

#[test]
fn every_cell_of_the_table_is_as_it_says() {
    let (mut allowed, mut forbidden) = (0, 0);
    for rule in &RULES {
        for (client, kind) in CLIENTS {
            // Ids as they are and percent-encoded, in hex of either case.
            for (device, module) in [("dev:1", "m"), ("dev%3A1", "m"), ("dev%3a1", "%6d")] {
                for form in rule.forms {
                    let topic = filled(form, device, module);
                    let out = match rule.is_subscription() {
                        true => subscribes(client, &topic).1,
                        false => publishes(client, &topic),
                    };
                    let may = rule.kinds.contains(&kind);
                    assert_eq!(is_granted(rule.right, &out), may, "{client}: {topic}: {out:?}");
                    (allowed, forbidden) = (allowed + u32::from(may), forbidden + u32::from(!may));
                }
            }
        }
    }
    assert!(allowed > 60 && forbidden > 15, "{allowed} allowed, {forbidden} forbidden");
}

#[test]
fn a_will_is_telemetry_of_the_client_itself() {
    for rule in &RULES {
        for (client, kind) in CLIENTS {
            for form in rule.forms.iter().filter(|form| !form.contains('#')) {
                let mut bench = Bench::new();
                let mut connect = connect_as(client);
                connect.will = Some(will_to(&filled(form, "dev:1", "m")));
                let out = bench.packet(Packet::Connect(Box::new(connect)));
                let telemetry = matches!(rule.right, Right::Telemetry | Right::ModuleTelemetry);
                if telemetry && rule.kinds.contains(&kind) {
                    assert!(matches!(out[..], [Output::Authenticate(_)]), "{client}: {form}");
                } else {
                    let (label, _, before) = ended(out);
                    assert_eq!(label, "will_topic", "{client}: {form}");
                    assert_eq!(before, [connack(ConnectReturnCode::NotAuthorized)]);
                }
            }
        }
    }
}

/// Levels that are not the client's own, in the place of its ids.
const FOREIGN: &[&str] = &[
    "dev:2",
    "DEV:1",
    "Dev:1",
    "dev:1 ",
    " dev:1",
    "dev:",
    "dev:12",
    "",
    "dev%3A2",
    "dev%253A1",
    "dev%3A1%00",
    "dev%003A1",
    "dev%2F..%2Fdev:1",
    "..",
    ".",
    "dev:1%2F",
    "%2Fdev:1",
    "dev;1",
    "d\u{435}v:1",
    "dev\u{ff1a}1",
    "dev:1\u{200b}",
    "dev:1\u{301}",
    "$edgeHub",
    "{device}",
    "*",
    "%2B",
    "%23",
    "%",
    "dev%3",
    "m",
];

/// Nobody publishes to these.
#[rustfmt::skip]
const NO_TOPICS: &[&str] = &[
    "/devices/dev:1/messages/events/",
    "//devices/dev:1/messages/events/",
    "devices//dev:1/messages/events/",
    "DEVICES/dev:1/messages/events/",
    "devices/dev:1/MESSAGES/events/",
    "devices/dev:1/messages/Events/",
    "devices/dev:1/messages/event",
    "devices/dev:1/messages/eventsx/",
    "devices/dev:1/messages%2Fevents/",
    "devices/dev:1/%6Dessages/events/",
    "x/devices/dev:1/messages/events/",
    "devices/dev:1/messages/devicebound/",
    "devices/dev:1/modules/m/inputs/i/",
    "devices/dev:1/modules/m/outputs/o/",
    "devices/dev:1/modules/messages/events/",
    "devices/dev:1/twin/GET/?$rid=1",
    "$SYS/broker",
    "$share/g/devices/dev:1/messages/events/",
    "$dps/registrations/PUT/iotdps-register/?$rid=1",
    "$iothub/twin/PATCH/properties/desired/?$rid=1",
    "$iothub/twin/res/200/?$rid=1",
    "$iothub/twin/get/?$rid=1",
    "$IOTHUB/twin/GET/?$rid=1",
    "%24iothub/twin/GET/?$rid=1",
    "/$iothub/twin/GET/?$rid=1",
    "$iothub/methods/POST/x/?$rid=1",
    "$iothub/../devices/dev:1/messages/events/",
    "$upstream/messages",
    "$edgehub/dev:1/messages/events/",
    "messages/modules/m/outputs/o",
    "/messages/*",
    " ",
    "\u{feff}devices/dev:1/messages/events/",
    "devices\u{2215}dev:1/messages/events/",
];

/// Their wildcards reach further than one's own topics.
#[rustfmt::skip]
const BROADER: &[&str] = &[
    "#",
    "+/#",
    "+/+/#",
    "devices/#",
    "devices/+/#",
    "devices/dev:1/#",
    "devices/dev:2/#",
    "devices/+/messages/devicebound/#",
    "devices/dev:1/messages/#",
    "devices/dev:1/+/devicebound/#",
    "devices/dev:1/messages/+/#",
    "+/dev:1/messages/devicebound/#",
    "devices/+/modules/+/#",
    "devices/dev:1/modules/+/inputs/#",
    "devices/dev:1/modules/#",
    "$iothub/#",
    "$iothub/+/POST/#",
    "$iothub/twin/#",
    "$iothub/twin/PATCH/#",
    "$iothub/twin/PATCH/properties/+/#",
    "$iothub/methods/#",
    "$iothub/methods/+/#",
    "$iothub/twin/+/#",
    "+/twin/res/#",
];

/// Nobody subscribes to these.
#[rustfmt::skip]
const NO_FILTERS: &[&str] = &[
    "$SYS/#",
    "$SYS/broker/clients",
    "$share/g/$iothub/twin/res/#",
    "/",
    "/#",
    "//#",
    "/devices/dev:1/messages/devicebound/#",
    "devices/dev:1/messages/devicebound",
    "devices/dev:1/messages/devicebound/",
    "devices/dev:1/messages/devicebound/x",
            "DEVICES/dev:1/messages/devicebound/#",
    "devices/dev:1/messages/DeviceBound/#",
    "devices/dev:1/messages%2Fdevicebound/#",
    "$iothub/twin/res/200/#",
    "$iothub/twin/res/+",
    "$iothub/twin/res",
    "$IOTHUB/twin/res/#",
    "%24iothub/twin/res/#",
    "$iothub//twin/res/#",
    "$iothub/methods/POST/reboot/#",
    "$iothub/methods/post/#",
    "$iothub/twin/PATCH/properties/reported/#",
    "$dps/registrations/res/#",
    "$edgehub/#",
    "$upstream/#",
    "devices/dev:1/modules/m/outputs/#",
    "devices/dev:1/modules/m/inputs/i",
    "devices/dev:1/modules/m",
    "x",
    " ",
    "\u{feff}",
];

#[test]
fn nobody_publishes_as_somebody_else_or_to_anything_else() {
    let mut topics: Vec<(String, &str)> = Vec::new();
    for id in FOREIGN {
        topics.push((format!("devices/{id}/messages/events/"), "topic_identity"));
        topics.push((format!("devices/{id}/modules/m/messages/events/"), "topic_identity"));
        topics.push((format!("devices/{id}/messages/devicebound/"), "topic_unknown"));
        topics.push((format!("{id}/messages/events/"), "topic_unknown"));
    }
    for id in ["n", "M", "m ", "mm", "", "%4D", "$edgeHub", "m%00", "m%2Fx", "\u{43c}"] {
        topics.push((format!("devices/dev:1/modules/{id}/messages/events/"), "topic_identity"));
    }
    for topic in NO_TOPICS {
        topics.push(((*topic).to_owned(), "topic_unknown"));
    }
    topics.push(("$iothub/twin/GET/?".to_owned(), "topic_rid"));
    let version = "$iothub/twin/PATCH/properties/reported/?$rid=1&$version=x";
    topics.push((version.to_owned(), "topic_version"));
    for (topic, wanted) in &topics {
        for (client, _) in CLIENTS {
            let (label, blame, before) = ended(publishes(client, topic));
            assert_eq!((label, blame), (*wanted, Blame::Peer), "{client}: {topic:?}");
            assert_eq!(before, [], "{client}: {topic:?}: nothing is stored or answered");
        }
    }
    assert!(topics.len() > 150, "{}", topics.len());
}

#[test]
fn a_filter_that_is_not_one_s_own_to_the_letter_is_refused_and_the_session_stays() {
    let mut filters: Vec<(String, Denied)> = Vec::new();
    for id in FOREIGN {
        filters.push((format!("devices/{id}/messages/devicebound/#"), Denied::FilterIdentity));
        filters.push((format!("devices/{id}/modules/m/#"), Denied::FilterIdentity));
        filters.push((format!("devices/{id}/modules/m/inputs/#"), Denied::FilterIdentity));
        filters.push((format!("devices/{id}/messages/events/#"), Denied::Filter));
    }
    for id in ["n", "M", "mm", "", "$edgeHub", "m%00", "%4D"] {
        filters.push((format!("devices/dev:1/modules/{id}/#"), Denied::FilterIdentity));
    }
    for filter in BROADER {
        filters.push(((*filter).to_owned(), Denied::FilterWildcard));
    }
    for filter in NO_FILTERS {
        filters.push(((*filter).to_owned(), Denied::Filter));
    }
    for (filter, denied) in &filters {
        for (client, _) in CLIENTS {
            let (code, out) = subscribes(client, filter);
            assert_eq!(code, SubscribeReturnCode::Failure, "{client}: {filter:?}");
            assert_eq!(out, [Output::FilterDenied(*denied)], "{client}: {filter:?}");
        }
    }
    assert!(filters.len() > 170, "{}", filters.len());
}

/// NUL and wildcards in a topic, and malformed filters, are no MQTT at all: the codec ends the connection.
#[test]
fn what_is_no_topic_of_mqtt_never_comes_to_the_table() {
    for bad in ["devices/dev:1\0/messages/events/", "\0"] {
        assert!(Utf8Bytes::copy_from(bad).is_err(), "{bad:?}");
    }
    let publish_of = |topic: &[u8]| {
        let mut bytes = BytesMut::from(&[0x30, topic.len() as u8 + 2, 0, topic.len() as u8][..]);
        bytes.extend_from_slice(topic);
        decode(&mut bytes, 1024).map_err(|e| e.label())
    };
    for (topic, label) in [
        (&b"devices/+/messages/events/"[..], "topic_wildcard"),
        (b"devices/dev:1/messages/events/#", "topic_wildcard"),
        (b"devices/dev:1\0/messages/events/", "text"),
        (b"devices/\xc0\xafdev:1/messages/events/", "text"),
        (b"", "topic_empty"),
    ] {
        assert_eq!(publish_of(topic).unwrap_err(), label, "{topic:?}");
    }
}
