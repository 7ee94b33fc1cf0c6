//! The verdict over a claim: by the scope as it is, and once more by what the hub says now.
//!
//! Must not know: how the hub is asked, or how long that takes (it is bounded there).

use std::net::SocketAddr;

use tokio_util::sync::CancellationToken;

use super::Front;
use crate::auth::{self, Admission, Attempt, Question};
use crate::mqtt::packet::ConnectReturnCode;
use crate::session::Refusal;

/// Judges by the scope as it is; if that is why the answer is no, by what the hub says of this one now.
pub(super) async fn judge(
    front: &Front,
    attempt: Attempt<'_>,
    peer: SocketAddr,
    leave: &CancellationToken,
) -> Result<Admission, auth::Refusal> {
    let judged = front.authenticator.authenticate(attempt);
    if judged.as_ref().err().is_none_or(|refusal| !refusal.is_by_scope()) {
        return judged;
    }
    let question = Question {
        name: attempt.claim.clone(),
        source: peer.ip(),
        is_vouched: front.authenticator.vouches(attempt),
    };
    let asked = leave.run_until_cancelled(front.hub.ask(question)).await;
    if asked == Some(true) { front.authenticator.authenticate(attempt) } else { judged }
}

/// The same refusal as the session answers it.
pub(super) fn in_mqtt(refusal: auth::Refusal) -> Refusal {
    let code = match refusal.code {
        auth::RefusalCode::ServerUnavailable => ConnectReturnCode::ServerUnavailable,
        auth::RefusalCode::NotAuthorized => ConnectReturnCode::NotAuthorized,
    };
    Refusal { code, label: refusal.label, detail: refusal.detail }
}
