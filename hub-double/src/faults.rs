//! The fault script: what the hub does wrong, since when, for whom and for how long (fact sheet G).
//!
//! Owns: the faults in force, their counts and their ends. Invariant: a fault acts from the moment that it is set on
//! connections that exist as well as new ones; without faults the path of a message costs one atomic load here.
//! Must not know: frames; what a connection does about a [`Verdict`] is its own business.

mod script;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::clock;
use crate::log::Transferred;

pub use self::script::{Fault, FaultKind};

/// How a transfer is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Accept,
    Reject(String),
    Release,
    Modify,
}

/// When the answer goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timing {
    Now,
    After(Duration),
    /// Not before the fault with this number ends.
    Held {
        fault: u64,
    },
    Never,
}

/// What the faults make of one transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) answer: Answer,
    pub(crate) timing: Timing,
}

/// What goes wrong with a call of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFault {
    Lost,
    Late(Duration),
}

/// What connections watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) black_hole: bool,
    /// Tokens older than this are expired.
    pub(crate) token_age_max: Option<Duration>,
    /// Goes up with each change, so that every change wakes every connection.
    version: u64,
}

#[derive(Debug)]
struct Active {
    id: u64,
    fault: Fault,
    until: Option<Instant>,
    remaining: Option<u64>,
    /// For throttling by rate: messages that may pass, and when that was true.
    bucket: (f64, Instant),
}

impl Active {
    /// Uses up `n` of the count; false when none is left.
    fn spend(&mut self, n: u64) -> bool {
        match &mut self.remaining {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left = left.saturating_sub(n);
                true
            }
        }
    }

    /// Whether `messages` exceed the rate now.
    fn over_rate(&mut self, per_second: u64, messages: u64, now: Instant) -> bool {
        #[allow(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
        let (rate, wanted) = (per_second as f64, messages as f64);
        let passed = now.saturating_duration_since(self.bucket.1).as_secs_f64();
        self.bucket = ((self.bucket.0 + passed * rate).min(rate), now);
        // A batch larger than one second's worth passes on a full bucket, or it never would.
        if self.bucket.0 >= wanted || self.bucket.0 >= rate {
            self.bucket.0 -= wanted;
            return false;
        }
        true
    }

    fn is_over(&self, now: Instant) -> bool {
        let used_up = self.remaining == Some(0)
            && !matches!(self.fault.kind, FaultKind::WithholdDispositions { .. });
        used_up || self.until.is_some_and(|until| until <= now)
    }
}

/// The faults in force.
#[derive(Debug)]
pub(crate) struct Faults {
    any: AtomicBool,
    next_id: AtomicU64,
    active: Mutex<Vec<Active>>,
    flags: watch::Sender<Flags>,
    changed: Notify,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self {
            any: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
            active: Mutex::default(),
            flags: watch::Sender::new(Flags::default()),
            changed: Notify::new(),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Vec<Active>) -> T) -> T {
        work(&mut self.active.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a lasting fault in force; gives its number. Momentary ones only get a number.
    pub(crate) fn set(&self, fault: Fault) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if fault.is_momentary() {
            return id;
        }
        let now = clock::now();
        let until = fault.duration_ms.map(|ms| now + Duration::from_millis(ms));
        #[allow(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
        let full = match fault.kind {
            FaultKind::Throttle { per_second: Some(rate) } => rate as f64,
            _ => 0.0,
        };
        let remaining = fault.count;
        self.with(|all| all.push(Active { id, fault, until, remaining, bucket: (full, now) }));
        self.publish();
        id
    }

    /// Ends all faults.
    pub(crate) fn clear(&self) {
        self.with(Vec::clear);
        self.publish();
    }

    /// Ends one fault; false when it was not in force.
    pub(crate) fn clear_one(&self, id: u64) -> bool {
        let found = self.with(|all| {
            let before = all.len();
            all.retain(|a| a.id != id);
            before != all.len()
        });
        self.publish();
        found
    }

    /// The faults in force with their numbers.
    pub(crate) fn list(&self) -> Vec<(u64, Fault)> {
        self.with(|all| all.iter().map(|a| (a.id, a.fault.clone())).collect())
    }

    /// Whether a fault is in force.
    pub(crate) fn in_force(&self, id: u64) -> bool {
        self.any.load(Ordering::Acquire) && self.with(|all| all.iter().any(|a| a.id == id))
    }

    /// Follows what concerns whole connections.
    pub(crate) fn flags(&self) -> watch::Receiver<Flags> {
        self.flags.subscribe()
    }

    /// Tells everyone what is in force now.
    fn publish(&self) {
        let (any, black_hole, age) = self.with(|all| {
            let black_hole = all.iter().any(|a| a.fault.kind == FaultKind::BlackHole);
            let ages = all.iter().filter_map(|a| match a.fault.kind {
                FaultKind::ExpireTokens { older_than_ms } => {
                    Some(Duration::from_millis(older_than_ms))
                }
                _ => None,
            });
            (!all.is_empty(), black_hole, ages.min())
        });
        self.any.store(any, Ordering::Release);
        self.flags.send_modify(|flags| {
            flags.black_hole = black_hole;
            flags.token_age_max = age;
            flags.version += 1;
        });
        self.changed.notify_one();
    }

    /// Ends faults when their time is over. Runs as long as the double.
    pub(crate) async fn keep_time(&self) {
        loop {
            let next = self.with(|all| all.iter().filter_map(|a| a.until).min());
            match next {
                None => self.changed.notified().await,
                Some(at) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(at.into()) => {
                            let now = clock::now();
                            self.with(|all| all.retain(|a| !a.is_over(now)));
                            self.publish();
                        }
                    }
                }
            }
        }
    }

    /// Runs `act` on each fault in force for `device` (all faults when none is named), in the order that they were
    /// set, until one answers; then ends the ones that are used up.
    fn ask<T>(
        &self,
        device: Option<&str>,
        mut act: impl FnMut(&mut Active) -> Option<T>,
    ) -> Option<T> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let now = clock::now();
        let (answer, ended) = self.with(|all| {
            let reach = |a: &Active| device.is_none_or(|d| a.fault.is_for(d)) && !a.is_over(now);
            let answer = all.iter_mut().filter(|a| reach(a)).find_map(&mut act);
            let before = all.len();
            all.retain(|a| !a.is_over(now));
            (answer, before != all.len())
        });
        if ended {
            self.publish();
        }
        answer
    }

    /// Whether a new connection is refused.
    pub(crate) fn refuses_connection(&self) -> bool {
        self.ask(None, |a| {
            (a.fault.kind == FaultKind::RefuseConnections && a.spend(1)).then_some(())
        })
        .is_some()
    }

    /// The condition that an attach of `device` is refused with.
    pub(crate) fn refuses_link(&self, device: &str) -> Option<String> {
        self.ask(Some(device), |a| match &a.fault.kind {
            FaultKind::RefuseLinks { condition } => {
                let condition = condition.clone();
                a.spend(1).then_some(condition)
            }
            _ => None,
        })
    }

    /// The status that a put-token for `device` is refused with.
    pub(crate) fn refuses_token(&self, device: &str) -> Option<u16> {
        self.ask(Some(device), |a| match a.fault.kind {
            FaultKind::RefuseTokens { status } => a.spend(1).then_some(status),
            _ => None,
        })
    }

    /// Whether a put-token for `device` is not answered.
    pub(crate) fn ignores_token(&self, device: &str) -> bool {
        let act =
            |a: &mut Active| (a.fault.kind == FaultKind::IgnoreTokens && a.spend(1)).then_some(());
        self.ask(Some(device), act).is_some()
    }

    /// Whether an attach of `device` is not answered.
    pub(crate) fn ignores_link(&self, device: &str) -> bool {
        let act =
            |a: &mut Active| (a.fault.kind == FaultKind::IgnoreLinks && a.spend(1)).then_some(());
        self.ask(Some(device), act).is_some()
    }

    /// Whether a change of desired properties of `device` is not told.
    pub(crate) fn drops_desired(&self, device: &str) -> bool {
        let act =
            |a: &mut Active| (a.fault.kind == FaultKind::DropDesired && a.spend(1)).then_some(());
        self.ask(Some(device), act).is_some()
    }

    /// The status that an operation on a twin of `device` is refused with.
    pub(crate) fn refuses_twin(&self, device: &str) -> Option<u16> {
        self.ask(Some(device), |a| match a.fault.kind {
            FaultKind::RefuseTwins { status } => a.spend(1).then_some(status),
            _ => None,
        })
    }

    /// Whether an operation on a twin of `device` is not answered; and if so, whether it is carried out.
    pub(crate) fn ignores_twin(&self, device: &str) -> Option<bool> {
        self.ask(Some(device), |a| match a.fault.kind {
            FaultKind::IgnoreTwins { carried_out } => a.spend(1).then_some(carried_out),
            _ => None,
        })
    }

    /// What goes wrong with a call of a method of `device`.
    pub(crate) fn on_call(&self, device: &str) -> Option<CallFault> {
        self.ask(Some(device), |a| match a.fault.kind {
            FaultKind::LoseCalls => a.spend(1).then_some(CallFault::Lost),
            FaultKind::DelayCalls { ms } => {
                a.spend(1).then_some(CallFault::Late(Duration::from_millis(ms)))
            }
            _ => None,
        })
    }

    /// How much later an operation on a twin of `device` is answered.
    pub(crate) fn delays_twin(&self, device: &str) -> Option<Duration> {
        self.ask(Some(device), |a| match a.fault.kind {
            FaultKind::DelayTwins { ms } => a.spend(1).then_some(Duration::from_millis(ms)),
            _ => None,
        })
    }

    /// The status that a request to the scope API is refused with.
    pub(crate) fn refuses_scope(&self) -> Option<u16> {
        self.ask(None, |a| match a.fault.kind {
            FaultKind::RefuseScope { status } => a.spend(1).then_some(status),
            _ => None,
        })
    }

    /// How long a connection rests after reading `bytes` with `messages` in them.
    pub(crate) fn rest_after(&self, bytes: usize, messages: u64) -> Duration {
        let mut rest = Duration::ZERO;
        self.ask(None, |a| -> Option<()> {
            if let FaultKind::Slow { bytes_per_second, ms_per_message } = a.fault.kind {
                if let Some(rate) = bytes_per_second {
                    let micros = (bytes as u64).saturating_mul(1_000_000) / rate.max(1);
                    rest += Duration::from_micros(micros);
                }
                rest += Duration::from_millis(ms_per_message.unwrap_or(0).saturating_mul(messages));
            }
            None
        });
        rest
    }

    /// Judges a transfer of `device`.
    pub(crate) fn judge(&self, device: &str, messages: Transferred<'_>) -> Verdict {
        let mut timing = Timing::Now;
        let count = messages.count();
        let answer = self.ask(Some(device), |a| match &a.fault.kind {
            FaultKind::WithholdDispositions { forever } => {
                let forever = *forever;
                if timing != Timing::Never && a.spend(1) {
                    timing = if forever { Timing::Never } else { Timing::Held { fault: a.id } };
                }
                None
            }
            FaultKind::DelayDispositions { ms } => {
                let ms = *ms;
                if timing == Timing::Now && a.spend(1) {
                    timing = Timing::After(Duration::from_millis(ms));
                }
                None
            }
            FaultKind::Throttle { per_second } => {
                let over = per_second.is_none_or(|rate| a.over_rate(rate, count, clock::now()));
                (over && a.spend(count)).then(|| Answer::Reject(THROTTLED.to_owned()))
            }
            FaultKind::RejectMessage { condition, message_id, property } => {
                let hit = messages.any(message_id.as_deref(), property);
                let condition = condition.clone();
                (hit && a.spend(1)).then_some(Answer::Reject(condition))
            }
            FaultKind::Release => a.spend(1).then_some(Answer::Release),
            FaultKind::Modify => a.spend(1).then_some(Answer::Modify),
            _ => None,
        });
        Verdict { answer: answer.unwrap_or(Answer::Accept), timing }
    }
}

/// 429 on the wire (fact sheet B4).
const THROTTLED: &str = "com.microsoft:device-container-throttled";
