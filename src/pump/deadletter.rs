//! Messages that were refused for good, kept aside with the reason.
//!
//! Owns: [`DeadLetter`], the trait [`DeadLetters`], and [`DeadLetterQueue`], which appends to a queue of the store.
//! Invariant: a letter is durable before the pump lets go of the message, so a refusal never loses data silently.
//! Must not know: why an endpoint refuses.
//!
//! # Record in the dead letter queue, version 2 (little-endian)
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version = 2; version 1 lacks the next two fields |
//! | 8 | died: milliseconds since 1970 |
//! | 4 | count: for how many messages it stands |
//! | 2 + n | reason: the label of the counter, length + UTF-8 |
//! | 2 + n | detail: the endpoint's own words, length + UTF-8, cut at [`DETAIL_BYTES_MAX`] |
//! | rest | the message as it was stored ([`crate::message`]), or what could not be read as one; nothing if messages are
//! |      | gone and this only tells of them |

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;

use super::log::{Entry, LogError, Logs};
use crate::clock::UnixMillis;
use crate::store::QueueId;

/// The endpoint name of the queue that holds dead letters. No pump drains it.
pub const ENDPOINT: &str = "deadletter";

/// Longest detail that is kept, in bytes.
pub const DETAIL_BYTES_MAX: usize = 1024;

const VERSION: u8 = 2;
/// Without `died` and `count`.
const VERSION_1: u8 = 1;

/// A message that no endpoint will take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The stored form.
    pub stored: Bytes,
    /// When it was given up (wall time; 0 = not known).
    pub died: UnixMillis,
    /// For how many messages it stands: more than one where `stored` is empty.
    pub count: u32,
    /// Short label, as counted.
    pub reason: String,
    /// In words.
    pub detail: String,
}

impl DeadLetter {
    /// The record.
    pub fn encode(&self) -> Bytes {
        let detail = cut(&self.detail);
        let reason = cut(&self.reason);
        let mut out = BytesMut::with_capacity(17 + reason.len() + detail.len() + self.stored.len());
        out.put_u8(VERSION);
        out.put_u64_le(self.died.0);
        out.put_u32_le(self.count);
        for text in [reason, detail] {
            out.put_u16_le(u16::try_from(text.len()).expect("cut at 1024 bytes"));
            out.put_slice(text.as_bytes());
        }
        out.put_slice(&self.stored);
        out.freeze()
    }

    /// Reads a record; `None` when it is not one of a known version.
    pub fn decode(mut record: Bytes) -> Option<Self> {
        let (died, count) = match record.try_get_u8().ok()? {
            VERSION_1 => (UnixMillis(0), 1),
            VERSION => (UnixMillis(record.try_get_u64_le().ok()?), record.try_get_u32_le().ok()?),
            _ => return None,
        };
        let reason = take_text(&mut record)?;
        let detail = take_text(&mut record)?;
        Some(Self { stored: record, died, count, reason, detail })
    }
}

fn take_text(record: &mut Bytes) -> Option<String> {
    let len = usize::from(record.try_get_u16_le().ok()?);
    let bytes = (record.remaining() >= len).then(|| record.split_to(len))?;
    String::from_utf8(bytes.into()).ok()
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(DETAIL_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Keeps dead letters.
pub trait DeadLetters: Send + Sync + 'static {
    /// Resolves when the letter is durable, or with the reason why it is not.
    fn keep<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), LogError>>;
}

/// The dead letters as one more queue of the store.
pub struct DeadLetterQueue {
    logs: Arc<dyn Logs>,
    id: QueueId,
}

impl DeadLetterQueue {
    /// Appends to the queue `deadletter` of `logs`.
    pub fn new(logs: Arc<dyn Logs>) -> Self {
        Self { logs, id: Self::id() }
    }

    /// The queue's name.
    pub fn id() -> QueueId {
        QueueId { endpoint: ENDPOINT.into(), priority: 10, live: false, lane: None }
    }
}

impl DeadLetters for DeadLetterQueue {
    fn keep<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Result<(), LogError>> {
        let entry = Entry { payload: letter.encode(), since: None, ttl_secs: 0 };
        Box::pin(async move { self.logs.append(&self.id, vec![entry]).await.result })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_round_trips_and_a_long_detail_is_cut_at_a_character() {
        let mut letter = DeadLetter {
            stored: Bytes::from_static(b"stored"),
            died: UnixMillis(5),
            count: 1,
            reason: "message-size-exceeded".into(),
            detail: "amqp:link:message-size-exceeded: größer".into(),
        };
        assert_eq!(DeadLetter::decode(letter.encode()), Some(letter.clone()));
        letter.detail = format!("x{}", "ö".repeat(DETAIL_BYTES_MAX));
        let kept = DeadLetter::decode(letter.encode()).unwrap();
        assert_eq!(kept.detail.len(), DETAIL_BYTES_MAX - 1);
        assert_eq!(kept.stored, letter.stored);
    }

    #[test]
    fn every_cut_record_is_none_or_a_shorter_body() {
        let letter = DeadLetter {
            stored: Bytes::from_static(b"abc"),
            died: UnixMillis(0),
            count: 3,
            reason: "r".into(),
            detail: "d".into(),
        };
        let record = letter.encode();
        for cut in 0..record.len() {
            let got = DeadLetter::decode(record.slice(..cut));
            assert_eq!(got.is_some(), cut >= record.len() - 3, "cut at {cut}");
        }
    }
}
