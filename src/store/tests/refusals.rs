//! Refusals of the disk in the middle of the store's housekeeping: nothing is lost by them, and nothing is hidden by them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::expiry::World;
use super::*;
use crate::store::disk::Mode;
use crate::store::engine::Failure;
use crate::store::sim::errno;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The queue's folder cannot be opened to be synced: no handles.
fn no_handle_for_the_folder(op: Op, path: &Path) -> Option<Fault> {
    (op == Op::SyncDir && path.to_str() == Some(FOLDER)).then_some(Fault::Os(errno::EMFILE))
}

/// A tombstone has its name, its folder was not synced; appends go on before the restart.
#[test]
fn nothing_is_appended_in_the_span_of_a_tombstone_that_was_refused() {
    for drained in [false, true] {
        let mut world = World::new();
        world.append(&main_queue(), &[0; 3]).unwrap();
        world.append(&main_queue(), &[10; 2]).unwrap();
        world.disk.plan(no_handle_for_the_folder);
        world.clock.pass(secs(20));
        let _ = world.engine.tick();
        world.disk.no_plan();
        world.append(&main_queue(), &[0]).unwrap();
        if drained {
            world.pass(secs(2));
            assert_eq!(super::segments(&world.disk).len(), 3, "the stray tombstone has gone");
        }
        let mut world = world.reopen();
        world.pass(secs(10));
        assert_eq!(world.left(), [0, 1, 2, 5], "drained {drained}");
    }
}

/// A sync of one queue fails; before or after it another queue is refused something, which is harmless.
#[test]
fn a_refusal_never_hides_a_poison() {
    for other in [QueueId::new("another", 3), QueueId::new("zzz", 3)] {
        let mut world = World::new();
        world.append(&other, &[0; 2]).unwrap();
        world.append(&main_queue(), &[10; 2]).unwrap();
        world.engine.queue(&other).unwrap().request_settle(Offset(1));
        world.engine.settle().unwrap();
        let folder = format!("{ROOT}/{}", other.folder());
        world.disk.plan(move |op, path| match op {
            Op::SyncData if path.starts_with(&folder) => Some(Fault::Os(errno::EIO)),
            _ => no_handle_for_the_folder(op, path),
        });
        world.clock.pass(secs(20));
        let ticked = world.engine.tick();
        assert!(matches!(ticked, Err(Failure::Poison(_))), "{ticked:?}");
    }
}

/// The same in one turn of the writer: the settle is refused, then a sync fails.
#[tokio::test]
async fn a_turn_that_was_refused_something_still_poisons() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let (store, _) = Store::open(config(), Arc::new(disk.clone()), clock.clone()).unwrap();
    let (mut client, other) = (Client::new(&store), QueueId::new("other", 3));
    for _ in 0..8 {
        client.append(&[1; 1000]).await.unwrap();
    }
    let queue = store.queue(&other).await.unwrap();
    for _ in 0..2 {
        let message = client.message(0, std::slice::from_ref(&other), vec![7; 100]);
        client.appender.append(message).await.unwrap();
        client.receipts.recv().await.unwrap().result.unwrap();
    }
    let main = store.queue(&main_queue()).await.unwrap();
    queue.settle(Offset(1));
    store.queue(&other).await.unwrap();
    let mut failed = false;
    disk.plan(move |op, path| match op {
        Op::SyncData if !failed && path.starts_with(format!("{ROOT}/{}", other.folder())) => {
            failed = true;
            Some(Fault::Os(errno::EIO))
        }
        _ => no_handle_for_the_folder(op, path),
    });
    clock.pass(secs(1));
    main.settle(Offset(4));
    let mut health = store.health();
    let poisoned = health.wait_for(|health| matches!(health, Health::Poisoned(_)));
    tokio::time::timeout(secs(30), poisoned).await.expect("it is poisoned").unwrap();
    assert!(client.append(b"x").await.is_err());
}

const MIB: u64 = 1 << 20;

/// A disk without room that no dropping cures (a quota of others, no inodes): one append does not cost the backlog.
#[tokio::test]
async fn a_disk_that_stays_full_costs_a_few_segments_only() {
    let limits = Limits { when_full: WhenFull::DropOldest, ..Limits::default() };
    let config = Config { segment_bytes_max: 64 * 1024, limits, ..config() };
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let (store, _) = Store::open(config, Arc::new(disk.clone()), clock.clone()).unwrap();
    let mut client = Client::new(&store);
    for _ in 0..300 {
        client.append(&[1; 10_000]).await.unwrap();
    }
    disk.plan(|op, path| {
        let is_segment = path.extension().is_some_and(|ext| ext == "seg");
        (matches!(op, Op::Allocate | Op::Write) && is_segment).then_some(Fault::Os(errno::ENOSPC))
    });
    for _ in 0..20 {
        let _ = client.append(&[2; 10_000]).await;
    }
    let dropped = store.stats().dropped_records;
    assert!((1..=24).contains(&dropped), "{dropped}");
    clock.pass(secs(1));
    assert_eq!(client.append(&[2; 10_000]).await, Err(AppendError::Full));
    let later = store.stats().dropped_records;
    assert!((dropped + 1..=dropped + 24).contains(&later), "tried again: {later}");
    disk.no_plan();
    assert!(client.append(&[2; 10_000]).await.is_ok());
}

/// A sender of the lower priority, which may push nothing out, is refused; it holds up nobody of a higher one.
#[tokio::test]
async fn what_may_push_nothing_out_does_not_hold_up_what_may() {
    let limits = Limits {
        budget_bytes: Some(4 * MIB),
        when_full: WhenFull::DropOldest,
        ..Limits::default()
    };
    let config = Config { segment_bytes_max: 4 * MIB, limits, hold_when_full: secs(5), ..config() };
    let (store, _) = Store::open(config, Arc::new(SimDisk::new()), TestClock::new()).unwrap();
    let (mut high, mut low) = (Client::new(&store), Client::new(&store));
    let queue = QueueId::new("upstream", 0);
    let urgent = |client: &Client| client.message(0, std::slice::from_ref(&queue), vec![7; 10_000]);
    for _ in 0..1000 {
        high.appender.append(urgent(&high)).await.unwrap();
        high.receipts.recv().await.unwrap().result.unwrap();
    }
    assert!(store.stats().dropped_records > 0, "it is full");
    let mut refused = 0;
    for _ in 0..50 {
        low.chain = Some(AppendChain::new());
        let message = low.message(0, &[main_queue()], vec![7; 10_000]);
        low.appender.append(message).await.unwrap();
        high.appender.append(urgent(&high)).await.unwrap();
        assert!(high.receipts.recv().await.unwrap().result.is_ok());
        // A dropped segment leaves room for some of them.
        refused += u32::from(low.receipts.recv().await.unwrap().result.is_err());
    }
    assert!(refused > 0, "there is room for some only");
}

/// A segment of one queue cannot be unlinked durably: what expired in it is counted and told once, and other queues expire.
#[test]
fn what_expired_is_told_once_although_the_disk_refuses_and_others_go_on() {
    let mut world = World::new();
    let other = QueueId::new("zzz", 3);
    world.append(&main_queue(), &[10; 2]).unwrap();
    world.append(&other, &[10; 2]).unwrap();
    world.disk.plan(no_handle_for_the_folder);
    world.clock.pass(secs(20));
    let ticked = world.engine.tick();
    assert!(matches!(ticked, Err(Failure::Refused(_))), "{ticked:?}");
    assert_eq!(world.counters.snapshot().expired_records, 4);
    world.disk.no_plan();
    (0..5).for_each(|_| world.pass(secs(2)));
    assert_eq!(world.counters.snapshot().expired_records, 4, "once");
    assert!(world.left().is_empty());
}

/// Copies of damaged segments from a time without a budget: the oldest go, by the order in which they came, not a message.
#[tokio::test]
async fn the_quarantine_leaves_a_small_budget_to_the_messages() {
    let disk = SimDisk::new();
    let folder = Path::new(ROOT).join("quarantine");
    disk.create_dir_all(&folder).unwrap();
    let name = |n: u64| format!("upstream.10--00000000000000000000-00000000.seg-{n}");
    for n in [1, 2] {
        let file = disk.open(&folder.join(name(n)), Mode::CreateNew).unwrap();
        file.write_at(&vec![1; if n == 1 { 8 << 20 } else { 1000 }], 0).unwrap();
    }
    let limits = Limits {
        budget_bytes: Some(4 * MIB),
        when_full: WhenFull::DropOldest,
        ..Limits::default()
    };
    let config = Config { segment_bytes_max: 4 * MIB, limits, ..config() };
    let (store, _) = Store::open(config, Arc::new(disk.clone()), TestClock::new()).unwrap();
    let mut client = Client::new(&store);
    assert!(client.append(b"x").await.is_ok(), "{:?}", store.room());
    assert_eq!(disk.names(folder.to_str().unwrap()), [name(2)]);
    for _ in 0..500 {
        client.append(&[1; 10_000]).await.unwrap();
        if store.stats().dropped_records > 0 {
            break;
        }
    }
    assert_eq!(store.stats().quarantine_bytes, 0, "given up before a message");
}

/// The space of a drained queue cannot be given back by a cut: the file goes all the same, and nothing is refused for it.
#[test]
fn a_drained_segment_goes_although_it_cannot_be_cut() {
    let mut world = World::new();
    for _ in 0..200 {
        world.append(&main_queue(), &[0]).unwrap();
    }
    let shared = world.engine.queue(&main_queue()).unwrap();
    shared.request_settle(shared.end());
    world.engine.settle().unwrap();
    let cut = Op::SetLen;
    world.disk.plan(move |op, _| (op == cut).then_some(Fault::Os(errno::EMFILE)));
    world.clock.pass(secs(2));
    assert!(world.engine.tick().is_ok());
    world.disk.no_plan();
    world.append(&main_queue(), &[0]).unwrap();
    assert_eq!(world.left(), [200]);
}
