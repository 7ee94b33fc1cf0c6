//! Whatever is stuck, and however much of it: the others go on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::deadletter::DeadLetterQueue;
use super::double::{Answer, MemoryLogs, Scripted, main_queue, message};
use super::log::Logs;
use super::store_logs::StoreLogs;
use super::tests::{S, all, crash_after, drained, pump_of, run_for, small};
use super::{Config, Pump, Target};
use crate::clock;
use crate::deliver::{Deliver, Outcome};
use crate::metrics::Metrics;
use crate::store::sim::SimDisk;
use crate::store::{
    self, Append, AppendChain, AppendClass, AppendError, AppendTo, Receipt, ReceiptTo, Store,
};

/// However many senders are stuck, the others come through, and the checkpoint goes on.
#[tokio::test(start_paused = true)]
async fn hundreds_of_stuck_senders_block_nobody() {
    let logs = Arc::new(MemoryLogs::default());
    let hub = Scripted::new(|sender, _| match sender {
        "z" => Answer::delivered(),
        _ => Answer::of(Outcome::Unauthenticated { detail: "disabled".into() }),
    });
    for n in 0..3 {
        (0..200).for_each(|stuck| logs.publish(&format!("stuck-{stuck}"), n));
    }
    (0..500).for_each(|n| logs.publish("z", n));
    let story = async {
        sleep(600 * S).await;
        assert_eq!(hub.first_arrivals()["z"], all(500), "z is not held up");
        assert!(logs.queue(&main_queue()).is_drained(), "nor is the checkpoint");
        assert_eq!(logs.side_queues(&main_queue()).len(), 200);
        hub.script(|_, _| Answer::delivered());
        sleep(3600 * S).await;
        assert!(drained(&logs));
        for stuck in 0..200 {
            assert_eq!(hub.first_arrivals()[&format!("stuck-{stuck}")], all(3));
        }
    };
    tokio::join!(run_for(&logs, &hub, &small(), 5000 * S), story);
}

/// As at an input of a module: an ack timeout is the module's, so nothing is written a second time on account of the first one.
/// `(messages of the sender, failures, settings of inputs) -> parked`.
#[tokio::test(start_paused = true)]
async fn a_sender_with_much_waiting_goes_on_after_a_timeout() {
    let inputs = Config { much_is_part: 1, park_after_failures: 2, park_after: 60 * S, ..small() };
    let table = [
        (40, 1, small(), true),
        (40, 1, inputs.clone(), false),
        // Not in the others' way: it has until `park_after`.
        (40, 3, inputs.clone(), false),
        // Nobody fits into the window beside it.
        (200, 1, inputs.clone(), false),
        (200, 3, inputs, true),
    ];
    for (count, failures, config, is_parked) in table {
        let case =
            format!("{count} messages, {failures} failures, {} of the window", config.much_is_part);
        let logs = Arc::new(MemoryLogs::default());
        (0..count).for_each(|n| logs.publish("slow", n));
        (0..5).for_each(|n| logs.publish("z", n));
        let mut left = failures;
        let module = Scripted::new(move |sender, _| {
            if sender != "slow" || left == 0 {
                return Answer::delivered();
            }
            left -= 1;
            Answer::retry()
        });
        let metrics = Metrics::new("hub", "edge");
        let target = Target::new(Arc::clone(&module) as Arc<dyn Deliver>);
        let pump = pump_of(&logs, main_queue(), target, Arc::clone(&metrics), &config);
        let others = async {
            // Within the window nobody waits for the sender's rest; behind it, for one at most.
            sleep(if count < 64 { Duration::from_millis(50) } else { 3 * S }).await;
            assert_eq!(module.kept_of("z"), all(5), "{case}");
        };
        tokio::join!(others, crash_after(600 * S, pump));
        assert_eq!(module.first_arrivals()["slow"], all(count), "{case}");
        assert!(drained(&logs), "{case}");
        let text = metrics.render();
        let was_parked = text.contains("event=\"lane\"") && text.contains("reason=\"parked\"");
        assert_eq!(was_parked, is_parked, "{case}: {text}");
    }
}

/// The devices' side of a real store on a small volume.
struct Devices {
    store: Arc<Store>,
    to: mpsc::Sender<Receipt>,
    receipts: mpsc::Receiver<Receipt>,
}

impl Devices {
    fn new() -> Self {
        let disk = SimDisk::new();
        disk.set_capacity(Some(512 << 10));
        let config =
            store::Config { segment_bytes_max: 16 << 10, ..store::Config::new("/data/store") };
        let (store, _) = Store::open(config, Arc::new(disk), clock::system()).unwrap();
        let (to, receipts) = mpsc::channel(1);
        Self { store: Arc::new(store), to, receipts }
    }

    async fn publish(&mut self, sender: &str, n: u64) -> Result<(), AppendError> {
        let append = Append {
            queues: vec![AppendTo { queue: main_queue(), ttl_secs: 0 }],
            payload: message(sender, n, 1000),
            since: None,
            class: AppendClass::Ingress,
            receipt: ReceiptTo::new(n, self.to.clone(), &AppendChain::new()),
        };
        self.store.appender().append(append).await?;
        self.receipts.recv().await.unwrap().result.map(|_| ())
    }

    /// Publishes one message of `stuck` to `healthy` ones of z until the volume takes no more; says how many of each.
    async fn fill(&mut self, healthy: u64) -> (u64, u64) {
        for n in 0.. {
            let is_stuck = n % (healthy + 1) == 0;
            let sender = if is_stuck { "stuck" } else { "z" };
            if let Err(error) = self.publish(sender, n).await {
                assert_eq!(error, AppendError::Full);
                let stuck = n.div_ceil(healthy + 1);
                return (stuck, n - stuck);
            }
        }
        unreachable!("the volume is finite")
    }

    fn pump(&self, hub: &Arc<Scripted>) -> Pump {
        let millis =
            |n, max| Backoff { base: Duration::from_millis(n), max: Duration::from_millis(max) };
        let config = Config {
            window_messages_max: 64,
            batch_messages_max: 8,
            backoff: millis(20, 100),
            park_after: Duration::from_millis(200),
            ..Config::default()
        };
        let logs: Arc<dyn Logs> = Arc::new(StoreLogs::new(Arc::clone(&self.store)));
        let dead = Arc::new(DeadLetterQueue::new(Arc::clone(&logs)));
        let hub = Arc::clone(hub) as Arc<dyn Deliver>;
        Pump::new(
            logs,
            main_queue(),
            Target::new(hub),
            dead,
            Metrics::new("hub", "edge"),
            clock::system(),
            config,
        )
    }
}

/// Devices have filled the volume; the endpoint is there, but for the messages of one sender. The others arrive, and
/// there is room again.
async fn check_full_volume(healthy: u64, stuck: fn() -> Answer) {
    let mut devices = Devices::new();
    let (published_stuck, published) = devices.fill(healthy).await;
    assert!(published_stuck > 0 && published > 100, "{published_stuck} and {published}");
    let hub = Scripted::new(move |sender, _| match sender {
        "z" => Answer::delivered().after(Duration::ZERO),
        _ => stuck().after(Duration::ZERO),
    });
    let run = devices.pump(&hub).run(CancellationToken::new());
    let main = devices.store.queue(&main_queue()).await.unwrap();
    let drained = async {
        while main.messages() > 0 {
            sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(hub.first_arrivals()["z"].len() as u64, published);
        // The dead letters or the side queue hold what is stuck.
        let kept = devices.store.queues().borrow().clone();
        assert_eq!(kept.len(), 2, "{kept:?}");
        for n in 0..50 {
            devices.publish("z", 10_000 + n).await.unwrap();
        }
    };
    tokio::select! {
        ended = run => panic!("the pump has ended by itself: {ended:?}"),
        done = tokio::time::timeout(30 * S, drained) => done.expect("the volume stays full for ever"),
    }
}

#[tokio::test]
async fn a_volume_filled_by_devices_drains_past_one_refused_message() {
    check_full_volume(10_000, Answer::rejected).await;
}

#[tokio::test]
async fn a_volume_filled_by_devices_drains_past_one_throttled_sender() {
    check_full_volume(10_000, Answer::retry).await;
}

/// A third of the backlog has to be moved, through a reserve that is a twentieth of the volume.
#[tokio::test]
async fn a_volume_filled_by_devices_drains_past_many_stuck_messages() {
    check_full_volume(2, Answer::retry).await;
    check_full_volume(2, Answer::rejected).await;
}
