//! The server's certificate, from the first request to the last renewal.
//!
//! Owns: when the daemon is asked (at start, and at two thirds of a certificate's life until it has given a new one), which
//! answer is taken, and what serves while there is none: the certificate of before, first the one in memory, at a start the
//! one on disk.
//! Invariants: a certificate is replaced by a better one only; no failure ends anything but a start that has nothing to
//! serve; private keys show nowhere but in their file ([`super::kept`]).
//! Must not know: who serves the certificate.
//!
//! The end of a certificate is what it says itself: the daemon cuts the wish down to what its own CA lasts. The wall clock
//! is looked at every minute, because a Raspberry Pi begins with a wrong one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use super::kept::Kept;
use super::{Issued, Workload, WorkloadError};
use crate::auth::x509::{self, Validity};
use crate::clock::{SharedClock, UnixMillis};
use crate::front::tls::{ServerIdentity, Warning};
use crate::metrics::Metrics;
use crate::upstream::backoff::Backoff;

/// What we wish for; the reference asks for as much. The daemon gives 30 days.
const WISHED_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// How long a start waits for the daemon when what is kept can serve: devices wait, too.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// The wall clock may jump: it is looked at again after this time at most.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Least time between two renewals that went well: a CA at its end issues shorter and shorter certificates.
const GAP_MIN: Duration = Duration::from_secs(60);

/// Ceilings of the waits after a failure. With the daemon's 30 days a third of the life leaves thousands of tries.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// What the certificate is for, and where it is kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name by which devices call the gateway.
    pub gateway_name: String,
    /// The gateway's own folder.
    pub folder: PathBuf,
    /// Whether anything is kept: not if this process only looks.
    pub keeps: bool,
    /// Renew at the latest after this time (`ServerCertificateRenewAfterInMs`).
    pub renew_after_max: Option<Duration>,
}

/// Nothing can be served: the daemon gives nothing, and nothing is kept. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("no {what} to start with, and {kept}: {source}")]
pub struct NothingToServe {
    /// What was asked for.
    pub(super) what: &'static str,
    /// What is the matter with what is kept.
    pub(super) kept: String,
    /// Why the daemon gave nothing.
    pub(super) source: WorkloadError,
}

/// The certificate that serves.
#[derive(Debug, Clone)]
pub struct Current {
    identity: ServerIdentity,
    /// Wall time from which two thirds of its life are counted; `None`: it is due at once.
    from: Option<UnixMillis>,
    /// Monotonic time since when it serves.
    since: Instant,
}

impl Current {
    /// Chain and key.
    pub fn identity(&self) -> &ServerIdentity {
        &self.identity
    }

    /// Whether it is the one of an earlier start, as the daemon has given none.
    pub fn is_kept(&self) -> bool {
        self.from.is_none()
    }
}

/// Gets certificates, and keeps them.
#[derive(Clone)]
pub struct Certificates {
    workload: Arc<Workload>,
    config: Config,
    kept: Kept,
    clock: SharedClock,
}

impl Certificates {
    /// Asks nothing yet.
    pub fn new(workload: Arc<Workload>, config: Config, clock: SharedClock) -> Self {
        let kept = Kept::new(config.folder.clone(), config.keeps);
        Self { workload, config, kept, clock }
    }

    /// The certificate to start with: a new one of the daemon, else the one that is kept, while it is valid.
    ///
    /// # Errors
    /// There is neither.
    pub async fn at_start(&self) -> Result<Current, NothingToServe> {
        let kept = self.kept_identity();
        match asked(self.request(), kept.is_ok()).await {
            Ok((issued, identity)) => {
                self.kept.keep(move |kept| kept.keep_server(&issued)).await;
                Ok(self.fresh(identity))
            }
            Err(why) => match kept {
                Ok(identity) => {
                    let until = x509::utc(identity.leaf().not_after);
                    warn!(
                        "the server certificate of an earlier start serves, until {until}: {why}"
                    );
                    Ok(Current { identity, from: None, since: self.clock.monotonic() })
                }
                Err(kept) => Err(NothingToServe { what: "server certificate", kept, source: why }),
            },
        }
    }

    /// Renews `current` for ever; each new certificate is handed to `serve`.
    pub async fn run(
        &self,
        mut current: Current,
        metrics: &Metrics,
        serve: impl Fn(&ServerIdentity),
    ) -> ! {
        // Of what is kept it was said at the start why.
        let mut told = current.from.is_none();
        loop {
            self.until_due(&current).await;
            let (issued, identity) = self.successor(&current, metrics, told).await;
            serve(&identity);
            told = false;
            info!(
                "the server certificate is renewed, valid until {}; connections go on",
                x509::utc(identity.leaf().not_after)
            );
            for warning in identity.warnings() {
                warn!("server certificate: {warning}");
            }
            self.kept.keep(move |kept| kept.keep_server(&issued)).await;
            current = self.fresh(identity);
        }
    }

    /// Asks until the daemon gives a certificate that is fit to follow `current`.
    async fn successor(
        &self,
        current: &Current,
        metrics: &Metrics,
        mut told: bool,
    ) -> (Issued, ServerIdentity) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut told_expired = false;
        loop {
            let answer = self.request().await.and_then(|(issued, identity)| {
                fit(&current.identity, &identity, self.clock.wall())?;
                Ok((issued, identity))
            });
            let why = match answer {
                Ok(new) => return new,
                Err(why) => why,
            };
            metrics.counted("server_certificate_renewal_failed", why.label());
            let leaf = current.identity.leaf();
            let until = x509::utc(leaf.not_after);
            let expired = leaf.validity(self.clock.wall()) == Validity::Expired;
            match (expired && !told_expired, told) {
                (true, _) => error!(
                    "the server certificate expired on {until} and cannot be renewed; who is connected stays, newcomers will \
                     refuse it: {why}"
                ),
                (false, false) => {
                    warn!(
                        "the server certificate is not renewed yet, it serves on until {until}: {why}"
                    );
                }
                (false, true) => debug!("the server certificate is not renewed yet: {why}"),
            }
            (told, told_expired) = (true, told_expired || expired);
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    async fn request(&self) -> Result<(Issued, ServerIdentity), WorkloadError> {
        let name = &self.config.gateway_name;
        let until = self.clock.wall().plus(WISHED_LIFE);
        let issued = self.workload.server_certificate(name, until).await?;
        let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
        let identity = ServerIdentity::from_pem(chain, key, name, self.clock.wall())
            .map_err(|e| WorkloadError::Certificate(e.to_string()))?;
        Ok((issued, identity))
    }

    /// What is kept, if it can serve; else in words what is the matter with it.
    fn kept_identity(&self) -> Result<ServerIdentity, String> {
        let path = self.kept.server_path();
        let bad = |e: String| format!("the kept one, {}, cannot be used ({e})", path.display());
        let pem = match self.kept.server() {
            Ok(Some(pem)) => pem,
            Ok(None) => return Err("none is kept from an earlier start".to_owned()),
            Err(e) => return Err(bad(e.to_string())),
        };
        let now = self.clock.wall();
        let identity = ServerIdentity::from_pem(&pem, &pem, &self.config.gateway_name, now)
            .map_err(|e| bad(e.to_string()))?;
        match identity.leaf().validity(now) {
            Validity::Expired => {
                Err(format!("the kept one expired on {}", x509::utc(identity.leaf().not_after)))
            }
            // A clock that is behind at boot must not keep us down.
            Validity::Valid | Validity::NotYet => Ok(identity),
        }
    }

    fn fresh(&self, identity: ServerIdentity) -> Current {
        Current { identity, from: Some(self.clock.wall()), since: self.clock.monotonic() }
    }

    async fn until_due(&self, current: &Current) {
        let Some(from) = current.from else { return };
        let at = due(from, current.identity.leaf().not_after);
        loop {
            let by_wall = Duration::from_millis(at.0.saturating_sub(self.clock.wall().0));
            let served = self.clock.monotonic().saturating_duration_since(current.since);
            let at_latest = self.config.renew_after_max.map(|max| max.saturating_sub(served));
            let rest = by_wall.min(at_latest.unwrap_or(Duration::MAX));
            if rest.is_zero() || self.is_of_a_clock_ahead(current, from) {
                return;
            }
            tokio::time::sleep(rest.min(LOOK_EVERY)).await;
        }
    }

    /// The clock was set back since it was issued, and devices refuse what begins in the future.
    fn is_of_a_clock_ahead(&self, current: &Current, from: UnixMillis) -> bool {
        let now = self.clock.wall();
        now < from && current.identity.leaf().validity(now) == Validity::NotYet
    }
}

/// A call at the start: not waited for very long if something else can serve.
pub(super) async fn asked<T>(
    call: impl Future<Output = Result<T, WorkloadError>>,
    something_is_kept: bool,
) -> Result<T, WorkloadError> {
    if !something_is_kept {
        return call.await;
    }
    let answered = timeout(START_PATIENCE, call).await;
    answered.unwrap_or(Err(WorkloadError::NoAnswer(START_PATIENCE)))
}

/// When a certificate that is new at `from` is to be renewed: at two thirds of what it lasts.
fn due(from: UnixMillis, not_after: UnixMillis) -> UnixMillis {
    let life = not_after.0.saturating_sub(from.0);
    let third = Duration::from_millis(life / 3);
    from.plus((third * 2).max(GAP_MIN))
}

/// Whether `new` serves devices at least as well as `old`.
fn fit(old: &ServerIdentity, new: &ServerIdentity, now: UnixMillis) -> Result<(), WorkloadError> {
    let misnamed = |identity: &ServerIdentity| {
        identity.warnings().iter().find(|w| matches!(w, Warning::Name { .. })).cloned()
    };
    if let Some(warning) = misnamed(new)
        && misnamed(old).is_none()
    {
        return Err(WorkloadError::Certificate(warning.to_string()));
    }
    match new.leaf().validity(now) {
        Validity::Expired => {
            let end = x509::utc(new.leaf().not_after);
            let what = format!("it expired on {end}; renew the edge CA, or check the clock");
            Err(WorkloadError::Certificate(what))
        }
        Validity::Valid | Validity::NotYet => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::certs::{Authority, Curve, Window};
    use crate::clock::Clock;

    const DAY: u64 = 24 * 3600 * 1000;

    /// Wall time by hand; the other one is tokio's, which tests can stop.
    struct Hands(AtomicU64);
    impl Clock for Hands {
        fn wall(&self) -> UnixMillis {
            UnixMillis(self.0.load(Ordering::Relaxed))
        }
        fn monotonic(&self) -> Instant {
            tokio::time::Instant::now().into_std()
        }
    }

    fn window(end: UnixMillis) -> Window {
        Window { not_before: UnixMillis(0), not_after: end }
    }

    fn identity(name: &str, now: UnixMillis, end: UnixMillis) -> ServerIdentity {
        let ca = Authority::root("CA", Curve::P256, window(end.plus(WISHED_LIFE))).unwrap();
        let issued = ca.issue_server(&[name], &[], window(end)).unwrap();
        let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
        ServerIdentity::from_pem(chain, key, "gateway", now).unwrap()
    }

    /// A Raspberry Pi starts with the clock of its last shutdown, and a year later the network sets it.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_makes_a_renewal_due_within_a_minute() {
        let now = UnixMillis(1_700_000_000_000);
        let hands = Arc::new(Hands(AtomicU64::new(now.0)));
        let address = super::super::Address::Unix("/nobody".into());
        let module = crate::identity::ModuleId::parse("$edgeHub").unwrap();
        let workload = Workload::new(super::super::Config::new(address, None, module, "1"));
        let config = |renew_after_max| Config {
            gateway_name: "gateway".into(),
            folder: "/nowhere".into(),
            keeps: false,
            renew_after_max,
        };
        let make = |max| Certificates::new(Arc::clone(&workload), config(max), hands.clone());
        let certificates = make(None);
        let current = certificates.fresh(identity("gateway", now, UnixMillis(now.0 + 30 * DAY)));
        let hour = Duration::from_secs(3600);
        assert!(timeout(hour, certificates.until_due(&current)).await.is_err(), "not yet");
        let start = certificates.clock.monotonic();
        hands.0.fetch_add(365 * DAY, Ordering::Relaxed);
        certificates.until_due(&current).await;
        let took = certificates.clock.monotonic() - start;
        assert_eq!(took, Duration::ZERO, "it is looked at first");
        // In the middle of a wait.
        hands.0.store(now.0, Ordering::Relaxed);
        let set = async {
            tokio::time::sleep(Duration::from_secs(90)).await;
            hands.0.fetch_add(365 * DAY, Ordering::Relaxed);
        };
        tokio::join!(certificates.until_due(&current), set);
        let took = certificates.clock.monotonic() - start;
        assert!(took <= Duration::from_secs(121), "{took:?}");
        // A setting bounds it, whatever the clock says.
        hands.0.store(now.0, Ordering::Relaxed);
        let certificates = make(Some(hour));
        let current = certificates.fresh(current.identity);
        let start = certificates.clock.monotonic();
        certificates.until_due(&current).await;
        let took = certificates.clock.monotonic() - start;
        assert!(took >= hour && took < hour + Duration::from_secs(1), "{took:?}");
    }

    /// A clock that was ahead when the certificate was issued: it begins in the future by now.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_makes_a_renewal_due_too() {
        let ahead = UnixMillis(1_900_000_000_000);
        let hands = Arc::new(Hands(AtomicU64::new(ahead.0)));
        let address = super::super::Address::Unix("/nobody".into());
        let module = crate::identity::ModuleId::parse("$edgeHub").unwrap();
        let workload = Workload::new(super::super::Config::new(address, None, module, "1"));
        let config = Config {
            gateway_name: "gateway".into(),
            folder: "/nowhere".into(),
            keeps: false,
            renew_after_max: None,
        };
        let certificates = Certificates::new(workload, config, hands.clone());
        let end = UnixMillis(ahead.0 + 30 * DAY);
        let window = Window { not_before: ahead, not_after: end };
        let ca = Authority::root("CA", Curve::P256, window).unwrap();
        let issued = ca.issue_server(&["gateway"], &[], window).unwrap();
        let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
        let identity = ServerIdentity::from_pem(chain, key, "gateway", ahead).unwrap();
        let current = certificates.fresh(identity);
        let hour = Duration::from_secs(3600);
        assert!(timeout(hour, certificates.until_due(&current)).await.is_err(), "not yet");
        hands.0.store(1_700_000_000_000, Ordering::Relaxed);
        assert!(
            timeout(hour, certificates.until_due(&current)).await.is_ok(),
            "newcomers refuse it"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_for_a_silent_daemon_only_if_nothing_else_can_serve() {
        let silent = || std::future::pending::<Result<(), WorkloadError>>();
        let why = asked(silent(), true).await.unwrap_err();
        assert_eq!(why.label(), "timeout");
        let patient = timeout(2 * START_PATIENCE, asked(silent(), false)).await;
        assert!(patient.is_err(), "its own limits count");
    }

    #[test]
    fn renewal_is_due_at_two_thirds_of_the_life_and_not_in_a_tight_loop() {
        for (from, to, expected) in [
            (0, 30 * DAY, 20 * DAY),
            (5 * DAY, 8 * DAY, 7 * DAY),
            // A CA at its end.
            (0, 30_000, 60_000),
            (DAY, 0, DAY + 60_000),
        ] {
            assert_eq!(due(UnixMillis(from), UnixMillis(to)).0, expected, "{from} to {to}");
        }
    }

    #[test]
    fn a_certificate_is_replaced_by_a_better_one_only() {
        let now = UnixMillis(1_700_000_000_000);
        let make = |name: &str, end: u64| identity(name, now, UnixMillis(end));
        let good = make("gateway", now.0 + DAY);
        let check = |old: &ServerIdentity, new: &ServerIdentity, expected: Option<&str>| {
            let got = fit(old, new, now).map_err(|e| e.to_string());
            match expected {
                None => assert_eq!(got, Ok(())),
                Some(part) => assert!(got.clone().unwrap_err().contains(part), "{got:?}"),
            }
        };
        check(&good, &make("gateway", now.0 + 30 * DAY), None);
        // The edge CA lasts no longer.
        check(&good, &make("gateway", now.0 + DAY), None);
        check(&good, &make("other", now.0 + 30 * DAY), Some("not for \"gateway\""));
        check(&make("other", now.0 + DAY), &make("else", now.0 + 30 * DAY), None);
        check(&good, &make("gateway", now.0 - DAY), Some("renew the edge CA"));
    }
}
