//! What is in the file, how large it may be, and what a disk that refuses costs.

use serde_json::Value;

use super::*;
use crate::auth::decision::Stage;
use crate::auth::testing::{NOW, StillClock, admitted};
use crate::identity::{ClientName, DeviceId};

const BYTES_MAX: u64 = 64 * 1024;

fn decision(number: u64, admit: bool) -> Decision {
    let claim = format!("dev-{number}");
    let outcome = match admit {
        true => Outcome::Admitted { identity: admitted(&claim).identity, method: "token" },
        false => Outcome::Refused {
            label: "disabled",
            detail: "it is\nswitched \"off\"".to_owned(),
            hint: None,
        },
    };
    Decision {
        at: NOW,
        stage: Stage::Connect,
        peer: Some(([192, 0, 2, 1], 4711).into()),
        claim: Some(ClientName::Device(DeviceId::parse(&claim).unwrap())),
        outcome,
        certificate: None,
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn metrics() -> Arc<Metrics> {
    Metrics::new("hub", "edge")
}

fn clock() -> SharedClock {
    StillClock::at(NOW)
}

/// A socket that was turned away, as each from that address is while it is banned.
fn banned(address: u32) -> Decision {
    let ip = std::net::Ipv4Addr::from_bits(0x0a00_0000 + address);
    let detail = "nothing but failures came from its address: 60 s to go".to_owned();
    Decision {
        stage: Stage::Accept,
        peer: Some((ip, 4711).into()),
        claim: None,
        outcome: Outcome::Refused { label: "address_banned", detail, hint: None },
        ..decision(0, false)
    }
}

/// What `audit_line_dropped` counts under `reason`.
fn dropped(metrics: &Metrics, reason: &str) -> u64 {
    let text = metrics.render();
    let reason = format!("reason=\"{reason}\"");
    let mut found =
        text.lines().filter(|l| l.contains("audit_line_dropped") && l.contains(&reason));
    found.next().map_or(0, |l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
}

async fn write_all(log: AuditLog, writer: AuditWriter, decisions: impl Iterator<Item = Decision>) {
    let stop = CancellationToken::new();
    let mut writing = tokio::task::JoinSet::new();
    writing.spawn(writer.run(stop.clone()));
    for decision in decisions {
        // As many as a batch at a time: then none finds the channel full.
        while log.lines.capacity() < BATCH_MAX {
            tokio::task::yield_now().await;
        }
        log.keep(decision);
    }
    stop.cancel();
    writing.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_line_says_who_what_and_why_and_is_the_owner_s_alone() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = metrics();
    let (log, writer) = open(dir.path(), BYTES_MAX, &clock(), &metrics);
    write_all(log, writer, [decision(1, true), decision(2, false)].into_iter()).await;
    let path = dir.path().join(FILE);
    let common = |claim: &str| {
        serde_json::json!({"at": "2027-01-15T08:00:00Z", "stage": "connect", "peer": "192.0.2.1:4711",
            "claim": claim, "certificate": null})
    };
    let with = |mut value: Value, more: &[(&str, &str)]| {
        for (name, text) in more {
            value[*name] = (*text).into();
        }
        value
    };
    let expected = [
        with(
            common("dev-1"),
            &[("outcome", "admitted"), ("identity", "dev-1"), ("method", "token")],
        ),
        with(
            common("dev-2"),
            &[("outcome", "refused"), ("reason", "disabled"), ("detail", "it is switched \"off\"")],
        ),
    ];
    assert_eq!(lines(&path), expected);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_decisions_stay_within_the_bytes_and_the_newest_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = metrics();
    let (log, writer) = open(dir.path(), BYTES_MAX, &clock(), &metrics);
    write_all(log, writer, (0..10_000).map(|n| decision(n, true))).await;
    assert_eq!(dropped(&metrics, "full"), 0);
    let (newer, older) = (dir.path().join(FILE), dir.path().join("audit.jsonl.1"));
    let bytes = |path: &Path| fs::metadata(path).unwrap().len();
    assert!(bytes(&newer) + bytes(&older) <= BYTES_MAX);
    assert!(bytes(&older) > BYTES_MAX / 2 - 1024, "a file is filled before it is rotated");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    let all: Vec<Value> = lines(&older).into_iter().chain(lines(&newer)).collect();
    let first = 10_000 - all.len();
    for (at, line) in all.iter().enumerate() {
        assert_eq!(line["claim"], format!("dev-{}", first + at), "without a gap to the last");
    }
}

#[test]
fn what_a_crash_cut_off_is_ended_and_what_is_there_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    fs::write(&path, "{\"a\":1}\n{\"torn").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let mut file = AuditFile::new(path.clone(), BYTES_MAX);
    file.write(&["{\"b\":2}\n".to_owned()]).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"torn\n{\"b\":2}\n");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_disk_that_refuses_costs_lines_and_a_counter() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("gone");
    let metrics = metrics();
    let (log, writer) = open(&folder, BYTES_MAX, &clock(), &metrics);
    write_all(log, writer, (0..10).map(|n| decision(n, false))).await;
    assert_eq!(dropped(&metrics, "write_failed"), 10);
}

/// `/dev/full` takes an open and refuses each write, as a full disk does.
#[test]
fn a_full_disk_is_told_and_the_next_write_tries_again() {
    let mut file = AuditFile::new("/dev/full".into(), BYTES_MAX);
    let opened = OpenOptions::new().append(true).open("/dev/full").unwrap();
    file.open = Some((opened, 0));
    let line = ["{}\n".to_owned()];
    assert_eq!(file.write(&line).unwrap_err().kind(), io::ErrorKind::StorageFull);
    let dir = tempfile::tempdir().unwrap();
    file.path = dir.path().join(FILE);
    file.write(&line).unwrap();
    assert_eq!(fs::read_to_string(&file.path).unwrap(), "{}\n");
}

#[tokio::test]
async fn nobody_waits_for_the_disk_and_what_finds_no_room_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = metrics();
    let (log, writer) = open(dir.path(), 1 << 30, &clock(), &metrics);
    let more = 100;
    // The writer does not run: nothing takes a line out.
    for number in 0..(WAITING_MAX + more) as u64 {
        log.keep(decision(number, true));
    }
    assert_eq!(dropped(&metrics, "full"), more as u64);
    let stop = CancellationToken::new();
    stop.cancel();
    writer.run(stop).await;
    assert_eq!(lines(&dir.path().join(FILE)).len(), WAITING_MAX, "the end writes what has come");
    log.keep(decision(0, false));
    log.keep(decision(0, true));
    assert_eq!(dropped(&metrics, "closed"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_cheap_connects_push_no_admission_out() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = metrics();
    let (log, writer) = open(dir.path(), BYTES_MAX, &clock(), &metrics);
    let flood = |addresses: u32| (0..25_000).map(move |n| banned(n % addresses));
    let admissions = (0..10).map(|n| decision(n, true));
    let all = admissions.chain(flood(1)).chain(flood(5000)).chain([decision(10, false)]);
    write_all(log, writer, all).await;
    assert_eq!(dropped(&metrics, "full"), 0);
    let lines = lines(&dir.path().join(FILE));
    let with_name = lines.iter().filter(|line| line["stage"] == "connect");
    let claims: Vec<_> = with_name.map(|line| line["claim"].as_str().unwrap()).collect();
    assert_eq!(claims, (0..=10).map(|n| format!("dev-{n}")).collect::<Vec<_>>());
    let counted: Vec<_> = lines.iter().filter(|line| line["stage"] == "accept").collect();
    assert_eq!(counted.len(), crowd::LIKES_MAX + 1);
    assert_eq!(counted.iter().map(|line| line["times"].as_u64().unwrap()).sum::<u64>(), 50_000);
    let first = &counted[0];
    assert_eq!((&first["peer"], &first["times"]), (&"10.0.0.0:4711".into(), &25_005.into()));
    assert_eq!((&first["at"], &first["since"]), (&"2027-01-15T08:00:00Z".into(), &first["at"]));
    let others = counted.last().unwrap();
    assert_eq!((&others["peer"], &others["reason"]), (&Value::Null, &"address_banned".into()));
    assert_eq!(others["detail"], "others, for whom there was no line of their own");
}

#[tokio::test(start_paused = true)]
async fn what_was_counted_is_written_when_its_minute_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, metrics) = (StillClock::at(NOW), metrics());
    let shared: SharedClock = clock.clone();
    let (log, writer) = open(dir.path(), BYTES_MAX, &shared, &metrics);
    let stop = CancellationToken::new();
    let mut writing = tokio::task::JoinSet::new();
    writing.spawn(writer.run(stop.clone()));
    (0..3).for_each(|_| log.keep(banned(1)));
    let path = dir.path().join(FILE);
    tokio::time::sleep(2 * LOOK_EVERY).await;
    assert!(!path.exists(), "its minute is not over");
    clock.pass(crowd::PERIOD);
    while !fs::metadata(&path).is_ok_and(|file| file.len() > 0) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    log.keep(banned(1));
    stop.cancel();
    writing.join_next().await.unwrap().unwrap();
    let times: Vec<_> = lines(&path).iter().map(|line| line["times"].as_u64().unwrap()).collect();
    assert_eq!(times, [3, 1], "and the rest at the end");
    log.keep(banned(1));
    assert_eq!(dropped(&metrics, "closed"), 1);
}
