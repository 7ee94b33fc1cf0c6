//! What is counted and told of a connection's end.
//!
//! Must not know: why it ended; that comes as a reason.

use tracing::{debug, error, info};

use super::{Connection, seat};
use crate::auth::decision::Stage;
use crate::front::refused::Refused;
use crate::session::{Blame, CloseReason};

impl<S> Connection<S> {
    pub(super) fn report(&self, reason: &CloseReason) {
        let metrics = &self.front.metrics;
        let who = match (&self.seat, &self.claimed) {
            (Some(seat), _) => seat.identity().to_string(),
            (None, Some(claimed)) => claimed.to_string(),
            (None, None) => "-".to_owned(),
        };
        let (label, detail, peer) = (reason.label, &reason.detail, self.peer);
        match &self.seat {
            Some(seat) if self.admitted => metrics.client_disconnected(seat.identity()),
            _ => {
                metrics.connect_failed(&who, label, self.denied);
                if reason.blame == Blame::Peer {
                    self.pass.failed(self.cost);
                }
                let who = Refused { claim: self.claimed.clone(), ..Refused::peer(peer) };
                let who = who.presented(&self.chain);
                return self.front.refused(Stage::Connect, who, label, detail.to_string());
            }
        }
        if let Some(admission) = seat::dismissed(self.seat.as_ref(), reason) {
            info!(%who, %peer, label, "closed: {detail}");
            let (claim, certificate) = (self.claimed.clone(), seat::leaf(admission));
            let who = Refused { claim, certificate, ..Refused::peer(peer) };
            return self.front.refused(Stage::Session, who, label, detail.to_string());
        }
        let stage = "session";
        match reason.blame {
            Blame::Nobody => info!(%who, %peer, "disconnected"),
            // What lies around us is told once where it lies (store, disk); a fleet that comes back is not.
            Blame::Peer | Blame::Environment => {
                metrics.refused(stage, label);
                debug!(%who, %peer, label, "closed: {detail}");
            }
            Blame::Ours => {
                metrics.refused(stage, label);
                error!(%who, %peer, label, "closed: {detail}");
            }
        }
    }
}
