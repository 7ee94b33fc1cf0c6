//! The trust bundle follows its files while devices are connected.
//!
//! Owns: when it is looked at: every [`LOOK_EVERY`], and at once when somebody asks (SIGHUP,
//! [`Gateway::reload_trust_bundle`]). Invariants: a bundle is put in force as a whole or not at all; the one in force
//! serves until there is a better one. Must not know: what a CA is (`auth::bundle`), how a session ends (`front`).
//!
//! A look is a `stat` of each file, 256 at most: a millisecond on a Raspberry Pi. It runs, as everything here, on a
//! thread of its own and not on those that serve sockets: a bundle that is read, and sessions that are judged again,
//! take signature checks (0.2 to 3 ms a session there), so a thousand sessions of a CA that goes take seconds. Only those
//! are judged whose CA is gone, and all of them when there is a new revocation list; with no others anything happens.

mod looks;
mod offers;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::looks::{Looks, Read};
use self::offers::Offers;
pub use self::offers::{Applied, BundleReload, Closing};
use super::Gateway;
use super::daemon::DAEMON_BUNDLE;
use super::doors::Doors;
use crate::auth::TrustBundle;
use crate::clock::{SharedClock, UnixMillis};
use crate::config::Config;

/// How often the files are looked at. A change counts when two looks have seen the same.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What the IoT Edge daemon gives, whenever it gives another bundle (PEM).
pub(super) type FromDaemonBundle = watch::Receiver<Bytes>;

/// Somebody wants the bundle read again, and perhaps to know what comes of it.
#[derive(Debug, Default)]
pub(super) struct Asked(Option<oneshot::Sender<BundleReload>>);

/// Where the CAs that admit devices come from.
#[derive(Debug)]
enum Source {
    /// `EdgeHubDevTrustBundleFile`.
    Files(Looks),
    /// The daemon; not there if it only gives a bundle at the start.
    Daemon(Option<FromDaemonBundle>),
}

/// The task.
struct BundleWatch {
    source: Source,
    offers: Offers,
}

impl BundleWatch {
    /// One look, which blocks on the disk and on signature checks. `None` = there was nothing to decide.
    fn look(&mut self, asked: bool) -> Option<BundleReload> {
        let reload = match &mut self.source {
            Source::Files(looks) => match looks.look(asked)? {
                Read::Whole(loaded) => self.offers.offer(loaded, asked),
                Read::Torn => self.offers.torn(asked),
            },
            Source::Daemon(Some(given)) if asked || given.has_changed().unwrap_or(false) => {
                let pem = given.borrow_and_update().clone();
                let loaded = TrustBundle::from_bytes(DAEMON_BUNDLE, &pem);
                self.offers.offer(loaded, asked)
            }
            Source::Daemon(_) => return None,
        };
        if let (Source::Files(looks), BundleReload::Refused { label: "unreadable", .. }) =
            (&mut self.source, &reload)
        {
            looks.try_again();
        }
        Some(reload)
    }

    async fn run(mut self, mut asked: mpsc::Receiver<Asked>, stop: CancellationToken) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                Some(asked) = asked.recv() => Some(asked),
                _ = ticks.tick() => None,
            };
            let looking = tokio::task::spawn_blocking(move || {
                if asked.is_none() {
                    self.offers.look_at_newcomers();
                }
                let reload = self.look(asked.is_some());
                if let Some(Asked(Some(answer))) = asked {
                    // Who asked may have gone.
                    let _ = answer.send(reload.unwrap_or(BundleReload::Unchanged));
                }
                self
            });
            match looking.await {
                Ok(watch) => self = watch,
                Err(e) => {
                    error!(
                        "the trust bundle is not looked at any more: {e}; report this as a defect"
                    );
                    return;
                }
            }
        }
    }
}

impl Gateway {
    /// Keeps the bundle in force as its source has it. `given` is what the daemon gives while we run.
    pub(super) fn run_bundle_watch(
        &self,
        asked: mpsc::Receiver<Asked>,
        config: &Config,
        doors: &Doors,
        clock: &SharedClock,
        given: Option<FromDaemonBundle>,
    ) {
        let source = match config.trust_bundle.is_empty() {
            true => Source::Daemon(given),
            false => Source::Files(Looks::new(config.trust_bundle.clone())),
        };
        let shown = Arc::clone(&doors.authenticator);
        self.metrics.on_scrape(move |metrics| {
            let bundle = shown.bundle();
            let help = "CA certificates that admit devices.";
            metrics.set_gauge("trust_bundle_entries", help, bundle.entries().len() as f64);
            let help = "Entries of the trust bundle that are left out.";
            metrics.set_gauge("trust_bundle_refused", help, bundle.refused().len() as f64);
            let help = "Certificate revocation lists of the trust bundle.";
            metrics.set_gauge("trust_bundle_revocation_lists", help, bundle.list_count() as f64);
        });
        let offers = Offers::new(&doors.authenticator, &doors.roster, &self.metrics, clock);
        let watch = BundleWatch { source, offers };
        self.tasks.upstream.spawn(watch.run(asked, self.stops.upstream.clone()));
    }

    /// Has the trust bundle read again at once, and waits for what comes of it; the log tells it, too.
    pub async fn reload_trust_bundle(&self) -> BundleReload {
        let (answer, answered) = oneshot::channel();
        let gone = || BundleReload::Refused {
            label: "stopped",
            why: "the gateway does not look at its trust bundle any more".to_owned(),
        };
        if self.reload_bundle.send(Asked(Some(answer))).await.is_err() {
            return gone();
        }
        answered.await.unwrap_or_else(|_| gone())
    }
}

/// Says in the log what is in a bundle: of what is refused or odd only what was not so in `before`.
pub(super) fn tell(bundle: &TrustBundle, before: Option<&TrustBundle>, now: UnixMillis) {
    let known = before.map_or(&[][..], TrustBundle::refused);
    for refused in bundle.refused().iter().filter(|refused| !known.contains(refused)) {
        warn!("trust bundle: an entry is left out: {refused}");
    }
    let known = before.map_or(&[][..], TrustBundle::entries);
    for entry in bundle.entries().iter().filter(|entry| !known.contains(entry)) {
        for warning in entry.warnings(now) {
            warn!("trust bundle: {}, {}: {warning}", entry.info.subject, entry.source);
        }
    }
    let known = before.map(TrustBundle::revoked).unwrap_or_default();
    for entry in bundle.revoked().iter().filter(|entry| !known.contains(entry)) {
        let (subject, source) = (&entry.info.subject, &entry.source);
        warn!(
            "trust bundle: {subject}, {source}: the CA that issued it has revoked it, so it admits nobody: take it out"
        );
    }
    let known = before.map(|before| before.revocation_lists(now)).unwrap_or_default();
    for list in bundle.revocation_lists(now).iter().filter(|list| !known.contains(list)) {
        if let Some(warning) = list.warning() {
            warn!("trust bundle: {warning}");
        }
    }
    let (entries, lists) = (bundle.entries().len(), bundle.list_count());
    info!("{entries} certificate authorities admit devices; {lists} revocation lists");
}

#[cfg(test)]
mod tests;
