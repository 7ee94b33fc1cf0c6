//! Room on the volume that messages of devices do not get, so that draining goes on when they have filled the rest.
//!
//! Why: a message that is refused for good, or whose sender is stuck, leaves its queue only when it is durable somewhere
//! else. Were there no room for that, the settled prefix would stand still, no segment would be unlinked, and the volume
//! would stay full for ever although the endpoint is there.
//!
//! Owns: [`Reserve`]: how much it is, and when the volume is asked. It is asked once a second at most, or when the store
//! has grown by an eighth of the reserve, or at every batch while it is short (then nothing else costs anything). So what
//! devices send can take an eighth of it, what one batch preallocates (a segment per queue), and what others wrote to the
//! volume within that second; the rest is for the store itself. Must not know: what is appended.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Config;
use super::engine::Tools;

/// The volume is asked again after so long.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How much is kept back. What is configured, but at most a twentieth of the volume, or else a small volume would be all
/// reserve; yet three segments, since devices may preallocate one of them; yet no more than a quarter of the volume.
fn reserve_of(config: &Config, total: u64) -> u64 {
    let share = (total / 20).max(3 * config.segment_bytes_max).min(total / 4);
    config.reserve_bytes.min(share)
}

/// Whether the volume has less than the reserve.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    short: bool,
    /// When the volume was asked, and how large the store was.
    asked: Option<(Instant, u64)>,
    /// The reserve then.
    bytes: u64,
}

impl Reserve {
    /// Whether less than the reserve is free. Once short it stays so until an eighth more than the reserve is free.
    pub(super) fn is_short(&mut self, tools: &Tools) -> bool {
        let now = tools.clock.monotonic();
        let size = tools.counters.disk_bytes.load(Ordering::Relaxed);
        let is_fresh = |(at, then): (Instant, u64)| {
            now.saturating_duration_since(at) < ASK_EVERY
                && size.saturating_sub(then) <= self.bytes / 8
        };
        if !self.short && self.asked.is_some_and(is_fresh) {
            return false;
        }
        self.asked = Some((now, size));
        // A volume that does not tell is used until it is full.
        let Ok(space) = tools.disk.space(&tools.config.dir) else {
            self.short = false;
            return false;
        };
        self.bytes = reserve_of(&tools.config, space.total);
        self.short = space.free < self.bytes + if self.short { self.bytes / 8 } else { 0 };
        self.short
    }

    /// The volume has refused: ask it before the next batch.
    pub(super) fn ask_again(&mut self) {
        self.asked = None;
    }
}
