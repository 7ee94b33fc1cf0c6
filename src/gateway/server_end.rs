//! When the server's certificate ends: a gauge, and a warning of `/healthz` before it is too late.
//!
//! Owns: [`ServerEnd`] and how long before the end somebody is told. Must not know: where the certificate comes from, how it
//! is renewed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::auth::x509::{self, CertificateInfo};
use crate::clock::{SharedClock, UnixMillis};
use crate::metrics::Metrics;

/// Who renews certificates by hand does it within a month of being told.
const SOON: Duration = Duration::from_secs(30 * 86_400);

/// The certificate in force. Shared.
pub(super) struct ServerEnd {
    valid: Mutex<(UnixMillis, UnixMillis)>,
    /// By the IoT Edge daemon.
    is_renewed: bool,
    clock: SharedClock,
}

impl ServerEnd {
    /// Of `leaf`, which is renewed while the gateway runs, or not.
    pub(super) fn new(leaf: &CertificateInfo, is_renewed: bool, clock: &SharedClock) -> Arc<Self> {
        let valid = Mutex::new((leaf.not_before, leaf.not_after));
        Arc::new(Self { valid, is_renewed, clock: Arc::clone(clock) })
    }

    /// Another certificate is in force.
    pub(super) fn renewed(&self, leaf: &CertificateInfo) {
        let mut valid = self.valid.lock().unwrap_or_else(PoisonError::into_inner);
        *valid = (leaf.not_before, leaf.not_after);
    }

    /// Shows how long it is to the end.
    pub(super) fn show(self: &Arc<Self>, metrics: &Metrics) {
        let end = Arc::clone(self);
        metrics.on_scrape(move |metrics| {
            let left = end.valid().1.0 as f64 - end.clock.wall().0 as f64;
            let help = "Seconds until the server certificate in force ends; below 0 it has ended.";
            metrics.set_gauge("server_certificate_expires_seconds", help, (left / 1000.0).round());
        });
    }

    /// What a person should look at: who connects after the end is not let in by his own TLS.
    pub(super) fn warning(&self) -> Option<String> {
        let ((from, until), now) = (self.valid(), self.clock.wall());
        let todo = match self.is_renewed {
            true => "the IoT Edge daemon did not renew it: look at its log and at this one",
            false => "put a new one in its place and start the gateway anew",
        };
        if until <= now {
            let on = x509::utc(until);
            Some(format!("the server certificate ended on {on}, devices refuse it: {todo}"))
        } else if ends_soon((from, until), now, self.is_renewed) {
            let days = until.as_secs().saturating_sub(now.as_secs()) / 86_400;
            let on = x509::utc(until);
            Some(format!("the server certificate ends on {on}, in {days} days: {todo}"))
        } else {
            None
        }
    }

    fn valid(&self) -> (UnixMillis, UnixMillis) {
        *self.valid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a certificate that is valid `from`, `until` ends soon: within [`SOON`], or in the last third of its life if that
/// is shorter. Where it is renewed by itself at that third, its last quarter: then renewing has failed for a twelfth of
/// its life (a week of 90 days).
pub(super) fn ends_soon(
    (from, until): (UnixMillis, UnixMillis),
    now: UnixMillis,
    is_renewed: bool,
) -> bool {
    let part = if is_renewed { 4 } else { 3 };
    let last = Duration::from_millis(until.0.saturating_sub(from.0) / part);
    until < now.plus(SOON.min(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    #[test]
    fn it_is_told_in_time_and_not_while_all_is_well() {
        for (life, left, is_renewed, wanted) in [
            (365, 31, false, false),
            (365, 29, false, true),
            (365, 29, true, true),
            (90, 31, false, false),
            (90, 29, false, true),
            // A renewal that is on its way is nothing to warn of.
            (90, 29, true, false),
            (90, 22, true, true),
            (3, 2, false, false),
            (3, 0, false, true),
            (3, 0, true, true),
        ] {
            let from = UnixMillis(1_700_000_000_000);
            let until = UnixMillis(from.0 + life * DAY);
            let now = UnixMillis(until.0 - left * DAY);
            let soon = ends_soon((from, until), now, is_renewed);
            assert_eq!(soon, wanted, "{left} of {life} days left, renewed: {is_renewed}");
        }
    }
}
