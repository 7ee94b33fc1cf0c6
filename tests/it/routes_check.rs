//! `routes check` as a person runs it: documents as they lie about, words, JSON, exit codes.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ran::{self, Ran};

const ALL: &str = "FROM /messages/* INTO $upstream";
const LEAVES: &str = "FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream";

impl Ran {
    /// The one JSON object.
    #[track_caller]
    fn report(self, code: i32) -> Value {
        let out = self.expect(code);
        assert_eq!(out.lines().count(), 1, "{out}");
        let report: Value = serde_json::from_str(&out).expect("a JSON object");
        assert_eq!(report["isFine"], json!(code == 0), "{report}");
        report
    }
}

/// With a document at its standard input.
fn run(args: &[&str], input: &[u8]) -> Ran {
    ran::run(&[&["routes", "check"], args].concat(), input)
}

fn check(document: &Value) -> Ran {
    run(&["-"], document.to_string().as_bytes())
}

#[track_caller]
fn report(document: &Value, code: i32) -> Value {
    run(&["-", "--json"], document.to_string().as_bytes()).report(code)
}

fn desired(routes: &Value) -> Value {
    json!({
        "schemaVersion": "1.1",
        "routes": routes,
        "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
    })
}

/// A file of that name.
fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("written");
    (folder, path)
}

/// What is said beside a label of the only route.
#[track_caller]
fn said<'o>(out: &'o str, label: &str) -> &'o str {
    let lines = out.lines().filter_map(|line| line.trim_start().strip_prefix(label));
    lines.map(str::trim).next().unwrap_or_else(|| panic!("no {label:?} in {out}"))
}

#[test]
fn the_users_two_routes_are_told_in_words() {
    let manifest = json!({"modulesContent": {
        "$edgeAgent": {"properties.desired": {"modules": {}}},
        "$edgeHub": {"properties.desired": desired(&json!({"all": ALL, "leaves": LEAVES}))},
    }});
    let (_folder, path) = file("deployment.json", manifest.to_string().as_bytes());
    let out = run(&[path.to_str().expect("UTF-8")], b"").expect(0);
    let first = out.lines().next().unwrap_or_default();
    assert_eq!(first, format!("{}: deployment manifest", path.display()));
    for part in [
        "schema version 1.1; a message waits 2 h (7,200 s) at most",
        "1. all\n",
        ALL,
        "2. leaves\n",
        LEAVES,
        "IoT Hub: $upstream (iothub)",
        "none: after 9",
        "2 h (7,200 s), as all",
        "\"leaves\" adds nothing: every message that it selects is sent once by \"all\" already",
    ] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
    assert!(said(&out, "where").contains("$connectionModuleId"), "{out}");
    assert!(!said(&out, "takes").is_empty() && !out.contains("warning"), "{out}");
    assert_eq!(out.lines().last(), Some("2 routes run"));
}

/// As they come out of blogs, chats and word processors.
#[test]
fn the_users_routes_in_the_variants_that_people_paste() {
    let fine = [
        ALL,
        LEAVES,
        "FROM /messages/* WHERE NOT IS_DEFINED ($connectionModuleId) INTO $upstream",
        "FROM /messages/* WHERE NOT IS_DEFINED( $connectionModuleId ) INTO $upstream",
        "from /messages/* where not is_defined($connectionmoduleid) into $UPSTREAM",
        "SELECT * FROM /messages/* WHERE (NOT (IS_DEFINED($connectionModuleId))) INTO $upstream",
        " FROM\t/messages/*\r\n WHERE NOT IS_DEFINED($connectionModuleId)\n INTO $upstream\n",
        // No-break spaces.
        "FROM /messages/*\u{a0}WHERE NOT\u{a0}IS_DEFINED($connectionModuleId) INTO $upstream",
    ];
    for text in fine {
        let report = report(&desired(&json!({"r": text})), 0);
        let route = &report["routes"][0];
        assert_eq!((&route["text"], &route["endpoint"]), (&json!(text), &json!("$upstream")));
        let is_all = !text.to_lowercase().contains("where");
        let plain = route["plain"].as_str().expect("a text");
        let expected = if is_all { ALL } else { LEAVES };
        // Names keep the case in which they were written.
        assert!(plain.eq_ignore_ascii_case(expected), "{text}: {plain}");
        assert_eq!(route["condition"].is_null(), is_all, "{text}");
    }
    // The text, a part of the place, a part of the suggestion.
    let bad = [
        (
            "FROM /messages/* INTO BrokeredEndpoint(\u{201c}/modules/m/inputs/i\u{201d})",
            "\u{201c}",
            "typographic quotes",
        ),
        ("FROM /messages/* WHERE kind == 'alarm' INTO $upstream", "=", "one `=`"),
    ];
    for (text, place, suggestion) in bad {
        let report = report(&desired(&json!({"r": text})), 1);
        let refused = &report["refused"][0];
        let marked: String = {
            let at = |key: &str| refused[key].as_u64().expect("a number") as usize;
            text.chars().skip(at("column") - 1).take(at("length")).collect()
        };
        assert!(marked.starts_with(place), "{marked:?} in {refused}");
        let told = refused["suggestion"].as_str().expect("a text");
        assert!(told.contains(suggestion), "{refused}");
        assert_eq!((&report["running"], &report["setAside"]), (&json!(0), &json!(1)));
    }
}

/// Such quotes are letters to the language: this is a route, that selects nothing.
#[test]
fn names_with_typographic_quotes_are_warned_of() {
    for condition in [
        "kind = \u{2018}alarm\u{2019}",
        "kind = \u{201c}alarm\u{201d}",
        "NOT IS_DEFINED(\u{201c}$connectionModuleId\u{201d})",
    ] {
        let text = format!("FROM /messages/* WHERE {condition} INTO $upstream");
        let report = report(&desired(&json!({"r": text})), 0);
        let warnings = &report["routes"][0]["warnings"];
        let warning = warnings[0].as_str().unwrap_or_else(|| panic!("no warning: {report}"));
        assert!(warning.contains("is read as the name of a property"), "{warning}");
        assert!(warning.contains(" quotes"), "{warning}");
    }
}

/// The quotes of the JSON itself.
#[test]
fn a_document_that_is_no_json_is_told_where_and_what_to_do() {
    let good = desired(&json!({"r": ALL})).to_string();
    let table = [
        (good.replacen("\"r\"", "\u{201c}r\u{201d}", 1), "typographic quotes"),
        (good.replacen("{", "{ // routes of the site\n", 1), "comments are no part of JSON"),
        (good.replacen("7200", "${TTL}", 1), "placeholder"),
        (String::new(), "EOF"),
    ];
    for (text, part) in table {
        let out = run(&["-"], text.as_bytes()).expect(1);
        assert!(out.contains("is refused") && out.contains(part), "{part} in {out}");
        let report = run(&["-", "--json"], text.as_bytes()).report(1);
        assert_eq!((&report["kind"], &report["timeToLiveFrom"]), (&Value::Null, &Value::Null));
        assert!(report["problems"][0].as_str().is_some_and(|p| p.contains(part)), "{report}");
    }
}

#[test]
fn every_kind_of_document_is_taken() {
    let desired = desired(&json!({"r": ALL}));
    let modules = json!({"$edgeHub": {"properties.desired": desired}});
    let manifest = json!({"modulesContent": modules});
    let twin = json!({
        "deviceId": "e", "moduleId": "$edgeHub", "etag": "AAAAAAAAAAE=", "version": 4,
        "properties": {"desired": desired, "reported": {"schemaVersion": "1.1"}},
    });
    let layer = json!({"content": {"modulesContent": {"$edgeHub": {
        "properties.desired.routes.r": {"route": ALL, "priority": 4},
    }}}});
    let table = [
        ("deploymentManifest", manifest.clone()),
        ("deploymentManifest", json!({"content": manifest})),
        ("deploymentTemplate", json!({"$schema-template": "4.0.0", "modulesContent": modules})),
        ("layeredDeployment", layer),
        ("modulePart", modules["$edgeHub"].clone()),
        ("moduleTwin", twin),
        ("desiredProperties", desired),
    ];
    for (kind, document) in table {
        let from_input = report(&document, 0);
        assert_eq!((&from_input["kind"], &from_input["file"]), (&json!(kind), &json!("-")));
        assert_eq!(from_input["routes"][0]["name"], "r", "{from_input}");
        // A file with the marks that editors and shells leave.
        let text = document.to_string();
        let utf16 = text.encode_utf16().flat_map(u16::to_le_bytes);
        let marked = [
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            [0xff, 0xfe].into_iter().chain(utf16).collect(),
        ];
        for bytes in marked {
            let (_folder, path) = file("document.json", &bytes);
            let path = path.to_str().expect("UTF-8");
            let mut from_file = run(&[path, "--json"], b"").report(0);
            assert_eq!(from_file["file"], path);
            from_file["file"] = json!("-");
            assert_eq!(from_file, from_input);
        }
    }
}

#[test]
fn a_layer_says_what_it_does_not_say() {
    let layer = json!({"modulesContent": {"$edgeHub": {
        "properties.desired.routes.own": {"route": ALL, "timeToLiveSecs": 60, "priority": 1},
        "properties.desired.routes.other": ALL,
    }}});
    let out = check(&layer).expect(0);
    for part in [
        "standard input: layered deployment",
        "no schema version; how long a message waits, another deployment says",
        "1 min (60 s), its own",
        "as another deployment says",
        "warning: this is a layered deployment",
        "2 routes run",
    ] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
    let report = report(&layer, 0);
    assert_eq!(
        (&report["timeToLiveFrom"], &report["timeToLiveSecs"]),
        (&json!("otherDeployment"), &Value::Null)
    );
    assert_eq!(report["schemaVersion"], Value::Null);
    let routes = &report["routes"];
    assert_eq!(
        (&routes[0]["timeToLiveFrom"], &routes[0]["timeToLiveSecs"]),
        (&json!("route"), &json!(60))
    );
    assert_eq!(routes[1]["timeToLiveFrom"], "otherDeployment");
}

#[test]
fn what_runs_and_what_is_set_aside_is_counted() {
    let document = desired(&json!({
        "bad": "FROM /messages/* WHERE a == 'b' INTO $upstream",
        "input": "FROM /messages/* INTO BrokeredEndpoint(\"/modules/m/inputs/i\")",
        "prio": {"route": ALL, "priority": 10},
        "urgent": {
            "route": "FROM /messages/modules/m/* INTO $upstream",
            "priority": 0, "timeToLiveSecs": 60, "liveFirst": true,
        },
    }));
    let out = check(&document).expect(1);
    for part in [
        "1. urgent\n",
        "0, the first",
        "1 min (60 s), its own",
        "fresh messages may pass the backlog",
        "2. input\n",
        "/modules/m/inputs/i\n",
        "route \"bad\" is set aside, the others run (column 27):\n\
         FROM /messages/* WHERE a == 'b' INTO $upstream\n\
         \x20                         ^",
        "\"priority\":10",
        "the priority is 10: write 0 (first) to 9 (last)",
    ] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
    let verdict = "2 routes run, 2 are set aside";
    assert_eq!(out.lines().last(), Some(verdict));

    let report = report(&document, 1);
    let counts = ["running", "setAside"].map(|key| report[key].as_u64());
    assert_eq!(counts, [Some(2), Some(2)]);
    let [urgent, input] = [0, 1].map(|at| &report["routes"][at]);
    assert_eq!((&urgent["priority"], &urgent["liveFirst"]), (&json!(0), &json!(true)));
    assert_eq!(
        (&urgent["endpoint"], &urgent["endpointId"]),
        (&json!("$upstream"), &json!("iothub"))
    );
    assert_eq!(
        (&input["endpoint"], &input["endpointId"]),
        (&json!("/modules/m/inputs/i"), &Value::Null)
    );
    assert_eq!(input["priority"], Value::Null);
    let mut refused = report["refused"].as_array().expect("a list").clone();
    refused.sort_by_key(|r| r["name"].to_string());
    assert_eq!(refused[0]["name"], "bad");
    assert_eq!(
        ["line", "column", "length"].map(|key| refused[0][key].as_u64()),
        [Some(1), Some(27), Some(1)]
    );
    assert_eq!(refused[1]["problem"], "the priority is 10");
}

/// As `run` does: in its place every message would be acknowledged and dropped.
#[test]
fn a_document_of_which_no_route_can_run_is_told_to_be_refused() {
    let input = "FROM /messages/* INTO BrokeredEndpoint(\"/modules/m/inputs/i\")";
    let bad = "FROM /messages/* WHERE a == 'b' INTO $upstream";
    // The routes; set aside.
    let table = [(json!({"bad": bad}), 1), (json!({"bad": bad, "entry": 7}), 2)];
    let verdict = "the gateway would refuse this document and keep the last good one; without one it does not start";
    for (routes, set_aside) in table {
        let document = desired(&routes);
        let report = report(&document, 1);
        let counts = ["running", "setAside"].map(|key| report[key].as_u64());
        assert_eq!(counts, [Some(0), Some(set_aside)], "{routes}");
        let problems = report["problems"].as_array().expect("a list");
        let told = problems[0].as_str().expect("a text");
        assert!(told.contains("correct one, or write routes: {}"), "{told}");
        let out = check(&document).expect(1);
        assert_eq!(out.lines().last(), Some(verdict));
        assert!(out.contains(&format!("nothing of it runs:\n- {told}\n")), "{out}");
        assert!(!out.contains("others run") && !out.contains("no route runs"), "{out}");
        assert_eq!(
            out.contains("route \"bad\" is bad (column 27):\n"),
            routes["bad"] == bad,
            "{out}"
        );
    }
    // One that runs is enough, and no route at all is what somebody wants.
    assert_eq!(report(&desired(&json!({"input": input})), 0)["problems"], json!([]));
    assert_eq!(report(&desired(&json!({})), 0)["problems"], json!([]));
    // The deployment below a layer may have one.
    let layer = json!({"$edgeHub": {"properties.desired.routes.bad": bad}});
    let told = report(&layer, 1);
    assert_eq!((&told["problems"], &told["setAside"]), (&json!([]), &json!(1)));
    assert!(told["warnings"].to_string().contains("none of the layer's routes runs"), "{told}");
    let layer = json!({"$edgeHub": {"properties.desired.schemaVersion": "2.0"}});
    let out = check(&layer).expect(1);
    let verdict = "the gateway would refuse a deployment with this layer";
    assert_eq!(out.lines().last(), Some(verdict));
}

#[test]
fn a_document_that_is_refused_for_another_reason_tells_its_routes_too() {
    let mut document = desired(&json!({
        "bad": "FROM /messages/* WHERE a == 'b' INTO $upstream", "all": ALL, "prio": {"route": ALL, "priority": 10},
    }));
    document["schemaVersion"] = json!("3.0");
    document["storeAndForwardConfiguration"] = Value::Null;
    document["mqttBroker"] = json!({});
    let out = check(&document).expect(1);
    for part in [
        "how long a message waits is not said",
        "1. all\n",
        "time to live  not said\n",
        "route \"bad\" is bad (column 27):\nFROM",
        "the priority is 10: write 0 (first)",
        "warning: mqttBroker is not used",
        "nothing of it runs:\n- schemaVersion 3.0 is not supported",
        "\n- storeAndForwardConfiguration is missing",
    ] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
    assert!(!out.contains("others run"), "{out}");
    let report = report(&document, 1);
    let counts = ["running", "setAside"].map(|key| report[key].as_u64());
    assert_eq!(counts, [Some(0), Some(2)]);
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(2), "{report}");
    assert_eq!(report["refused"].as_array().map(Vec::len), Some(2), "{report}");
    assert_eq!(
        (&report["timeToLiveFrom"], &report["timeToLiveSecs"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn routes_that_add_nothing_are_told() {
    // The routes; who adds nothing beside whom.
    let narrow = "FROM /messages/modules/m/* INTO $upstream";
    let input = "FROM /messages/* INTO BrokeredEndpoint(\"/modules/m/inputs/i\")";
    let with = |text: &str, priority: u8, ttl: u32| json!({"route": text, "priority": priority, "timeToLiveSecs": ttl});
    let table: [(Value, &[(&str, &str)]); 11] = [
        (json!({"a": ALL}), &[]),
        (json!({"a": ALL, "b": LEAVES}), &[("b", "by \"a\" already")]),
        // The order of the names makes no difference: all else is the same.
        (json!({"a": LEAVES, "b": ALL}), &[("a", "by \"b\" already")]),
        // Of two that are the same, one.
        (json!({"a": ALL, "b": ALL}), &[("b", "by \"a\" already")]),
        (json!({"a": ALL, "b": narrow}), &[("b", "by \"a\" already")]),
        (json!({"a": narrow, "b": LEAVES}), &[]),
        (json!({"a": LEAVES, "b": LEAVES}), &[]),
        (json!({"a": ALL, "b": input}), &[]),
        // A priority or a time to live of its own is a reason to be there, if it counts.
        (json!({"a": ALL, "b": with(narrow, 3, 60)}), &[]),
        (
            json!({"a": with(ALL, 2, 0), "b": with(narrow, 3, 60)}),
            &[("b", "already, with the priority and time to live of that one")],
        ),
        (json!({"a": with(LEAVES, 3, 60), "b": with(ALL, 3, 0)}), &[]),
    ];
    for (routes, expected) in table {
        let report = report(&desired(&routes), 0);
        let list = report["routes"].as_array().expect("a list");
        let noted: Vec<(&str, &str)> = list
            .iter()
            .filter_map(|r| Some((r["name"].as_str()?, r["notes"][0].as_str()?)))
            .collect();
        assert_eq!(noted.len(), expected.len(), "{routes}: {noted:?}");
        for ((name, note), (expected, part)) in noted.iter().zip(expected) {
            assert!(name == expected && note.ends_with(part), "{routes}: {note}");
        }
    }
}

#[test]
fn a_route_that_selects_nothing_is_warned_of_in_its_place() {
    let document = desired(&json!({
        "good": ALL,
        "star": "FROM /messages/modules/*/outputs/* INTO $upstream",
        "twin": "FROM /twinChangeNotifications/* INTO $upstream",
    }));
    let report = report(&document, 0);
    let warnings = |at: usize| report["routes"][at]["warnings"].as_array().expect("a list").len();
    assert_eq!([warnings(0), warnings(1), warnings(2)], [0, 1, 0], "{report}");
    assert!(said(&check(&document).expect(0), "warning").contains("ordinary character"));
}

#[test]
fn what_is_around_the_routes_is_told() {
    let document = json!({
        "schemaVersion": "1.3", "$version": 17, "routes": {"a b": ALL}, "mqttBroker": {}, "integrity": {},
        "storeAndForwardConfiguration":
            {"timeToLiveSecs": -1, "storeLimits": {"maxSizeBytes": 1_073_741_824}},
    });
    let out = check(&document).expect(0);
    for part in [
        "schema version 1.3; twin version 17; a message waits for ever; the store takes 1.0 GiB at most",
        "for ever, as all",
        "warning: mqttBroker is not used by this gateway",
        "warning: integrity is not used by this gateway",
        "warning: route \"a b\": the Azure portal",
    ] {
        assert!(out.contains(part), "{part:?} in {out}");
    }
    let report = report(&document, 0);
    assert_eq!(
        (&report["timeToLiveSecs"], &report["timeToLiveFrom"]),
        (&Value::Null, &json!("document"))
    );
    assert_eq!(
        (&report["twinVersion"], &report["storeBytesMax"]),
        (&json!(17), &json!(1_073_741_824))
    );
    let none = check(&desired(&json!({}))).expect(0);
    assert!(
        none.contains("warning: there is no route") && none.ends_with("no route runs\n"),
        "{none}"
    );
}

#[test]
fn a_document_that_is_refused_is_told_with_every_problem() {
    let document =
        json!({"moduleId": "$edgeHub", "properties": {"desired": {"schemaVersion": "2.0"}}});
    let out = check(&document).expect(1);
    assert!(out.starts_with("standard input: module twin\n"), "{out}");
    for part in ["- schemaVersion 2.0", "- routes is missing", "- storeAndForwardConfiguration is"]
    {
        assert!(out.contains(part), "{part} in {out}");
    }
    let report = report(&document, 1);
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(3), "{report}");
    assert_eq!((&report["kind"], &report["routes"]), (&json!("moduleTwin"), &json!([])));
    let agent = json!({"moduleId": "$edgeAgent", "properties": {"desired": {}}});
    assert!(check(&agent).expect(1).contains("give that of $edgeHub"));
}

#[test]
fn names_and_texts_of_others_do_not_move_the_cursor() {
    let document = desired(&json!({"a\u{1b}[2J": ALL, "b\u{1b}[2J": "FROM \u{1b}[2J"}));
    let out = check(&document).expect(1);
    assert!(!out.contains('\u{1b}'), "{out:?}");
}

#[test]
fn what_cannot_be_read_is_a_wrong_argument() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("UTF-8");
    let missing = folder.path().join("none.json");
    for (args, part) in [
        (&[missing.to_str().expect("UTF-8")][..], "none.json: No such file"),
        (&[dir][..], "has no file *.json"),
        (&[][..], "<FILE>"),
        (&["-", "x"][..], "unexpected argument"),
        (&["-", "--jsn"][..], "--json"),
    ] {
        let ran = run(args, b"");
        assert!(ran.err.contains(part) && ran.out.is_empty(), "{args:?}: {}{}", ran.out, ran.err);
        ran.expect(64);
    }
    let long = vec![b' '; 1024 * 1024 + 1];
    assert!(run(&["-"], &long).expect(1).contains("more than 1048576 bytes"));
}

#[test]
fn the_help_documents_every_key() {
    let help = run(&["--help"], b"").expect(0);
    let document = desired(&json!({"a": ALL, "b": 7}));
    let report = report(&document, 1);
    let keys =
        |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let all = [keys(&report), keys(&report["routes"][0]), keys(&report["refused"][0])].concat();
    assert!(all.len() > 30, "{all:?}");
    for key in all {
        assert!(help.contains(&key), "{key} in {help}");
    }
}

#[test]
fn a_folder_is_a_base_with_layers_over_it() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().display().to_string();
    let write =
        |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    let ran = run(&[&path], b"");
    assert_eq!(ran.code, Some(64), "{}", ran.err);
    assert!(ran.err.contains("put the base document there"), "{}", ran.err);

    let layer = json!({"content": {"modulesContent": {"$edgeHub": {"properties.desired.routes.leaves": LEAVES}}}});
    write("10-leaves.json", &layer.to_string());
    let report = run(&[&path, "--json"], b"").report(1);
    let problem = report["problems"][0].as_str().expect("a text");
    assert!(
        problem.starts_with("10-leaves.json, the base") && problem.contains("comes first"),
        "{problem}"
    );

    let base = json!({"schemaVersion": "1.1", "routes": {"all": ALL}, "storeAndForwardConfiguration": {"timeToLiveSecs": 7200}});
    write("00-base.json", &base.to_string());
    let report = run(&[&path, "--json"], b"").report(0);
    assert_eq!((&report["kind"], &report["running"]), (&json!("folder"), &json!(2)));
    assert_eq!(report["files"], json!(["00-base.json", "10-leaves.json"]));
    assert_eq!(report["layersSetApart"], json!([]));

    write("20-bad.json", r#"{"routes":[]}"#);
    let out = run(&[&path], b"").expect(1);
    for part in [
        "base and layers, 00-base.json, 10-leaves.json",
        "set apart, the others count: layer 20-bad.json: routes is an array: write an object of named routes",
        "2 routes run; 1 layer set apart",
    ] {
        assert!(out.contains(part), "{part} in {out}");
    }
    // Who named the files moves no cursor.
    write("30\x1b[2J.json", &layer.to_string());
    let out = run(&[&path], b"").expect(1);
    assert!(out.contains("10-leaves.json, 30\u{fffd}[2J.json"), "{out:?}");
    assert!(!out.contains('\x1b'), "{out:?}");
    let report = run(&[&path, "--json"], b"").report(1);
    let apart = &report["layersSetApart"][0];
    assert_eq!((&apart["file"], &apart["reason"]), (&json!("20-bad.json"), &json!("bad")));
}
