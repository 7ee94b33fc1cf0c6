//! What the store removed is counted, and its dead letters survive a store that refuses them for a while.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::task::JoinSet;

use super::*;
use crate::clock::{Clock, UnixMillis};
use crate::pump::deadletter::DeadLetterQueue;
use crate::pump::store_logs::StoreLogs;
use crate::store::{self, Offset, QueueId, RealDisk, Store};

/// Goes by tokio's clock, which a paused test moves.
struct TokioClock;

impl Clock for TokioClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(77)
    }

    fn monotonic(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// Refuses as scripted, then keeps.
#[derive(Default)]
struct Letters {
    refusals: Mutex<VecDeque<LogError>>,
    kept: Mutex<Vec<DeadLetter>>,
}

impl DeadLetters for Letters {
    fn keep<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), LogError>> {
        async move {
            let refusal = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(refusal) = refusal {
                return Err(refusal);
            }
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(letter.clone());
            Ok(())
        }
        .boxed()
    }
}

struct Lab {
    tell: mpsc::Sender<Removed>,
    letters: Arc<Letters>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn start(refusals: impl IntoIterator<Item = LogError>) -> Lab {
    let (tell, heard) = mpsc::channel(16);
    let letters = Arc::new(Letters::default());
    *letters.refusals.lock().unwrap() = refusals.into_iter().collect();
    let (metrics, stop) = (Metrics::new("hub", "edge"), CancellationToken::new());
    let keep = Arc::clone(&letters) as Arc<dyn DeadLetters>;
    let watch = RemovedWatch::new(heard, keep, Arc::clone(&metrics), Arc::new(TokioClock));
    let mut tasks = JoinSet::new();
    tasks.spawn(watch.run(stop.clone()));
    Lab { tell, letters, metrics, stop, tasks }
}

impl Lab {
    async fn tell(&self, queue: QueueId, offsets: std::ops::Range<u64>, why: RemovedWhy) {
        let records = offsets.end - offsets.start;
        let offsets = Offset(offsets.start)..Offset(offsets.end);
        let removed =
            Removed { queue, offsets, records, with_reader: 0, payload_bytes: records, why };
        self.tell.send(removed).await.unwrap();
    }

    /// What was kept, as `count reason detail's beginning`, once the task has ended.
    async fn end(mut self) -> (Vec<(u32, String, String)>, String) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        let kept = self.letters.kept.lock().unwrap();
        assert!(kept.iter().all(|l| l.stored.is_empty() && l.died == UnixMillis(77)));
        let place = |l: &DeadLetter| l.detail.split(':').next().unwrap().to_owned();
        let kept = kept.iter().map(|l| (l.count, l.reason.clone(), place(l))).collect();
        (kept, self.metrics.render())
    }
}

/// The value of the counter whose line has `name` and `reason`.
fn counter(text: &str, name: &str, reason: &str) -> Option<u64> {
    let reason = format!("reason=\"{reason}\"");
    let line = text.lines().find(|l| l.contains(name) && l.contains(&reason))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn full() -> LogError {
    LogError::Full("no room".into())
}

#[tokio::test(start_paused = true)]
async fn each_reason_is_counted_and_those_that_lose_messages_leave_a_letter() {
    let lab = start([]);
    let main = QueueId::new("iothub", 10);
    lab.tell(main.clone(), 0..4, RemovedWhy::Expired).await;
    lab.tell(main.clone(), 4..6, RemovedWhy::Budget).await;
    lab.tell(main.with_lane("d1"), 3..4, RemovedWhy::Unreadable).await;
    lab.tell(DeadLetterQueue::id(), 0..9, RemovedWhy::Ring).await;
    lab.tell(DeadLetterQueue::id(), 9..10, RemovedWhy::Unreadable).await;
    let (kept, text) = lab.end().await;
    assert_eq!(
        kept,
        [
            (2, "store_full".into(), "2 messages of queue iothub/10, offsets 4 to 5".into()),
            (1, "unreadable".into(), "1 message of queue iothub/10/d1, offsets 3 to 3".into()),
        ]
    );
    const DROPPED: &str = "edgehub_messages_dropped_total";
    for (name, reason, expected) in [
        (DROPPED, "ttl_expiry", Some(4)),
        (DROPPED, "store_full", Some(2)),
        (DROPPED, "unreadable", Some(1)),
        (DROPPED, "ring", None),
        ("dead_letter_dropped", "ring", Some(9)),
        ("dead_letter_dropped", "unreadable", Some(1)),
        ("dead_letter_lost", "store_full", None),
    ] {
        assert_eq!(counter(&text, name, reason), expected, "{name} {reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn letters_that_are_refused_are_merged_and_kept_later() {
    let lab = start([full(), full(), full()]);
    let main = QueueId::new("iothub", 10);
    lab.tell(main.clone(), 0..4, RemovedWhy::Budget).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    lab.tell(main, 4..7, RemovedWhy::Budget).await;
    // Three pauses of at most 1, 2 and 4 seconds, looked at once a second.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let letters = lab.letters.kept.lock().unwrap().len();
    assert_eq!(letters, 1, "kept without waiting for the end");
    let (kept, text) = lab.end().await;
    let place = "7 messages of queue iothub/10, offsets 0 to 6".to_owned();
    assert_eq!(kept, [(7, "store_full".to_owned(), place)]);
    assert_eq!(counter(&text, "dead_letter_retried", "store_full"), Some(3));
}

#[tokio::test(start_paused = true)]
async fn what_can_be_kept_nowhere_is_counted_as_lost() {
    let lab = start([full(), LogError::Gone("closed".into())]);
    lab.tell(QueueId::new("iothub", 1), 0..4, RemovedWhy::Budget).await;
    lab.tell(QueueId::new("iothub", 2), 0..2, RemovedWhy::Budget).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (kept, text) = lab.end().await;
    assert_eq!(kept, []);
    assert_eq!(counter(&text, "dead_letter_lost", "store_full"), Some(6));
}

#[tokio::test]
async fn the_letter_is_in_the_stores_own_queue_and_can_be_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = store::Config::new(dir.path());
    let (store, _) = Store::open(config, Arc::new(RealDisk), crate::clock::system()).unwrap();
    let store = Arc::new(store);
    let letters = Arc::new(DeadLetterQueue::new(Arc::new(StoreLogs::new(Arc::clone(&store)))));
    let (tell, heard) = mpsc::channel(1);
    let metrics = Metrics::new("hub", "edge");
    let watch = RemovedWatch::new(heard, letters, metrics, Arc::new(TokioClock));
    let queue = QueueId::new("iothub", 10);
    let offsets = Offset(0)..Offset(4000);
    let why = RemovedWhy::Budget;
    let removed =
        Removed { queue, offsets, records: 4000, with_reader: 1000, payload_bytes: 9, why };
    tell.send(removed).await.unwrap();
    drop(tell);
    // The end of the store ends it, with all that it has heard of done.
    watch.run(CancellationToken::new()).await;
    let queue = store.queue(&DeadLetterQueue::id()).await.unwrap();
    let chunk = queue.read(Offset(0), 10, 10_000).await.unwrap();
    let letters: Vec<DeadLetter> =
        chunk.records.iter().map(|r| DeadLetter::decode(r.payload.clone()).unwrap()).collect();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].count, letters[0].reason.as_str()), (4000, "store_full"));
    assert!(letters[0].detail.contains("offsets 0 to 3999"), "{}", letters[0].detail);
}
