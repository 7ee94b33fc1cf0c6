//! What measurements mean for a gateway, and what to do.
//!
//! Owns: the limits and the words. Pure. Must not know: how it was measured.

use serde::Serialize;

use super::Examination;
use crate::command::text::{bytes, count, micros, plural, span};

/// The slowest hundredth of PUBACKs waits longer than this: devices with short timeouts send again.
const SLOW_P99_MICROS: u64 = 100_000;
/// No medium that keeps bytes without power answers sooner: an NVMe drive with its own capacitors takes about 20 us.
const TOO_FAST_P50_MICROS: u64 = 20;
/// The store keeps 64 MiB free, and needs some to work with.
const FREE_BYTES_MIN: u64 = 256 * 1024 * 1024;
/// File systems in memory.
pub(in crate::command) const IN_MEMORY: [&str; 3] = ["tmpfs", "ramfs", "devtmpfs"];
/// File systems over a network, where locks and fdatasync are as good as the server.
pub(in crate::command) const OVER_A_NETWORK: [&str; 7] =
    ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph"];
/// What a usual site sends, to speak of bytes a year.
pub(in crate::command) const MESSAGES_PER_SEC: f64 = 10.0;
const SECS_PER_YEAR: f64 = 365.25 * 86_400.0;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It works, with a drawback.
    Warning,
    /// Acknowledged messages can be lost.
    Error,
}

impl Level {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A sentence on one matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    pub(super) level: Level,
    /// What it is, and, unless all is well, what to do.
    pub(super) text: String,
}

impl Verdict {
    fn new(level: Level, text: impl Into<String>) -> Self {
        Self { level, text: text.into() }
    }
}

/// All that can be said.
pub(super) fn of(found: &Examination) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    verdicts.extend(of_file_system(found));
    verdicts.extend(of_latency(found));
    verdicts.extend(of_wear(found));
    verdicts.push(of_room(found));
    verdicts.extend(of_power_cuts(found));
    verdicts
}

fn of_file_system(found: &Examination) -> Option<Verdict> {
    let kind = found.volume.file_system.as_deref()?;
    let mut options = found.volume.options.as_deref().unwrap_or_default().split(',');
    if IN_MEMORY.contains(&kind) {
        let text = format!(
            "{kind} is memory: nothing on it survives a power cut or a restart; put the storage folder on a disk"
        );
        return Some(Verdict::new(Level::Error, text));
    }
    if OVER_A_NETWORK.contains(&kind) {
        let text = format!(
            "{kind} is a network file system: messages are as safe as its server's disk, and wait for the network; use a local \
             disk"
        );
        return Some(Verdict::new(Level::Warning, text));
    }
    let unsafe_option = options.find(|o| ["nobarrier", "barrier=0", "eatmydata"].contains(o))?;
    let text = format!(
        "mounted with {unsafe_option}: the device's cache is not flushed, a power cut loses acknowledged messages; mount \
         without it"
    );
    Some(Verdict::new(Level::Error, text))
}

fn of_latency(found: &Examination) -> Option<Verdict> {
    let small = found.latency.first().filter(|latency| latency.samples > 0)?;
    let (p50, p99) = (micros(small.p50_micros), micros(small.p99_micros));
    let verdict = if small.p50_micros < TOO_FAST_P50_MICROS {
        Verdict::new(
            Level::Warning,
            format!(
                "fdatasync takes {p50}: no disk is that fast, this volume may not sync at all (memory, a virtual disk with a \
                 write cache, a mount without barriers); make sure that it keeps data when the power goes"
            ),
        )
    } else if small.p99_micros > SLOW_P99_MICROS {
        Verdict::new(
            Level::Warning,
            format!(
                "PUBACKs wait {p50} for the disk at the median, but one in a hundred more than {p99}: use a faster medium (an \
                 industrial SD card or eMMC, or an SSD), and keep other writers off it"
            ),
        )
    } else {
        let text =
            format!("PUBACKs wait {p50} for the disk at the median, {p99} at the 99th percentile");
        Verdict::new(Level::Ok, text)
    };
    Some(verdict)
}

/// What a light load costs the medium: each message is a batch of its own.
fn of_wear(found: &Examination) -> Option<Verdict> {
    let alone = found.write_amplification.first()?;
    let batched = found.write_amplification.last()?;
    // Not what the device counts: that has everybody's writes in it.
    let factor =
        |a: &super::Amplification| a.blocks_per_payload_byte.unwrap_or(a.written_per_payload_byte);
    #[allow(clippy::cast_precision_loss, reason = "256")]
    let payload_a_year = MESSAGES_PER_SEC * super::RECORD_BYTES as f64 * SECS_PER_YEAR;
    let a_year = |factor: f64| {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "terabytes at most"
        )]
        bytes((payload_a_year * factor) as u64)
    };
    let text = format!(
        "at {MESSAGES_PER_SEC:.0} messages of {} B a second this writes at least {} a year if each is a commit of its own, {} if a \
         hundred share one (storeSettings__commitWindowMs trades latency of PUBACKs for that)",
        super::RECORD_BYTES,
        a_year(factor(alone)),
        a_year(factor(batched)),
    );
    Some(Verdict::new(Level::Ok, text))
}

fn of_room(found: &Examination) -> Verdict {
    let free = found.volume.free_bytes;
    if free < FREE_BYTES_MIN {
        let text = format!("only {} are free: make room, or devices are soon refused", bytes(free));
        return Verdict::new(Level::Warning, text);
    }
    // A record of 256 B takes 296 B on disk.
    #[allow(clippy::cast_precision_loss, reason = "a rough span")]
    let secs = free as f64 / (MESSAGES_PER_SEC * (super::RECORD_BYTES + 40) as f64);
    let text = format!(
        "{} free: room for {} without an upstream at {MESSAGES_PER_SEC:.0} messages of {} B a second",
        bytes(free),
        span(secs),
        super::RECORD_BYTES
    );
    Verdict::new(Level::Ok, text)
}

fn of_power_cuts(found: &Examination) -> Option<Verdict> {
    if let Some(error) = &found.power_cuts_error {
        let text = format!("the simulated power cuts could not be made: {error}; check the volume");
        return Some(Verdict::new(Level::Error, text));
    }
    let cuts = found.power_cuts.as_ref()?;
    let n = plural(cuts.cuts, "simulated power cut");
    Some(match if cuts.is_clean() { 0 } else { (cuts.lost + cuts.forged).max(1) } {
        0 if cuts.acked == 0 => {
            let text = format!(
                "{n} met no acknowledged message, which shows nothing: ask for more with --power-cuts"
            );
            Verdict::new(Level::Warning, text)
        }
        0 => {
            let text = format!(
                "{n} lost none of {} acknowledged messages (the cuts are simulated: only pulling the \
                 plug shows whether the device keeps what it has confirmed)",
                count(cuts.acked)
            );
            Verdict::new(Level::Ok, text)
        }
        bad => {
            let text = format!(
                "{n} lost or changed {} messages: do not use this volume, and report this with the output \
                 of --json",
                count(bad)
            );
            Verdict::new(Level::Error, text)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::measure::{Amplification, Latency};
    use super::super::volume::Volume;
    use super::*;
    use crate::store::trial::PowerCuts;

    fn healthy() -> Examination {
        let latency = Latency {
            block_bytes: 4096,
            samples: 9,
            p50_micros: 1300,
            p99_micros: 9000,
            max_micros: 9001,
        };
        let alone = Amplification {
            written_per_payload_byte: 1.16,
            blocks_per_payload_byte: Some(16.0),
            ..Amplification::default()
        };
        let batched = Amplification {
            written_per_payload_byte: 1.16,
            blocks_per_payload_byte: Some(1.3),
            ..alone
        };
        Examination {
            volume: Volume {
                file_system: Some("ext4".to_owned()),
                options: Some("rw,relatime".to_owned()),
                free_bytes: 1 << 33,
                total_bytes: 1 << 34,
                ..Volume::default()
            },
            latency: vec![latency],
            write_amplification: vec![alone, batched],
            power_cuts: Some(PowerCuts { cuts: 50, acked: 1234, ..PowerCuts::default() }),
            power_cuts_error: None,
        }
    }

    #[test]
    fn each_matter_has_its_verdict() {
        let check = |change: &dyn Fn(&mut Examination), level: Level, part: &str| {
            let mut found = healthy();
            change(&mut found);
            let verdicts = of(&found);
            let hit = verdicts.iter().find(|verdict| verdict.text.contains(part));
            assert_eq!(hit.map(|verdict| verdict.level), Some(level), "{part:?} in {verdicts:#?}");
        };
        let nothing = |_: &mut Examination| ();
        assert!(of(&healthy()).iter().all(|verdict| verdict.level == Level::Ok));
        check(&nothing, Level::Ok, "PUBACKs wait 1.3 ms for the disk at the median");
        check(
            &nothing,
            Level::Ok,
            "writes at least 1.2 TiB a year if each is a commit of its own, 97.8 GiB",
        );
        check(&nothing, Level::Ok, "8.0 GiB free: room for 33 d 14 h");
        check(&nothing, Level::Ok, "50 simulated power cuts lost none of 1,234");
        check(&|f| f.latency[0].p99_micros = 100_001, Level::Warning, "one in a hundred");
        check(&|f| f.latency[0].p50_micros = 19, Level::Warning, "may not sync at all");
        check(
            &|f| f.volume.file_system = Some("tmpfs".into()),
            Level::Error,
            "survives a power cut",
        );
        check(&|f| f.volume.file_system = Some("nfs4".into()), Level::Warning, "local disk");
        check(
            &|f| f.volume.options = Some("rw,nobarrier".into()),
            Level::Error,
            "mount without it",
        );
        check(&|f| f.volume.free_bytes = 1 << 20, Level::Warning, "make room");
        check(
            &|f| f.power_cuts = Some(PowerCuts { lost: 1, ..PowerCuts::default() }),
            Level::Error,
            "do not use",
        );
        check(
            &|f| f.power_cuts = Some(PowerCuts { cuts: 1, ..PowerCuts::default() }),
            Level::Warning,
            "1 simulated power cut met no acknowledged message",
        );
        check(&|f| f.power_cuts_error = Some("EIO".into()), Level::Error, "could not be made: EIO");
    }
}
