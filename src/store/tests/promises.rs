//! What the store promises while all goes well, one test a promise.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use futures_util::FutureExt;

use super::*;

#[tokio::test]
async fn on_a_real_disk_what_is_acked_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = || Config::new(dir.path().join("a/b"));
    let start = || Store::open(config(), Arc::new(RealDisk), crate::clock::system());
    let (store, report) = start().unwrap();
    assert_eq!(report.queues, 0);
    let other = main_queue().with_lane("device/%");
    let mut client = Client::new(&store);
    for tag in 0..50u8 {
        let queues = [main_queue(), other.clone()];
        let append = client.message(u64::from(tag), &queues, vec![tag; usize::from(tag)]);
        client.appender.append(append).await.unwrap();
    }
    for tag in 0..50 {
        let receipt = client.receipts.recv().await.unwrap();
        assert_eq!((receipt.tag, receipt.result), (tag, Ok(Durable::for_test(tag))));
    }
    store.queue(&other).await.unwrap().settle(Offset(20));
    let error = start().unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)), "{error}");
    store.close().await;

    let (store, report) = start().unwrap();
    assert_eq!((report.queues, report.records, report.torn_bytes), (2, 80, 0));
    assert_eq!(*store.queues().borrow(), [main_queue(), other.clone()]);
    let queue = store.queue(&main_queue()).await.unwrap();
    assert_eq!((queue.messages(), queue.bytes()), (50, (0..50).sum()));
    let chunk = read_all(&queue).await;
    assert_eq!(offsets(&chunk), (0..50).collect::<Vec<_>>());
    let record = &chunk.records[49];
    assert_eq!((&record.payload[..], record.ttl_secs), (&[49; 49][..], 9));
    assert!(record.stored <= store.now() && record.expires.is_some());
    let queue = store.queue(&other).await.unwrap();
    assert_eq!((queue.settled(), queue.messages()), (Offset(20), 30));
    assert_eq!(*queue.durable_end().borrow(), Offset(50));
    store.close().await;
}

#[tokio::test]
async fn files_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let clock = crate::clock::system();
    let (store, _) = Store::open(Config::new(&root), Arc::new(RealDisk), clock).unwrap();
    Client::new(&store).append(b"x").await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&root), mode(&root.join("upstream.10"))), (0o700, 0o700));
    for entry in std::fs::read_dir(root.join("upstream.10")).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    store.close().await;
}

#[tokio::test]
async fn one_sync_serves_all_that_wait_and_receipts_keep_the_order() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let mut client = Client::new(&store);
    client.append(b"makes the queue").await.unwrap();
    let (entered, gate) = hold_syncs(&disk);
    client.appender.append(client.message(0, &[main_queue()], vec![0])).await.unwrap();
    entered.recv().unwrap();
    for tag in 1..20 {
        client.appender.append(client.message(tag, &[main_queue()], vec![1])).await.unwrap();
    }
    assert!(client.receipts.try_recv().is_err(), "acknowledged before the sync");
    let syncs = store.stats().syncs;
    drop(gate);
    for tag in 0..20 {
        assert_eq!(client.receipts.recv().await.unwrap().tag, tag);
    }
    store.close().await;
    // The first append's sync was counted when it was entered; close seals and syncs the checkpoint.
    assert_eq!(store.stats().commits, 3);
    assert!(store.stats().syncs <= syncs + 4, "{:?}", store.stats());
}

/// Every fdatasync says that it was entered, and waits until the gate is dropped.
fn hold_syncs(disk: &SimDisk) -> (std_mpsc::Receiver<()>, std_mpsc::Sender<()>) {
    let (gate, held) = std_mpsc::channel::<()>();
    let (enter, entered) = std_mpsc::channel();
    disk.plan(move |op, _| {
        if op == Op::SyncData {
            let _ = enter.send(());
            let _ = held.recv();
        }
        None
    });
    (entered, gate)
}

#[tokio::test]
async fn a_full_byte_budget_makes_appends_wait() {
    let disk = SimDisk::new();
    let config = Config { pending_bytes_max: 4096, ..config() };
    let disk_arc: Arc<dyn Disk> = Arc::new(disk.clone());
    let (store, _) = Store::open(config, disk_arc, TestClock::new()).unwrap();
    let mut client = Client::new(&store);
    client.append(b"makes the queue").await.unwrap();
    let (entered, gate) = hold_syncs(&disk);
    let message = |tag| client.message(tag, &[main_queue()], vec![0; 1500]);
    client.appender.append(message(0)).await.unwrap();
    entered.recv().unwrap();
    client.appender.append(message(1)).await.unwrap();
    let mut third = Box::pin(client.appender.append(message(2)));
    assert!((&mut third).now_or_never().is_none(), "4096 bytes do not hold three");
    drop(gate);
    third.await.unwrap();
    for tag in 0..3 {
        assert_eq!(client.receipts.recv().await.unwrap().tag, tag);
    }
}

#[tokio::test]
async fn reads_keep_their_limits_and_may_start_anywhere() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let mut client = Client::new(&store);
    for i in 0..60u8 {
        client.append(&[i; 100]).await.unwrap();
    }
    let queue = store.queue(&main_queue()).await.unwrap();
    for (from, records, bytes, want) in [
        (0, 3, 1000, 0..3),
        (3, 100, 250, 3..5),
        (5, 100, 1, 5..6),
        (2, 100, 1000, 2..12),
        (50, 100, 10_000, 50..60),
        (60, 100, 1000, 60..60),
        (26, 4, 1000, 26..30),
    ] {
        let chunk = queue.read(Offset(from), records, bytes).await.unwrap();
        assert_eq!(offsets(&chunk), want.clone().collect::<Vec<_>>());
        assert_eq!(chunk.next, Offset(want.end));
    }
    assert!(client.append(&vec![7; 20_000]).await.is_ok(), "larger than a segment");
    let chunk = queue.read(Offset(60), 1, 1).await.unwrap();
    assert_eq!(chunk.records[0].payload.len(), 20_000);
    let too_large = vec![0; PAYLOAD_BYTES_MAX + 1];
    let error = client.append(&too_large).await;
    assert_eq!(error, Err(AppendError::TooLarge(PAYLOAD_BYTES_MAX + 1)));
}

#[tokio::test]
async fn segments_go_only_after_the_checkpoint_that_kills_them_is_durable() {
    let disk = filled(60).await;
    let (store, _) = open(&disk);
    let before = segments(&disk).len();
    let mut clean = false;
    disk.plan(move |op, path| {
        match (op, path.ends_with("checkpoint")) {
            (Op::Write, true) => clean = false,
            (Op::SyncData, true) => clean = true,
            (Op::Remove, false) => assert!(clean, "unlinked {path:?} too early"),
            _ => {}
        }
        None
    });
    let queue = store.queue(&main_queue()).await.unwrap();
    for below in [10, 30, 31, 59, 60] {
        queue.settle(Offset(below));
        // The writer has seen the settle when it answers something later.
        store.queue(&QueueId::new("other", 0)).await.unwrap();
    }
    assert_eq!((queue.messages(), queue.bytes()), (0, 0));
    assert!(segments(&disk).len() < before - 2);
    store.close().await;
    assert_eq!(segments(&disk), [] as [String; 0], "a drained queue leaves no segment");
    assert_eq!(store.health().borrow().clone(), Health::Healthy);
    drop(store);
    let (store, report) = open(&disk);
    assert_eq!(report.records, 0);
    Client::new(&store).append(b"x").await.unwrap();
    let queue = store.queue(&main_queue()).await.unwrap();
    assert_eq!(offsets(&read_all(&queue).await), [60], "offsets are not used again");
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let disk = SimDisk::new();
    let (_store, _) = open(&disk);
    let error = Store::open(config(), Arc::new(disk), TestClock::new()).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)));
}

#[tokio::test]
async fn a_drained_lane_can_be_deleted_and_a_full_one_cannot() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let lane = main_queue().with_lane(&format!("{}/{}", "d".repeat(128), "m".repeat(128)));
    let mut client = Client::new(&store);
    let append = client.message(1, std::slice::from_ref(&lane), b"x".to_vec());
    client.appender.append(append).await.unwrap();
    client.receipts.recv().await.unwrap().result.unwrap();
    let queue = store.queue(&lane).await.unwrap();
    assert!(!queue.delete_if_empty().await.unwrap());
    assert_eq!(*store.queues().borrow(), std::slice::from_ref(&lane));
    queue.settle(Offset(1));
    assert!(queue.delete_if_empty().await.unwrap());
    assert_eq!(*store.queues().borrow(), [] as [QueueId; 0]);
    assert_eq!(disk.names(ROOT), ["quarantine"]);
    let append = client.message(1, std::slice::from_ref(&lane), b"y".to_vec());
    client.appender.append(append).await.unwrap();
    client.receipts.recv().await.unwrap().result.unwrap();
    queue.settle(Offset(1));
    store.close().await;
    drop(store);
    let (store, report) = open(&disk);
    assert_eq!(report.records, 1, "a stale handle settles nothing of the new queue");
    assert_eq!(*store.queues().borrow(), [lane], "a shortened folder name is found again");
}

#[tokio::test]
async fn close_answers_everybody() {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let mut client = Client::new(&store);
    for tag in 0..100 {
        client.appender.append(client.message(tag, &[main_queue()], vec![1; 50])).await.unwrap();
    }
    store.close().await;
    for _ in 0..100 {
        client.receipts.try_recv().unwrap().result.unwrap();
    }
    assert_eq!(client.append(b"late").await, Err(AppendError::Closed));
    assert!(matches!(store.queue(&main_queue()).await, Err(StoreError::Closed)));
    store.close().await;
    let (_, report) = open(&disk.power_cut(5));
    assert_eq!((report.records, report.torn_bytes), (100, 0));
}

#[test]
fn a_reopen_with_a_large_backlog_reads_no_sealed_segment() {
    // Not a matter of time: of bytes. The headers and seals of all, the records of none.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let disk = runtime.block_on(async {
        let disk = SimDisk::new();
        let (store, _) = open(&disk);
        let mut client = Client::new(&store);
        for _ in 0..100 {
            client.append(&[1; 1500]).await.unwrap();
        }
        store.close().await;
        disk
    });
    let before = disk.bytes_read();
    let (_, report) = open(&disk);
    assert_eq!(report.records, 100);
    let read = disk.bytes_read() - before;
    let most = segments(&disk).len() * 128 + 4 * 8192;
    assert!(read <= most, "{read} bytes read, at most {most} expected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_senders_and_a_reader_at_once_keep_every_senders_order() {
    const SENDERS: u64 = 4;
    const EACH: u64 = 300;
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        segment_bytes_max: 16 * 1024,
        pending_bytes_max: 8 * 1024,
        checkpoint_sync_every: 50,
        ..Config::new(dir.path())
    };
    let (store, _) = Store::open(config, Arc::new(RealDisk), crate::clock::system()).unwrap();
    let queue = store.queue(&main_queue()).await.unwrap();
    let tracker = tokio_util::task::TaskTracker::new();
    for sender in 0..SENDERS {
        let mut client = Client::new(&store);
        tracker.spawn(async move {
            for n in 0..EACH {
                let payload = [sender.to_le_bytes(), n.to_le_bytes()].concat();
                let append = client.message(n, &[main_queue()], [&payload[..], &[0; 84]].concat());
                client.appender.append(append).await.unwrap();
            }
            for n in 0..EACH {
                let receipt = client.receipts.recv().await.unwrap();
                assert_eq!((receipt.tag, receipt.result.unwrap().tag()), (n, n));
            }
        });
    }
    tracker.close();
    let mut end = queue.durable_end();
    let mut next = Offset(0);
    let mut seen = [0; SENDERS as usize];
    while next < Offset(SENDERS * EACH) {
        end.wait_for(|end| *end > next).await.unwrap();
        let chunk = queue.read(next, 64, 4096).await.unwrap();
        assert_eq!(chunk.lost, []);
        for record in &chunk.records {
            let number =
                |at: usize| u64::from_le_bytes(record.payload[at..at + 8].try_into().unwrap());
            let sender = usize::try_from(number(0)).unwrap();
            assert_eq!(number(8), seen[sender], "sender {sender}");
            seen[sender] += 1;
        }
        next = chunk.next;
        queue.settle(next);
    }
    tracker.wait().await;
    assert_eq!(seen, [EACH; SENDERS as usize]);
    store.close().await;
    assert_eq!((queue.messages(), store.stats().segments), (0, 0));
    assert_eq!(store.stats().appended_records, SENDERS * EACH);
}

#[tokio::test]
async fn idle_side_queues_hold_no_file_open_and_little_disk() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let config = Config::new(dir.path());
        Store::open(config, Arc::new(RealDisk), crate::clock::system()).unwrap().0
    };
    let handles = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        links
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .filter(|p| p.starts_with(dir.path()))
    };
    let side = |n| main_queue().with_lane(format!("device-{n}").as_str());
    let store = open();
    let mut client = Client::new(&store);
    for n in 0..100 {
        client.appender.append(client.message(n, &[side(n)], vec![7; 100])).await.unwrap();
    }
    for _ in 0..100 {
        client.receipts.recv().await.unwrap().result.unwrap();
    }
    let check = async |store: &Store| {
        for n in 0..100 {
            assert_eq!(read_all(&store.queue(&side(n)).await.unwrap()).await.records.len(), 1);
        }
        let open: Vec<_> = handles().collect();
        assert!(open.len() <= 1, "the lock: {open:?}");
        assert!(store.stats().disk_bytes <= 100 * 2 * 8192, "{}", store.stats().disk_bytes);
    };
    check(&store).await;
    store.close().await;
    drop(store);
    check(&open()).await;
}

/// Messages that come one by one: with a window they share a commit, and the blocks that it writes.
#[tokio::test]
async fn a_commit_window_makes_fewer_commits_of_what_comes_one_by_one() {
    const COUNT: u64 = 40;
    let spread = async |commit_window: Duration| {
        let config = Config { commit_window, segment_bytes_max: 1 << 20, ..config() };
        let disk = Arc::new(SimDisk::new());
        let (store, _) = Store::open(config, disk, TestClock::new()).unwrap();
        store.queue(&main_queue()).await.unwrap();
        let before = store.stats();
        let mut client = Client::new(&store);
        for _ in 0..COUNT {
            client.appender.append(client.message(7, &[main_queue()], vec![1; 100])).await.unwrap();
            if commit_window.is_zero() {
                // It is on disk before the next one comes.
                client.receipts.recv().await.unwrap().result.unwrap();
            }
        }
        if !commit_window.is_zero() {
            // The end of a window that is longer than any test: another command.
            store.queue(&main_queue()).await.unwrap();
            for _ in 0..COUNT {
                client.receipts.recv().await.unwrap().result.unwrap();
            }
        }
        let after = store.stats();
        store.close().await;
        assert_eq!(after.appended_records, COUNT);
        let blocks = after.written_block_bytes - before.written_block_bytes;
        (after.commits - before.commits, blocks / COUNT)
    };
    let (alone, together) = (spread(Duration::ZERO).await, spread(Duration::from_secs(3600)).await);
    assert_eq!((alone.0, together.0), (COUNT, 1));
    assert!(together.1 * 4 < alone.1, "{together:?}, alone {alone:?}");
}
