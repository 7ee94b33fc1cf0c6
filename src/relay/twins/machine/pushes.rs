//! Pushes of what is pending: merged, with a pace, in order, until the hub takes or refuses them.

use std::collections::VecDeque;
use std::time::Instant;

use serde_json::Value;

use super::super::kept::to_bytes;
use super::super::limits::PATCH_BYTES_MAX;
use super::super::merge::{Object, Pending};
use super::{Action, BACKOFF_MAX, Machine, backoff};
use crate::upstream::downlinks::CloudError;

/// Refusals of one push until its parts are no longer taken apart: one bad property among thousands is found by less, and a hub
/// that refuses everything is not asked about each.
const REFUSALS_MAX: u32 = 64;

/// The push under way.
#[derive(Debug)]
pub(super) struct Push {
    /// What the hub has taken of it.
    taken: Pending,
    /// Something of it was refused.
    is_short: bool,
    refusals: u32,
    /// What is left of it; the first is under way.
    parts: VecDeque<Object>,
    /// Refused, and tried once more behind the others, with the hub's words.
    put_off: Vec<(Object, String)>,
    /// The hub has taken something since the first of these: there may be room now.
    is_eased: bool,
}

impl Machine {
    pub(super) fn begin_push(&mut self, now: Instant) {
        let due = self.memory.push_at.is_none_or(|at| at <= now);
        // What is held goes into the same push.
        if self.push.is_some() || !self.draft.pending.any || !due {
            return;
        }
        let parts: VecDeque<_> = self.draft.pending.pushes(PATCH_BYTES_MAX).into();
        self.memory.last_push = Some(now);
        self.memory.push_at = Some(now + self.config.push_every);
        self.newer = Pending::default();
        self.push = Some(Push {
            taken: Pending::default(),
            is_short: false,
            refusals: 0,
            parts,
            put_off: Vec::new(),
            is_eased: false,
        });
        self.push_next();
    }

    fn push_next(&mut self) {
        let first = self.push.as_ref().and_then(|push| push.parts.front());
        if let Some(body) = first.map(to_bytes) {
            self.actions.push(Action::Push(body));
        }
    }

    /// The hub's answer to the part under way.
    pub(in super::super) fn pushed(
        &mut self,
        result: Result<Option<u64>, CloudError>,
        now: Instant,
    ) {
        let Some(push) = &mut self.push else { return };
        let part = push.parts.pop_front().unwrap_or_default();
        match result {
            Ok(version) => {
                push.is_eased = true;
                push.taken.lay(&part);
                let had = self.draft.reported_version;
                if let Some(version) = version.filter(|version| *version > had) {
                    self.change().reported_version = version;
                }
                self.go_on(now);
            }
            Err(CloudError::Refused { status, detail })
                // Anything but a plain no may be taken later.
                if matches!(status, 400..=499) && !matches!(status, 401 | 403 | 404 | 408 | 429) =>
            {
                self.refused(part, status, &detail, now);
            }
            Err(error) => self.failed(&error, now),
        }
    }

    /// With the next part, with what was put off, or not at all.
    fn go_on(&mut self, now: Instant) {
        let Some(push) = &mut self.push else { return };
        if push.parts.is_empty() && std::mem::take(&mut push.is_eased) {
            push.parts.extend(push.put_off.drain(..).map(|(part, _)| part));
        }
        if !push.parts.is_empty() {
            return self.push_next();
        }
        for (part, why) in std::mem::take(&mut push.put_off) {
            self.dropped(&part, &why);
        }
        self.taken(now);
    }

    fn taken(&mut self, now: Instant) {
        let Some(push) = self.push.take() else { return };
        let newer = self.newer.clone();
        self.change().pending = newer;
        self.newer = Pending::default();
        self.memory.push_failures = 0;
        if let Some(reading) = &mut self.reading {
            reading.since.lay_all(&push.taken);
        }
        if push.is_short {
            // What we show is not what the hub has.
            self.memory.missed(now);
        }
    }

    /// For good. Each patch was within the limits, so it is some of them together, or something that we do not know of: what
    /// the hub takes is found by halves, and only what it does not take by itself is lost.
    fn refused(&mut self, part: Object, status: u16, detail: &str, now: Instant) {
        let Some(push) = &mut self.push else { return };
        push.refusals += 1;
        if push.refusals < REFUSALS_MAX
            && let Some((first, second)) = halves(&part)
        {
            push.parts.push_front(second);
            push.parts.push_front(first);
            self.counted("twin_push", "halved");
            return self.push_next();
        }
        let why = format!("with status {status}: {detail}");
        // What adds may find room when other parts have made some.
        if push.refusals < REFUSALS_MAX && !part.values().any(deletes) {
            push.is_eased &= !push.put_off.is_empty();
            push.put_off.push((part, why));
        } else {
            self.dropped(&part, &why);
        }
        self.go_on(now);
    }

    fn dropped(&mut self, part: &Object, why: &str) {
        let Some(push) = &mut self.push else { return };
        push.is_short = true;
        let key = part.keys().next().map_or("(none)", String::as_str);
        let others = part.len().saturating_sub(1);
        let words = format!(
            "the hub refuses the reported property {key:?} (and {others} others) {why}; dropped"
        );
        self.actions.push(Action::Warn("twin_push", "refused", words));
    }

    fn failed(&mut self, error: &CloudError, now: Instant) {
        self.push = None;
        self.newer = Pending::default();
        if let Some((_, newer)) = &mut self.saved {
            *newer = Pending::default();
        }
        let failures = &mut self.memory.push_failures;
        let (reason, wait) = match error {
            // Its end is waited for, not its time.
            CloudError::Offline => ("offline", self.config.push_every),
            CloudError::Lost(_) => {
                *failures += 1;
                ("lost", backoff(self.config.push_every, *failures - 1))
            }
            CloudError::Busy { after, .. } => {
                *failures += 1;
                let own = backoff(self.config.push_every, *failures);
                ("busy", after.unwrap_or_default().max(own))
            }
            CloudError::Refused { .. } => ("no_such_identity", BACKOFF_MAX),
            CloudError::Unauthenticated(_) => ("unauthenticated", BACKOFF_MAX),
        };
        self.memory.push_at = Some(now + wait);
        self.counted("twin_push", reason);
    }
}

/// Whether there is a null in it: then its place among the parts counts.
fn deletes(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(inner) => inner.values().any(deletes),
        _ => false,
    }
}

/// Two parts that do the same one after the other, in any order. `None`: it says one thing.
fn halves(part: &Object) -> Option<(Object, Object)> {
    let mut keys = part.iter();
    if let (Some((key, inner)), None) = (keys.next(), keys.next()) {
        // All that a client reports may be in one object, as components are.
        let (first, second) = halves(inner.as_object()?)?;
        let within = |inner| Object::from_iter([(key.clone(), Value::Object(inner))]);
        return Some((within(first), within(second)));
    }
    let half = part.len() / 2;
    let pair = |(key, value): (&String, &Value)| (key.clone(), value.clone());
    let (first, second) = (part.iter().take(half), part.iter().skip(half));
    (half > 0).then(|| (first.map(pair).collect(), second.map(pair).collect()))
}
