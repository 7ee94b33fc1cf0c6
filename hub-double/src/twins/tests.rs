use std::time::Duration;

use super::*;

fn who() -> Principal {
    Principal { device: "edge1".into(), module: Some("$edgeHub".into()) }
}

fn twins() -> Twins {
    Twins::new(Arc::default())
}

fn change(twins: &Twins, desired: &Value, replace: bool) -> Value {
    let change = Change { desired: Some(desired), replace, ..Change::default() };
    twins.change(&who(), change).expect("within the limits").expect("something to tell")
}

#[test]
fn patches_merge_replacements_tell_the_difference_and_versions_count() {
    let twins = twins();
    let first = json!({"a": {"b": 1, "c": 2}, "d": [1]});
    let told = change(&twins, &first, false);
    assert_eq!(told, json!({"a": {"b": 1, "c": 2}, "d": [1], "$version": 2}));
    let told = change(&twins, &json!({"a": {"b": null}, "d": [2]}), false);
    assert_eq!(told, json!({"a": {"b": null}, "d": [2], "$version": 3}));
    assert_eq!(
        twins.of_device(&who()),
        json!({"desired": {"a": {"c": 2}, "d": [2], "$version": 3}, "reported": {"$version": 1}})
    );
    let told = change(&twins, &json!({"a": {"c": 3}, "e": true}), true);
    assert_eq!(told, json!({"a": {"c": 3}, "d": null, "e": true, "$version": 4}));
    assert_eq!(change(&twins, &json!({}), false), json!({"$version": 5}), "an empty patch counts");
    assert_eq!(twins.report(&who(), &json!({"x": {"y": 1}}), None).unwrap(), 2);
    assert_eq!(twins.report(&who(), &json!({"x": null}), None).unwrap(), 3);
    assert_eq!(twins.of_device(&who())["reported"], json!({"$version": 3}));
}

#[test]
fn what_breaks_a_limit_changes_nothing() {
    let twins = twins();
    let deep = (0..12).fold(json!(1), |inner, _| json!({"k": inner}));
    for (patch, status) in [
        (json!([]), 400),
        (json!({"a.b": 1}), 400),
        (json!({"a": {"b c": 1}}), 400),
        (json!({"a": [{"b$": 1}]}), 400),
        (json!({"$a": 1}), 400),
        (json!({"a": "x".repeat(4097)}), 400),
        (json!({"a": 4_503_599_627_370_496_i64}), 400),
        (json!({"a": u64::MAX}), 400),
        (deep, 400),
        ((0..9).map(|n| (n.to_string(), "x".repeat(4000))).collect(), 413),
    ] {
        assert_eq!(twins.report(&who(), &patch, None).unwrap_err().status, status, "{patch}");
    }
    let large: Value = (0..3).map(|n| (n.to_string(), "x".repeat(4000))).collect();
    let both = Change { tags: Some(&large), desired: Some(&json!({"a": 1})), ..Change::default() };
    assert_eq!(twins.change(&who(), both).unwrap_err().status, 413);
    let shown = twins.of_service(&who(), false);
    let nothing = json!({"desired": {"$version": 1}, "reported": {"$version": 1}});
    assert_eq!((&shown["properties"], &shown["tags"]), (&nothing, &json!({})));
    let numbers =
        json!({"a": 4_503_599_627_370_495_i64, "b": -4_503_599_627_370_496_i64, "c": 1e300});
    assert_eq!(twins.report(&who(), &numbers, None), Ok(2));
}

#[test]
fn an_etag_guards_a_change_of_the_service_side() {
    let twins = twins();
    let etag = || twins.of_service(&who(), false)["etag"].as_str().unwrap().to_owned();
    let first = etag();
    twins.report(&who(), &json!({"a": 1}), None).unwrap();
    assert_eq!(etag(), first, "a report is no change of the service side");
    let tagged = |etag: &str| {
        let tags = json!({"floor": 3});
        twins
            .change(&who(), Change { tags: Some(&tags), if_match: Some(etag), ..Change::default() })
    };
    assert_eq!(tagged(&first), Ok(None), "tags are not told");
    assert_eq!(tagged(&format!("\"{first}\"")).unwrap_err().status, 412);
    assert_eq!(tagged("*"), Ok(None));
    let shown = twins.of_service(&who(), false);
    assert_eq!((&shown["tags"], &shown["version"]), (&json!({"floor": 3}), &json!(5)));
    assert_eq!(shown["properties"]["desired"]["$version"], 1);
}

#[test]
fn a_report_may_name_the_version_that_it_changes() {
    let twins = twins();
    let report = |version| twins.report(&who(), &json!({"a": 1}), Some(version));
    assert_eq!(report(1), Ok(2));
    assert_eq!(report(1).unwrap_err().status, 412);
    assert_eq!(report(2), Ok(3));
}

#[test]
fn metadata_tells_when_each_property_changed() {
    let clock = Arc::<Clock>::default();
    let twins = Twins::new(Arc::clone(&clock));
    change(&twins, &json!({"a": {"b": 1, "c": 2}, "d": 1}), false);
    clock.advance(Duration::from_secs(3600));
    change(&twins, &json!({"a": {"b": 3}, "d": null}), false);
    twins.report(&who(), &json!({"x": 1}), None).unwrap();
    let shown = twins.of_service(&who(), true);
    let metadata = &shown["properties"]["desired"]["$metadata"];
    let versions = ["", "/a", "/a/b", "/a/c", "/d"]
        .map(|at| metadata.pointer(&format!("{at}/$lastUpdatedVersion")).and_then(Value::as_u64));
    assert_eq!(versions, [Some(3), Some(3), Some(3), Some(2), None]);
    let time = |at: &str| metadata.pointer(&format!("{at}/$lastUpdated")).and_then(Value::as_str);
    assert!(time("/a/b") > time("/a/c"), "{metadata}");
    let reported = &shown["properties"]["reported"]["$metadata"];
    assert!(reported["x"]["$lastUpdated"].is_string(), "{reported}");
    assert_eq!(reported["x"]["$lastUpdatedVersion"], Value::Null);
    assert_eq!(twins.of_service(&who(), false)["properties"]["desired"]["$metadata"], Value::Null);
    // What an object held goes with it.
    change(&twins, &json!({"a": 1}), false);
    let keys = || {
        let shown = twins.of_service(&who(), true);
        let a = shown["properties"]["desired"]["$metadata"]["a"].clone();
        a.as_object().expect("it is there").keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(keys(), ["$lastUpdated", "$lastUpdatedVersion"]);
    change(&twins, &json!({"a": {"e": 1}}), false);
    assert_eq!(keys(), ["$lastUpdated", "$lastUpdatedVersion", "e"]);
}

#[test]
fn one_module_is_forgotten_without_its_neighbours() {
    let twins = twins();
    let device = Principal { module: None, ..who() };
    let module = who();
    for who in [&module, &device] {
        twins.report(who, &json!({"a": 1}), None).unwrap();
    }
    twins.forget("EDGE1", Some("$edgehub"));
    let version = |who: &Principal| twins.of_device(who)["reported"]["$version"].clone();
    assert_eq!((version(&module), version(&device)), (json!(1), json!(2)));
    twins.forget("edge1", None);
    assert_eq!(version(&device), json!(1));
}
