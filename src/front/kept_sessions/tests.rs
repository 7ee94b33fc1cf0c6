//! Kept sessions: over restarts, on bad disks, at their limit.

#![allow(clippy::disallowed_methods, reason = "a test may spawn")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::identity::{DeviceId, ModuleId};

fn name(text: &str) -> ClientName {
    match text.split_once('/') {
        None => ClientName::Device(DeviceId::parse(text).unwrap()),
        Some((device, module)) => {
            ClientName::Module(DeviceId::parse(device).unwrap(), ModuleId::parse(module).unwrap())
        }
    }
}

fn subscribed(kinds: &[(Subscription, QoS)]) -> Remembered {
    let mut remembered = Remembered::default();
    for (kind, qos) in kinds {
        remembered.subscriptions.set(*kind, Some(*qos));
    }
    remembered
}

fn methods(qos: QoS) -> Remembered {
    subscribed(&[(Subscription::Methods, qos)])
}

/// A folder and who counts.
struct Place {
    folder: tempfile::TempDir,
    metrics: Arc<Metrics>,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), metrics: Metrics::new("hub", "edge1") }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("sessions")
    }

    /// As after a start.
    fn open(&self, max: usize) -> Arc<KeptSessions> {
        KeptSessions::open(self.path(), max, Arc::clone(&self.metrics))
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[track_caller]
    fn check_counted(&self, reason: &str, expected: u64) {
        let (text, reason) = (self.metrics.render(), format!("reason=\"{reason}\""));
        let line =
            text.lines().find(|l| l.contains("event=\"kept_session\"") && l.contains(&reason));
        let count = line.map_or("0", |line| line.rsplit(' ').next().unwrap());
        assert_eq!(count, expected.to_string(), "{reason}");
    }
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn documents_read_back() {
    let all = Subscription::ALL.map(|kind| (kind, QoS::AtLeastOnce));
    let some =
        [(Subscription::CloudToDevice, QoS::AtLeastOnce), (Subscription::Methods, QoS::AtMostOnce)];
    let spelled = Remembered { prefix: Some("devices/a%3Ab".into()), ..subscribed(&some) };
    for remembered in [Remembered::default(), subscribed(&all), subscribed(&some), spelled] {
        assert_eq!(decode(&encode(&remembered)), Some(remembered));
    }
    for bad in [
        &b""[..],
        b"\x01",
        b"\x01\0\0\0\0",
        b"\x02\0\0\0\0\0",
        b"\x01\0\0\x02\0\0",
        b"\x01\0\0\0\0\0\xff",
    ] {
        assert_eq!(decode(bad), None, "{bad:?}");
    }
}

/// Byte for byte: a gateway that is updated knows what clients had subscribed to.
#[test]
fn a_document_is_read_and_written_as_ever() {
    let stored = b"\x01\x01\xff\0\xff\xffdevices/a%3Ab";
    let some =
        [(Subscription::CloudToDevice, QoS::AtLeastOnce), (Subscription::Methods, QoS::AtMostOnce)];
    let remembered = Remembered { prefix: Some("devices/a%3Ab".into()), ..subscribed(&some) };
    assert_eq!(encode(&remembered).escape_ascii().to_string(), stored.escape_ascii().to_string());
    assert_eq!(decode(stored), Some(remembered));
}

#[tokio::test]
async fn a_session_is_there_after_a_restart_and_only_its_own() {
    let place = Place::new();
    let sessions = place.open(10);
    let who = [name("d1"), name("d1/m"), name("d2")];
    assert_eq!(sessions.resume(&who[0], 1).await, None);
    let kept =
        [methods(QoS::AtLeastOnce), subscribed(&[(Subscription::ModuleInputs, QoS::AtMostOnce)])];
    for (who, remembered) in who.iter().zip(&kept) {
        assert_eq!(sessions.keep(who, 1, remembered).await, Kept::Written);
    }
    // Without a word of goodbye, as after kill -9.
    let again = place.open(10);
    assert_eq!(again.len(), 2);
    assert_eq!(again.resume(&who[0], 1).await, Some(kept[0].clone()));
    assert_eq!(again.resume(&who[1], 1).await, Some(kept[1].clone()));
    assert_eq!(again.resume(&who[2], 1).await, None);
    // From then on without the disk.
    fs::remove_dir_all(place.path()).unwrap();
    assert_eq!(again.resume(&who[0], 2).await, Some(kept[0].clone()));
}

#[tokio::test]
async fn the_disk_is_written_on_a_change_alone() {
    let place = Place::new();
    let (sessions, d1) = (place.open(10), name("d1"));
    let (one, two) = (methods(QoS::AtLeastOnce), methods(QoS::AtMostOnce));
    assert_eq!(sessions.keep(&d1, 1, &one).await, Kept::Written);
    let (file, before) = (place.files().remove(0), inode(&place.files()[0]));
    assert_eq!(sessions.keep(&d1, 1, &one).await, Kept::AsBefore);
    sessions.left(&d1, 1);
    let sessions = place.open(10);
    assert_eq!(sessions.resume(&d1, 1).await, Some(one.clone()));
    assert_eq!(sessions.keep(&d1, 1, &one).await, Kept::AsBefore, "also after a restart");
    assert_eq!(inode(&file), before);
    // Another QoS, another spelling: changes.
    assert_eq!(sessions.keep(&d1, 1, &two).await, Kept::Written);
    let spelled = Remembered { prefix: Some("devices/%641".into()), ..two };
    assert_eq!(sessions.keep(&d1, 1, &spelled).await, Kept::Written);
    assert_eq!(place.open(10).resume(&d1, 1).await, Some(spelled));
    assert_eq!(place.files().len(), 1);
}

#[tokio::test]
async fn who_begins_anew_is_forgotten_also_by_the_disk() {
    let place = Place::new();
    let (sessions, d1) = (place.open(10), name("d1"));
    sessions.forget(&d1).await;
    sessions.keep(&d1, 1, &methods(QoS::AtLeastOnce)).await;
    sessions.forget(&d1).await;
    assert_eq!((sessions.resume(&d1, 2).await, place.files().len()), (None, 0));
    sessions.keep(&d1, 3, &methods(QoS::AtMostOnce)).await;
    let sessions = place.open(10);
    sessions.forget(&d1).await;
    assert!(place.files().is_empty() && place.open(10).is_empty(), "unread");
}

#[tokio::test]
async fn a_damaged_session_is_none_and_no_other_suffers() {
    let place = Place::new();
    let (d1, d2) = (name("d1"), name("d2"));
    let kept = methods(QoS::AtLeastOnce);
    place.open(10).keep(&d2, 1, &kept).await;
    let other = place.files().remove(0);
    let whole = {
        place.open(10).keep(&d1, 1, &kept).await;
        let file = place.files().into_iter().find(|path| *path != other).unwrap();
        (fs::read(&file).unwrap(), file)
    };
    let (bytes, file) = whole;
    let mut damaged = 0;
    let changed = (0..bytes.len()).map(|at| {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        changed
    });
    for content in changed.chain((0..bytes.len()).map(|end| bytes[..end].to_vec())) {
        fs::write(&file, &content).unwrap();
        let sessions = place.open(10);
        assert_eq!(sessions.resume(&d1, 1).await, None, "{content:?}");
        assert_eq!(sessions.resume(&d2, 1).await, Some(kept.clone()));
        damaged += 1;
        place.check_counted("damaged", damaged);
        assert_eq!(sessions.len(), 1);
    }
    // What is set aside is no session; the next one is kept as any.
    let sessions = place.open(10);
    assert_eq!(sessions.len(), 1);
    sessions.keep(&d1, 1, &kept).await;
    assert_eq!(place.open(10).resume(&d1, 1).await, Some(kept));
}

#[tokio::test]
async fn at_the_limit_who_has_been_away_longest_makes_room() {
    let place = Place::new();
    let sessions = place.open(2);
    let (a, b, c, d) = (name("a"), name("b"), name("c"), name("d"));
    let kept = methods(QoS::AtLeastOnce);
    for (serial, who) in (1..).zip([&a, &b]) {
        sessions.keep(who, serial, &kept).await;
    }
    // All are connected: nothing of the third one is kept.
    assert_eq!(sessions.keep(&c, 3, &kept).await, Kept::AsBefore);
    place.check_counted("full", 1);
    assert_eq!((sessions.resume(&c, 3).await, place.files().len()), (None, 2));
    // b leaves first, but a longer ago than b is a's return: used last counts.
    sessions.left(&b, 2);
    sessions.left(&a, 1);
    sessions.resume(&b, 4).await;
    sessions.left(&b, 4);
    assert_eq!(sessions.keep(&c, 5, &kept).await, Kept::Written);
    place.check_counted("made_room", 1);
    assert_eq!((sessions.len(), place.files().len()), (2, 2));
    assert_eq!(sessions.resume(&a, 6).await, None);
    assert!(sessions.resume(&b, 7).await.is_some());
    assert_eq!(sessions.keep(&d, 8, &kept).await, Kept::AsBefore, "b and c are connected");
}

#[tokio::test]
async fn an_older_connection_changes_nothing_after_a_newer_one_came() {
    let place = Place::new();
    let (sessions, d1) = (place.open(10), name("d1"));
    sessions.keep(&d1, 1, &methods(QoS::AtLeastOnce)).await;
    sessions.resume(&d1, 2).await;
    assert_eq!(sessions.keep(&d1, 1, &Remembered::default()).await, Kept::AsBefore);
    sessions.left(&d1, 1);
    assert!(sessions.lock().sessions.values().all(|session| session.is_connected));
    sessions.left(&d1, 2);
    assert!(sessions.lock().sessions.values().all(|session| !session.is_connected));
    assert_eq!(sessions.resume(&d1, 3).await, Some(methods(QoS::AtLeastOnce)));
}

#[tokio::test]
async fn a_start_with_a_lower_limit_keeps_the_latest() {
    let place = Place::new();
    let sessions = place.open(10);
    let all: Vec<ClientName> = (0..5).map(|n| name(&format!("d{n}"))).collect();
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    for (n, who) in all.iter().enumerate() {
        let known = place.files();
        sessions.keep(who, 1, &methods(QoS::AtLeastOnce)).await;
        let file = place.files().into_iter().find(|path| !known.contains(path)).unwrap();
        // The order of the names is not that of time.
        let written = long_ago + Duration::from_secs(1000 * [3, 1, 4, 2, 5][n]);
        fs::File::options().write(true).open(file).unwrap().set_modified(written).unwrap();
    }
    let sessions = place.open(2);
    assert_eq!((sessions.len(), place.files().len()), (2, 2));
    for (n, is_there) in [(0, false), (1, false), (2, true), (3, false), (4, true)] {
        assert_eq!(sessions.resume(&all[n], 1).await.is_some(), is_there, "d{n}");
    }
    place.check_counted("made_room", 3);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_costs_the_restart_alone() {
    let place = Place::new();
    let (sessions, d1) = (place.open(10), name("d1"));
    // Where the folder belongs there is a file.
    fs::write(place.path(), "x").unwrap();
    let kept = methods(QoS::AtLeastOnce);
    assert_eq!(sessions.keep(&d1, 1, &kept).await, Kept::Written);
    place.check_counted("not_stored", 1);
    assert_eq!(sessions.resume(&d1, 2).await, Some(kept.clone()));
    fs::remove_file(place.path()).unwrap();
    assert_eq!(sessions.keep(&d1, 2, &kept).await, Kept::Written, "tried again");
    assert_eq!(place.open(10).resume(&d1, 1).await, Some(kept));
    place.check_counted("not_stored", 1);
}

#[tokio::test]
async fn what_cannot_be_kept_leaves_no_older_truth_behind() {
    let place = Place::new();
    let (sessions, d1) = (place.open(10), name("d1"));
    sessions.keep(&d1, 1, &methods(QoS::AtLeastOnce)).await;
    let too_large =
        Remembered { prefix: Some("x".repeat(DOCUMENT_BYTES_MAX).into()), ..Remembered::default() };
    sessions.keep(&d1, 1, &too_large).await;
    place.check_counted("not_stored", 1);
    assert_eq!(place.open(10).resume(&d1, 1).await, None);
}

#[tokio::test]
async fn no_folder_and_a_strange_file_are_no_sessions() {
    let place = Place::new();
    assert!(place.open(10).is_empty());
    fs::create_dir(place.path()).unwrap();
    for file in ["x", &"g".repeat(64), &"A".repeat(64), &format!("{}.new", "a".repeat(64))] {
        fs::write(place.path().join(file), "x").unwrap();
    }
    assert!(place.open(10).is_empty());
    fs::write(place.path().join("a".repeat(64)), "x").unwrap();
    assert_eq!(place.open(10).len(), 1, "only its name was looked at");
}

/// Many at once, in an order that nobody decides: the disk ends up with what the memory has.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_change_is_on_the_disk_whatever_overtakes_what() {
    let place = Place::new();
    let sessions = place.open(4);
    let who: Vec<ClientName> = (0..6).map(|n| name(&format!("d{n}"))).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..240_u64 {
        let (sessions, who) = (Arc::clone(&sessions), who[(n % 6) as usize].clone());
        tasks.spawn(async move {
            let remembered = subscribed(&[
                (Subscription::ALL[(n % 5) as usize], QoS::AtLeastOnce),
                (Subscription::ALL[(n % 3) as usize], QoS::AtMostOnce),
            ]);
            match n % 8 {
                7 => sessions.forget(&who).await,
                3 => {
                    sessions.resume(&who, n).await;
                }
                _ => {
                    sessions.keep(&who, n, &remembered).await;
                }
            }
            sessions.left(&who, n);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(sessions.len() <= 4);
    let again = place.open(4);
    assert_eq!((again.len(), place.files().len()), (sessions.len(), sessions.len()));
    for who in &who {
        assert_eq!(again.resume(who, 1).await, sessions.resume(who, 1000).await, "{who}");
    }
}
