//! Names of queues and of places in them.
//!
//! Owns: [`Offset`], [`QueueId`] and the folder name of a queue. Must not know: files.

use std::fmt;
use std::sync::Arc;

use super::segment::FORMAT_VERSION;

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
    /// The queue of fresh messages, drained before the queue of the same endpoint and priority that is not live: see
    /// live-first in [`crate::route`].
    pub live: bool,
    /// A parked sender's side queue; `None` for the endpoint's normal queue.
    pub lane: Option<Arc<str>>,
}

/// Behind the priority in the text form of a live queue.
const LIVE_SUFFIX: &str = "-live";
/// Before the format in the file `name`. No text form has a space in it.
const NAME_MAGIC: &str = "sgw-name ";
/// Longest folder name that is the plain encoding; NAME_MAX is 255.
const PLAIN_NAME_BYTES_MAX: usize = 200;
/// How much of a longer encoding stays readable in the folder name.
const SHORT_NAME_PREFIX_BYTES: usize = 150;

impl QueueId {
    /// The priority of a route that gave none: after all others.
    pub const PRIORITY_DEFAULT: u8 = 10;

    /// An endpoint's normal queue.
    pub fn new(endpoint: &str, priority: u8) -> Self {
        Self { endpoint: endpoint.into(), priority, live: false, lane: None }
    }

    /// The side queue of a sender, beside this queue.
    #[must_use]
    pub fn with_lane(&self, lane: &str) -> Self {
        Self { lane: Some(lane.into()), ..self.clone() }
    }

    /// The reversible text form: `endpoint.priority` or `endpoint.priority.lane`, with `-live` behind the priority of a live
    /// queue, where every byte outside
    /// `A-Z a-z 0-9 _ -` is `%XX`. The dot keeps it apart from the store's own names (`lock`, `quarantine`).
    pub(super) fn encoded(&self) -> String {
        let mut text = String::new();
        escape(&self.endpoint, &mut text);
        text.push('.');
        text.push_str(&self.priority.to_string());
        if self.live {
            text.push_str(LIVE_SUFFIX);
        }
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
        let part = parts.next()?;
        let (priority, live) = match part.strip_suffix(LIVE_SUFFIX) {
            Some(priority) => (priority, true),
            None => (part, false),
        };
        let priority = priority.parse().ok()?;
        let lane = match parts.next() {
            Some(lane) => Some(unescape(lane)?.into()),
            None => None,
        };
        let id = Self { endpoint: endpoint.into(), priority, live, lane };
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

    /// What the file `name` in a shortened folder says: magic and format, the text form, and the CRC of all that in hex.
    pub(super) fn name_file(&self) -> String {
        let text = format!("{NAME_MAGIC}{FORMAT_VERSION} {}", self.encoded());
        format!("{text} {:08x}", crc32c::crc32c(text.as_bytes()))
    }

    /// Reads the file `name` back; in format 1 it is the text form and nothing else. `Err`: a newer format. The caller
    /// compares the folder's name, which vouches for the rest.
    pub(super) fn from_name_file(file: &str) -> Result<Option<Self>, u16> {
        let parts = file.strip_prefix(NAME_MAGIC).and_then(|rest| rest.split_once(' '));
        let Some((version, rest)) = parts else {
            return Ok(Self::from_encoded(file));
        };
        let (text, crc) = rest.rsplit_once(' ').unwrap_or((rest, ""));
        let covered = &file.as_bytes()[..file.len() - (rest.len() - text.len())];
        let intact = crc == format!("{:08x}", crc32c::crc32c(covered));
        match version.parse() {
            // A flipped bit is damage, not a version.
            Ok(found) if intact && found > FORMAT_VERSION => Err(found),
            _ => Ok(Self::from_encoded(text)),
        }
    }

    /// Whether a folder name is a shortened one.
    pub(super) fn is_short_folder(folder: &str) -> bool {
        folder.contains(".~")
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}{}",
            self.endpoint,
            self.priority,
            if self.live { LIVE_SUFFIX } else { "" }
        )?;
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
        assert_eq!(QueueId::from_encoded(&a.encoded()), Some(a.clone()));
        let with_crc = |text: &str| format!("{text} {:08x}", crc32c::crc32c(text.as_bytes()));
        let newer = format!("sgw-name 3 {}", a.encoded());
        for (text, want) in [
            (a.name_file(), Ok(Some(&a))),
            (a.encoded(), Ok(Some(&a))),
            (a.name_file().replace("name 2", "name 3"), Ok(Some(&a))),
            (with_crc(&newer), Err(3)),
            (a.name_file().replace("u.1", "u.x"), Ok(None)),
            ("sgw-name 2".to_owned(), Ok(None)),
        ] {
            assert_eq!(QueueId::from_name_file(&text), want.map(|id| id.cloned()), "{text}");
        }
    }
}
