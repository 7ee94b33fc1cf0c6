//! The commands that look at a store and at a volume, as a person runs them: words, JSON, exit codes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use sphere_gateway::clock::{self, UnixMillis};
use sphere_gateway::pump::deadletter::DeadLetter;
use sphere_gateway::store::{
    Append, AppendChain, AppendClass, AppendTo, Config, Offset, QueueId, RealDisk, ReceiptTo, Store,
};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::ran::{self, Ran, program};

/// A storage folder with a store: 20 messages in iothub/10 (5 settled), 3 in a side queue of it, one dead letter.
struct Site {
    folder: TempDir,
}

fn run(args: &[&str]) -> Ran {
    ran::run(args, "")
}

/// A message of `sphere-01` as the gateway stores it: form 1 of `message.rs`.
fn message(n: usize) -> Bytes {
    let long = |text: &str| [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let device = "sphere-01";
    let message_id = 1;
    Bytes::from(
        [
            vec![1, 0],
            1_700_000_000_000u64.to_le_bytes().to_vec(),
            (device.len() as u16).to_le_bytes().to_vec(),
            device.as_bytes().to_vec(),
            vec![1, message_id],
            long(&format!("m-{n}")),
            1u16.to_le_bytes().to_vec(),
            long("n"),
            vec![1],
            long(&n.to_string()),
            format!("{{\"n\":{n}}}").into_bytes(),
        ]
        .concat(),
    )
}

fn main_queue() -> QueueId {
    QueueId::new("iothub", 10)
}

async fn append(store: &Store, queue: &QueueId, payloads: Vec<Bytes>) {
    let (to, mut receipts) = mpsc::channel(payloads.len());
    let chain = AppendChain::new();
    let count = payloads.len();
    for payload in payloads {
        let append = Append {
            queues: vec![AppendTo { queue: queue.clone(), ttl_secs: 60 }],
            payload,
            since: None,
            class: AppendClass::Ingress,
            receipt: ReceiptTo::new(0, to.clone(), &chain),
        };
        store.appender().append(append).await.expect("taken");
    }
    for _ in 0..count {
        receipts.recv().await.expect("a receipt").result.expect("durable");
    }
}

impl Site {
    async fn new(messages: usize) -> Self {
        let site = Self { folder: tempfile::tempdir().expect("a folder") };
        let config = Config::new(site.queues());
        let (store, _) = Store::open(config, Arc::new(RealDisk), clock::system()).expect("opens");
        let encoded = |range: std::ops::Range<usize>| range.map(message).collect();
        append(&store, &main_queue(), encoded(0..messages)).await;
        append(&store, &main_queue().with_lane("sphere-01"), encoded(0..3)).await;
        let letter = DeadLetter {
            stored: message(99),
            died: UnixMillis(1_700_000_060_000),
            count: 1,
            reason: "rejected".to_owned(),
            detail: "amqp:not-allowed".to_owned(),
        };
        append(&store, &QueueId::new("deadletter", 10), vec![letter.encode()]).await;
        store.queue(&main_queue()).await.expect("there").settle(Offset(5));
        store.close().await;
        site
    }

    fn queues(&self) -> PathBuf {
        self.folder.path().join("edgeHub/queues")
    }

    fn run(&self, args: &[&str]) -> Ran {
        let storage = self.folder.path().to_str().expect("UTF-8");
        run(&[args, &["--storage", storage]].concat())
    }

    /// The only segment of a queue.
    fn segment(&self, queue: &str) -> PathBuf {
        let entries = std::fs::read_dir(self.queues().join(queue)).expect("a folder");
        let mut paths = entries.map(|entry| entry.expect("an entry").path());
        paths.find(|path| path.extension().is_some_and(|e| e == "seg")).expect("a segment")
    }
}

#[tokio::test]
async fn the_list_of_a_gateway_that_is_off_comes_from_its_folder() {
    let site = Site::new(20).await;
    let text = site.run(&["queue"]).expect(0);
    let row = text.lines().find(|line| line.starts_with("iothub/10")).expect("a row");
    assert!(row.contains("with 1 side queue ") && row.contains(" 18 "), "{text}");
    assert!(text.contains("rates and forecast need a running gateway"), "{text}");

    let listed = site.run(&["queue", "list", "--json", "--side-queues"]);
    let report = &listed.json_lines()[0];
    assert_eq!(report["source"], "folder");
    let queues = report["queues"].as_array().expect("queues");
    let messages = |lane: &Value| {
        let mut ours = queues.iter().filter(|q| q["endpoint"] == "iothub" && q["lane"] == *lane);
        ours.next().map(|q| q["messages"].clone())
    };
    assert_eq!(messages(&Value::Null), Some(15.into()));
    assert_eq!(messages(&"sphere-01".into()), Some(3.into()));
    assert!(queues.iter().all(|q| q["inPerSec"].is_null()));
    assert!(report["store"]["usedBytes"].as_u64() > Some(4096));
}

#[test]
fn the_list_of_a_running_gateway_comes_from_its_metrics_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a caller");
        let mut request = [0; 1024];
        let read = stream.read(&mut request).expect("a request");
        let body = r#"{"queues":[{"endpoint":"iothub","priority":10,"live":true,"lane":null,"messages":7,"bytes":2048,
            "oldestAgeSecs":61,"inPerSec":10,"outPerSec":2.5,"bytesInPerSec":1,"bytesOutPerSec":1}],
            "store":{"usedBytes":1288490189,"limitBytes":4294967296,"whenFull":"reject","budgetLastsSecs":964800,
            "firstDropSecs":6720,"firstDropWhy":"ttl"}}"#;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).expect("taken");
        String::from_utf8_lossy(&request[..read]).into_owned()
    });
    let text = run(&["queue", "list", "--admin", &address]).expect(0);
    assert!(serving.join().expect("it served").starts_with("GET /queues HTTP/1.1"));
    let row: Vec<&str> = text.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(row, ["iothub/10-live", "7", "2.0", "KiB", "1", "min", "1", "s", "10.0", "2.5"]);
    assert!(text.contains("the budget lasts 11 d 4 h"), "{text}");
    assert!(text.contains("first drop expected in 1 h 52 min (time-to-live)"), "{text}");
    // Nobody there any more: not a folder's numbers in its place.
    let ran = run(&["queue", "--admin", &address]);
    assert!(ran.err.contains("no answer from the gateway"), "{}", ran.err);
    ran.expect(1);
}

#[test]
fn what_cannot_be_done_as_asked_ends_with_64_and_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().to_str().expect("UTF-8");
    for (args, part) in [
        (vec!["queue", "verify"], "--storage DIR"),
        (vec!["queue", "export", "--storage", empty], "there is no store at"),
        (vec!["queue", "--colour"], "--colour"),
        (vec!["doctor", "disk"], "--dir DIR"),
        (vec!["doctor"], "Usage"),
        (vec!["queue", "--admin", "bogus"], "write a host and a port"),
        (vec!["queue", "--json", "verify", "--storage", empty], "behind the word"),
        (vec!["doctor", "disk", "--dir", "/nowhere-at-all"], "give --dir a folder that is there"),
    ] {
        let ran = run(&args);
        assert!(ran.err.contains(part), "{args:?}: {}", ran.err);
        ran.expect(64);
    }
    run(&["--help"]).expect(0);
    // As the gateway is given it.
    let ran = program(&["queue", "verify"]).env("StorageFolder", empty).output().expect("runs");
    assert!(String::from_utf8_lossy(&ran.stderr).contains("edgeHub/queues"));
}

#[tokio::test]
async fn messages_are_exported_in_order_and_whole() {
    let site = Site::new(20).await;
    let ran = site.run(&["queue", "export"]);
    let lines = ran.json_lines();
    ran.expect(0);
    assert_eq!(lines.len(), 18, "what waits, without dead letters");
    for (line, n) in lines.iter().zip((5..20).chain(0..3)) {
        assert_eq!(line["device"], "sphere-01");
        assert_eq!(line["bodyText"], format!("{{\"n\":{n}}}"));
        assert_eq!(line["systemProperties"]["messageId"], format!("m-{n}"));
        assert_eq!(line["applicationProperties"]["n"], n.to_string());
        assert_eq!(line["receivedUtc"], "2023-11-14T22:13:20.000Z");
        assert_eq!(line["ttlSecs"], 60);
    }
    assert_eq!((&lines[0]["queue"], &lines[0]["offset"]), (&"iothub/10".into(), &5.into()));

    let file = site.folder.path().join("out.jsonl");
    let to = file.to_str().expect("UTF-8");
    let side = ["queue", "export", "--queue", "iothub/10/sphere-01", "--limit", "2", "--out", to];
    assert_eq!(site.run(&side).expect(0), "");
    assert_eq!(std::fs::read_to_string(&file).expect("written").lines().count(), 2);
    let again = site.run(&side);
    assert!(again.err.contains("exists: name a new file"), "no file is replaced: {}", again.err);
    assert_eq!(again.err.matches("os error").count(), 1, "said once: {}", again.err);
    again.expect(1);
    let ran = site.run(&["queue", "export", "--queue", "iothub/3"]);
    assert!(ran.err.contains("there are: deadletter/10, iothub/10"), "{}", ran.err);
    ran.expect(64);
}

#[tokio::test]
async fn a_reader_that_has_enough_ends_an_export_quietly() {
    let site = Site::new(2000).await;
    let storage = site.folder.path().to_str().expect("UTF-8");
    let mut child = program(&["queue", "export", "--storage", storage])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut line = String::new();
    let mut out = BufReader::with_capacity(64, child.stdout.take().expect("piped"));
    out.read_line(&mut line).expect("a line");
    drop(out);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}

#[tokio::test]
async fn damage_is_named_by_file_place_and_offset() {
    let site = Site::new(20).await;
    let text = site.run(&["queue", "verify"]).expect(0);
    assert!(
        text.contains("24 records intact in 3 queues") && text.contains("nothing is damaged"),
        "{text}"
    );

    let path = site.segment("iothub.10");
    let mut bytes = std::fs::read(&path).expect("readable");
    let needle = br#"{"n":12}"#;
    let at = bytes.windows(needle.len()).position(|w| w == needle).expect("the message");
    bytes[at + 5] ^= 1;
    std::fs::write(&path, &bytes).expect("writable");
    let text = site.run(&["queue", "verify"]).expect(1);
    assert!(text.contains("damaged: the message 12 is lost"), "{text}");
    assert!(text.contains(&path.display().to_string()), "{text}");
    assert!(text.contains("23 records intact"), "{text}");

    let ran = site.run(&["queue", "verify", "--json"]);
    let lines = ran.json_lines();
    ran.expect(1);
    let number = |name: &str| lines[0][name].as_u64().expect("a number");
    assert_eq!((number("offset"), number("offsetEnd")), (12, 13));
    assert!((number("position")..number("positionEnd")).contains(&(at as u64 + 5)));
    assert_eq!((&lines[1]["damaged"], &lines[1]["recordsLost"]), (&1.into(), &1.into()));

    let ran = site.run(&["queue", "export", "--queue", "iothub/10"]);
    let lines = ran.json_lines();
    ran.expect(1);
    let lost: Vec<_> = lines.iter().filter(|line| !line["error"].is_null()).collect();
    assert_eq!((lines.len(), lost.len()), (18, 1), "all others come out");
    assert_eq!((&lost[0]["offset"], &lost[0]["offsetLast"]), (&12.into(), &12.into()));
    assert_eq!(std::fs::read(&path).expect("readable"), bytes, "nothing was repaired");
}

/// The file is cut behind a record: only the checkpoint knows that there were more.
#[tokio::test]
async fn what_is_missing_is_said_beside_what_comes_out() {
    let site = Site::new(20).await;
    // A letter before another one: its place proves that it was there.
    let config = Config::new(site.queues());
    let letters = QueueId::new("deadletter", 10);
    let (store, _) = Store::open(config, Arc::new(RealDisk), clock::system()).expect("opens");
    append(&store, &letters, vec![message(1)]).await;
    append(&store, &letters, vec![message(2)]).await;
    store.close().await;
    let path = site.segment("deadletter.10");
    let mut bytes = std::fs::read(&path).expect("readable");
    bytes[64 + 50] ^= 1;
    std::fs::write(&path, &bytes).expect("writable");
    let file = std::fs::OpenOptions::new().write(true).open(site.segment("iothub.10"));
    file.expect("writable").set_len(64).expect("cut");
    let ran = site.run(&["queue", "export", "--queue", "iothub/10"]);
    assert!(ran.err.contains("15 messages damaged or missing on disk"), "{}", ran.err);
    let lost: Vec<Value> = ran.json_lines().into_iter().filter(|l| !l["error"].is_null()).collect();
    assert_eq!((&lost[0]["offset"], &lost[0]["offsetLast"]), (&5.into(), &19.into()));
    ran.expect(1);
    for how in ["--json", "--export"] {
        let ran = site.run(&["queue", "dead-letters", how]);
        assert!(ran.err.contains("1 dead letter damaged or missing"), "{how}: {}", ran.err);
        ran.expect(1);
    }
    let text = site.run(&["queue", "verify"]).expect(1);
    assert!(text.contains("2 places are damaged; 16 messages that waited lost"), "{text}");
}

#[tokio::test]
async fn the_storage_folder_may_be_named_before_the_word() {
    let site = Site::new(6).await;
    let storage = site.folder.path().to_str().expect("UTF-8");
    run(&["queue", "--storage", storage, "verify"]).expect(0);
    run(&["queue", "--storage", storage, "--json"]).expect(0);
}

#[tokio::test]
async fn dead_letters_are_listed_and_exported() {
    let site = Site::new(6).await;
    let text = site.run(&["queue", "dead-letters"]).expect(0);
    let row = text.lines().nth(1).expect("a row");
    for part in ["2023-11-14T22:14:20.000Z", "rejected", "sphere-01", "m-99", "amqp:not-allowed"] {
        assert!(row.contains(part), "{part} in {text}");
    }
    assert!(text.contains("1 dead letter, for 1 message;"), "{text}");
    let listed = site.run(&["queue", "dead-letters", "--json"]).json_lines().remove(0);
    assert_eq!((&listed["reason"], listed.get("message")), (&"rejected".into(), None));
    let exported = site.run(&["queue", "dead-letters", "--export"]).json_lines().remove(0);
    assert_eq!(exported["message"]["bodyText"], r#"{"n":99}"#);
}

/// What the first format left on the disks in the field. A link, so that any change would show in the fixture itself.
#[test]
fn a_store_of_format_1_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("edgeHub")).expect("made");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-format-1");
    std::os::unix::fs::symlink(fixture, folder.path().join("edgeHub/queues")).expect("linked");
    let storage = ["--storage", folder.path().to_str().expect("UTF-8")];
    let run = |args: &[&str]| run(&[args, &storage].concat());
    run(&["queue", "verify"]).expect(0);
    let listed = run(&["queue", "--json"]).json_lines().remove(0);
    let queues = listed["queues"].as_array().expect("queues");
    let total: u64 = queues.iter().filter_map(|q| q["messages"].as_u64()).sum();
    assert_eq!(total, 61 - 7, "{listed}");
    let letters = run(&["queue", "dead-letters", "--export"]).json_lines().len();
    let lines = run(&["queue", "export"]).json_lines();
    assert_eq!(lines.len() + letters, 61 - 7);
    assert!(lines.iter().all(|line| line["device"] == "sphere-01" && line.get("error").is_none()));
}

#[test]
fn the_doctor_measures_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("UTF-8");
    let args = ["doctor", "disk", "--seconds", "1", "--power-cuts", "4", "--dir", dir];
    let ran = run(&[&args[..], &["--json"]].concat());
    let report = &ran.json_lines()[0];
    let found = &report["found"];
    for latency in found["latency"].as_array().expect("latencies") {
        let of = |name: &str| latency[name].as_u64().expect("a number");
        assert!(of("samples") > 0 && of("p50Micros") <= of("p99Micros"), "{latency}");
        assert!(of("p99Micros") <= of("maxMicros"), "{latency}");
    }
    let written: Vec<f64> = found["writeAmplification"]
        .as_array()
        .expect("three")
        .iter()
        .map(|a| a["writtenPerPayloadByte"].as_f64().expect("a number"))
        .collect();
    assert_eq!(written.len(), 3);
    assert!(written.iter().all(|w| *w > 1.0), "{written:?}");
    let cuts = &found["powerCuts"];
    let of = |name: &str| cuts[name].as_u64().expect("a number");
    assert_eq!((of("cuts"), of("lost"), of("forged")), (4, 0, 0), "{cuts}");
    assert!(of("acked") > 0, "however few, they are spread over the run: {cuts}");
    let verdicts = report["verdicts"].as_array().expect("verdicts");
    let is_bad = verdicts.iter().any(|verdict| verdict["level"] == "error");
    ran.expect(i32::from(is_bad));
    assert_eq!(std::fs::read_dir(dir).expect("a folder").count(), 0);
    let text = run(&args).expect(i32::from(is_bad));
    assert!(text.contains("fdatasync of 4.0 KiB: ") && text.contains(" free"), "{text}");
}

#[test]
fn the_doctor_cleans_up_when_it_is_interrupted() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().to_str().expect("UTF-8");
    let args = ["doctor", "disk", "--seconds", "600", "--dir", dir];
    let child = program(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let own = || std::fs::read_dir(dir).expect("a folder").next();
    // Its first file shows that it hears signals: it listens before it measures.
    let is_measuring = || {
        let own = own().and_then(Result::ok).map(|entry| entry.path());
        own.is_some_and(|own| std::fs::read_dir(own).is_ok_and(|mut files| files.next().is_some()))
    };
    while !is_measuring() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.stdout, output.stderr), (vec![], vec![]), "quietly");
    assert!(own().is_none(), "nothing is left behind");
}
