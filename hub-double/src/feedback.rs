//! Feedback on cloud-to-device messages: what became of each that asked for it (fact sheet A6).
//!
//! Owns: the records and their batches. Invariants: records are in the order of the outcomes; a batch is closed when it has
//! [`BATCH_RECORDS_MAX`] records or [`BATCH_AGE_MAX_MS`] after its first one; at most [`RECORDS_MAX`] are kept, the oldest
//! batches go. Must not know: queues, HTTP.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::{Serialize, Serializer};
use tokio::sync::watch;

/// Records of a batch.
const BATCH_RECORDS_MAX: usize = 64;
/// How long a batch waits for more records, milliseconds.
const BATCH_AGE_MAX_MS: i64 = 15_000;
/// Records kept.
const RECORDS_MAX: usize = 100_000;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum FeedbackStatus {
    /// Completed by the device.
    Success,
    /// Not completed before its expiry.
    Expired,
    /// Given back too often.
    DeliveryCountExceeded,
    /// Rejected by the device.
    Rejected,
    /// Removed from the queue by the service side.
    Purged,
}

/// One record, as the service's feedback queue holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FeedbackRecord {
    /// Message-id of the message.
    pub original_message_id: String,
    /// When the outcome came, milliseconds since 1970 by the double's clock; as text in JSON.
    #[serde(serialize_with = "as_text")]
    pub enqueued_time_utc: i64,
    /// The outcome.
    pub status_code: FeedbackStatus,
    /// The outcome in the service's words.
    pub description: &'static str,
    /// The device, as registered.
    pub device_id: String,
    /// Its generation id.
    pub device_generation_id: String,
}

/// Records that the service hands out together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FeedbackBatch {
    /// When it was closed, milliseconds since 1970 by the double's clock; as text in JSON.
    #[serde(serialize_with = "as_text")]
    pub enqueued_time_utc: i64,
    /// Its records, in order.
    pub records: Vec<FeedbackRecord>,
}

fn as_text<S: Serializer>(ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&crate::clock::iso8601(*ms))
}

impl FeedbackStatus {
    /// The service's words for it.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Expired => "Message expired",
            Self::DeliveryCountExceeded => "Delivery count exceeded",
            Self::Rejected => "Message rejected",
            Self::Purged => "Message purged",
        }
    }
}

#[derive(Debug, Default)]
struct State {
    closed: VecDeque<FeedbackBatch>,
    /// Records in `closed`.
    kept: usize,
    open: Vec<FeedbackRecord>,
}

/// All feedback.
#[derive(Debug, Default)]
pub(crate) struct Feedback {
    state: Mutex<State>,
    total: watch::Sender<u64>,
}

impl Feedback {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn push(&self, record: FeedbackRecord) {
        self.with(|state| {
            let now = record.enqueued_time_utc;
            state.close_old(now);
            state.open.push(record);
            if state.open.len() >= BATCH_RECORDS_MAX {
                state.close(now);
            }
        });
        self.total.send_modify(|total| *total += 1);
    }

    /// Closes the batch that has waited long enough.
    pub(crate) fn on_time(&self, now_ms: i64) {
        self.with(|state| state.close_old(now_ms));
    }

    /// When [`Feedback::on_time`] has something to do next.
    pub(crate) fn next_due_ms(&self) -> Option<i64> {
        self.with(|state| state.due_ms())
    }

    /// Records since the start.
    pub(crate) fn total(&self) -> watch::Receiver<u64> {
        self.total.subscribe()
    }

    /// The closed batches, and the records that wait for theirs to be closed.
    pub(crate) fn list(&self) -> (Vec<FeedbackBatch>, Vec<FeedbackRecord>) {
        self.with(|state| (state.closed.iter().cloned().collect(), state.open.clone()))
    }
}

impl State {
    fn due_ms(&self) -> Option<i64> {
        self.open.first().map(|first| first.enqueued_time_utc + BATCH_AGE_MAX_MS)
    }

    fn close_old(&mut self, now_ms: i64) {
        if self.due_ms().is_some_and(|due| due <= now_ms) {
            self.close(now_ms);
        }
    }

    fn close(&mut self, now_ms: i64) {
        let records = std::mem::take(&mut self.open);
        self.kept += records.len();
        self.closed.push_back(FeedbackBatch { enqueued_time_utc: now_ms, records });
        while self.kept > RECORDS_MAX
            && let Some(oldest) = self.closed.pop_front()
        {
            self.kept -= oldest.records.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: usize, at: i64) -> FeedbackRecord {
        FeedbackRecord {
            original_message_id: id.to_string(),
            enqueued_time_utc: at,
            status_code: FeedbackStatus::Success,
            description: FeedbackStatus::Success.description(),
            device_id: "d".into(),
            device_generation_id: "1".into(),
        }
    }

    #[test]
    fn batches_close_when_full_and_when_old() {
        let feedback = Feedback::default();
        assert_eq!(feedback.next_due_ms(), None);
        (0..65).for_each(|id| feedback.push(record(id, 1000)));
        let (closed, open) = feedback.list();
        assert_eq!((closed.len(), closed[0].records.len(), open.len()), (1, 64, 1));
        assert_eq!(open[0].original_message_id, "64");
        assert_eq!(feedback.next_due_ms(), Some(16_000));
        feedback.on_time(15_999);
        assert_eq!(feedback.list().1.len(), 1);
        feedback.on_time(16_000);
        let (closed, open) = feedback.list();
        assert_eq!((closed.len(), closed[1].enqueued_time_utc, open.len()), (2, 16_000, 0));
        assert_eq!(*feedback.total().borrow(), 65);
    }
}
