//! The exact shapes, and what is told when.

use serde_json::json;

use super::*;
use crate::identity::{ClientName, DeviceId, ModuleId};

const NOW: UnixMillis = UnixMillis(1_767_323_045_678);
const TIME: &str = "2026-01-02T03:04:05.678Z";

fn who(id: &str) -> Identity {
    let device = |id: &str| DeviceId::parse(id).unwrap();
    Identity::vouched(match id.split_once('/') {
        None => ClientName::Device(device(id)),
        Some((of, module)) => ClientName::Module(device(of), ModuleId::parse(module).unwrap()),
    })
}

/// The next patch without what each has, which is checked; the hub takes it.
fn told(reported: &mut Reported) -> Value {
    let Some(patch) = reported.patch() else { return Value::Null };
    let mut value = patch.value.clone();
    let all = value.as_object_mut().unwrap();
    assert_eq!(all.remove("schemaVersion"), Some("1.0".into()));
    let version = all.remove("version").unwrap();
    let keys: Vec<&String> = version.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["build", "commit", "version"]);
    reported.taken(patch);
    value
}

/// One that has wiped what was.
fn begun() -> Reported {
    let mut reported = Reported::new();
    assert_eq!(told(&mut reported), json!({"clients": null}));
    assert_eq!(told(&mut reported), Value::Null);
    reported
}

#[test]
fn the_list_of_an_earlier_life_is_wiped_before_anything_is_in_it() {
    let mut reported = Reported::new();
    reported.observe(&[(who("d1"), 1)], NOW);
    reported.set_status(Status::good(17));
    assert_eq!(
        told(&mut reported),
        json!({"clients": null, "lastDesiredVersion": 17,
               "lastDesiredStatus": {"code": 200, "description": ""}})
    );
    let connected = json!({"status": "Connected", "lastConnectedTimeUtc": TIME});
    assert_eq!(told(&mut reported), json!({"clients": {"d1": connected}}));
    assert_eq!(told(&mut reported), Value::Null);
}

#[test]
fn modules_stay_and_leaf_devices_go() {
    let mut reported = begun();
    reported.observe(&[(who("d1"), 1), (who("edge1/m"), 2)], NOW);
    let connected = json!({"status": "Connected", "lastConnectedTimeUtc": TIME});
    assert_eq!(told(&mut reported), json!({"clients": {"d1": connected, "edge1/m": connected}}));
    reported.observe(&[], NOW);
    let gone = json!({"status": "Disconnected", "lastDisconnectedTimeUtc": TIME});
    assert_eq!(told(&mut reported), json!({"clients": {"d1": null, "edge1/m": gone}}));
    // A hub is nobody's client.
    reported.observe(&[(who("edge1/$edgeHub"), 9)], NOW);
    assert_eq!(told(&mut reported), Value::Null);
    // One that came and left in between is nobody's news, and one that came again has a new time.
    reported.observe(&[(who("d1"), 3)], NOW);
    reported.observe(&[], NOW);
    assert_eq!(told(&mut reported), Value::Null);
    reported.observe(&[(who("d1"), 4)], NOW);
    told(&mut reported);
    reported.observe(&[(who("d1"), 5)], UnixMillis(NOW.0 + 1));
    let again = json!({"status": "Connected", "lastConnectedTimeUtc": "2026-01-02T03:04:05.679Z"});
    assert_eq!(told(&mut reported), json!({"clients": {"d1": again}}));
}

#[test]
fn keys_are_written_as_names_of_properties() {
    for (id, expected) in
        [("d1", "d1"), ("a.b#c", "a%2Eb%23c"), ("edge1/$m", "edge1/%24m"), ("x_-:@y", "x_-:@y")]
    {
        assert_eq!(key(id), expected);
    }
    assert_eq!(key("a b"), "a%20b");
}

#[test]
fn what_the_hub_did_not_take_is_in_the_next_patch() {
    let mut reported = begun();
    reported.set_status(Status::refused(3, &["schemaVersion is missing".to_owned()]));
    reported.observe(&[(who("d1"), 1)], NOW);
    let lost = reported.patch().unwrap();
    reported.observe(&[(who("d1"), 1), (who("d2"), 2)], NOW);
    assert!(lost.value["clients"].get("d2").is_none());
    let all = told(&mut reported);
    assert_eq!(all["clients"].as_object().unwrap().len(), 2);
    let words = "Error while parsing desired properties - schemaVersion is missing";
    assert_eq!(all["lastDesiredStatus"], json!({"code": 400, "description": words}));
    // What changed while a patch was under way is not taken for told.
    reported.observe(&[(who("d2"), 2)], NOW);
    let under_way = reported.patch().unwrap();
    reported.observe(&[], NOW);
    reported.taken(under_way);
    assert_eq!(told(&mut reported), json!({"clients": {"d2": null}}));
}

#[test]
fn a_status_comes_with_an_empty_list_as_the_reference_has_it() {
    let mut reported = begun();
    reported.set_status(Status::good(4));
    assert!(reported.is_urgent());
    assert_eq!(
        told(&mut reported),
        json!({"clients": {}, "lastDesiredVersion": 4,
               "lastDesiredStatus": {"code": 200, "description": ""}})
    );
    assert!(!reported.is_urgent());
    let long = Status::refused(5, &["x".repeat(100_000)]);
    assert!(long.description.len() < 1100 && long.description.ends_with("..."));
}

#[test]
fn who_finds_no_room_is_counted_and_shown_when_there_is_room() {
    let mut reported = begun();
    let long = |n: usize| who(&format!("{n:0128}"));
    let mut all: Vec<(Identity, u64)> = (0..300).map(|n| (long(n), n as u64)).collect();
    all.push((who("edge1/m"), 1000));
    reported.observe(&all, NOW);
    let shown = told(&mut reported);
    let clients = shown["clients"].as_object().unwrap();
    assert!(clients.contains_key("edge1/m"), "modules first");
    assert_eq!(clients.len() + reported.left_out(), 301);
    assert!(clients.len() > 100 && shown.to_string().len() < 32 * 1024, "{}", clients.len());
    reported.observe(&all, NOW);
    assert_eq!(told(&mut reported), Value::Null, "always the same");
    all.drain(..50);
    let before = reported.left_out();
    reported.observe(&all, NOW);
    assert_eq!(reported.left_out(), before - 50);
    let shown = told(&mut reported);
    assert_eq!(shown["clients"].as_object().unwrap().len(), 100, "50 went and 50 came");
}

/// A patch without an answer may have been taken: who leaves before the next one would be shown until the next start.
#[test]
fn who_leaves_after_a_patch_without_an_answer_is_told_as_gone() {
    let mut reported = begun();
    reported.observe(&[(who("d1"), 1), (who("d2"), 2)], NOW);
    let lost = reported.patch().unwrap();
    reported.unsure(&lost);
    reported.observe(&[(who("d2"), 2)], NOW);
    let connected = json!({"status": "Connected", "lastConnectedTimeUtc": TIME});
    assert_eq!(told(&mut reported), json!({"clients": {"d1": null, "d2": connected}}));
    assert_eq!(told(&mut reported), Value::Null);
}
