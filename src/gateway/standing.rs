//! Whether those who are connected may stay: asked again when something changed, and when time has passed.
//!
//! Owns: the occasions (edgehub.md 7.6): after each refresh of the scope, when the hub comes or goes, at the end of the
//! next token, and every [`EVERY`]; the ledger's way to the disk; the look ahead over certificates. Each who has to leave
//! is counted by reason, and told why. Must not know: the rules (`auth`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Gateway;
use super::doors::Doors;
use super::hub::ToHub;
use crate::auth::{Authenticator, Ledger, LedgerLoaded};
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::front::roster::Roster;
use crate::metrics::Metrics;

/// The reference's period.
const EVERY: Duration = Duration::from_secs(300);

/// Newcomers' tokens are looked at together, so that a fleet that comes back costs one look a second.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Sees to it that who is connected still may be.
pub(super) struct Standing {
    authenticator: Arc<Authenticator>,
    roster: Arc<Roster>,
    metrics: Arc<Metrics>,
}

/// The ledger that graces are granted by. Without a grace it is not kept on disk: only the look ahead uses it then.
pub(super) fn load_ledger(config: &Config, metrics: &Metrics) -> Ledger {
    if config.auth.expired_leaf_grace.is_zero() {
        return Ledger::default();
    }
    let path = config.storage.join("seen-certificates.json");
    let (ledger, loaded) = Ledger::load(path, config.connection.device.clone());
    match loaded {
        LedgerLoaded::Nothing => {}
        LedgerLoaded::Devices(count) => {
            info!("{count} devices were let in by a certificate before: the grace may serve them");
        }
        LedgerLoaded::SetAside(reason, to) => {
            metrics.counted("certificate_ledger", "set_aside");
            let place = to.map_or("where it was".to_owned(), |to| to.display().to_string());
            warn!(
                "the ledger of certificates cannot be used ({reason}) and is now {place}: no grace until devices were let \
                 in again"
            );
        }
    }
    ledger
}

impl Gateway {
    /// Until the upstream's tasks end, which is after the sessions.
    pub(super) fn run_standing(&self, standing: Standing, hub: &ToHub) {
        let (refreshed, connected) = (hub.refresher.refreshed(), hub.upstream.connected());
        standing.show_horizon();
        let stop = self.stops.upstream.clone();
        self.tasks.upstream.spawn(standing.run(refreshed, connected, stop));
    }
}

impl Standing {
    pub(super) fn new(doors: &Doors, metrics: &Arc<Metrics>) -> Self {
        let (authenticator, roster) = (Arc::clone(&doors.authenticator), Arc::clone(&doors.roster));
        Self { authenticator, roster, metrics: Arc::clone(metrics) }
    }

    /// For `/healthz`: who is locked out by the outage, or soon will be.
    pub(super) fn warnings(&self) -> impl Fn() -> Option<String> + Send + Sync + 'static {
        let (authenticator, roster) = (Arc::clone(&self.authenticator), Arc::clone(&self.roster));
        move || {
            if !authenticator.is_hub_away() {
                return None;
            }
            let horizon = authenticator.horizon(&roster.admissions());
            horizon.is_near().then(|| format!("the hub is away; {horizon}"))
        }
    }

    fn show_horizon(&self) {
        let (authenticator, roster) = (Arc::clone(&self.authenticator), Arc::clone(&self.roster));
        self.metrics.on_scrape(move |metrics| {
            let horizon = authenticator.horizon(&roster.admissions());
            let help = "Devices whose certificate (and grace) has ended: during an outage they cannot come back";
            metrics.set_gauge("leaf_expired_devices", help, horizon.expired as f64);
            let help = "Devices whose certificate (and grace) ends within an hour";
            metrics.set_gauge("leaf_expiring_hour_devices", help, horizon.within_hour as f64);
            let help = "Devices whose certificate (and grace) ends within a day";
            metrics.set_gauge("leaf_expiring_day_devices", help, horizon.within_day as f64);
            let help = "When the next certificate (and grace) ends, in seconds since 1970; none = no certificates";
            let next = horizon.next.as_ref().map(|(at, _)| at.as_secs() as f64);
            metrics.set_gauge_if("leaf_next_expiry_timestamp_seconds", help, next);
        });
    }

    async fn run(
        self,
        mut refreshed: watch::Receiver<Option<Instant>>,
        mut connected: watch::Receiver<bool>,
        stop: CancellationToken,
    ) {
        let mut seats = self.roster.changes();
        self.authenticator.hub_is_reached(*connected.borrow_and_update());
        let mut checked = time::Instant::now();
        let mut next_check = checked + EVERY;
        loop {
            // Absolute: what else happens meanwhile does not put it off.
            let looked = time::Instant::now();
            let token_due = (looked + self.until_next_token_end()).max(checked + LOOK_EVERY);
            let due = token_due.min(next_check);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = refreshed.changed() => {
                    self.authenticator.hub_was_heard();
                    checked = self.check().await;
                }
                Ok(()) = connected.changed() => {
                    let reached = *connected.borrow_and_update();
                    self.authenticator.hub_is_reached(reached);
                    if !reached {
                        // An outage may begin, and the power may go in it.
                        self.save_ledger().await;
                    }
                    checked = self.check().await;
                }
                () = time::sleep_until(due) => {
                    checked = self.check().await;
                    if checked >= next_check {
                        self.save_ledger().await;
                        next_check = time::Instant::now() + EVERY;
                    }
                }
                // Newcomers' tokens may end before anything else happens.
                Ok(()) = changed_after(&mut seats, looked + LOOK_EVERY) => {}
            }
        }
        self.save_ledger().await;
    }

    /// When it was done.
    async fn check(&self) -> time::Instant {
        let (authenticator, roster) = (Arc::clone(&self.authenticator), Arc::clone(&self.roster));
        // A path for each certificate, some 0.1 ms: with thousands of devices not on a thread that serves sockets.
        let dismissed = tokio::task::spawn_blocking(move || {
            let now = authenticator.now();
            roster.dismiss(|admission| authenticator.judge_standing(admission, now))
        });
        for refusal in dismissed.await.expect("a judgement does not panic") {
            self.metrics.counted("client_dismissed", refusal.label);
            info!(reason = refusal.label, "a client has to leave: {refusal}");
        }
        time::Instant::now()
    }

    /// A second more, so that the token has ended then; never longer than the period, in case the clock is set.
    fn until_next_token_end(&self) -> Duration {
        let Some(end) = self.authenticator.next_token_end_secs(&self.roster.admissions()) else {
            return EVERY;
        };
        let UnixMillis(now) = self.authenticator.now();
        let left = end.saturating_add(1).saturating_mul(1000).saturating_sub(now);
        Duration::from_millis(left).min(EVERY)
    }

    async fn save_ledger(&self) {
        let authenticator = Arc::clone(&self.authenticator);
        // Writes a file and syncs it: not on a thread that serves sockets.
        let saved = tokio::task::spawn_blocking(move || authenticator.save_ledger())
            .await
            .expect("saving the ledger does not panic");
        if let Err(error) = saved {
            self.metrics.counted("certificate_ledger", "not_stored");
            warn!(%error, "the ledger of certificates could not be written; check the storage folder");
        }
    }
}

/// Changes of the seats, those until `then` taken together.
async fn changed_after(
    seats: &mut watch::Receiver<()>,
    then: time::Instant,
) -> Result<(), watch::error::RecvError> {
    time::sleep_until(then).await;
    seats.changed().await
}

#[cfg(test)]
mod tests;
