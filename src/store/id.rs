//! Names of queues and of places in them.
//!
//! Owns: [`Offset`], [`QueueId`] and the folder name of a queue. Must not know: files.

use std::fmt;
use std::sync::Arc;

/// The place of a record in its queue: counted from 0, one per record, never reused while the queue exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The place after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a queue.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId {
    /// The endpoint that it feeds.
    pub endpoint: Arc<str>,
    /// 0 (first) ..= 9, or [`QueueId::PRIORITY_DEFAULT`].
    pub priority: u8,
    /// A parked sender's side queue; `None` for the endpoint's normal queue.
    pub lane: Option<Arc<str>>,
}

/// Longest folder name that is the plain encoding; NAME_MAX is 255.
const PLAIN_NAME_BYTES_MAX: usize = 200;
/// How much of a longer encoding stays readable in the folder name.
const SHORT_NAME_PREFIX_BYTES: usize = 150;

impl QueueId {
    /// The priority of a route that gave none: after all others.
    pub const PRIORITY_DEFAULT: u8 = 10;

    /// An endpoint's normal queue.
    pub fn new(endpoint: &str, priority: u8) -> Self {
        Self { endpoint: endpoint.into(), priority, lane: None }
    }

    /// The side queue of a sender, beside this queue.
    #[must_use]
    pub fn with_lane(&self, lane: &str) -> Self {
        Self { lane: Some(lane.into()), ..self.clone() }
    }

    /// The reversible text form: `endpoint.priority` or `endpoint.priority.lane`, where every byte outside
    /// `A-Z a-z 0-9 _ -` is `%XX`. The dot keeps it apart from the store's own names (`lock`, `quarantine`).
    pub(super) fn encoded(&self) -> String {
        let mut text = String::new();
        escape(&self.endpoint, &mut text);
        text.push('.');
        text.push_str(&self.priority.to_string());
        if let Some(lane) = &self.lane {
            text.push('.');
            escape(lane, &mut text);
        }
        text
    }

    /// Reads the text form back.
    pub(super) fn from_encoded(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let endpoint = unescape(parts.next()?)?;
        let priority = parts.next()?.parse().ok()?;
        let lane = match parts.next() {
            Some(lane) => Some(unescape(lane)?.into()),
            None => None,
        };
        let id = Self { endpoint: endpoint.into(), priority, lane };
        // Only the canonical spelling counts, so that two folders never mean the same queue.
        (parts.next().is_none() && id.encoded() == text).then_some(id)
    }

    /// The folder of the queue: the text form, or, where that is too long for a file name, its beginning, `.~`, and
    /// 16 hex digits that tell it apart; the whole text form is then in the file `name` of the folder.
    pub(super) fn folder(&self) -> String {
        let text = self.encoded();
        if text.len() <= PLAIN_NAME_BYTES_MAX {
            return text;
        }
        let low = crc32c::crc32c(text.as_bytes());
        let high = crc32c::crc32c_append(low ^ 0x5347_5747, text.as_bytes());
        let reversed: Vec<u8> = text.bytes().rev().collect();
        let high = high ^ crc32c::crc32c(&reversed);
        format!("{}.~{high:08x}{low:08x}", &text[..SHORT_NAME_PREFIX_BYTES])
    }

    /// Whether a folder name is a shortened one.
    pub(super) fn is_short_folder(folder: &str) -> bool {
        folder.contains(".~")
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.endpoint, self.priority)?;
        match &self.lane {
            Some(lane) => write!(f, "/{lane}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueueId({self})")
    }
}

fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |b: u8| char::from(b).to_digit(16);
            let value = digit(bytes.next()?)? * 16 + digit(bytes.next()?)?;
            out.push(u8::try_from(value).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_are_reversible_and_fit_a_file_system() {
        let hex = "ab".repeat(64);
        for (id, folder) in [
            (QueueId::new("upstream", 10), "upstream.10"),
            (QueueId::new("", 0), ".0"),
            (QueueId::new("mod/inputs/a.b", 3), "mod%2Finputs%2Fa%2Eb.3"),
            (QueueId::new("u", 1).with_lane("d%/é"), "u.1.d%25%2F%C3%A9"),
            (QueueId::new("u", 1).with_lane(&hex), &format!("u.1.{hex}")),
        ] {
            assert_eq!(id.folder(), folder);
            assert_eq!(QueueId::from_encoded(folder), Some(id));
        }
        for not_ours in
            ["lock", "quarantine", "lost+found", "a.b", "a.1.b.c", "a.01", "a%2.1", ".tmp"]
        {
            assert_eq!(QueueId::from_encoded(not_ours), None, "{not_ours}");
        }
    }

    #[test]
    fn the_longest_sender_gets_a_short_folder_of_its_own() {
        let lane = |last: char| format!("{}/{}{last}", "d".repeat(128), "m".repeat(127));
        let (a, b) = (
            QueueId::new("u", 1).with_lane(&lane('a')),
            QueueId::new("u", 1).with_lane(&lane('b')),
        );
        assert!(a.folder().len() <= 255);
        assert!(QueueId::is_short_folder(&a.folder()));
        assert_ne!(a.folder(), b.folder());
        assert_eq!(QueueId::from_encoded(&a.folder()), None);
        assert_eq!(QueueId::from_encoded(&a.encoded()), Some(a));
    }
}
