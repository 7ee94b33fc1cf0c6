//! Where decisions about who may come in end up: a line in the log, the last hundred in memory, the audit log.
//!
//! Owns: [`Refusals`]. Invariants: bounded memory ([`ring`], [`limiter`]); a decision waits for nobody: what it takes is a
//! lock that is held for a scan of a hundred entries. Must not know: sockets, HTTP.

mod limiter;
mod ring;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{Level, debug, enabled, error, warn};

use self::limiter::{Key, Limiter, More};
use self::ring::Ring;
use super::audit::AuditLog;
use crate::auth::decision::{
    Decision, Decisions, Loudness, Outcome, RefusalRecord, RefusalsReport, Stage, reason,
};
use crate::clock::SharedClock;

/// How often it is looked whether something that was counted is to be told.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// See [the module](self).
pub(super) struct Refusals {
    state: Mutex<State>,
    audit: Option<AuditLog>,
    clock: SharedClock,
}

#[derive(Debug, Default)]
struct State {
    ring: Ring,
    limiter: Limiter,
}

impl Refusals {
    pub(super) fn new(audit: Option<AuditLog>, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), audit, clock })
    }

    /// The last refusals.
    pub(super) fn report(&self) -> RefusalsReport {
        self.lock().ring.report()
    }

    /// Tells what was counted, when its time has come, until `stop`; then the rest.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let due = self.lock().limiter.due(self.clock.monotonic());
            due.iter().for_each(tell_more);
        }
        let rest = self.lock().limiter.rest();
        rest.iter().for_each(tell_more);
    }

    fn refused(&self, decision: &Decision, label: &'static str) {
        let Some(record) = RefusalRecord::of(decision) else { return };
        let loudness = reason(decision.stage, label).loudness;
        let line = {
            let mut state = self.lock();
            let tell = match loudness {
                Loudness::Noise => enabled!(Level::DEBUG),
                Loudness::Mend | Loudness::Ours => {
                    let ip = decision.peer.map(|peer| peer.ip());
                    let (stage, claim) = (decision.stage, decision.claim.clone());
                    state.limiter.may_tell(Key { stage, label, ip, claim }, self.clock.monotonic())
                }
            };
            let line = tell.then(|| record.to_string());
            state.ring.push(decision, record);
            line
        };
        let Some(line) = line else { return };
        match loudness {
            Loudness::Mend => warn!("{line}"),
            Loudness::Noise => debug!("{line}"),
            Loudness::Ours => error!("{line}"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing in there is half done when it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Decisions for Refusals {
    fn decided(&self, decision: Decision) {
        if let Outcome::Refused { label, .. } = decision.outcome {
            self.refused(&decision, label);
        }
        if let Some(audit) = &self.audit {
            audit.keep(decision);
        }
    }

    fn wants_admissions(&self) -> bool {
        self.audit.is_some()
    }
}

fn tell_more(More { of, stage, label, count }: &More) {
    let stage: &Stage = stage;
    match of {
        Some(Key { ip, claim, .. }) => {
            let ip = ip.map_or_else(|| "-".to_owned(), |ip: IpAddr| ip.to_string());
            let claim = claim.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
            warn!(
                "refused at {} ({label}): {count} more like this from peer {ip}, claim {claim}",
                stage.label()
            );
        }
        None => warn!(
            "refused at {} ({label}): {count} more from other peers or claims; `sphere-gateway refusals` shows the last ones",
            stage.label()
        ),
    }
}
