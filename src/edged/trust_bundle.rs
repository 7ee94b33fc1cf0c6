//! The daemon's trust bundle, from the start on: looked at again while the gateway runs.
//!
//! Owns: when the daemon is asked for it (at start, every hour, and when somebody says that something else has changed), which
//! answer counts, what is kept for a start without the daemon. Invariants: a failure changes nothing; an answer without any
//! certificate never takes the place of one that has some while the gateway runs; what is told is kept first.
//! Must not know: what the bundle admits, who puts it in force.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tracing::{debug, warn};

use super::certificate::{NothingToServe, asked};
use super::kept::Kept;
use super::{Workload, WorkloadError};
use crate::auth::x509::{self, Piece};
use crate::metrics::Metrics;

/// How often the daemon is asked for the bundle: one small request; a CA is not changed in a hurry.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Gets the trust bundle, and keeps it.
#[derive(Debug)]
pub struct Bundles {
    workload: Arc<Workload>,
    kept: Kept,
    /// PEM, as it was given last.
    last: watch::Sender<Bytes>,
}

impl Bundles {
    /// The trust bundle to start with, PEM: the daemon's, else the one that is kept in the gateway's own folder.
    ///
    /// # Errors
    /// There is neither.
    pub async fn at_start(
        workload: Arc<Workload>,
        config: &super::certificate::Config,
    ) -> Result<Self, NothingToServe> {
        let files = Kept::new(config.folder.clone(), config.keeps);
        let kept = match files.bundle() {
            Ok(Some(pem)) => Ok(pem),
            Ok(None) => Err("none is kept from an earlier start".to_owned()),
            Err(e) => Err(format!("the kept one cannot be read ({e})")),
        };
        let pem = match asked(workload.trust_bundle(), kept.is_ok()).await {
            Ok(pem) => {
                let pem = Bytes::from(pem);
                let copy = pem.clone();
                files.keep(move |kept| kept.keep_bundle(&copy)).await;
                pem
            }
            Err(source) => {
                let what = "trust bundle";
                let pem = kept.map_err(|kept| NothingToServe { what, kept, source })?;
                warn!("the trust bundle of an earlier start serves");
                pem.into()
            }
        };
        Ok(Self { workload, kept: files, last: watch::Sender::new(pem) })
    }

    /// The bundle that was given last, PEM.
    pub fn last(&self) -> Bytes {
        self.last.borrow().clone()
    }

    /// The same, and whenever it is another one.
    pub fn changes(&self) -> watch::Receiver<Bytes> {
        self.last.subscribe()
    }

    /// Looks for ever; `again` asks for a look at once.
    pub async fn watch(&self, again: &Notify, metrics: &Metrics) -> ! {
        self.look_with(|| self.workload.trust_bundle(), again, metrics).await
    }

    async fn look_with<F>(&self, ask: impl Fn() -> F, again: &Notify, metrics: &Metrics) -> !
    where
        F: Future<Output = Result<String, WorkloadError>>,
    {
        loop {
            // Whichever comes first.
            let _ = tokio::time::timeout(LOOK_EVERY, again.notified()).await;
            let answer = ask().await.and_then(|pem| {
                let lost = has_certificate(&self.last()) && !has_certificate(pem.as_bytes());
                match lost {
                    true => Err(WorkloadError::Malformed("the trust bundle has no certificate")),
                    false => Ok(Bytes::from(pem)),
                }
            });
            match answer {
                Ok(pem) => self.take(pem).await,
                Err(why) => {
                    metrics.counted("trust_bundle_not_read", why.label());
                    debug!("the trust bundle stays as it is: {why}");
                }
            }
        }
    }

    async fn take(&self, pem: Bytes) {
        if *self.last.borrow() == pem {
            return;
        }
        let copy = pem.clone();
        self.kept.keep(move |kept| kept.keep_bundle(&copy)).await;
        self.last.send_replace(pem);
    }
}

fn has_certificate(pem: &[u8]) -> bool {
    x509::split(pem).iter().any(|piece| matches!(piece, Piece::Certificate(_)))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::certs::{Authority, Curve, Window};
    use crate::clock;

    fn ca(name: &str) -> String {
        let window = Window::days(clock::system().wall(), 1);
        Authority::root(name, Curve::P256, window).unwrap().certificate_pem().to_owned()
    }

    fn bundles(folder: &std::path::Path, pem: &str) -> Bundles {
        let address = crate::edged::Address::Unix("/nobody".into());
        let module = crate::identity::ModuleId::parse("$edgeHub").unwrap();
        let workload = Workload::new(crate::edged::Config::new(address, None, module, "1"));
        let last = watch::Sender::new(Bytes::from(pem.to_owned()));
        Bundles { workload, kept: Kept::new(folder.to_owned(), true), last }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_looked_at_every_hour_and_at_once_when_somebody_asks() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (ca("first"), ca("second"));
        let both = format!("{first}{second}");
        let bundles = bundles(folder.path(), &first);
        let mut changes = bundles.changes();
        let metrics = Metrics::new("hub", "edge");
        let (again, answer, asked) = (Notify::new(), Mutex::new(Some(first)), Mutex::new(0));
        let ask = || {
            *asked.lock().unwrap() += 1;
            let pem = answer.lock().unwrap().clone();
            std::future::ready(pem.ok_or(WorkloadError::Malformed("not the expected JSON")))
        };
        let story = async {
            let hour = Duration::from_secs(3601);
            let begun = tokio::time::Instant::now();
            tokio::time::sleep(hour).await;
            assert_eq!((*asked.lock().unwrap(), changes.has_changed().unwrap()), (1, false));
            // What is no bundle is no change, and not kept.
            for bad in [None, Some(String::new()), Some("-----BEGIN nonsense".to_owned())] {
                *answer.lock().unwrap() = bad;
                tokio::time::sleep(hour).await;
                assert!(!changes.has_changed().unwrap());
                assert_eq!(bundles.kept.bundle().unwrap(), None);
            }
            *answer.lock().unwrap() = Some(both.clone());
            let before = begun.elapsed();
            again.notify_one();
            changes.changed().await.unwrap();
            assert!(begun.elapsed() - before < Duration::from_secs(60), "not after an hour");
            assert_eq!(*changes.borrow_and_update(), both.as_bytes());
            assert_eq!(bundles.kept.bundle().unwrap().unwrap(), both.as_bytes());
        };
        tokio::select! {
            _ = bundles.look_with(ask, &again, &metrics) => unreachable!("it looks for ever"),
            () = story => {}
        }
        let text = metrics.render();
        let line = text.lines().find(|line| line.contains("\"trust_bundle_not_read\""));
        assert!(line.is_some_and(|l| l.contains("\"malformed\"") && l.ends_with(" 3")), "{line:?}");
    }
}
