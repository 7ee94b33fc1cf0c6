//! A store's folder seen from outside: what waits, what is damaged, and nothing changed by looking.

use std::path::Path;

use super::*;
use crate::store::inspect::{Finding, Inspector, Next, Verified, What};

fn inspector(disk: &SimDisk) -> Inspector {
    Inspector::new(Arc::new(disk.clone()), ROOT)
}

fn verify(inspector: &Inspector) -> (Verified, Vec<Finding>) {
    let mut found = Vec::new();
    let verified = inspector.verify(&mut |finding| found.push(finding)).unwrap();
    (verified, found)
}

/// Offsets that wait, those that are lost as `Err`.
fn pending(inspector: &Inspector) -> Vec<Result<u64, (u64, u64)>> {
    let places = inspector.pending(&main_queue()).unwrap().map(|next| match next.unwrap() {
        Next::Held(held) => Ok(held.offset.0),
        Next::Lost(range) => Err((range.start.0, range.end.0)),
    });
    places.collect()
}

/// All bytes of the store, to see that nothing was changed.
fn bytes(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for name in disk.names(FOLDER) {
        let path = format!("{FOLDER}/{name}");
        let file = disk.open(Path::new(&path), disk::Mode::Read).unwrap();
        all.push((path, disk::read_all(&*file).unwrap()));
    }
    all
}

#[tokio::test]
async fn what_waits_is_listed_and_read_while_the_store_is_open() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let mut client = Client::new(&store);
    let outside = inspector(&disk);
    assert_eq!(outside.list().unwrap(), []);
    for i in 0..100 {
        client.append(&[i; 100]).await.unwrap();
        assert_eq!(pending(&outside).len(), usize::from(i) + 1);
    }
    let before = bytes(&disk);
    let view = outside.list().unwrap().remove(0);
    assert!(view.oldest.is_some() && view.oldest <= view.newest, "{view:?}");
    assert!(outside.now_at_least().unwrap() >= view.newest);
    assert_eq!((view.id, view.records, view.payload_bytes), (main_queue(), 100, 10_000));
    assert_eq!(view.disk_bytes, before.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    let (verified, found) = verify(&outside);
    assert_eq!((verified.records, found), (100, vec![]));
    assert_eq!(bytes(&disk), before, "looking changes nothing");

    let queue = store.queue(&main_queue()).await.unwrap();
    queue.settle(Offset(60));
    store.close().await;
    assert_eq!(pending(&outside), (60..100).map(Ok).collect::<Vec<_>>());
    let view = outside.list().unwrap().remove(0);
    assert_eq!((view.settled, view.records, view.payload_bytes), (Offset(60), 40, 4000));
    assert_eq!(verify(&outside).1, []);
}

#[tokio::test]
async fn a_torn_tail_is_not_taken_for_damage_but_every_flipped_bit_in_a_record_is_told() {
    let disk = filled(40).await;
    let files = segments(&disk);
    assert!(files.len() > 1, "sealed ones and an open one");
    let clean = bytes(&disk);
    let read = |path: &str| clean.iter().find(|(p, _)| p == path).unwrap().1.clone();

    let last = files.last().unwrap();
    let end = read(last).iter().rposition(|byte| *byte != 0).unwrap();
    disk.damage(last, |bytes| bytes[end] ^= 1);
    let (_, found) = verify(&inspector(&disk));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].what, What::Torn);
    assert!(found[0].what.is_harmless());
    disk.damage(last, |bytes| bytes[end] ^= 1);

    let first = &files[0];
    for at in (64..read(first).len() - 64).step_by(7) {
        disk.damage(first, |bytes| bytes[at] ^= 4);
        let (verified, found) = verify(&inspector(&disk));
        // The padding of a record is in nobody's CRC, and carries nothing.
        let is_padding = (at - 64) % 144 >= 140;
        assert_eq!(found.is_empty(), is_padding, "at {at}: {found:?}");
        assert_eq!(verified.records, if is_padding { 40 } else { 39 }, "at {at}");
        for finding in &found {
            let lost = ((at - 64) / 144) as u64;
            assert_eq!(finding.what, What::Damaged, "at {at}");
            assert_eq!(finding.offsets, lost..lost + 1, "at {at}");
            assert!(finding.positions.contains(&(at as u64)), "at {at}: {finding:?}");
            assert_eq!(finding.file.as_deref(), Some(Path::new(first)), "at {at}");
            let lost = usize::try_from(lost).unwrap();
            assert_eq!(pending(&inspector(&disk))[lost], Err((lost as u64, lost as u64 + 1)));
        }
        disk.damage(first, |bytes| bytes[at] ^= 4);
    }
    assert_eq!(verify(&inspector(&disk)).1, []);
}

#[tokio::test]
async fn whole_files_that_are_missing_or_damaged_are_told() {
    let check = async |damage: &dyn Fn(&SimDisk, &[String]), expected: &[What], harmless: bool| {
        let disk = filled(100).await;
        damage(&disk, &segments(&disk));
        let (_, found) = verify(&inspector(&disk));
        let found: Vec<What> = found.into_iter().map(|finding| finding.what).collect();
        assert_eq!(found, expected);
        assert_eq!(found.iter().all(What::is_harmless), harmless);
    };
    let checkpoint = format!("{FOLDER}/checkpoint");
    let slot = |disk: &SimDisk| disk.damage(&checkpoint, |bytes| bytes[30] ^= 1);
    check(&|_, _| (), &[], true).await;
    check(&|disk, files| disk.damage(&files[0], |b| b[20] ^= 1), &[What::Header], false).await;
    let remove = |disk: &SimDisk, file: &str| disk.remove_file(Path::new(file)).unwrap();
    check(&|disk, files| remove(disk, &files[1]), &[What::Damaged], false).await;
    // Nothing was settled: one slot only was ever written.
    check(&|disk, _| slot(disk), &[What::Checkpoint], false).await;
    check(&|disk, _| remove(disk, &checkpoint), &[What::Checkpoint], false).await;
    let newer = |bytes: &mut Vec<u8>| {
        bytes[8] = 99;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..64]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    };
    check(&|disk, files| disk.damage(&files[0], newer), &[What::Newer(99)], false).await;
}

/// What `verify` knows to be lost an export tells, too: behind a cut tail, between two files, behind the last one.
#[tokio::test]
async fn what_is_missing_between_and_behind_segments_is_told_to_a_reader() {
    let check = async |damage: &dyn Fn(&SimDisk, &[String])| {
        let disk = filled(100).await;
        damage(&disk, &segments(&disk));
        let outside = inspector(&disk);
        let proven = verify(&outside).1.into_iter().filter(|finding| !finding.what.is_harmless());
        let proven: Vec<_> = proven.map(|f| (f.offsets.start, f.offsets.end)).collect();
        let read = pending(&outside);
        let lost: Vec<_> = read.iter().filter_map(|place| place.err()).collect();
        assert_eq!(lost, proven);
        assert!(!lost.is_empty());
        let mut next = 0;
        for place in read {
            let (start, end) = place.map_or_else(|lost| lost, |offset| (offset, offset + 1));
            assert_eq!(start, next, "in order, nothing twice and nothing left out");
            next = end;
        }
        assert_eq!(next, 100);
    };
    let remove = |disk: &SimDisk, file: &str| disk.remove_file(Path::new(file)).unwrap();
    check(&|disk, files| remove(disk, &files[0])).await;
    check(&|disk, files| remove(disk, &files[1])).await;
    check(&|disk, files| (1..3).for_each(|i| remove(disk, &files[i]))).await;
    check(&|disk, files| disk.damage(&files[1], |bytes| bytes.truncate(300))).await;
    check(&|disk, files| disk.damage(&files[1], |bytes| bytes[210..220].fill(7))).await;

    // The last ones, which only the checkpoint knows of.
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let mut client = Client::new(&store);
    for i in 0..5 {
        client.append(&[i; 100]).await.unwrap();
    }
    store.queue(&main_queue()).await.unwrap().settle(Offset(1));
    store.close().await;
    let last = segments(&disk).remove(0);
    disk.damage(&last, |bytes| bytes.truncate(64 + 2 * 144));
    let outside = inspector(&disk);
    assert_eq!(pending(&outside), [Ok(1), Err((2, 5))]);
    assert_eq!(verify(&outside).1[0].offsets, 2..5);
}

#[tokio::test]
async fn a_queue_of_which_both_names_are_damaged_is_told() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let mut client = Client::new(&store);
    let long = main_queue().with_lane(&"long/".repeat(50));
    client.appender.append(client.message(1, std::slice::from_ref(&long), vec![1])).await.unwrap();
    client.receipts.recv().await.unwrap().result.unwrap();
    store.close().await;
    let outside = inspector(&disk);
    let folder = Path::new(ROOT).join(long.folder());
    let name = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    disk.damage(name("name"), |bytes| bytes[10] ^= 1);
    assert_eq!(
        (outside.queues().unwrap(), verify(&outside).1),
        (vec![long], vec![]),
        "the copy holds"
    );
    disk.damage(name("name-copy"), |bytes| bytes[10] ^= 1);
    let found = verify(&outside).1;
    let told: Vec<_> = found.iter().map(|f| (f.file.clone(), &f.what)).collect();
    assert_eq!(told, [(Some(folder), &What::Nameless)]);
    assert!(!What::Nameless.is_harmless());
    assert_eq!(outside.queues().unwrap(), []);
}

/// Before an expired segment goes, a tombstone takes its place.
#[tokio::test]
async fn a_tombstone_is_no_damage_beside_what_it_buries_or_alone() {
    let disk = filled(100).await;
    let files = segments(&disk);
    let key = |path: &str| {
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        segment::Key::from_file_name(name).unwrap()
    };
    let (buried, end) = (key(&files[1]), key(&files[3]).first);
    let tombstone = segment::Key { salt: buried.salt ^ 1, ..buried };
    let header = segment::Header { version: 2, created: StoreMillis(0) };
    let expires_by = super::age::ExpiresBy(1);
    let (records, payload_bytes, data_end, version) = (0, 0, 64, 2);
    let seal = segment::Seal { data_end, next: end, records, payload_bytes, expires_by, version };
    let bytes = [header.encode(tombstone), seal.encode(tombstone)].concat();
    let path = format!("{FOLDER}/{}", tombstone.file_name());
    let file = disk.open(Path::new(&path), disk::Mode::CreateNew).unwrap();
    file.write_at(&bytes, 0).unwrap();
    let look = || {
        let outside = inspector(&disk);
        let (verified, found) = verify(&outside);
        assert_eq!(found, []);
        let waiting = outside.list().unwrap().remove(0).records;
        assert_eq!((pending(&outside).len() as u64, verified.records), (waiting, waiting));
        waiting
    };
    assert_eq!(look(), 100);
    disk.remove_file(Path::new(&files[1])).unwrap();
    look();
    disk.remove_file(Path::new(&files[2])).unwrap();
    assert_eq!(look(), 100 - (end.0 - buried.first.0));
}

#[tokio::test]
async fn a_newer_format_is_refused_by_the_list() {
    let disk = filled(3).await;
    disk.damage(format!("{FOLDER}/checkpoint"), |bytes| {
        bytes[8] = 99;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..64]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    let error = inspector(&disk).list().unwrap_err().to_string();
    assert!(error.contains("format 99"), "{error}");
}

/// A gateway appends and settles on a real disk while somebody looks, all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_at_work_never_looks_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { segment_bytes_max: 65_536, ..Config::new(folder.path()) };
    let (store, _) = Store::open(config, Arc::new(RealDisk), crate::clock::system()).unwrap();
    let queue = store.queue(&main_queue()).await.unwrap();
    let path = folder.path().to_path_buf();
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let watching = tokio::task::spawn_blocking(move || {
        let outside = Inspector::new(Arc::new(RealDisk), path);
        let mut looks = 0;
        while !stopped.is_cancelled() || looks == 0 {
            let (_, found) = verify(&outside);
            // On a busy machine a look can fall into the middle of a write: a torn tail is told, and is no damage.
            let damage = found.iter().find(|finding| !finding.what.is_harmless());
            assert_eq!(damage, None, "look {looks}");
            let offsets: Vec<u64> = pending(&outside).into_iter().map(Result::unwrap).collect();
            assert!(offsets.is_sorted());
            outside.list().unwrap();
            looks += 1;
        }
    });
    let mut client = Client::new(&store);
    for round in 0..60u64 {
        for _ in 0..20 {
            client.appender.append(client.message(1, &[main_queue()], vec![7; 700])).await.unwrap();
        }
        for _ in 0..20 {
            client.receipts.recv().await.unwrap().result.unwrap();
        }
        queue.settle(Offset((round * 20).saturating_sub(50)));
    }
    stop.cancel();
    watching.await.unwrap();
    store.close().await;
}

/// The fixture of format 1 is intact, and its records have no age that could be known.
#[test]
fn format_1_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-format-1");
    let outside = Inspector::new(Arc::new(RealDisk), path);
    let (verified, found) = verify(&outside);
    assert!(found.iter().all(|finding| finding.what.is_harmless()), "{found:?}");
    let views = outside.list().unwrap();
    assert_eq!((views.len(), verified.queues), (5, 5));
    assert!(views.iter().all(|view| view.oldest.is_none()));
    for view in views {
        let read = outside
            .pending(&view.id)
            .unwrap()
            .filter(|next| matches!(next, Ok(Next::Held(held)) if held.offset >= view.settled));
        assert_eq!(read.count() as u64, view.records, "{}", view.id);
    }
}
