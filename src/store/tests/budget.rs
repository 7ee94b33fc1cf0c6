//! What the store promises when room becomes scarce, one test a rule.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 4 * MIB;

fn limited(when_full: WhenFull) -> Config {
    let limits = Limits { budget_bytes: Some(BUDGET), when_full, ..Limits::default() };
    Config { segment_bytes_max: 4 * MIB, limits, ..config() }
}

fn start(config: Config) -> (Store, SimDisk, Arc<TestClock>) {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let (store, _) = Store::open(config, Arc::new(disk.clone()), clock.clone()).unwrap();
    (store, disk, clock)
}

fn used(disk: &SimDisk) -> u64 {
    disk.used() as u64
}

async fn put(client: &mut Client, queue: &QueueId, bytes: usize) -> Result<(), AppendError> {
    let append = client.message(0, std::slice::from_ref(queue), vec![7; bytes]);
    client.appender.append(append).await.unwrap();
    client.receipts.recv().await.unwrap().result.map(|_| ())
}

/// Answered when the writer has done all that was asked before.
async fn turn(store: &Store) {
    store.queue(&main_queue()).await.unwrap();
}

#[tokio::test]
async fn a_small_budget_is_kept_exactly_and_used_well() {
    let (store, disk, _) = start(limited(WhenFull::Reject));
    let mut client = Client::new(&store);
    while put(&mut client, &main_queue(), 10_000).await.is_ok() {
        assert!(used(&disk) <= BUDGET);
    }
    let reserve = BUDGET / 8;
    assert!(used(&disk) <= BUDGET - reserve);
    assert!(used(&disk) > BUDGET - reserve - 64 * 1024, "{} are used", used(&disk));
    let room = store.room();
    assert!(room.limit.unwrap() - room.used < 64 * 1024, "{room:?}");
    client.class = AppendClass::Internal;
    let side = main_queue().with_lane("stuck");
    while put(&mut client, &side, 10_000).await.is_ok() {
        assert!(used(&disk) <= BUDGET);
    }
    assert!(used(&disk) > BUDGET - 64 * 1024, "the store's own side gets the rest");
    let queue = store.queue(&main_queue()).await.unwrap();
    queue.settle(*queue.durable_end().borrow());
    client.class = AppendClass::Ingress;
    put(&mut client, &main_queue(), 10_000).await.unwrap();
}

#[tokio::test]
async fn the_oldest_of_the_lowest_priority_goes_and_every_one_is_told() {
    let (store, disk, _) = start(limited(WhenFull::DropOldest));
    let mut told = store.removed().unwrap();
    let mut client = Client::new(&store);
    let (high, low) = (QueueId::new("upstream", 0), main_queue());
    let mut stored = 0;
    for n in 0..1000 {
        put(&mut client, &low, 10_000).await.unwrap();
        stored += 1;
        if n < 100 {
            put(&mut client, &high, 10_000).await.unwrap();
        }
        assert!(used(&disk) <= BUDGET);
    }
    let mut dropped = 0;
    while let Ok(removed) = told.try_recv() {
        assert_eq!((removed.queue, removed.why), (low.clone(), RemovedWhy::Budget));
        assert_eq!(removed.offsets.start, Offset(dropped), "none twice, none left out");
        assert_eq!(removed.offsets.end.0 - removed.offsets.start.0, removed.records);
        dropped += removed.records;
    }
    assert_eq!(dropped, store.stats().dropped_records);
    let queue = store.queue(&low).await.unwrap();
    assert_eq!(queue.settled(), Offset(dropped));
    assert_eq!(offsets(&read_all(&queue).await), (dropped..stored).collect::<Vec<_>>());
    let queue = store.queue(&high).await.unwrap();
    assert_eq!(queue.messages(), 100, "a higher priority loses nothing");
    // A lower priority than all that is stored pushes out nothing.
    for _ in 0..500 {
        put(&mut client, &high, 10_000).await.unwrap();
    }
    assert_eq!(store.queue(&low).await.unwrap().messages(), 0);
    let high = store.queue(&high).await.unwrap();
    let before = high.messages();
    for _ in 0..100 {
        // There may be room for some; whether they push out each other is theirs.
        let _ = put(&mut client, &low, 10_000).await;
    }
    assert_eq!(high.messages(), before);
}

/// A segment that the disk does not unlink costs no second one: nothing would be won by it.
#[tokio::test]
async fn where_nothing_can_be_unlinked_at_most_one_segment_is_dropped() {
    let (store, disk, _) = start(limited(WhenFull::DropOldest));
    let mut client = Client::new(&store);
    for _ in 0..400 {
        put(&mut client, &main_queue(), 10_000).await.unwrap();
    }
    let before = store.stats();
    disk.plan(|op, _| (op == Op::Remove).then_some(Fault::Error(std::io::ErrorKind::Other)));
    let mut refused = 0;
    for _ in 0..100 {
        refused += u64::from(put(&mut client, &main_queue(), 10_000).await.is_err());
    }
    assert!(refused > 50, "{refused}");
    let segment = BUDGET / 16 / 10_000;
    let dropped = store.stats().dropped_records - before.dropped_records;
    assert!(dropped <= segment, "{dropped} messages dropped, a segment holds {segment}");
    disk.no_plan();
    put(&mut client, &main_queue(), 10_000).await.unwrap();
}

#[tokio::test]
async fn a_ring_keeps_its_newest_within_its_size_and_always_takes_one_more() {
    let dead = QueueId::new("dead", 9);
    let rings = vec![Ring { queue: dead.clone(), bytes_max: 128 * 1024 }];
    let (store, disk, _) = start(Config { rings, ..limited(WhenFull::Reject) });
    let mut client = Client::new(&store);
    while put(&mut client, &main_queue(), 10_000).await.is_ok() {}
    let before = used(&disk);
    client.class = AppendClass::Internal;
    for _ in 0..200 {
        put(&mut client, &dead, 3000).await.unwrap();
        assert!(used(&disk) - before <= 128 * 1024);
    }
    let queue = store.queue(&dead).await.unwrap();
    let kept = queue.messages();
    assert!(kept > 20, "{kept} are kept");
    assert_eq!(offsets(&read_all(&queue).await), (200 - kept..200).collect::<Vec<_>>());
    assert_eq!(store.stats().dropped_records, 200 - kept);
}

#[tokio::test]
async fn what_finds_no_room_is_held_and_stored_when_there_is_room_again() {
    let hold = Duration::from_secs(5);
    let (store, _disk, clock) = start(Config { hold_when_full: hold, ..limited(WhenFull::Reject) });
    let mut client = Client::new(&store);
    client.chain = Some(AppendChain::new());
    let message = |client: &Client, tag| client.message(tag, &[main_queue()], vec![7; 100_000]);
    for tag in 0..60 {
        client.appender.append(message(&client, tag)).await.unwrap();
    }
    turn(&store).await;
    turn(&store).await;
    let held = store.stats().held_appends;
    assert!((20..40).contains(&held), "{held} are held");
    // The store's own go on, and commands do.
    let mut own = Client::new(&store);
    own.class = AppendClass::Internal;
    put(&mut own, &main_queue(), 1000).await.unwrap();
    for tag in 0..60 - held {
        assert_eq!(client.receipts.recv().await.unwrap().result.unwrap().tag(), tag);
    }
    assert!(client.receipts.try_recv().is_err(), "neither stored nor refused");
    store.queue(&main_queue()).await.unwrap().settle(Offset(20));
    turn(&store).await;
    for tag in 60 - held..75 - held {
        assert_eq!(client.receipts.recv().await.unwrap().result.unwrap().tag(), tag);
    }
    // A larger budget wakes them, too.
    store.set_limits(Limits { budget_bytes: Some(5 * MIB), ..Limits::default() });
    assert_eq!(client.receipts.recv().await.unwrap().tag, 75 - held);
    store.set_limits(Limits { budget_bytes: Some(BUDGET), ..Limits::default() });
    for tag in 100..160 {
        client.appender.append(message(&client, tag)).await.unwrap();
    }
    turn(&store).await;
    clock.pass(hold);
    turn(&store).await;
    turn(&store).await;
    assert_eq!(store.stats().held_appends, 0);
    let mut refused = 0;
    while let Ok(receipt) = client.receipts.try_recv() {
        match receipt.result {
            Ok(_) => assert_eq!(refused, 0, "stored behind a refused one"),
            Err(error) => {
                assert_eq!(error, AppendError::Full);
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    client.chain = None;
    client.appender.append(message(&client, 1)).await.unwrap();
    store.close().await;
    assert_eq!(client.receipts.recv().await.unwrap().result, Err(AppendError::Closed));
}

/// But for one small segment, which is used on: else a queue that is drained after every message would make and unlink a file
/// for each.
#[tokio::test]
async fn a_drained_queue_gives_its_space_back_within_a_second() {
    for (messages, left) in [(1, 1), (400, 1), (2000, 0)] {
        let segment_bytes_max = 4 << 20;
        let config = Config { checkpoint_sync_every: 1, segment_bytes_max, ..config() };
        let (store, disk, clock) = start(config);
        let mut client = Client::new(&store);
        for _ in 0..messages {
            put(&mut client, &main_queue(), 100).await.unwrap();
        }
        let queue = store.queue(&main_queue()).await.unwrap();
        queue.settle(*queue.durable_end().borrow());
        turn(&store).await;
        clock.pass(Duration::from_millis(750));
        turn(&store).await;
        turn(&store).await;
        assert_eq!(segments(&disk).len(), left, "{messages} messages");
        assert_eq!(used(&disk), 8192 + left as u64 * 128 * 1024);
        assert_eq!(store.stats().disk_bytes, used(&disk));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize, usize),
    Settle(usize, u64),
    Limit(u64, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0usize..3, 1000usize..120_000).prop_map(|(q, n)| Step::Append(q, n)),
        3 => (0usize..3, 1u64..10).prop_map(|(q, n)| Step::Settle(q, n)),
        1 => (4u64..7, any::<bool>()).prop_map(|(m, drop)| Step::Limit(m * MIB, drop)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(12),
        ..ProptestConfig::default()
    })]

    /// Never more than the budget, but for what was there when it was lowered; nothing acked goes untold.
    #[test]
    fn the_budget_is_never_exceeded_and_nothing_goes_untold(
        steps in prop::collection::vec(step(), 50..150),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&steps));
    }
}

async fn run(steps: &[Step]) {
    let (store, disk, _) = start(limited(WhenFull::DropOldest));
    let mut told = store.removed().unwrap();
    let mut client = Client::new(&store);
    let ids = [QueueId::new("upstream", 0), main_queue(), main_queue().with_lane("a")];
    let mut acked: [BTreeSet<u64>; 3] = Default::default();
    let mut ends = [0u64; 3];
    let mut budget = BUDGET;
    for step in steps {
        let before = used(&disk);
        match step {
            Step::Append(q, bytes) => {
                if put(&mut client, &ids[*q], *bytes).await.is_ok() {
                    acked[*q].insert(ends[*q]);
                    ends[*q] += 1;
                }
            }
            Step::Settle(q, n) => {
                let queue = store.queue(&ids[*q]).await.unwrap();
                let below = Offset((queue.settled().0 + n).min(ends[*q]));
                queue.settle(below);
                turn(&store).await;
                acked[*q].retain(|offset| *offset >= below.0);
            }
            Step::Limit(bytes, drop) => {
                budget = *bytes;
                let when_full = if *drop { WhenFull::DropOldest } else { WhenFull::Reject };
                let budget_bytes = Some(budget);
                store.set_limits(Limits { budget_bytes, when_full, ..Limits::default() });
            }
        }
        assert!(used(&disk) <= budget.max(before), "{} of {budget}: {step:?}", used(&disk));
        while let Ok(removed) = told.try_recv() {
            let q = ids.iter().position(|id| *id == removed.queue).unwrap();
            for offset in removed.offsets.start.0..removed.offsets.end.0 {
                assert!(acked[q].remove(&offset), "{offset} was not there");
            }
        }
    }
    for (id, acked) in ids.iter().zip(acked) {
        let queue = store.queue(id).await.unwrap();
        assert_eq!(offsets(&read_all(&queue).await), acked.into_iter().collect::<Vec<_>>());
    }
}
