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
        d.ttl_secs.map_or_else(|| "elsewhere".to_owned(), |secs| secs.to_string()),
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
        (&bare.replace("1.1", "1.2"), expected),
        (&bare.replace("1.1", "1.3"), expected),
        (&bare.replace("1.1", " 1.1 "), expected),
        // As a .NET Version: numbers, however written.
        (&bare.replace("1.1", "01.1"), expected),
        (&bare.replace("1.1", "1.03.00"), expected),
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
            "error modulesContent has no $edgeHub, so there is no route in it: give one that has",
        ),
        (
            r#"{"content":{"modulesContent":[]}}"#,
            "error modulesContent is an array: write an object",
        ),
        (r#"{"$edgeHub":7}"#, "error $edgeHub is a number: write an object"),
        (r#"{"$edgeHub":{}}"#, "error $edgeHub has no properties.desired: add them"),
        (
            r#"{"moduleId":"$edgeAgent","properties":{"desired":{}}}"#,
            "error this is the twin of the module \"$edgeAgent\": give that of $edgeHub",
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
        (&version("\"+1.1\""), "error schemaVersion \"+1.1\" is no version: write \"1.1\""),
        (&version("\"1.+1\""), "error schemaVersion \"1.+1\" is no version: write \"1.1\""),
        (&version("\"1.-1\""), "error schemaVersion \"1.-1\" is no version: write \"1.1\""),
        (&version("\"1.1.+0\""), "error schemaVersion \"1.1.+0\" is no version: write \"1.1\""),
        (&version("\"1..1\""), "error schemaVersion \"1..1\" is no version: write \"1.1\""),
        (&version("\"1.x\""), "error schemaVersion \"1.x\" is no version: write \"1.1\""),
        (
            &version("\"1.1.1.1.1\""),
            "error schemaVersion \"1.1.1.1.1\" is no version: write \"1.1\"",
        ),
        (&version("\"2.0\""), "error schemaVersion 2.0 is not supported: write 1.0 to 1.3"),
        (&version("\"1.4\""), "error schemaVersion 1.4 is not supported: write 1.0 to 1.3"),
        (
            &version("\"1.1.0.0.0\""),
            "error schemaVersion \"1.1.0.0.0\" is no version: write \"1.1\"",
        ),
        (&version("\"0.9\""), "error schemaVersion 0.9 is not supported: write 1.0 to 1.3"),
        (&version("\"\""), "error schemaVersion \"\" is no version: write \"1.1\""),
        (&version("null"), "error schemaVersion is missing: add \"schemaVersion\": \"1.1\""),
        (&version("1.1"), "error schemaVersion is a number: write \"1.1\""),
        (
            r#"{"schemaVersion":"1.0","routes":[],"storeAndForwardConfiguration":7}"#,
            "error routes is an array: write an object of named routes & storeAndForwardConfiguration is a number: write an object",
        ),
    ]);
    let nested = "[".repeat(100_000);
    assert!(show(&nested).starts_with("error not JSON"));
    assert!(show(&" ".repeat(DOCUMENT_BYTES_MAX + 1)).starts_with("error the document has"));
}

#[test]
fn without_a_document_everything_goes_upstream() {
    let d = Desired::without_document(0);
    assert_eq!((d.routes[0].text.as_str(), d.ttl_secs), (DEFAULT_ROUTE, Some(0)));
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

/// What a gateway makes of the document: which routes run, which are bad; why it is refused.
#[test]
fn a_document_of_which_no_route_can_run_is_refused() {
    let input = r#""in":"FROM /* INTO BrokeredEndpoint('/modules/m/inputs/i')""#;
    let (all, bad) = (format!(r#""all":"{DEFAULT_ROUTE}""#), r#""bad":"FROM nowhere""#);
    let entry = r#""entry":7"#;
    let check = |text: &str, counts: [usize; 2], refused: Option<&str>| {
        let judged = desired(text).judge(&DeviceId::parse("edge").unwrap(), false);
        let got = [judged.running(), judged.refused.len()];
        assert_eq!(got, counts, "{text}");
        let told = judged.none_runs();
        assert_eq!(told.as_deref().and_then(|told| told.split(':').next()), refused, "{text}");
        assert_eq!(judged.problems().is_some(), refused.is_some(), "{text}");
        assert_eq!(judged.set_aside().count(), counts[1], "{text}");
        assert_eq!(judged.into_running().len(), counts[0], "{text}");
    };
    let only = Some("its only route cannot run");
    check(&bare(""), [0, 0], None);
    check(&bare(&all), [1, 0], None);
    check(&bare(input), [1, 0], None);
    check(&bare(bad), [0, 1], only);
    check(&bare(entry), [0, 1], only);
    check(&bare(&format!("{bad},{entry}")), [0, 2], Some("none of its 2 routes can run"));
    check(&bare(&format!("{bad},{input},{entry}")), [1, 2], None);
    check(&bare(&format!("{bad},{input},{entry},{all}")), [2, 2], None);
    // The deployment below a layer may have one that does.
    let layer = |text: &str| format!(r#"{{"properties.desired.routes.r":"{text}"}}"#);
    check(&layer("FROM nowhere"), [0, 1], None);
    check(&layer("FROM /* INTO BrokeredEndpoint('/modules/m/inputs/i')"), [1, 0], None);
}

#[test]
fn why_a_document_is_refused_is_told_in_one_line() {
    let routes =
        r#""a\nb":"FROM /* \n WHERE ) INTO $upstream","in":"FROM /* INTO BrokeredEndpoint('m')""#;
    let judged = desired(&bare(routes)).judge(&DeviceId::parse("edge").unwrap(), false);
    let problems = judged.problems().unwrap();
    let [first, bad, input] = &problems[..] else { panic!("{problems:?}") };
    assert!(first.starts_with("none of its 2 routes can run: correct one"), "{first}");
    assert!(bad.starts_with("route \"a\\nb\", line 2, column 8: "), "{bad}");
    assert!(input.starts_with("route \"in\", column "), "{input}");
    let error = DesiredError { problems, warnings: vec!["w".repeat(5000), "x".to_owned()] };
    let told = error.to_string();
    assert!(!told.contains(['\n', '^']) && !told.contains("the others run"), "{told}");
    assert!(told.len() < 3000 && told.ends_with("w…; x") && told.contains(". Also: www"), "{told}");
}

#[test]
fn what_is_listed_is_bounded() {
    let list = |n: usize| {
        let lines: Vec<String> = (0..n).map(|n| n.to_string()).collect();
        listed(lines.iter().map(String::as_str), 3)
    };
    assert_eq!(list(0), [""; 0]);
    assert_eq!(list(3), ["0", "1", "2"]);
    assert_eq!(list(5)[3], "and 2 more: `sphere-gateway routes check FILE` tells all");
    assert_eq!(line("a\r\nb", 9), "a  b");
    assert_eq!(line("\u{e9}\u{e9}\u{e9}", 2), "\u{e9}\u{e9}…");
}

/// All that is wrong is told at once: the routes of a document that is refused for another reason, and what it warns of.
#[test]
fn a_refused_document_is_read_as_far_as_it_can_be() {
    let text = bare(r#""r":7,"good":"X","good":"Y""#).replace("1.1", "9");
    let document = Document::parse(&text).unwrap();
    let (read, problems) = document.read();
    assert_eq!((problems.len(), read.refused.len(), read.routes.len()), (1, 1, 1));
    let error = document.desired().unwrap_err();
    assert_eq!(error.warnings, ["routes.good is there twice: the last one counts; rename one"]);
    assert!(
        error
            .to_string()
            .ends_with(". Also: routes.good is there twice: the last one counts; rename one")
    );
}

fn desired(text: &str) -> Desired {
    Document::parse(text)
        .and_then(|document| document.desired())
        .unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// `{"schemaVersion":"1.1","routes":{ROUTES},..}`
fn bare(routes: &str) -> String {
    format!(r#"{{"schemaVersion":"1.1","routes":{{{routes}}},{SF}}}"#)
}

#[test]
fn what_is_around_the_properties_is_recognised() {
    let bare = bare(r#""r":"FROM /* INTO $upstream""#);
    let part = format!(r#"{{"properties.desired":{bare}}}"#);
    let modules = format!(r#"{{"$edgeAgent":{{"properties.desired":{{}}}},"$edgeHub":{part}}}"#);
    let manifest = format!(r#"{{"modulesContent":{modules}}}"#);
    let twin = format!(r#""properties":{{"desired":{bare},"reported":{{}}}}"#);
    let table = [
        (Kind::Bare, bare.clone()),
        (Kind::Part, part.clone()),
        (Kind::Manifest, modules),
        (Kind::Manifest, manifest.clone()),
        (Kind::Manifest, manifest.replace("modulesContent", "moduleContent")),
        // What an automatic deployment is, whole and in part.
        (Kind::Manifest, format!(r#"{{"content":{manifest}}}"#)),
        (
            Kind::Manifest,
            format!(r#"{{"id":"d","priority":10,"targetCondition":"*","content":{manifest}}}"#),
        ),
        (
            Kind::Template,
            manifest.replacen('{', r#"{"$schema-template":"4.0.0","modulesContent2":0,"#, 1),
        ),
        (Kind::Template, format!(r#"{{"$schema-template":"1.0.0","content":{manifest}}}"#)),
        (Kind::Twin, format!("{{{twin}}}")),
        (
            Kind::Twin,
            format!(r#"{{"deviceId":"e","moduleId":"$edgeHub","etag":"x","version":3,{twin}}}"#),
        ),
        (Kind::Twin, format!(r#"{{"moduleId":null,{twin}}}"#)),
        (Kind::Twin, format!(r#"{{"desired":{bare},"reported":{{}}}}"#)),
    ];
    for (kind, text) in table {
        for text in [text.clone(), format!("\u{feff}{text}")] {
            assert_eq!(Document::parse(&text).map(|d| d.kind()), Ok(kind), "{text}");
            // The gateway takes it, too.
            assert_eq!(show(&text), "7200 None | r=FROM /* INTO $upstream~0 |  | 0", "{text}");
        }
    }
}

#[test]
fn kinds_have_a_word_for_people_and_one_for_programs() {
    let table = [
        (Kind::Manifest, "deployment manifest", "deploymentManifest"),
        (Kind::Template, "deployment template", "deploymentTemplate"),
        (Kind::Layer, "layered deployment", "layeredDeployment"),
        (Kind::Part, "$edgeHub part of a deployment manifest", "modulePart"),
        (Kind::Twin, "module twin", "moduleTwin"),
        (Kind::Bare, "$edgeHub desired properties", "desiredProperties"),
    ];
    for (kind, words, key) in table {
        assert_eq!((kind.to_string().as_str(), kind.key()), (words, key));
    }
}

#[test]
fn a_layer_is_read_alone_and_no_gateway_runs_it() {
    let wrap =
        |keys: &str| format!(r#"{{"content":{{"modulesContent":{{"$edgeHub":{{{keys}}}}}}}}}"#);
    let whole = format!(r#""properties.desired":{}"#, bare(r#""a":"A","b":"B""#));
    let table = [
        // Keys, routes, time to live.
        (r#""properties.desired.routes.a":"X""#.to_owned(), "a=X#None", None),
        (
            r#""properties.desired.routes.a":{"route":"X","priority":3},"properties.desired.routes.b":"Y""#.to_owned(),
            "a=X#Some(3) b=Y#None",
            None,
        ),
        (r#""properties.desired.routes":{"c":"Z"}"#.to_owned(), "c=Z#None", None),
        // A dot in the name of a route is a part of it, and not one more step.
        (r#""properties.desired.routes.a.b":"X""#.to_owned(), "a.b=X#None", None),
        (
            format!(r#"{whole},"properties.desired.routes.a.b":{{"route":"X","priority":1}}"#),
            "a=A#None a.b=X#Some(1) b=B#None",
            Some(7200),
        ),
        (
            r#""properties.desired.storeAndForwardConfiguration.timeToLiveSecs":60"#.to_owned(),
            "",
            Some(60),
        ),
        (
            r#""properties.desired.storeAndForwardConfiguration.storeLimits.maxSizeBytes":9000000"#.to_owned(),
            "",
            None,
        ),
        (r#""properties.desired.schemaVersion":"1.2""#.to_owned(), "", None),
        // Over a whole document: what it names is replaced or added, what it empties is gone.
        (
            format!(r#"{whole},"properties.desired.routes.b":"B2","properties.desired.routes.c":"C""#),
            "a=A#None b=B2#None c=C#None",
            Some(7200),
        ),
        (format!(r#"{whole},"properties.desired.routes.a":null"#), "b=B#None", Some(7200)),
    ];
    for (keys, routes, ttl_secs) in table {
        for text in [wrap(&keys), format!("{{{keys}}}")] {
            let document = Document::parse(&text).unwrap();
            assert_eq!(document.kind(), Kind::Layer, "{text}");
            let layer = document.desired().unwrap();
            let shown =
                layer.routes.iter().map(|r| format!("{}={}#{:?}", r.name, r.text, r.priority));
            assert_eq!(shown.collect::<Vec<_>>().join(" "), routes, "{text}");
            assert_eq!(layer.ttl_secs, ttl_secs, "{text}");
            let (layered, names): (Vec<_>, Vec<_>) =
                layer.warnings.iter().partition(|w| w.starts_with("this is a layered deployment"));
            assert_eq!(layered.len(), 1, "{:?}", layer.warnings);
            assert_eq!(names.len(), usize::from(routes.contains("a.b")), "{names:?}");
            let error = Desired::parse(&text).unwrap_err().to_string();
            assert!(error.contains("az iot hub module-twin show"), "{error}");
        }
    }
    // What is there is judged as anywhere.
    let wrong = Document::parse(&wrap(r#""properties.desired.schemaVersion":"2.0""#)).unwrap();
    assert!(wrong.desired().unwrap_err().to_string().contains("write 1.0 to 1.3"));
    let deep = format!(r#""properties.desired.{}":1"#, "a.".repeat(100_000));
    assert!(desired(&wrap(&deep)).warnings.iter().any(|w| w.contains("is not known")));
}

#[test]
fn placeholders_of_a_template_are_text() {
    let route = r#"FROM /messages/modules/${MODULE}/outputs/<output> INTO $upstream"#;
    let text = format!(
        r#"{{"$schema-template":"4.0.0","modulesContent":{{"$edgeHub":{{"properties.desired":{}}}}}}}"#,
        bare(&format!(r#""r":"{route}""#))
    );
    assert_eq!(desired(&text).routes[0].text, route);
}

#[test]
fn what_is_no_json_is_told_with_what_to_do() {
    let table = [
        ("{\n  // mine\n  \"a\": 1}", "comments are no part of JSON", "line 2"),
        ("{\"a\": 1, /* mine */ \"b\": 2}", "comments are no part of JSON", "line 1"),
        ("/* mine */ {}", "comments are no part of JSON", "line 1"),
        ("{\"a\": 1} // mine", "comments are no part of JSON", "line 1"),
        ("{\u{201c}a\u{201d}: 1}", "replace them by \"", "line 1"),
        ("{\"a\": \u{201c}b\u{201d}}", "replace them by \"", "line 1"),
        ("{'a': 1}", "JSON has no quotes but \"", "line 1"),
        ("{\"a\": ${TTL}}", "this looks like a placeholder", "line 1"),
        ("{\"a\": <ttl>}", "this looks like a placeholder", "line 1"),
        ("{\"a\": 1,}", "trailing comma", "line 1"),
        ("{\"a\": 1", "correct the place named", "line 1"),
        ("", "correct the place named", "line 1"),
        ("\u{e9}", "correct the place named", "line 1"),
    ];
    for (text, todo, line) in table {
        let error = Document::parse(text).unwrap_err().to_string();
        assert!(error.contains("not JSON") && error.contains(todo), "{text}: {error}");
        assert!(error.contains(line), "{text}: {error}");
    }
}

#[test]
fn the_encodings_that_shells_write_are_read() {
    let text = bare(r#""r\u00fc":"X""#).replace("\\u00fc", "\u{fc}");
    let units = |mark: [u8; 2], bytes: fn(u16) -> [u8; 2]| {
        mark.into_iter().chain(text.encode_utf16().flat_map(bytes)).collect::<Vec<u8>>()
    };
    let little = units([0xff, 0xfe], u16::to_le_bytes);
    let big = units([0xfe, 0xff], u16::to_be_bytes);
    let marked = [b"\xef\xbb\xbf", text.as_bytes()].concat();
    for bytes in [text.as_bytes(), &marked, &little, &big] {
        let document = Document::from_bytes(bytes).unwrap();
        assert_eq!(document.desired().unwrap().routes[0].name, "r\u{fc}");
    }
    for bytes in [&little[..little.len() - 1], &[0xff, 0xfe, 0x00, 0xd8], &[b'{', 0xff]] {
        let error = Document::from_bytes(bytes).unwrap_err().to_string();
        assert!(error.contains("save the file as UTF-8"), "{error}");
    }
}

#[test]
fn names_that_tools_refuse_are_told_and_run() {
    let name_is_told = |name: &str| {
        let desired = desired(&bare(&format!(r#""{name}":"X""#)));
        assert_eq!(desired.routes.len(), 1, "{name}");
        !desired.warnings.is_empty()
    };
    for name in ["a.b", "$a", "a#", "a b"] {
        assert!(name_is_told(name), "{name}");
    }
    for name in ["a", "a-b_c", "a/b", "\u{e4}", "a:b"] {
        assert!(!name_is_told(name), "{name}");
    }
    let blank = desired(&bare(r#""":"X"," ":"X""#));
    assert_eq!((blank.routes.len(), blank.refused.len()), (0, 2));
}

#[test]
fn a_name_that_is_there_twice_is_told() {
    let twice = desired(&bare(r#""r":"X","s":"Y","r":"Z""#));
    let routes: Vec<&str> = twice.routes.iter().map(|r| r.text.as_str()).collect();
    assert_eq!(routes, ["Z", "Y"]);
    assert_eq!(twice.warnings, ["routes.r is there twice: the last one counts; rename one"]);
    let nested = r#"{"a":[{"b":1,"b":2},{"b":1}],"a":{"c":[],"d":{"e":1}}}"#;
    assert_eq!(twice::paths(nested), ["a.[].b", "a"]);
    assert_eq!(twice::paths(r#"{"a":1.5,"b":-1,"c":null,"d":true,"e":"x","f":[[]]}"#), [""; 0]);
    let many = format!("{{{}\"a\":1}}", "\"a\":1,".repeat(100));
    assert_eq!(twice::paths(&many).len(), 16);
}

#[test]
fn a_slip_at_the_top_is_said_with_what_is_known() {
    let slip = bare("").replacen('{', r#"{"Routes":{},"$metadata":{},"x":null,"#, 1);
    let warnings = desired(&slip).warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with(r#"the document: "Routes" is not known"#), "{warnings:?}");
}

#[test]
fn what_is_wrong_beside_the_text_is_marked_in_the_entry() {
    let check = |entry: &str, expected: &str| {
        let desired = desired(&bare(&format!(r#""bad":{entry}"#)));
        let refused = &desired.refused[0];
        let marked = &refused.text[refused.error.span.clone()];
        assert_eq!(marked, expected, "{}", refused.text);
        assert!(refused.to_string().contains('^'), "{refused}");
    };
    check(r#"{"route":"FROM \"priority\":10","priority":10}"#, r#""priority":10"#);
    check(r#"{"route":"X","timeToLiveSecs":-5}"#, r#""timeToLiveSecs":-5"#);
    check(r#"{"route":"X","liveFirst":"yes"}"#, r#""liveFirst":"yes""#);
    check(r#"{"route":5}"#, "5");
    check(r#"{"priority":5}"#, r#"{"priority":5}"#);
    check("[1]", "[1]");
    check(r#""  ""#, "  ");
}

/// The rows of `edgehub.md` 3.1 that are about routes, with what is otherwise here.
#[test]
fn the_schema_versions_differ_as_documented() {
    let doc = |version: &str, routes: &str| {
        format!(r#"{{"schemaVersion":"{version}","routes":{{{routes}}},{SF}}}"#)
    };
    let table = [
        // 1.0: text alone; a blank one is skipped.
        ("1.0", r#""r":"X""#, "r=X~0 | "),
        (
            "1.0",
            r#""r":{"route":"X"}"#,
            " | r: a route of schema version 1.0 is a string, this is an object",
        ),
        ("1.0", r#""r":" ""#, " | "),
        ("1.0", r#""r":7"#, " | r: the entry is a number"),
        // 1.1 and later: both forms; a blank name or text is an error, here of the route alone.
        ("1.1", r#""r":"X""#, "r=X~0 | "),
        ("1.1", r#""r":{"route":"X","priority":9,"timeToLiveSecs":0}"#, "r=X#9~0 | "),
        (
            "1.2",
            r#""r":{"route":"X","priority":0,"timeToLiveSecs":4294967295}"#,
            "r=X#0~4294967295 | ",
        ),
        ("1.3", r#""r":" ""#, " | r: the route has no text"),
        ("1.3", r#"" ":"X""#, " |  : the route's name is blank"),
        ("1.3", r#""r":true"#, " | r: the entry is a truth value"),
        ("1.3", r#""r":null"#, " | "),
        ("1.3", r#""r":{"route":"X","priority":1.5}"#, " | r: the priority is 1.5"),
        ("1.3", r#""r":{"route":"X","priority":null}"#, "r=X~0 | "),
        ("1.3", r#""r":{"route":"X","timeToLiveSecs":1.5}"#, " | r: timeToLiveSecs is 1.5"),
    ];
    for (version, routes, expected) in table {
        let shown = show(&doc(version, routes));
        let shown = shown.strip_prefix("7200 None | ").unwrap_or(&shown);
        assert_eq!(
            shown.rsplit_once(" | ").map(|(shown, _)| shown),
            Some(expected),
            "{version} {routes}"
        );
    }
}
