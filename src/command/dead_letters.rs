//! `queue dead-letters`: what was given up, when and why.
//!
//! Owns: a dead letter as a row and as JSON. Must not know: how letters come to be.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::export::{Line, write_line};
use super::text::{self, utc};
use super::{CommandError, End, StorageArg, Surroundings, tell_missing, to_file_or};
use crate::message::{Message, SystemKey};
use crate::pump::deadletter::{self, DeadLetter};
use crate::store::inspect::{Held, Inspector, Next};

/// Arguments of `queue dead-letters`.
#[derive(Debug, Clone, Args)]
pub(super) struct DeadLettersArgs {
    /// JSON lines with the message inside.
    #[arg(long)]
    export: bool,
    /// JSON lines, without the message.
    #[arg(long)]
    json: bool,
    /// A new file to write to [default: standard output].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A dead letter, as it is shown. Of texts of others nothing is left out but what would not be shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Letter {
    offset: u64,
    died_utc: Option<String>,
    count: u32,
    reason: String,
    detail: String,
    device: Option<String>,
    module: Option<String>,
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Line>,
}

impl Letter {
    /// Reads a record; what is no letter is one without a known reason, its bytes as the message.
    fn of(held: Held, with_message: bool) -> Self {
        let unread = |stored| DeadLetter {
            stored,
            died: crate::clock::UnixMillis(0),
            count: 1,
            reason: "unreadable".to_owned(),
            detail: "this record is no dead letter that this program can read: upgrade it"
                .to_owned(),
        };
        let payload = held.payload.clone();
        let letter = DeadLetter::decode(held.payload).unwrap_or_else(|| unread(payload));
        let message = Message::decode(letter.stored.clone()).ok();
        let sender = message.as_ref().map(|message| &message.source.sender);
        let id = message.as_ref().and_then(|message| message.system.get(SystemKey::MessageId));
        let has_message = with_message && !letter.stored.is_empty();
        Self {
            offset: held.offset.0,
            died_utc: utc(letter.died),
            count: letter.count,
            reason: letter.reason,
            detail: letter.detail,
            device: sender.map(|sender| sender.device().as_str().to_owned()),
            module: sender.and_then(|s| s.module()).map(|module| module.as_str().to_owned()),
            message_id: id.map(str::to_owned),
            message: has_message.then(|| Line::of(letter.stored)),
        }
    }

    /// A row; columns are as wide as their usual content, since rows are written as they are read.
    fn row(&self) -> String {
        let or_dash = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), text::plain);
        let sender = match (&self.device, &self.module) {
            (Some(device), Some(module)) => {
                text::plain(&format!("{}/{module}", text::name(device)))
            }
            _ => self.device.as_deref().map_or("-".to_owned(), |d| text::plain(&text::name(d))),
        };
        let (reason, detail) = (text::plain(&self.reason), text::plain(&self.detail));
        let (died, id) = (or_dash(&self.died_utc), or_dash(&self.message_id));
        row(&died, &self.count.to_string(), &reason, &sender, &id, &detail)
    }
}

fn row(died: &str, count: &str, reason: &str, sender: &str, id: &str, detail: &str) -> String {
    format!("{died:<24}  {count:>5}  {reason:<21}  {sender:<24}  {id:<20}  {detail}")
}

pub(super) fn run(
    args: &DeadLettersArgs,
    storage: &StorageArg,
    here: &Surroundings,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let inspector = storage.inspector(here)?;
    to_file_or(args.out.as_deref(), out, |out| write(&inspector, args, out))
}

fn write(
    inspector: &Inspector,
    args: &DeadLettersArgs,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let is_json = args.json || args.export;
    let ids = inspector.queues()?;
    let (mut letters, mut messages) = (0, 0);
    let mut lost = 0;
    for id in ids.iter().filter(|id| &*id.endpoint == deadletter::ENDPOINT) {
        for next in inspector.pending(id)? {
            let letter = match next? {
                Next::Held(held) => Letter::of(held, args.export),
                Next::Lost(range) => {
                    lost += range.end.0 - range.start.0;
                    continue;
                }
            };
            if is_json {
                write_line(out, &letter)?;
                continue;
            }
            if letters == 0 {
                writeln!(
                    out,
                    "{}",
                    row("died", "count", "reason", "device", "message id", "detail")
                )?;
            }
            letters += 1;
            messages += u64::from(letter.count);
            writeln!(out, "{}", letter.row().trim_end())?;
        }
    }
    if !is_json {
        let letters = text::plural(letters, "dead letter");
        let messages = text::plural(messages, "message");
        writeln!(out, "{letters}, for {messages}; --export writes them as JSON lines")?;
    }
    tell_missing(inspector, lost, "dead letter")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::UnixMillis;
    use crate::store::Offset;

    fn held(payload: Bytes) -> Held {
        Held { offset: Offset(3), stored: None, ttl_secs: 0, payload }
    }

    #[test]
    fn a_letter_is_shown_on_one_line() {
        let letter = DeadLetter {
            stored: Bytes::new(),
            died: UnixMillis(1_700_000_000_000),
            count: 12,
            reason: "ttl_expiry".to_owned(),
            detail: "gone\nfor ever".to_owned(),
        };
        let shown = Letter::of(held(letter.encode()), true);
        assert!(shown.message.is_none(), "it only tells of messages that are gone");
        let row = shown.row();
        assert!(row.starts_with("2023-11-14T22:13:20.000Z     12  ttl_expiry  "), "{row}");
        assert!(row.ends_with("gone\u{fffd}for ever"), "{row}");
    }

    #[test]
    fn what_is_no_letter_is_exported_all_the_same() {
        let shown = Letter::of(held(Bytes::from_static(b"\x63junk")), true);
        assert_eq!((shown.reason.as_str(), shown.count), ("unreadable", 1));
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(json["message"]["stored"], "Y2p1bms=");
    }
}
