use bytes::Bytes;

use super::queue::{Effects, Queue};
use super::*;

/// One message of the queue under test, as a row tells it: number, state, delivery count.
type Row = (u64, C2dState, u32);

struct Bench {
    queue: Queue,
    now: i64,
    tokens: u128,
    out: Effects,
}

impl Bench {
    fn new() -> Self {
        Self {
            queue: Queue::new("d".into(), "7".into()),
            now: 0,
            tokens: 0,
            out: Effects::default(),
        }
    }

    fn send(&mut self, life: i64, ack: Ack) -> u64 {
        let message = C2dMessage::new("x").ack(ack);
        let message = C2dMessage { expiry: Some(self.now + life), ..message };
        self.queue.push(message, self.now, &mut self.out).expect("room")
    }

    /// Number and token.
    fn take(&mut self) -> Option<(u64, [u8; 16])> {
        self.tokens += 1;
        self.queue.on_time(self.now, &mut self.out);
        self.queue
            .take(self.tokens.to_be_bytes(), self.now)
            .map(|taken| (taken.sequence, taken.lock))
    }

    fn settle(&mut self, lock: [u8; 16], outcome: Outcome) -> Result<(), LockLost> {
        self.queue.on_time(self.now, &mut self.out);
        self.queue.on_outcome(&lock, outcome, self.now, &mut self.out)
    }

    fn rows(&mut self) -> Vec<Row> {
        self.queue.on_time(self.now, &mut self.out);
        let rows = self.queue.records().into_iter();
        rows.map(|r| (r.sequence_number, r.state, r.delivery_count)).collect()
    }

    fn told(&self) -> Vec<FeedbackStatus> {
        self.out.feedback.iter().map(|record| record.status_code).collect()
    }
}

use C2dState::{Completed, DeadLettered, Enqueued, Invisible};

#[test]
fn a_lock_is_held_by_one_and_runs_out() {
    let mut bench = Bench::new();
    bench.send(LIFE_MS, Ack::Full);
    bench.send(LIFE_MS, Ack::Full);
    let (first, old) = bench.take().expect("the first");
    let (second, other) = bench.take().expect("the second");
    assert_eq!((first, second, bench.take()), (1, 2, None));
    assert_eq!(bench.settle(other, Outcome::Complete), Ok(()));
    assert_eq!(bench.settle(other, Outcome::Complete), Err(LockLost));
    bench.now = 59_999;
    assert_eq!(bench.rows(), [(1, Invisible, 0), (2, Completed, 0)]);
    bench.out.news = false;
    bench.now = 60_000;
    assert_eq!(bench.rows(), [(1, Enqueued, 0), (2, Completed, 0)]);
    assert!(bench.out.news, "somebody can take it again");
    assert_eq!(bench.settle(old, Outcome::Complete), Err(LockLost));
    let (again, lock) = bench.take().expect("the first again");
    assert_eq!((again, bench.settle(lock, Outcome::Reject)), (1, Ok(())));
    assert_eq!(bench.told(), [FeedbackStatus::Success, FeedbackStatus::Rejected]);
}

#[test]
fn only_abandoning_counts_and_ten_times_is_death() {
    let mut bench = Bench::new();
    bench.send(LIFE_MS, Ack::Negative);
    bench.send(LIFE_MS, Ack::Positive);
    for expected in 0..9 {
        assert_eq!(bench.rows()[0], (1, Enqueued, expected));
        let (first, lock) = bench.take().expect("it keeps its place");
        assert_eq!((first, bench.settle(lock, Outcome::Abandon)), (1, Ok(())));
        // A lock that runs out is no delivery.
        bench.take();
        bench.now += 60_000;
    }
    let (_, lock) = bench.take().expect("the last time");
    assert_eq!(bench.settle(lock, Outcome::Abandon), Ok(()));
    assert_eq!(bench.rows(), [(1, DeadLettered, 10), (2, Enqueued, 0)]);
    assert_eq!(bench.told(), [FeedbackStatus::DeliveryCountExceeded]);
    let record = &bench.out.feedback[0];
    assert_eq!((&*record.device_id, &*record.device_generation_id), ("d", "7"));
}

#[test]
fn a_message_expires_unless_it_is_held() {
    let mut bench = Bench::new();
    for ack in [Ack::Full, Ack::None, Ack::Positive] {
        bench.send(1000, ack);
    }
    let (_, lock) = bench.take().expect("the first");
    bench.now = 1000;
    assert_eq!(bench.rows(), [(1, Invisible, 0), (2, DeadLettered, 0), (3, DeadLettered, 0)]);
    assert_eq!(bench.told(), [], "nobody asked");
    assert_eq!(bench.settle(lock, Outcome::Abandon), Ok(()));
    assert_eq!(bench.take(), None);
    assert_eq!(bench.told(), [FeedbackStatus::Expired]);
    // Later than two days is cut.
    bench.send(LIFE_MS_MAX * 2, Ack::None);
    bench.now += LIFE_MS_MAX;
    assert_eq!(bench.rows()[3], (4, DeadLettered, 0));
}

#[test]
fn a_queue_holds_fifty_and_is_purged() {
    let mut bench = Bench::new();
    for _ in 0..50 {
        bench.send(LIFE_MS, Ack::Full);
    }
    bench.take();
    let more = |bench: &mut Bench| {
        bench.queue.push(C2dMessage::new("x"), 0, &mut Effects::default()).map_err(|r| r.status)
    };
    assert_eq!(more(&mut bench), Err(403), "what is locked counts");
    assert_eq!(bench.queue.purge(0, &mut bench.out), 50);
    assert_eq!(more(&mut bench), Ok(51));
    assert_eq!(bench.told(), [FeedbackStatus::Purged; 50]);
}

#[test]
fn sizes_count_body_and_properties() {
    let mut bench = Bench::new();
    let room = MESSAGE_BYTES_MAX - "id".len() - "name".len() - "value".len();
    for (bytes, expected) in [(room, Ok(1)), (room + 1, Err(413))] {
        let message = C2dMessage::new(Bytes::from(vec![0; bytes])).id("id");
        let message = message.property("name", "value");
        let sent = bench.queue.push(message, 0, &mut bench.out).map_err(|refused| refused.status);
        assert_eq!(sent, expected);
    }
}

/// Numbers that look random; the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// What the test itself knows of a message that it took.
#[derive(Debug, Clone, Copy)]
struct Held {
    sequence: u64,
    lock: [u8; 16],
    until: i64,
}

#[test]
fn whatever_happens_each_message_is_in_one_place_and_has_one_holder() {
    for seed in 1..=50 {
        let (mut dice, mut bench) = (Dice(seed), Bench::new());
        let (mut held, mut sent): (Vec<Held>, u64) = (Vec::new(), 0);
        for step in 0..300_u64 {
            let at = format!("seed {seed}, step {step}");
            match dice.below(10) {
                0..3 if bench.queue.waiting.len() < 50 => {
                    let life = 1 + i64::try_from(dice.below(200_000)).expect("small");
                    sent += 1;
                    assert_eq!(bench.send(life, Ack::Full), sent, "{at}");
                }
                3..6 => {
                    if let Some((sequence, lock)) = bench.take() {
                        let other = held.iter().find(|h| h.sequence == sequence);
                        assert!(other.is_none_or(|h| h.until <= bench.now), "{at}: two holders");
                        held.retain(|h| h.sequence != sequence);
                        held.push(Held { sequence, lock, until: bench.now + 60_000 });
                    }
                }
                6..9 if !held.is_empty() => {
                    let which = usize::try_from(dice.below(held.len() as u64)).expect("small");
                    let taken = held.swap_remove(which);
                    let outcome = [Outcome::Complete, Outcome::Abandon, Outcome::Reject];
                    let outcome = outcome[usize::try_from(dice.below(3)).expect("small")];
                    let expected = if taken.until > bench.now { Ok(()) } else { Err(LockLost) };
                    assert_eq!(bench.settle(taken.lock, outcome), expected, "{at}");
                }
                _ => bench.now += i64::try_from(dice.below(20_000)).expect("small"),
            }
            let rows = bench.rows();
            let numbers: Vec<u64> = rows.iter().map(|(number, ..)| *number).collect();
            assert_eq!(numbers, (1..=sent).collect::<Vec<_>>(), "{at}: none lost, none twice");
            let settled = rows.iter().filter(|row| matches!(row.1, Completed | DeadLettered));
            assert_eq!(bench.out.feedback.len(), settled.count(), "{at}: each is told once");
        }
    }
}
