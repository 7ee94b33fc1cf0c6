//! The verdict over a claim: by the scope as it is, and once more by what the hub says now.
//!
//! Must not know: how the hub is asked, or how long that takes (it is bounded there).

use std::net::SocketAddr;

use super::Front;
use crate::auth::{self, Admission, Attempt, Question};
use crate::front::door::Pass;
use crate::front::limits::conduct::Cost;
use crate::mqtt::packet::ConnectReturnCode;
use crate::session::Refusal;

/// Judges by the scope as it is; if that is why the answer is no, by what the hub says of this one now.
pub(super) async fn judge(
    front: &Front,
    attempt: Attempt<'_>,
    peer: SocketAddr,
    pass: &Pass,
) -> Result<Admission, auth::Refusal> {
    // Signatures are checked: that waits for its turn as a handshake does, and nobody waits for the hub in a turn.
    let turn = pass.turn().await;
    let judged = front.authenticator.authenticate(attempt);
    if judged.as_ref().err().is_none_or(|refusal| !refusal.is_by_scope()) {
        return judged;
    }
    let is_vouched = front.authenticator.vouches(attempt);
    drop(turn);
    let question = Question { name: attempt.claim.clone(), source: peer.ip(), is_vouched };
    let asked = pass.leave().run_until_cancelled(front.hub.ask(question)).await;
    if asked != Some(true) {
        return judged;
    }
    let _turn = pass.turn().await;
    front.authenticator.authenticate(attempt)
}

/// What a refused attempt counts for. A device whose certificate has ended, or that is disabled or not registered, is no
/// attacker: a site has many of them after an outage, and they come back until somebody mends it. One that comes all the
/// time costs what an attacker does, and counts as one.
pub(super) async fn cost(front: &Front, attempt: Attempt<'_>, pass: &Pass) -> Cost {
    let _turn = pass.turn().await;
    match front.authenticator.has_vouched(attempt) {
        true => pass.refused_though_vouched(attempt.claim.device()),
        false => Cost::Handshake,
    }
}

/// The same refusal as the session answers it.
pub(super) fn in_mqtt(refusal: auth::Refusal) -> Refusal {
    let code = match refusal.code {
        auth::RefusalCode::ServerUnavailable => ConnectReturnCode::ServerUnavailable,
        auth::RefusalCode::NotAuthorized => ConnectReturnCode::NotAuthorized,
    };
    Refusal { code, label: refusal.label, detail: refusal.detail }
}
