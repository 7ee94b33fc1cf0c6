//! `routes explain` and `routes eval`, as a person or a program runs them: no gateway, no network.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ran::{Ran, program, run};

/// Four routes that run, and one that is set aside.
const DOCUMENT: &str = r#"{
    "schemaVersion": "1.1",
    "routes": {
        "alerts": {"route": "FROM /messages/* WHERE level = 'alert' AND as_number(temp) > 30 INTO $upstream",
                   "priority": 0, "timeToLiveSecs": 60},
        "hot": {"route": "FROM /messages/* WHERE $body.t > 30 INTO BrokeredEndpoint(\"/modules/fan/inputs/on\")",
                "priority": 5},
        "module": "FROM /messages/modules/m/* WHERE true INTO $upstream",
        "rest": "FROM /messages/* INTO $upstream",
        "bad": "FROM /messages/* WHERE a == 'x' INTO $upstream"
    },
    "storeAndForwardConfiguration": {"timeToLiveSecs": 7200}
}"#;

impl Ran {
    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.expect(0)).expect("a JSON object")
    }
}

fn start(args: &[&str]) -> Child {
    let mut command = program(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the binary runs")
}

/// A folder with a document and a message.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new(message: &str) -> Self {
        let site = Self { folder: tempfile::tempdir().expect("a folder") };
        std::fs::write(site.path("routes.json"), DOCUMENT).expect("written");
        std::fs::write(site.path("msg.json"), message).expect("written");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn explain(&self, more: &[&str]) -> Ran {
        let [file, message] = ["routes.json", "msg.json"].map(|name| self.path(name));
        let [file, message] = [&file, &message].map(|path| path.to_str().expect("UTF-8"));
        run(&[&["routes", "explain", file, "--message", message], more].concat(), "")
    }
}

/// The answers to `lines`.
fn eval(lines: &[Value]) -> Vec<Value> {
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let ran = run(&["routes", "eval"], &input).ended(0);
    let answers = ran.json_lines();
    assert_eq!(answers.len(), lines.len(), "a line for each line");
    answers
}

/// The verdict of each route, by name.
fn verdicts(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let routes = report["routes"].as_array().expect("routes").iter();
    routes.map(|route| (text(&route["name"]), text(&route["verdict"]))).collect()
}

#[test]
fn a_message_is_explained_route_by_route_with_the_value_of_each_part() {
    let site = Site::new(
        r#"{"device": "sphere-01", "properties": {"LEVEL": "alert", "temp": "31"}, "body": {"t": 21.5}}"#,
    );
    let text = site.explain(&[]).expect(0);
    for part in [
        "route \"alerts\": selected\n",
        "route \"hot\": not selected\n",
        "route \"module\": not selected: it does not look at that source\n",
        "route \"rest\": selected, but route \"alerts\" comes first",
        "route \"bad\" is set aside, the others run (column 27):",
        "goes to:\n  iothub  priority 0  kept 1 min (60 s)  by route \"alerts\"\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let squeezed: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for part in ["as_number(temp) > 30 true", "temp \"31\"", "level \"alert\"", "$body.t 21.5"] {
        assert!(squeezed.iter().any(|line| line.starts_with(part)), "{part}\n{text}");
    }

    let report = site.explain(&["--json"]).json();
    let expected = [
        ("alerts", "selected"),
        ("hot", "notSelected"),
        ("module", "otherSource"),
        ("rest", "selected"),
    ];
    let expected = expected.map(|(name, verdict)| (name.to_owned(), verdict.to_owned()));
    assert_eq!(verdicts(&report), expected);
    let alerts = &report["routes"][0]["condition"];
    assert_eq!(
        (&alerts["type"], &alerts["value"], &alerts["parts"][0]["expression"]),
        (&json!("bool"), &json!(true), &json!("level = 'alert'"))
    );
    let to = json!([{"endpoint": "iothub", "priority": 0, "ttlSecs": 60, "liveFirst": false, "route": "alerts"}]);
    assert_eq!(report["goesTo"], to);
    assert_eq!(report["setAside"][0]["name"], "bad");
}

#[test]
fn what_has_no_value_is_explained_with_the_reason() {
    let site = Site::new(
        r#"{"source": "/messages/modules/m/outputs/o", "body_text": "{\"t\": 31}", "content_type": "text/plain"}"#,
    );
    let report = site.explain(&["--json", "--edge-device", "e7"]).json();
    let verdict = |name: &str| {
        let all = verdicts(&report);
        all.into_iter().find(|(route, _)| route == name).expect("told").1
    };
    assert_eq!(["alerts", "hot", "module"].map(verdict), ["undefined", "undefined", "selected"]);
    let routes = report["routes"].as_array().expect("routes");
    let hot = routes.iter().find(|route| route["name"] == "hot").expect("told");
    assert_eq!(hot["result"], "undefined");
    assert!(hot.to_string().contains("text/plain"), "why the body is not read: {hot}");
    assert_eq!(hot["endpoint"], "e7/fan/on");
    let system = &report["message"]["systemProperties"];
    assert!(
        system.to_string().contains(r#"{"name":"connectionDeviceId","value":"e7"}"#),
        "{system}"
    );
    let text = site.explain(&[]).expect(0);
    assert!(text.contains("undefined, so not selected"), "{text}");
}

#[test]
fn what_cannot_be_read_is_an_error_of_use_that_says_what_to_do() {
    let check = |message: &str, part: &str| {
        let ran = Site::new(message).explain(&[]).ended(64);
        assert!(ran.out.is_empty() && ran.err.contains(part), "{message}: {}", ran.err);
        assert!(ran.err.contains("msg.json"), "{}", ran.err);
    };
    check("{", "not JSON");
    check("[]", "an array: write an object");
    check(r#"{"nothing near": 1}"#, "content_encoding, source, device, module, output, id");
    check(r#"{"propertys": {}}"#, "did you mean \"properties\"?");
    check(r#"{"properties": {"temp": 31}}"#, "quote it, \"31\"");
    check(r#"{"body_base64": "%"}"#, "no base64");

    let site = Site::new("{}");
    std::fs::remove_file(site.path("msg.json")).expect("there");
    let ran = site.explain(&[]).ended(64);
    assert!(ran.err.contains("correct the path"), "{}", ran.err);
    std::fs::write(site.path("routes.json"), "{\"routes\": 1}").expect("written");
    std::fs::write(site.path("msg.json"), "{}").expect("written");
    let ran = site.explain(&[]).ended(64);
    assert!(ran.err.contains("routes.json"), "{}", ran.err);
    assert_eq!(run(&["routes", "explain"], "").code, Some(64));
    assert_eq!(run(&["routes", "eval", "--edge-device", "a/b"], "").code, Some(64));
}

#[test]
fn either_file_may_come_from_standard_input_and_not_both() {
    let site = Site::new(r#"{"module": "m"}"#);
    let [file, message] = ["routes.json", "msg.json"].map(|name| site.path(name));
    let [file, message] = [&file, &message].map(|path| path.to_str().expect("UTF-8"));
    let ask = |file: &str, message: &str, input: &str| {
        run(&["routes", "explain", file, "--message", message, "--json"], input)
    };
    let both_files = ask(file, message, "").json();
    assert_eq!(both_files["message"]["source"], "/messages/modules/m/");
    assert_eq!(ask(file, "-", r#"{"module": "m"}"#).json(), both_files);
    assert_eq!(ask("-", message, DOCUMENT).json(), both_files);
    let ran = ask("-", "-", DOCUMENT).ended(64);
    assert!(ran.err.contains("write one of them into a file"), "{}", ran.err);
    let ran = ask("-", message, "{").ended(64);
    assert!(ran.err.contains("not JSON"), "{}", ran.err);
}

#[test]
fn what_a_gateway_would_not_run_goes_nowhere() {
    let site = Site::new(r#"{"device": "d", "body": {"t": 31}}"#);
    let report = site.explain(&["--json"]).json();
    let hot = verdicts(&report).into_iter().find(|(name, _)| name == "hot").expect("told").1;
    assert_eq!((hot.as_str(), &report["problems"]), ("selected", &json!([])));
    let to: Vec<&Value> =
        report["goesTo"].as_array().expect("a list").iter().map(|to| &to["endpoint"]).collect();
    assert_eq!(to.len(), 2, "the hub and the module's input: {to:?}");

    // None can run: the document decides nothing.
    let document: Value = serde_json::from_str(DOCUMENT).expect("JSON");
    let mut refused = document.clone();
    refused["routes"] = json!({"entry": 7, "bad": document["routes"]["bad"]});
    std::fs::write(site.path("routes.json"), refused.to_string()).expect("written");
    let report = site.explain(&["--json"]).json();
    assert_eq!((&report["goesTo"], &report["routes"]), (&json!([]), &json!([])));
    assert!(report["problems"].to_string().contains("none of its 2 routes can run"), "{report}");
    let text = site.explain(&[]).expect(0);
    assert!(text.contains("would refuse this document and keep the last good one"), "{text}");
    assert!(!text.contains("goes nowhere") && !text.contains("the others run"), "{text}");
}

#[test]
fn a_layer_is_explained_alone() {
    let site = Site::new(r#"{"device": "d"}"#);
    let layer = json!({"modulesContent": {"$edgeHub": {
        "properties.desired.routes.all": "FROM /messages/* INTO $upstream",
    }}});
    std::fs::write(site.path("routes.json"), layer.to_string()).expect("written");
    let report = site.explain(&["--json"]).json();
    assert_eq!(report["goesTo"][0]["route"], "all");
    let warnings = report["warnings"].to_string();
    for part in ["this is a layered deployment: it is read alone", "7200 s is taken here"] {
        assert!(warnings.contains(part), "{part} in {warnings}");
    }
    // A layer without a route that runs is no document to refuse.
    let layer = layer.to_string().replace("$upstream", "nowhere");
    std::fs::write(site.path("routes.json"), layer).expect("written");
    let report = site.explain(&["--json"]).json();
    assert_eq!((&report["problems"], &report["goesTo"]), (&json!([]), &json!([])));
}

#[test]
fn conditions_are_evaluated_line_by_line() {
    let body = json!({"t": 31, "on": true, "gone": null}).to_string();
    let changes = "/twinChangeNotifications/*";
    let utf16: Vec<u8> = r#"{"é":"x"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf16 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, utf16);
    let changed = r#"{"properties":{"reported":{"a":null}}}"#;
    // A condition, what is given beside it, and what it comes to.
    let cases = [
        ("temp = '31'", json!({"properties": {"TEMP": "31"}}), "true"),
        ("temp = '31'", json!({"properties": {"temp": "32"}}), "false"),
        ("temp = '31'", json!({}), "undefined"),
        ("", json!({}), "undefined"),
        ("  ", json!({"condition": ""}), "undefined"),
        ("'text'", json!({}), "undefined"),
        ("true", json!({"message_source": null, "expected": "true"}), "true"),
        ("is_defined(flag)", json!({"properties": {"flag": null}}), "true"),
        ("flag = ''", json!({"properties": {"flag": null}}), "undefined"),
        ("$cid = 'x'", json!({"system_properties": {"CID": "x"}}), "true"),
        ("$nobody = 'x'", json!({"system_properties": {"nobody": "x"}}), "true"),
        ("$contentType = 'a/b'", json!({"content_type": "a/b"}), "true"),
        ("$contentencoding = 'z'", json!({"content_encoding": "z"}), "true"),
        ("is_defined($connectionModuleId)", json!({}), "false"),
        ("$body.t > 30", json!({"body_text": body}), "undefined"),
        (
            "$body.t > 30 AND $body.on",
            json!({"body_text": body, "content_type": "application/json", "content_encoding": "utf-8"}),
            "true",
        ),
        (
            "$body.gone = null",
            json!({"body_text": body, "system_properties":
                {"contentType": "Application/JSON", "contentEncoding": "UTF-8"}}),
            "true",
        ),
        (
            "$body.é = 'x'",
            json!({"body_base64": utf16, "content_type": "application/json", "content_encoding": "utf-16"}),
            "true",
        ),
        ("3 = key", json!({}), "error"),
        ("a == 'x'", json!({}), "error"),
        ("true", json!({"message_source": "messages"}), "error"),
        ("twin_change_includes(properties.reported.a)", json!({"body_text": changed}), "error"),
        (
            "twin_change_includes(properties.reported.a)",
            json!({"message_source": changes, "body_text": changed,
                "content_type": "application/json", "content_encoding": "utf-8"}),
            "true",
        ),
    ];
    let line = |(n, (condition, more, _)): (usize, &(&str, Value, &str))| {
        let mut line = json!({"id": n, "condition": condition});
        let more = more.as_object().expect("an object").clone();
        line.as_object_mut().expect("an object").extend(more);
        line
    };
    let lines: Vec<Value> = cases.iter().enumerate().map(line).collect();
    for (n, (answer, (condition, more, expected))) in eval(&lines).iter().zip(&cases).enumerate() {
        assert_eq!(answer["id"], n);
        assert_eq!(answer["result"], *expected, "{condition} {more}: {answer}");
        let has_detail = answer["detail"].as_str().is_some_and(|detail| !detail.is_empty());
        assert_eq!(has_detail, matches!(*expected, "undefined" | "error"), "{answer}");
        assert_eq!(answer.as_object().expect("an object").len(), 3, "{answer}");
    }
}

#[test]
fn the_detail_says_where_and_why() {
    let ask = |condition: &str, more: Value| {
        let mut line = json!({"id": condition, "condition": condition});
        let more = more.as_object().expect("an object").clone();
        line.as_object_mut().expect("an object").extend(more);
        eval(&[line])[0]["detail"].as_str().expect("text").to_owned()
    };
    assert!(ask("a == 'x'", json!({})).starts_with("a == 'x'\n   ^ "));
    let missing = ask("x = 'y' AND NOT (temp = '1')", json!({"properties": {"x": "y"}}));
    assert!(missing.contains("temp"), "{missing}");
    let body = ask("$body.a = 1", json!({"body_text": "{}", "content_type": "text/plain"}));
    assert!(body.contains("text/plain"), "{body}");
    let source = ask("true", json!({"message_source": "messages"}));
    assert!(source.starts_with("message_source:\nmessages\n^"), "{source}");
}

#[test]
fn a_program_may_ask_one_line_at_a_time() {
    let mut child = start(&["routes", "eval"]);
    let mut to = child.stdin.take().expect("piped");
    let from = child.stdout.take().expect("piped");
    let (answers, read) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        BufReader::new(from).lines().map_while(Result::ok).try_for_each(|line| answers.send(line))
    });
    for (line, expected) in [
        ("nonsense", r#"{"id":null,"result":"error","detail":"line 1: not JSON"#),
        (r#"{"id":"b","condition":"true"}"#, r#"{"id":"b","result":"true","detail":null}"#),
        (r#"{"id":[3],"condition":"false"}"#, r#"{"id":[3],"result":"false","detail":null}"#),
    ] {
        writeln!(to, "{line}").expect("it reads");
        let answer = read.recv_timeout(Duration::from_secs(60)).expect("an answer at once");
        assert!(answer.starts_with(expected), "{answer}");
    }
    drop(to);
    assert!(child.wait().expect("it ends").success());
    let _ = reader.join();
}

#[test]
fn many_lines_are_answered_in_order_and_a_closed_pipe_ends_it_quietly() {
    let line = |n: usize| {
        let condition = format!("temp > '{}'", n % 1500);
        json!({"id": n, "condition": condition, "properties": {"temp": "5"}})
    };
    let lines: Vec<Value> = (0..20_000).map(line).collect();
    for (n, answer) in eval(&lines).iter().enumerate() {
        let expected = "5" > (n % 1500).to_string().as_str();
        assert_eq!((&answer["id"], &answer["result"]), (&n.into(), &expected.to_string().into()));
    }

    let mut child = start(&["routes", "eval"]);
    let mut to = child.stdin.take().expect("piped");
    drop(child.stdout.take());
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let feed = std::thread::spawn(move || to.write_all(input.as_bytes()).is_ok());
    let output = child.wait_with_output().expect("it ends");
    assert!(!feed.join().expect("no panic"), "it ended with lines left");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
