//! What an older version left on the disk is read, and what a newer one left is not touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::message::Message;

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn walk(dir: &Path, files: &mut Files) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
}

fn files_of(dir: &Path) -> Files {
    let mut files = Files::new();
    walk(dir, &mut files);
    files
}

/// A copy of the fixture: it is never changed itself.
fn old_store() -> tempfile::TempDir {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-format-1");
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in files_of(&fixture) {
        let target = dir.path().join(path.strip_prefix(&fixture).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, bytes).unwrap();
    }
    dir
}

fn open_real(dir: &Path) -> Result<(Store, RecoveryReport), OpenError> {
    Store::open(Config::new(dir), Arc::new(RealDisk), crate::clock::system())
}

fn long_lane() -> QueueId {
    QueueId::new("iothub", 10).with_lane(&"d".repeat(220))
}

/// Format of each slot, header, seal or name in a file.
fn formats(path: &Path, bytes: &[u8]) -> Vec<u16> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let block = |at: usize| {
        let block = bytes.get(at..at + 64).filter(|b| b.starts_with(b"SGW-"));
        block.map(|b| u16::from_le_bytes([b[8], b[9]]))
    };
    match name {
        "lock" => vec![],
        "name" if bytes.starts_with(b"sgw-name 2 ") => vec![2],
        "name" => vec![1],
        "checkpoint" | "clock" => [block(0), block(4096)].into_iter().flatten().collect(),
        _ => [block(0), block(bytes.len() - 64)].into_iter().flatten().collect(),
    }
}

#[tokio::test]
async fn a_store_of_format_1_comes_back_whole_and_goes_on_in_format_2() {
    let dir = old_store();
    let main = QueueId::new("iothub", 10);
    let queues = [
        (main.clone(), 7, 40),
        (QueueId::new("iothub", 0), 0, 10),
        (main.with_lane("sphere-01"), 0, 5),
        (long_lane(), 0, 5),
        (QueueId::new("deadletter", 10), 0, 1),
    ];
    let (store, report) = open_real(dir.path()).unwrap();
    assert_eq!((report.queues, report.records, report.proven_lost), (5, 61 - 7, 0));
    assert_eq!((report.checkpoints_lost, report.clock_lost), (0, false));
    for (id, settled, end) in &queues {
        let queue = store.queue(id).await.unwrap();
        assert_eq!(queue.settled(), Offset(*settled), "{id}");
        let chunk = queue.read(Offset(0), 1000, usize::MAX).await.unwrap();
        assert_eq!(offsets(&chunk), (0..*end).collect::<Vec<_>>(), "{id}");
        assert_eq!(chunk.lost, []);
        for record in chunk.records {
            assert_eq!(record.stored, StoreMillis(0), "ages count from the upgrade");
            if id.endpoint.as_ref() == "iothub" {
                let message = Message::decode(record.payload).unwrap();
                assert_eq!(message.source.sender.to_string(), "sphere-01", "{id}");
            }
        }
    }
    let mut client = Client::new(&store);
    for (id, ..) in &queues {
        client
            .appender
            .append(client.message(1, std::slice::from_ref(id), vec![9; 9]))
            .await
            .unwrap();
        client.receipts.recv().await.unwrap().result.unwrap();
    }
    store.close().await;
    drop(store);
    let original = old_store();
    let (before, after) = (files_of(original.path()), files_of(dir.path()));
    for (path, bytes) in &after {
        let short = path.strip_prefix(dir.path()).unwrap();
        let formats = formats(path, bytes);
        let untouched = before.get(&original.path().join(short)) == Some(bytes);
        let is_segment = path.extension().is_some_and(|e| e == "seg");
        let whole = |f: u16| formats.iter().all(|found| *found == f);
        // A checkpoint is one of format 2 as soon as its newest slot is.
        let fine = match path.file_name().unwrap().to_str().unwrap() {
            "checkpoint" => formats.contains(&2),
            _ => untouched || whole(2) || (is_segment && whole(1)),
        };
        assert!(fine, "{short:?} {formats:?}");
    }
    assert!(after.contains_key(&dir.path().join("clock")));
    let (store, report) = open_real(dir.path()).unwrap();
    assert_eq!((report.records, report.proven_lost, report.torn_records), (61 - 7 + 5, 0, 0));
    let queue = store.queue(&long_lane()).await.unwrap();
    assert_eq!(offsets(&read_all(&queue).await), (0..6).collect::<Vec<_>>());
}

/// Sets the format of a block and makes its CRC right again, as a newer program would have.
fn set_format(bytes: &mut [u8], at: usize, format: u16) {
    bytes[at + 8..at + 10].copy_from_slice(&format.to_le_bytes());
    let block = &bytes[at..at + 64];
    let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &block[16..]);
    bytes[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
}

#[tokio::test]
async fn a_newer_format_is_refused_and_nothing_is_changed() {
    let name_of = |format: u16| {
        let text = format!("sgw-name {format} something else");
        format!("{text} {:08x}", crc32c::crc32c(text.as_bytes())).into_bytes()
    };
    type Change = Box<dyn Fn(&mut Vec<u8>)>;
    let cases: [(&str, Change); 5] = [
        ("seg", Box::new(|bytes| set_format(bytes, 0, 3))),
        ("checkpoint", Box::new(|bytes| set_format(bytes, 0, 3))),
        ("checkpoint", Box::new(|bytes| set_format(bytes, 4096, 3))),
        ("clock", Box::new(|bytes| set_format(bytes, 0, 3))),
        ("name", Box::new(move |bytes| *bytes = name_of(3))),
    ];
    for (kind, change) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open_real(dir.path()).unwrap();
        let mut client = Client::new(&store);
        for id in [main_queue(), long_lane()] {
            for _ in 0..3 {
                let append = client.message(1, std::slice::from_ref(&id), vec![1; 100]);
                client.appender.append(append).await.unwrap();
                client.receipts.recv().await.unwrap().result.unwrap();
            }
            let queue = store.queue(&id).await.unwrap();
            queue.settle(Offset(1));
        }
        store.close().await;
        drop(store);
        // A leftover that an open would remove.
        std::fs::write(dir.path().join("upstream.10/x.tmp"), "leftover").unwrap();
        std::fs::remove_dir(dir.path().join("quarantine")).unwrap();
        let files = files_of(dir.path());
        let is_kind = |path: &&PathBuf| path.to_str().unwrap().ends_with(kind);
        let path = files.keys().find(is_kind).unwrap();
        let mut bytes = files[path].clone();
        if bytes.len() == 8192 && !bytes[4096..].starts_with(b"SGW-") {
            bytes.copy_within(0..64, 4096);
        }
        change(&mut bytes);
        std::fs::write(path, &bytes).unwrap();
        let before = files_of(dir.path());
        let error = open_real(dir.path()).unwrap_err();
        match &error {
            OpenError::NewerFormat { path: found_at, found: 3, known: 2 } if found_at == path => {}
            other => panic!("{kind}: {other}"),
        }
        assert!(error.to_string().contains("start the version that wrote it"), "{error}");
        assert_eq!(files_of(dir.path()), before, "{kind}");
        assert!(!dir.path().join("quarantine").exists(), "{kind}");
    }
}
