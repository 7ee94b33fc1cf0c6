//! The sampler over a real store.

use std::path::Path;

use tokio::sync::mpsc;

use super::*;
use crate::clock;
use crate::store::{
    self, Append, AppendChain, AppendClass, AppendTo, RealDisk, ReceiptTo, RecoveryReport,
};

fn open(dir: &Path) -> Arc<Store> {
    let opened = Store::open(store::Config::new(dir), Arc::new(RealDisk), clock::system());
    let (store, report): (Store, RecoveryReport) = opened.unwrap();
    assert_eq!(report.records, 0);
    Arc::new(store)
}

async fn append(store: &Store, id: &QueueId, count: u64) {
    let (to, mut receipts) = mpsc::channel(usize::try_from(count).unwrap());
    let chain = AppendChain::new();
    for tag in 0..count {
        let append = Append {
            queues: vec![AppendTo { queue: id.clone(), ttl_secs: 0 }],
            payload: vec![7; 100].into(),
            since: None,
            class: AppendClass::Ingress,
            receipt: ReceiptTo::new(tag, to.clone(), &chain),
        };
        store.appender().append(append).await.unwrap();
    }
    for _ in 0..count {
        receipts.recv().await.unwrap().result.unwrap();
    }
}

fn gauges(text: &str, name: &str) -> Vec<String> {
    let name = format!("sphere_gateway_{name}{{");
    let value = |l: &str| l.rsplit(' ').next().unwrap_or_default().to_owned();
    text.lines().filter(|l| l.starts_with(&name)).map(value).collect()
}

#[tokio::test]
async fn a_sample_shows_what_waits_and_an_unmoved_queue_is_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let metrics = Metrics::new("hub", "edge");
    let open: Arc<OpenQueues> = Arc::default();
    let mut sampler = Sampler::new(
        Arc::clone(&store),
        Arc::clone(&open),
        WhenFull::DropOldest,
        Arc::clone(&metrics),
        clock::system(),
    );
    let last = sampler.last();
    assert!(last.load().is_none());

    let live = QueueId { live: true, ..QueueId::new("iothub", 10) };
    for (id, count) in [(QueueId::new("iothub", 10), 5), (live, 3)] {
        append(&store, &id, count).await;
        let queue = store.queue(&id).await.unwrap();
        open.lock().unwrap().insert(id, queue);
    }
    sampler.sample().await;
    let all = Arc::clone(&last.load_full().unwrap().queues);
    let shown: Vec<(bool, u64, u64, bool)> = all
        .queues
        .iter()
        .map(|q| (q.live, q.messages, q.bytes, q.oldest_age_secs.is_some()))
        .collect();
    assert_eq!(shown, [(false, 5, 500, true), (true, 3, 300, true)]);
    assert_eq!(all.store.when_full, "drop_oldest");
    assert_eq!(all.store.used_bytes, store.room().used);
    assert!(all.store.used_bytes > 0);
    refresh_gauges(&metrics, &store.stats());
    let text = metrics.render();
    assert_eq!(gauges(&text, "queue_oldest_message_age_seconds").len(), 1);
    assert_eq!(gauges(&text, "store_used_bytes"), [all.store.used_bytes.to_string()]);

    // What was known of the head stays in use until the head moves.
    let id = QueueId::new("iothub", 10);
    let queue = open.lock().unwrap()[&id].clone();
    let marked = Head { stored: StoreMillis(1), ..sampler.heads[&id] };
    sampler.heads.insert(id.clone(), marked);
    sampler.sample().await;
    assert_eq!(sampler.heads[&id].stored, StoreMillis(1));
    queue.settle(Offset(2));
    sampler.sample().await;
    assert_eq!(sampler.heads[&id].at, Offset(2));
    queue.settle(Offset(5));
    open.lock().unwrap().clear();
    sampler.sample().await;
    assert!(sampler.heads.is_empty() && last.load_full().unwrap().queues.queues.is_empty());
    assert_eq!(gauges(&metrics.render(), "queue_oldest_message_age_seconds").len(), 0);
}

/// The pumps open the queues one after the other: a sample of the first ones would be taken for all there are.
#[tokio::test]
async fn the_first_sample_has_every_queue_that_the_start_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ids = [QueueId::new("iothub", 3), QueueId::new("iothub", 10)];
    for id in &ids {
        append(&store, id, 1).await;
    }
    let open: Arc<OpenQueues> = Arc::default();
    let metrics = Metrics::new("hub", "edge");
    let (full, clock) = (WhenFull::Reject, clock::system());
    let sampler = Sampler::new(Arc::clone(&store), Arc::clone(&open), full, metrics, clock);
    let (last, stop) = (sampler.last(), CancellationToken::new());
    assert!(!sampler.is_ready());
    let look = async {
        for id in &ids {
            tokio::time::sleep(FIRST_EVERY * 2).await;
            assert!(last.load().is_none(), "{id} is not open yet");
            let queue = store.queue(id).await.unwrap();
            open.lock().unwrap().insert(id.clone(), queue);
        }
        while last.load().is_none() {
            tokio::time::sleep(FIRST_EVERY / 10).await;
        }
        assert_eq!(last.load_full().unwrap().queues.queues.len(), 2);
        stop.cancel();
    };
    tokio::join!(sampler.run(stop.clone()), look);
}

#[test]
fn a_full_store_is_a_warning_only_while_it_refuses() {
    let sample = |refusing| {
        let room = Room { used: 5, limit: Some(5), free: None };
        let store = store_status(room, WhenFull::Reject, &Forecast::default());
        Sample {
            queues: Arc::new(Queues { queues: Vec::new(), store, unheard: Vec::new() }),
            refusing,
        }
    };
    for (held, last, expected) in [
        (0, None, false),
        (1, None, true),
        (1, Some(sample(false)), true),
        (0, Some(sample(true)), true),
        (0, Some(sample(false)), false),
    ] {
        let stats = StoreStats { held_appends: held, ..StoreStats::default() };
        let warnings = warnings(&stats, last.as_ref());
        assert_eq!(!warnings.is_empty(), expected, "{held} {last:?}");
        assert!(warnings.iter().all(|w| w.starts_with("store full: refusing")));
    }
}

#[test]
fn the_gauges_of_the_store_are_shown_once_there_is_something_to_show() {
    let metrics = Metrics::new("hub", "edge");
    refresh_gauges(&metrics, &StoreStats::default());
    assert_eq!(gauges(&metrics.render(), "store_written_bytes_per_message").len(), 0);
    let stats = StoreStats {
        appended_records: 4,
        written_block_bytes: 6000,
        held_appends: 1,
        expired_records: 2,
        dropped_records: 3,
        quarantine_bytes: 4,
        ..StoreStats::default()
    };
    refresh_gauges(&metrics, &stats);
    let text = metrics.render();
    for (name, value) in [
        ("store_written_bytes_per_message", "1500"),
        ("store_held_appends", "1"),
        ("store_expired_records", "2"),
        ("store_dropped_records", "3"),
        ("store_quarantine_bytes", "4"),
    ] {
        assert_eq!(gauges(&text, name), [value], "{name}");
    }
}
