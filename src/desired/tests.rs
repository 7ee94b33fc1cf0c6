//! Documents, good, bad and half-bad.

use super::*;

/// What a document gives, in short: `ttl max | name=text#priority~ttl ... | refused: reason ... | warnings`.
fn show(text: &str) -> String {
    let d = match Desired::parse(text) {
        Ok(d) => d,
        Err(e) => return format!("error {}", e.problems.join(" & ")),
    };
    let routes = d.routes.iter().map(|r| {
        let priority = r.priority.map_or_else(String::new, |p| format!("#{p}"));
        let live = r.live_first.map_or_else(String::new, |live| format!("!{live}"));
        format!("{}={}{priority}~{}{live}", r.name, r.text, r.ttl_secs)
    });
    let refused = d.refused.iter().map(|r| format!("{}: {}", r.name, r.error.what));
    let joined = |parts: Vec<String>| parts.join(", ");
    format!(
        "{} {:?} | {} | {} | {}",
        d.ttl_secs,
        d.store_bytes_max,
        joined(routes.collect()),
        joined(refused.collect()),
        d.warnings.len()
    )
}

fn check(table: &[(&str, &str)]) {
    for (text, expected) in table {
        assert_eq!(show(text), *expected, "{text}");
    }
}

const SF: &str = r#""storeAndForwardConfiguration":{"timeToLiveSecs":7200}"#;

#[test]
fn good_documents() {
    let bare =
        format!(r#"{{"schemaVersion":"1.1","routes":{{"r":"FROM /* INTO $upstream"}},{SF}}}"#);
    let expected = "7200 None | r=FROM /* INTO $upstream~0 |  | 0";
    check(&[
        (&bare, expected),
        (&format!("\u{feff}{bare}"), expected),
        (
            &format!(r#"{{"deviceId":"e","properties":{{"desired":{bare},"reported":{{}}}}}}"#),
            expected,
        ),
        (&format!(r#"{{"properties.desired":{bare}}}"#), expected),
        (&bare.replace("1.1", "1.1.0"), expected),
        (&bare.replace("1.1", "1.3.0.7"), expected),
        (&bare.replace("1.1", "1.0"), expected),
        (
            &format!(
                r#"{{"schemaVersion":"1.2","$version":7,"$metadata":{{}},"routes":{{"a":{{"route":"X","priority":0,"timeToLiveSecs":60}},
                "b":{{"route":"Y","priority":9}},"c":{{"route":"Z"}},"gone":null}},{SF}}}"#
            ),
            "7200 None | a=X#0~60, b=Y#9~0, c=Z~0 |  | 0",
        ),
        (r#"{"schemaVersion":"1.0"}"#, "0 None |  |  | 1"),
        (r#"{"schemaVersion":"1.0","routes":{"a":"","b":" ","c":"X"}}"#, "0 None | c=X~0 |  | 0"),
    ]);
}

#[test]
fn the_version_of_the_twin_is_kept() {
    let d =
        Desired::parse(&format!(r#"{{"schemaVersion":"1.1","$version":17,"routes":{{}},{SF}}}"#));
    assert_eq!(d.map(|d| d.version), Ok(Some(17)));
}

#[test]
fn times_to_live_and_limits() {
    let doc = |sf: &str| {
        format!(
            r#"{{"schemaVersion":"1.1","routes":{{"r":"X"}},"storeAndForwardConfiguration":{sf}}}"#
        )
    };
    check(&[
        (&doc(r#"{"timeToLiveSecs":-1}"#), "0 None | r=X~0 |  | 0"),
        (&doc(r#"{"timeToLiveSecs":0}"#), "7200 None | r=X~0 |  | 1"),
        (&doc("{}"), "7200 None | r=X~0 |  | 1"),
        (&doc(r#"{"timeToLiveSecs":99999999999}"#), "0 None | r=X~0 |  | 0"),
        (
            &doc(r#"{"timeToLiveSecs":"60"}"#),
            "error timeToLiveSecs is \"60\": write whole seconds, -1 for ever",
        ),
        (
            &doc(r#"{"timeToLiveSecs":1.5}"#),
            "error timeToLiveSecs is 1.5: write whole seconds, -1 for ever",
        ),
        (
            &doc(r#"{"timeToLiveSecs":5,"storeLimits":{"maxSizeBytes":4194304}}"#),
            "5 Some(4194304) | r=X~0 |  | 0",
        ),
        (
            &doc(r#"{"timeToLiveSecs":5,"storeLimits":{"maxSizeBytes":4194303}}"#),
            "5 Some(4194304) | r=X~0 |  | 1",
        ),
        (&doc(r#"{"timeToLiveSecs":5,"storeLimits":{"maxSizeBytes":0}}"#), "5 None | r=X~0 |  | 1"),
        (&doc(r#"{"timeToLiveSecs":5,"storeLimits":{}}"#), "5 None | r=X~0 |  | 0"),
        (
            &doc(r#"{"timeToLiveSecs":5,"storeLimits":{"maxSizeBytes":"x"}}"#),
            "error storeLimits.maxSizeBytes is \"x\", no size: write whole bytes, 4194304 to 9223372036854775807, or leave it out",
        ),
        (
            &doc(r#"{"timeToLiveSecs":5,"storeLimits":7}"#),
            "error storeLimits is a number: write an object",
        ),
    ]);
}

#[test]
fn live_first_is_what_the_route_says_else_the_document_else_the_setting() {
    let live = |route: &str, global: &str, setting: bool| {
        let doc = format!(
            r#"{{"schemaVersion":"1.1","routes":{{"r":{{"route":"{DEFAULT_ROUTE}"{route}}}}},
            "storeAndForwardConfiguration":{{"timeToLiveSecs":5{global}}}}}"#
        );
        let desired = Desired::parse(&doc).map_err(|e| e.problems.join(", "))?;
        let (table, refused) = desired.compile(&DeviceId::parse("edge").unwrap(), setting);
        assert_eq!(refused, []);
        Ok::<bool, String>(table.targets()[0].live_first)
    };
    let (yes, no) = (r#","liveFirst":true"#, r#","liveFirst":false"#);
    for (route, global, setting, expected) in [
        ("", "", false, false),
        ("", "", true, true),
        ("", no, true, false),
        ("", yes, false, true),
        (no, yes, true, false),
        (yes, no, false, true),
        (r#","liveFirst":null"#, yes, false, true),
    ] {
        assert_eq!(live(route, global, setting), Ok(expected), "{route} {global} {setting}");
    }
    let wrong = live("", r#","liveFirst":1"#, false);
    assert_eq!(wrong, Err("liveFirst is 1: write true or false".to_owned()));
}

#[test]
fn a_bad_route_is_set_aside_and_the_others_stay() {
    let doc = |entry: &str| {
        format!(r#"{{"schemaVersion":"1.1","routes":{{"bad":{entry},"good":"X"}},{SF}}}"#)
    };
    for (entry, why) in [
        ("7", "the entry is a number"),
        ("[]", "the entry is an array"),
        (r#"" ""#, "the route has no text"),
        ("{}", "the route has no text"),
        (r#"{"route":5}"#, "the route has no text"),
        (r#"{"route":"Y","priority":10}"#, "the priority is 10"),
        (r#"{"route":"Y","priority":-1}"#, "the priority is -1"),
        (r#"{"route":"Y","priority":"1"}"#, "the priority is \"1\""),
        (r#"{"route":"Y","priority":265}"#, "the priority is 265"),
        (r#"{"route":"Y","liveFirst":"true"}"#, "liveFirst is \"true\""),
        (r#"{"route":"Y","timeToLiveSecs":-1}"#, "timeToLiveSecs is -1"),
        (r#"{"route":"Y","timeToLiveSecs":4294967296}"#, "timeToLiveSecs is 4294967296"),
    ] {
        assert_eq!(show(&doc(entry)), format!("7200 None | good=X~0 | bad: {why} | 0"), "{entry}");
    }
    let old = doc(r#"{"route":"Y"}"#).replace("1.1", "1.0");
    let why = "a route of schema version 1.0 is a string, this is an object";
    assert_eq!(show(&old), format!("7200 None | good=X~0 | bad: {why} | 0"));
}

#[test]
fn what_is_not_used_is_said() {
    let doc = format!(
        r#"{{"schemaVersion":"1.1","routes":{{"r":"X"}},"mqttBroker":{{}},"integrity":{{}},{SF}}}"#
    );
    let warnings = Desired::parse(&doc).unwrap().warnings;
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].starts_with("mqttBroker is not used"), "{warnings:?}");
}

#[test]
fn a_slip_in_a_key_is_said_with_what_is_known() {
    let check = |route: &str, section: &str, limits: &str, expected: &[&str]| {
        let doc = format!(
            r#"{{"schemaVersion":"1.1","routes":{{"r":{{"route":"X"{route}}}}},"storeAndForwardConfiguration":
            {{"timeToLiveSecs":60{section},"storeLimits":{{"maxSizeBytes":5000000{limits}}}}}}}"#
        );
        let warnings = Desired::parse(&doc).unwrap().warnings;
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.starts_with(expected) && warning.contains("known are "), "{warning}");
        }
    };
    check(r#","priority":1,"timeToLiveSecs":2,"liveFirst":true"#, r#","liveFirst":true"#, "", &[]);
    check(r#","livefirst":true"#, "", "", &[r#"route "r": "livefirst" is not known"#]);
    check("", r#","whenFull":"reject""#, "", &[r#"storeAndForwardConfiguration: "whenFull""#]);
    check("", "", r#","maxSize":1"#, &[r#"storeLimits: "maxSize" is not known"#]);
    check(r#","liveFrst":null"#, r#","x":null"#, r#","y":null"#, &[]);
}

#[test]
fn a_size_that_is_none_is_told_with_what_to_write() {
    let doc = |bytes: &str| {
        format!(
            r#"{{"schemaVersion":"1.1","routes":{{"r":"X"}},"storeAndForwardConfiguration":
            {{"timeToLiveSecs":60,"storeLimits":{{"maxSizeBytes":{bytes}}}}}}}"#
        )
    };
    let desired = Desired::parse(&doc("-7")).unwrap();
    assert_eq!(desired.store_bytes_max, None);
    assert!(desired.warnings[0].contains("write 4194304 bytes or more"), "{:?}", desired.warnings);
    for bytes in ["18446744073709551615", "1.5", "\"5000000\""] {
        let error = Desired::parse(&doc(bytes)).unwrap_err().to_string();
        assert!(error.contains("write whole bytes, 4194304 to "), "{bytes}: {error}");
    }
}

#[test]
fn documents_that_are_wrong_as_a_whole() {
    let need_sf = "storeAndForwardConfiguration is missing: add {\"timeToLiveSecs\": 7200}";
    let need_routes = "routes is missing: add it, {} for none";
    let version = |v: &str| format!(r#"{{"schemaVersion":{v},"routes":{{}},{SF}}}"#);
    check(&[
        (
            "",
            "error not JSON (EOF while parsing a value at line 1 column 0): correct the place named",
        ),
        ("[]", "error the document is an array: write an object"),
        (
            r#"{"properties":{"desired":[]}}"#,
            "error properties.desired is an array: write an object",
        ),
        (
            r#"{"modulesContent":{}}"#,
            "error this is a deployment manifest: give its modulesContent.$edgeHub part alone",
        ),
        (
            "{}",
            &format!(
                "error schemaVersion is missing: add \"schemaVersion\": \"1.1\" & {need_routes} & {need_sf}"
            ),
        ),
        (r#"{"schemaVersion":"1.1"}"#, &format!("error {need_routes} & {need_sf}")),
        (
            &format!(r#"{{"schemaVersion":"1.1","routes":[],{SF}}}"#),
            "error routes is an array: write an object of named routes",
        ),
        (&version("\"1\""), "error schemaVersion \"1\" is no version: write \"1.1\""),
        (&version("\"1.x\""), "error schemaVersion \"1.x\" is no version: write \"1.1\""),
        (
            &version("\"1.1.1.1.1\""),
            "error schemaVersion \"1.1.1.1.1\" is no version: write \"1.1\"",
        ),
        (&version("\"2.0\""), "error schemaVersion 2.0 is not supported: write 1.0 to 1.3"),
        (&version("\"1.4\""), "error schemaVersion 1.4 is not supported: write 1.0 to 1.3"),
        (&version("1.1"), "error schemaVersion is a number: write \"1.1\""),
    ]);
    let nested = "[".repeat(100_000);
    assert!(show(&nested).starts_with("error not JSON"));
    assert!(show(&" ".repeat(DOCUMENT_BYTES_MAX + 1)).starts_with("error the document has"));
}

#[test]
fn without_a_document_everything_goes_upstream() {
    let d = Desired::without_document(0);
    assert_eq!((d.routes[0].text.as_str(), d.ttl_secs), (DEFAULT_ROUTE, 0));
    let (table, refused) = d.compile(&DeviceId::parse("edge").unwrap(), false);
    let targets = table.targets();
    assert_eq!((targets.len(), &*targets[0].endpoint_id, refused.len()), (1, "iothub", 0));
}

#[test]
fn compiling_tells_both_kinds_of_bad_routes() {
    let doc = format!(
        r#"{{"schemaVersion":"1.1","routes":{{"a":7,"b":"FROM nowhere","c":"{DEFAULT_ROUTE}"}},{SF}}}"#
    );
    let (table, refused) =
        Desired::parse(&doc).unwrap().compile(&DeviceId::parse("edge").unwrap(), false);
    assert_eq!(table.routes().iter().map(|r| r.name()).collect::<Vec<_>>(), ["c"]);
    assert_eq!(refused.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(refused.iter().all(|r| !r.to_string().is_empty()));
}

#[test]
fn files_are_read_and_named_when_they_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("twin.json");
    assert!(Desired::load(&file).unwrap_err().to_string().contains("twin.json cannot be read"));
    std::fs::write(&file, [0xff]).unwrap();
    assert!(Desired::load(&file).unwrap_err().to_string().contains("not UTF-8"));
    std::fs::write(&file, r#"{"schemaVersion":"1.0"}"#).unwrap();
    assert!(Desired::load(&file).is_ok());
}
