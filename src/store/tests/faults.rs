//! What the store promises when something breaks, one test a fault.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::store::inspect::Inspector;
use crate::store::trial::rig::{Message, Rig};

#[tokio::test]
async fn a_failed_sync_or_write_poisons_for_good() {
    for op in [Op::SyncData, Op::Write] {
        let disk = SimDisk::new();
        let (store, _) = open(&disk);
        let mut client = Client::new(&store);
        client.append(b"good").await.unwrap();
        let syncs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&syncs);
        let mut failed = false;
        disk.plan(move |now, _| {
            counted.fetch_add(u32::from(now == Op::SyncData), Ordering::Relaxed);
            (now == op && !std::mem::replace(&mut failed, true))
                .then_some(Fault::Error(ErrorKind::Other))
        });
        assert_eq!(client.append(b"bad").await, Err(AppendError::Poisoned));
        let syncs_then = syncs.load(Ordering::Relaxed);
        let mut health = store.health();
        health.wait_for(|health| matches!(health, Health::Poisoned(_))).await.unwrap();
        assert_eq!(client.append(b"later").await, Err(AppendError::Poisoned));
        assert!(matches!(store.queue(&main_queue()).await, Err(StoreError::Poisoned)));
        store.close().await;
        assert_eq!(syncs.load(Ordering::Relaxed), syncs_then, "a failed sync is not tried again");

        let (store, report) = open(&disk.power_cut(1));
        assert_eq!(report.proven_lost, 0);
        let queue = store.queue(&main_queue()).await.unwrap();
        assert_eq!(&read_all(&queue).await.records[0].payload[..], b"good");
    }
}

#[tokio::test]
async fn a_full_volume_refuses_and_heals_without_a_restart() {
    for preallocates in [true, false] {
        let disk = SimDisk::new();
        if !preallocates {
            disk.without_allocate();
        }
        let (store, _) = open(&disk);
        let mut client = Client::new(&store);
        client.append(b"before").await.unwrap();
        disk.set_capacity(Some(disk.used() + 100));
        assert_eq!(client.append(&[1; 9000]).await, Err(AppendError::Full));
        assert_eq!(client.append(&[2; 9000]).await, Err(AppendError::Full));
        assert_eq!(store.stats().refused_commits, 2);
        disk.set_capacity(None);
        client.append(b"after").await.unwrap();
        let queue = store.queue(&main_queue()).await.unwrap();
        let chunk = read_all(&queue).await;
        assert_eq!(offsets(&chunk), [0, 1]);
        assert_eq!(&chunk.records[1].payload[..], b"after");
        let (_, report) = open(&disk.power_cut(3));
        assert_eq!((report.records, report.torn_records, report.proven_lost), (2, 0, 0));
    }
}

/// Devices leave the reserve to the store's own appends, which then may use it up; and get room again when there is.
#[tokio::test]
async fn devices_leave_a_reserve_for_what_makes_room() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(1 << 20));
    let (store, _) = open(&disk);
    let mut client = Client::new(&store);
    while client.append(&[1; 1000]).await.is_ok() {}
    let free = || disk.space(Path::new(ROOT)).unwrap().free;
    // A twentieth is the floor, another one the reserve.
    let (floor, reserve) = ((1 << 20) / 20, (1 << 20) / 20);
    let kept = floor + reserve..floor + reserve + 2000;
    assert!(kept.contains(&free()), "{} are free, {kept:?} are kept", free());
    client.class = AppendClass::Internal;
    while client.append(&[2; 1000]).await.is_ok() {}
    assert!((floor..floor + 2000).contains(&free()), "{} are free, {floor} the floor", free());
    client.class = AppendClass::Ingress;
    assert_eq!(client.append(&[3; 2000]).await, Err(AppendError::Full));
    let queue = store.queue(&main_queue()).await.unwrap();
    queue.settle(*queue.durable_end().borrow());
    store.queue(&main_queue()).await.unwrap();
    client.append(&[3; 10]).await.unwrap();
}

/// m1 meets a volume that is full for a moment, m2 of the same device would fit: if it were stored, the device's order
/// would be broken when it sends m1 again.
#[tokio::test]
async fn behind_a_refused_append_nothing_of_that_caller_is_stored() {
    let disk = SimDisk::new();
    // Every append is its own batch.
    let config = Config { batch_bytes_max: 1, ..config() };
    let (store, _) = Store::open(config, Arc::new(disk.clone()), TestClock::new()).unwrap();
    let mut client = Client::new(&store);
    client.chain = Some(AppendChain::new());
    client.append(b"before").await.unwrap();
    disk.set_capacity(Some(disk.used() + 20_000));
    for payload in [vec![1; 200_000], vec![2; 50]] {
        client.appender.append(client.message(0, &[main_queue()], payload)).await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(client.receipts.recv().await.unwrap().result, Err(AppendError::Full));
    }
    disk.set_capacity(None);
    assert_eq!(client.append(b"later").await, Err(AppendError::Full), "it stays broken");
    Client::new(&store).append(b"another caller").await.unwrap();
    client.chain = Some(AppendChain::new());
    client.append(b"a new connection").await.unwrap();
    let queue = store.queue(&main_queue()).await.unwrap();
    let payloads = read_all(&queue).await.records.into_iter().map(|record| record.payload);
    let stored: Vec<Bytes> = payloads.collect();
    assert_eq!(stored, [&b"before"[..], b"another caller", b"a new connection"]);
}

#[tokio::test]
async fn what_a_caller_revokes_is_not_stored() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let mut client = Client::new(&store);
    let chain = AppendChain::new();
    client.chain = Some(Arc::clone(&chain));
    client.append(b"before").await.unwrap();
    chain.break_();
    assert_eq!(client.append(b"after").await, Err(AppendError::Revoked));
    let queue = store.queue(&main_queue()).await.unwrap();
    assert_eq!(queue.messages(), 1);
    assert_eq!(store.stats().refused_commits, 0, "the volume has nothing to do with it");
}

#[tokio::test]
async fn damage_is_counted_exactly_once_and_costs_only_what_it_touches() {
    // Records of 144 bytes behind a header of 64; all in one open segment.
    for hit in [0u64, 3, 7] {
        let disk = filled(9).await;
        let [segment] = &segments(&disk)[..] else { panic!("one segment") };
        disk.damage(segment, |bytes| bytes[64 + 144 * usize::try_from(hit).unwrap() + 50] ^= 4);
        let (store, report) = open(&disk);
        assert_eq!((report.proven_lost, report.torn_records, report.records), (1, 0, 8));
        assert_eq!(report.torn_bytes, 144);
        assert_eq!(report.quarantined.len(), 1);
        let queue = store.queue(&main_queue()).await.unwrap();
        let chunk = read_all(&queue).await;
        assert_eq!(offsets(&chunk), (0..9).filter(|o| *o != hit).collect::<Vec<_>>());
        assert_eq!(chunk.lost, [], "recovery has counted it");
        let offsets = Offset(hit)..Offset(hit + 1);
        let lost = LostRange { queue: main_queue(), offsets: offsets.clone() };
        assert_eq!(report.lost, [lost]);
        let told = store.removed().unwrap().try_recv().unwrap();
        assert_eq!((told.offsets, told.records, told.why), (offsets, 1, RemovedWhy::Unreadable));
        store.close().await;
        drop(store);
        let (_, report) = open(&disk);
        assert_eq!((report.proven_lost, report.torn_bytes, report.records), (0, 0, 8));
    }
}

#[tokio::test]
async fn damage_to_the_last_batch_is_torn_for_nothing_proves_it_was_acked() {
    let disk = filled(9).await;
    let [segment] = &segments(&disk)[..] else { panic!("one segment") };
    disk.damage(segment, |bytes| bytes[64 + 144 * 8 + 50] ^= 4);
    let (_, report) = open(&disk);
    assert_eq!((report.proven_lost, report.torn_records, report.records), (0, 1, 8));
    assert!(report.quarantined.is_empty());
}

/// Of a batch that the power cut tore nobody misses anything: also where the volume has no room to leave the torn bytes out.
#[tokio::test]
async fn what_was_torn_is_told_as_lost_neither_on_a_full_volume_nor_later() {
    // Records of 144 bytes behind a header of 64, the first in a batch of its own; whole are the 0th, the 2nd and the 5th.
    let disk = SimDisk::new();
    let (mut rig, _) =
        Rig::open(Arc::new(disk.clone()), Path::new(ROOT), &TestClock::new()).unwrap();
    let message = |i| Message { queues: 1, payload: vec![i; 100].into(), ttl_secs: 0 };
    rig.append(&[message(0)]).unwrap();
    rig.append(&[1, 2, 3, 4, 5].map(message)).unwrap();
    let mut disk = disk.kill();
    let [segment] = &segments(&disk)[..] else { panic!("one segment") };
    disk.damage(segment, |bytes| {
        bytes[64 + 144..64 + 2 * 144].fill(0);
        bytes[64 + 3 * 144 + 7] ^= 1;
        bytes[64 + 4 * 144 + 143 - 4] ^= 1;
    });
    disk.set_capacity(Some(disk.used()));
    for torn in [3, 0, 0] {
        let (store, report) = open(&disk);
        assert_eq!((report.proven_lost, report.torn_records, report.records), (0, torn, 3));
        let queue = store.queue(&main_queue()).await.unwrap();
        for places in [1, 10_000] {
            let (mut from, mut seen) = (Offset(0), vec![]);
            while from < *queue.durable_end().borrow() {
                let chunk = queue.read(from, places, usize::MAX).await.unwrap();
                assert_eq!(chunk.lost, []);
                seen.extend(offsets(&chunk));
                from = chunk.next;
            }
            assert_eq!(seen, [0, 2, 5]);
        }
        assert_eq!(store.stats().lost_records, 0);
        let mut found = Vec::new();
        let inspector = Inspector::new(Arc::new(disk.clone()), ROOT);
        let verified = inspector.verify(&mut |finding| found.push(finding)).unwrap();
        assert_eq!((verified.records, found), (3, vec![]));
        disk = disk.power_cut(torn);
        disk.set_capacity(None);
    }
    // Damage later costs what it touches, whatever was torn before and behind it.
    disk.damage(segment, |bytes| bytes[64 + 2 * 144 + 50] ^= 1);
    let (store, report) = open(&disk);
    assert_eq!((report.proven_lost, report.records), (0, 3), "sealed: not read at start");
    let chunk = read_all(&store.queue(&main_queue()).await.unwrap()).await;
    assert_eq!((offsets(&chunk), &chunk.lost[..]), (vec![0, 5], &[Offset(2)..Offset(3)][..]));
}

#[tokio::test]
async fn a_lost_header_costs_no_record_behind_it() {
    let disk = filled(9).await;
    let [segment] = &segments(&disk)[..] else { panic!("one segment") };
    disk.damage(segment, |bytes| bytes[..512].fill(0));
    let (store, report) = open(&disk);
    assert_eq!((report.proven_lost, report.records), (4, 5));
    let queue = store.queue(&main_queue()).await.unwrap();
    assert_eq!(offsets(&read_all(&queue).await), [4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn damage_in_a_sealed_segment_is_found_by_the_reader() {
    let disk = filled(60).await;
    assert!(segments(&disk).len() > 2);
    disk.damage(&segments(&disk)[0], |bytes| {
        bytes[64 + 144 * 5] ^= 1;
        bytes[64 + 144 * 6 + 143 - 4] ^= 1;
    });
    let (store, report) = open(&disk);
    assert_eq!((report.proven_lost, report.records), (0, 60), "sealed: not read at start");
    let queue = store.queue(&main_queue()).await.unwrap();
    for _ in 0..2 {
        let chunk = read_all(&queue).await;
        assert_eq!(chunk.lost, [Offset(5)..Offset(6 + 1)]);
        assert_eq!(offsets(&chunk), (0..60).filter(|o| !(5..7).contains(o)).collect::<Vec<_>>());
        assert_eq!(chunk.next, Offset(60));
    }
    assert_eq!(store.stats().lost_records, 2, "counted once, however often it is read");
    // A reader that stands before nothing but damage gets past it.
    disk.damage(&segments(&disk)[0], |bytes| bytes[64..].fill(0xff));
    let chunk = queue.read(Offset(0), 1, 1).await.unwrap();
    assert_eq!(chunk.lost[0].start, Offset(0));
    assert!(chunk.next > Offset(20));
}

#[tokio::test]
async fn one_torn_checkpoint_slot_is_survived_and_two_cost_duplicates_only() {
    // The start has synced slot 0; what was settled since is in slot 1.
    for (damage, lost, settled) in [(&[0][..], 0, 9), (&[4096], 0, 0), (&[0, 4096], 1, 0)] {
        let disk = filled(20).await;
        let (store, _) = open(&disk);
        let queue = store.queue(&main_queue()).await.unwrap();
        for below in [7, 9] {
            queue.settle(Offset(below));
            // Answered after the settle was noted; 10 settles would sync.
            store.queue(&main_queue()).await.unwrap();
        }
        drop(store);
        let disk = disk.kill();
        let path = format!("{FOLDER}/checkpoint");
        disk.damage(&path, |bytes| damage.iter().for_each(|at| bytes[at + 30] ^= 1));
        let (store, report) = open(&disk);
        assert_eq!(report.checkpoints_lost, lost);
        let queue = store.queue(&main_queue()).await.unwrap();
        assert_eq!(queue.settled(), Offset(settled));
        assert_eq!(*queue.durable_end().borrow(), Offset(20));
        assert_eq!(offsets(&read_all(&queue).await), (settled..20).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_and_nothing_is_changed() {
    for file in ["segment", "checkpoint"] {
        let disk = filled(3).await;
        let path = match file {
            "segment" => segments(&disk)[0].clone(),
            _ => format!("{FOLDER}/checkpoint"),
        };
        disk.damage(&path, |bytes| {
            bytes[8] = 9;
            let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..64]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        });
        disk.plan(|op, path| {
            let harmless = matches!(op, Op::SyncDir | Op::CreateDir);
            assert!(harmless, "{op:?} of {path:?}");
            None
        });
        let error = Store::open(config(), Arc::new(disk), TestClock::new()).unwrap_err();
        assert!(matches!(error, OpenError::NewerFormat { found: 9, known: 2, .. }), "{error}");
        assert!(error.to_string().contains("start the version that wrote it"));
    }
}

#[tokio::test]
async fn even_when_all_segments_are_gone_no_offset_is_used_again() {
    let disk = filled(60).await;
    let (store, _) = open(&disk);
    store.queue(&main_queue()).await.unwrap().settle(Offset(10));
    store.close().await;
    drop(store);
    for segment in segments(&disk) {
        disk.remove_file(Path::new(&segment)).unwrap();
    }
    let (store, report) = open(&disk);
    assert_eq!((report.proven_lost, report.records), (50, 0));
    Client::new(&store).append(b"x").await.unwrap();
    let queue = store.queue(&main_queue()).await.unwrap();
    assert_eq!((queue.settled(), queue.messages()), (Offset(60), 1));
    assert_eq!(offsets(&read_all(&queue).await), [60]);
    drop(store);
    let (_, report) = open(&disk.kill());
    assert_eq!((report.proven_lost, report.records), (0, 1), "counted once");
}

/// An older checkpoint that stands in for a damaged one does not make lost records of those that were settled, and whose
/// segments were unlinked, on account of the newer one.
#[tokio::test]
async fn a_damaged_slot_of_a_checkpoint_loses_nothing() {
    for damage in [|byte: &mut u8| *byte ^= 1, |byte: &mut u8| *byte = 0] {
        for slot in [0, 4096] {
            let disk = filled(60).await;
            for below in [2, 40] {
                let (store, _) = open(&disk);
                store.queue(&main_queue()).await.unwrap().settle(Offset(below));
                store.close().await;
            }
            let first = segments(&disk)[0].clone();
            assert!(!first.contains("/00000000000000000000-"), "segments were unlinked");
            disk.damage(format!("{FOLDER}/checkpoint"), |bytes| {
                bytes[slot..slot + 64].iter_mut().for_each(damage);
            });
            let (store, report) = open(&disk);
            assert_eq!((report.proven_lost, report.lost, report.checkpoints_lost), (0, vec![], 0));
            let queue = store.queue(&main_queue()).await.unwrap();
            assert_eq!(queue.durable_end().borrow().0, 60);
            assert!(queue.settled() <= Offset(40) && queue.settled() > Offset(2));
            assert_eq!(offsets(&read_all(&queue).await).last(), Some(&59));
        }
    }
}

/// After a failed sync the page cache holds what the disk does not, and says that it is written. A new process on the same
/// page cache acknowledges nothing upon that.
#[tokio::test]
async fn what_a_failed_sync_left_behind_is_written_again() {
    for seed in 0..50 {
        let disk = filled(9).await;
        let mut failed = false;
        disk.plan(move |op, path| {
            let hit = op == Op::SyncData && path.extension().is_some_and(|e| e == "seg");
            (hit && !std::mem::replace(&mut failed, true)).then_some(Fault::Error(ErrorKind::Other))
        });
        let start = Store::open(config(), Arc::new(disk.clone()), TestClock::new());
        assert!(matches!(start, Err(OpenError::Io { .. })), "a start that cannot sync is none");
        let disk = disk.kill();
        let (store, report) = open(&disk);
        assert_eq!((report.records, report.proven_lost), (9, 0));
        Client::new(&store).append(b"behind it").await.unwrap();
        drop(store);
        let (store, report) = open(&disk.power_cut(seed));
        assert_eq!((report.records, report.proven_lost, report.torn_records), (10, 0, 0));
        let queue = store.queue(&main_queue()).await.unwrap();
        assert_eq!(offsets(&read_all(&queue).await), (0..10).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_segment_that_is_gone_from_the_middle_costs_only_itself() {
    let disk = filled(60).await;
    let all = segments(&disk);
    disk.remove_file(Path::new(&all[1])).unwrap();
    let first = |name: &str| -> u64 { name[FOLDER.len() + 1..][..20].parse().unwrap() };
    let gone = first(&all[1])..first(&all[2]);
    let (store, report) = open(&disk);
    assert_eq!(report.proven_lost, gone.end - gone.start);
    let queue = store.queue(&main_queue()).await.unwrap();
    let want: Vec<u64> = (0..60).filter(|offset| !gone.contains(offset)).collect();
    assert_eq!(offsets(&read_all(&queue).await), want);
    assert_eq!(queue.messages(), want.len() as u64);
    store.close().await;
    drop(store);
    assert_eq!(open(&disk).1.proven_lost, 0, "counted once");
}

/// A file system that turns read-only has found an error in itself: the store says that it is to be restarted. What it had
/// acknowledged is there then.
#[tokio::test]
async fn a_volume_that_turns_read_only_poisons() {
    for op in [Op::Create, Op::Allocate, Op::Write] {
        let disk = SimDisk::new();
        let (store, _) = open(&disk);
        let mut client = Client::new(&store);
        client.append(b"before").await.unwrap();
        disk.plan(move |now, _| (now == op).then_some(Fault::Error(ErrorKind::ReadOnlyFilesystem)));
        assert_eq!(client.append(&[1; 200_000]).await, Err(AppendError::Poisoned), "{op:?}");
        disk.no_plan();
        assert_eq!(client.append(b"later").await, Err(AppendError::Poisoned));
        drop(store);
        let (store, report) = open(&disk.kill());
        assert_eq!(report.proven_lost, 0);
        let queue = store.queue(&main_queue()).await.unwrap();
        assert_eq!(&read_all(&queue).await.records[0].payload[..], b"before");
        Client::new(&store).append(b"after").await.unwrap();
    }
}

/// A queue that no start can name waits until it is asked for; then it is there with all that it held.
#[test]
fn a_queue_without_a_name_is_found_again_by_it() {
    let id = QueueId::new("upstream", 3).with_lane(&"long/".repeat(40));
    let mut world = super::expiry::World::new();
    world.append(&id, &[0; 3]).unwrap();
    let mut world = world.reopen();
    for name in ["name", "name-copy"] {
        world.disk.damage(format!("{ROOT}/{}/{name}", id.folder()), |bytes| bytes[20] ^= 1);
    }
    world = world.reopen();
    assert_eq!((world.report.nameless, world.report.queues), (1, 0));
    world.append(&id, &[1]).unwrap();
    for _ in 0..2 {
        let shared = world.engine.queue(&id).unwrap();
        let chunk = shared.read(shared.settle_to(), 1000, usize::MAX).unwrap();
        let payloads = chunk.records.iter().map(|record| record.payload[0]);
        assert_eq!(payloads.collect::<Vec<_>>(), [0, 0, 0, 1]);
        assert_eq!(offsets(&chunk), [0, 1, 2, 3]);
        world = world.reopen();
        let report = &world.report;
        assert_eq!((report.nameless, report.queues, report.proven_lost), (0, 1, 0));
    }
}
