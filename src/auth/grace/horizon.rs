//! Who could no longer come back if the hub stayed away, and from when on.
//!
//! Owns: the sum over all leafs that are known. Must not know: where they come from.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::auth::x509;
use crate::clock::UnixMillis;
use crate::identity::DeviceId;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The look ahead. A device counts by the end of its leaf and the grace after it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Horizon {
    /// Devices with a leaf, connected or seen before.
    pub devices: usize,
    /// Those that can no longer come back.
    pub expired: usize,
    /// Those that cannot within an hour from now.
    pub within_hour: usize,
    /// Those that cannot within a day from now, those of the next hour among them.
    pub within_day: usize,
    /// When the next one is locked out, and which: `None` = nobody is left who could be.
    pub next: Option<(UnixMillis, DeviceId)>,
}

impl Horizon {
    /// At `now`. A device may be named more than once: its latest leaf counts.
    pub(in crate::auth) fn of(
        ends: impl IntoIterator<Item = (DeviceId, UnixMillis)>,
        grace: Duration,
        now: UnixMillis,
    ) -> Self {
        let mut latest: HashMap<DeviceId, UnixMillis> = HashMap::new();
        for (device, end) in ends {
            latest.entry(device).and_modify(|at| *at = end.max(*at)).or_insert(end);
        }
        let mut horizon = Self { devices: latest.len(), ..Self::default() };
        for (device, end) in latest {
            let end = end.plus(grace);
            if end.as_secs() < now.as_secs() {
                horizon.expired += 1;
                continue;
            }
            horizon.within_hour += usize::from(end <= now.plus(HOUR));
            horizon.within_day += usize::from(end <= now.plus(DAY));
            let candidate = (end, device);
            if horizon.next.as_ref().is_none_or(|next| candidate < *next) {
                horizon.next = Some(candidate);
            }
        }
        horizon
    }

    /// Whether somebody is locked out, or soon will be.
    pub fn is_near(&self) -> bool {
        self.expired > 0 || self.within_day > 0
    }
}

/// For a person, while the hub is away.
impl fmt::Display for Horizon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { devices, expired, within_hour, within_day, next } = self;
        write!(
            f,
            "certificates of {devices} devices: {expired} have ended, so that these devices cannot come back once they \
             disconnect, {within_hour} end within an hour, {within_day} within a day"
        )?;
        if let Some((at, device)) = next {
            write!(f, "; the next is that of {device}, on {}", x509::utc(*at))?;
        }
        write!(f, "; devices renew them over the Internet")
    }
}
