//! `queue verify`: every record checked, damage named by place.
//!
//! Owns: the words for [`Finding`]s. Must not know: how they are found.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::text::{self, bytes, count};
use super::{CommandError, End, StorageArg, Surroundings};
use crate::store::inspect::{Finding, What};

/// Arguments of `queue verify`.
#[derive(Debug, Clone, Args)]
pub(super) struct VerifyArgs {
    /// JSON lines: a line per finding, the last one sums up.
    #[arg(long)]
    json: bool,
}

/// How many findings there are, by what follows from them.
#[derive(Debug, Default)]
struct Sum {
    damaged: u64,
    harmless: u64,
    newer: u64,
    unreadable: u64,
    nameless: u64,
    /// Offsets that wait and are lost.
    lost: u64,
}

impl Sum {
    fn add(&mut self, finding: &Finding) {
        let count = match finding.what {
            What::Torn | What::CheckpointSlot => &mut self.harmless,
            What::Newer(_) => &mut self.newer,
            What::Unreadable(_) => &mut self.unreadable,
            What::Nameless => &mut self.nameless,
            What::Damaged | What::Seal { .. } | What::Header | What::Checkpoint => {
                &mut self.damaged
            }
        };
        *count += 1;
        if !finding.what.is_harmless() {
            self.lost += finding.offsets.end.saturating_sub(finding.offsets.start);
        }
    }

    /// Files that were not read: what they hold is not known.
    fn unknown(&self) -> u64 {
        self.newer + self.unreadable + self.nameless
    }

    fn end(&self) -> End {
        if self.damaged + self.unknown() > 0 { End::Found } else { End::Fine }
    }

    /// What was found, and what to do.
    fn verdict(&self) -> String {
        let mut parts = Vec::new();
        if self.newer > 0 {
            parts.push(format!(
                "{} of a newer format: start the gateway in the version that wrote it (this one refuses to, and changes \
                 nothing)",
                places(self.newer)
            ));
        }
        if self.unreadable > 0 {
            parts.push(format!(
                "{} not readable: run this as the gateway's user; if that does not help, check the medium with its kernel log",
                places(self.unreadable)
            ));
        }
        if self.nameless > 0 {
            parts.push(format!(
                "{} without a name: the gateway cannot tell which queue it is; keep a copy of the folder and report it",
                places(self.nameless)
            ));
        }
        if self.damaged > 0 {
            let lost = match self.unknown() {
                0 => format!("{} that waited lost", text::plural(self.lost, "message")),
                _ => format!("{} that waited lost, at least", text::plural(self.lost, "message")),
            };
            let todo = if self.newer > 0 { "" } else { START };
            parts.push(format!("{} damaged; {lost}{todo}", places(self.damaged)));
        } else if self.unknown() > 0 {
            parts.push("how many messages are there is unknown".to_owned());
        }
        match (parts.is_empty(), self.harmless) {
            (true, 0) => "nothing is damaged".to_owned(),
            (true, n) => format!("nothing is damaged ({} left by a crash, harmless)", count(n)),
            _ => parts.join("; "),
        }
    }
}

const START: &str = ". Start the gateway: it delivers all others and keeps a copy of a damaged file where it repairs it. Check \
                     the medium with `doctor disk`, and its kernel log";

pub(super) fn run(
    args: &VerifyArgs,
    storage: &StorageArg,
    here: &Surroundings,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let inspector = storage.inspector(here)?;
    let mut sum = Sum::default();
    let mut written = Ok(());
    let verified = inspector.verify(&mut |finding| {
        sum.add(&finding);
        if written.is_ok() {
            let line = if args.json { json_of(&finding).to_string() } else { sentence(&finding) };
            written = writeln!(out, "{line}");
        }
    })?;
    written?;
    if args.json {
        let line = json!({
            "queues": verified.queues, "segments": verified.segments, "records": verified.records,
            "bytes": verified.bytes, "damaged": sum.damaged, "harmless": sum.harmless, "recordsLost": sum.lost,
            "newerFormat": sum.newer, "unreadable": sum.unreadable, "nameless": sum.nameless,
        });
        writeln!(out, "{line}")?;
    } else {
        let records = text::plural(verified.records, "record");
        let queues = text::plural(verified.queues, "queue");
        let (files, size) = (text::plural(verified.segments, "file"), bytes(verified.bytes));
        writeln!(out, "{records} intact in {queues}, {files}, {size}: {}", sum.verdict())?;
    }
    Ok(sum.end())
}

fn places(n: u64) -> String {
    format!("{} {}", text::plural(n, "place"), if n == 1 { "is" } else { "are" })
}

fn json_of(finding: &Finding) -> serde_json::Value {
    json!({
        "queue": finding.queue.as_ref().map(ToString::to_string),
        "what": label(&finding.what),
        "harmless": finding.what.is_harmless(),
        "file": finding.file.as_ref().map(|file| file.display().to_string()),
        "position": finding.positions.start,
        "positionEnd": finding.positions.end,
        "offset": finding.offsets.start,
        "offsetEnd": finding.offsets.end.max(finding.offsets.start),
        "detail": consequence(finding),
    })
}

fn label(what: &What) -> &'static str {
    match what {
        What::Damaged => "damaged",
        What::Torn => "torn",
        What::Seal { .. } => "seal",
        What::Header => "header",
        What::Checkpoint => "checkpoint",
        What::CheckpointSlot => "checkpointSlot",
        What::Nameless => "nameless",
        What::Newer(_) => "newerFormat",
        What::Unreadable(_) => "unreadable",
    }
}

/// `queue iothub/10: file, bytes 64 to 207: what it is, what follows`.
fn sentence(finding: &Finding) -> String {
    let queue = match &finding.queue {
        Some(id) => format!("queue {}:", text::plain(&id.to_string())),
        None => "a queue:".to_owned(),
    };
    let file = match &finding.file {
        Some(file) if finding.positions.is_empty() => format!(" {}:", file.display()),
        Some(file) => {
            let last = finding.positions.end - 1;
            format!(" {}, bytes {} to {last}:", file.display(), finding.positions.start)
        }
        None => String::new(),
    };
    format!("{queue}{file} {}", consequence(finding))
}

fn consequence(finding: &Finding) -> String {
    let (first, end) = (finding.offsets.start, finding.offsets.end);
    match &finding.what {
        What::Damaged if end <= first => "damaged; no message that waits is touched".to_owned(),
        What::Damaged if end == first + 1 => format!("damaged: the message {first} is lost"),
        What::Damaged => format!("damaged: the messages {first} to {} are lost", end - 1),
        What::Torn => {
            "half written when the power or the process went: nothing proves that anything here was \
             acknowledged"
                .to_owned()
        }
        What::Seal { sealed, found } => format!("its seal counts {sealed} records, it has {found}"),
        What::Header => "the header is damaged; the records are not".to_owned(),
        What::Checkpoint => {
            "the checkpoint is damaged or missing: what is still there is delivered again"
                .to_owned()
        }
        What::CheckpointSlot => {
            "one of two checkpoints is half written; the other one holds".to_owned()
        }
        What::Nameless => {
            "both copies of the queue's name are damaged or missing: whose records these are is not known"
                .to_owned()
        }
        What::Newer(found) => format!(
            "has format {found}, which this program cannot read: use the version that wrote it"
        ),
        What::Unreadable(error) => format!("cannot be read: {}", text::plain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::QueueId;

    #[test]
    fn a_finding_says_where_and_what_follows() {
        let check = |what: What, positions, offsets, expected: &str| {
            let file = Some("/s/a.seg".into());
            let finding =
                Finding { queue: Some(QueueId::new("iothub", 1)), file, positions, offsets, what };
            assert_eq!(sentence(&finding), expected);
            assert_eq!(json_of(&finding)["harmless"], finding.what.is_harmless());
        };
        let where_ = "queue iothub/1: /s/a.seg, bytes 64 to 207:";
        check(What::Damaged, 64..208, 7..8, &format!("{where_} damaged: the message 7 is lost"));
        check(
            What::Damaged,
            64..208,
            7..9,
            &format!("{where_} damaged: the messages 7 to 8 are lost"),
        );
        check(
            What::Damaged,
            64..208,
            9..9,
            &format!("{where_} damaged; no message that waits is touched"),
        );
        let gone = Finding {
            queue: Some(QueueId::new("iothub", 1)),
            file: None,
            positions: 0..0,
            offsets: 3..5,
            what: What::Damaged,
        };
        assert_eq!(sentence(&gone), "queue iothub/1: damaged: the messages 3 to 4 are lost");
        let refused = What::Unreadable("I/O error".into());
        check(refused, 0..0, 0..0, "queue iothub/1: /s/a.seg: cannot be read: I/O error");
    }

    #[test]
    fn the_sum_says_what_to_do_about_what_was_found() {
        let check = |whats: &[What], end: End, parts: &[&str]| {
            let mut sum = Sum::default();
            for what in whats {
                let (queue, what) = (None, what.clone());
                sum.add(&Finding { queue, file: None, positions: 0..0, offsets: 3..5, what });
            }
            let text = sum.verdict();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            let is_known = sum.unknown() == 0;
            assert_eq!(
                text.contains("Start the gateway:"),
                sum.damaged > 0 && sum.newer == 0,
                "{text}"
            );
            assert_eq!(text.contains("unknown") || text.contains("at least"), !is_known, "{text}");
            assert_eq!(sum.end(), end, "{text}");
        };
        let refused = || What::Unreadable("EACCES".into());
        check(&[], End::Fine, &["nothing is damaged"]);
        check(&[What::Torn], End::Fine, &["nothing is damaged (1 left by a crash"]);
        check(&[What::Damaged], End::Found, &["1 place is damaged; 2 messages that waited lost"]);
        check(
            &[What::Newer(9)],
            End::Found,
            &["1 place is of a newer format: start the gateway in"],
        );
        check(&[refused(), refused()], End::Found, &["2 places are not readable: run this as the"]);
        check(&[What::Nameless], End::Found, &["1 place is without a name"]);
        check(&[What::Newer(9), What::Damaged], End::Found, &["newer", "waited lost, at least"]);
    }
}
