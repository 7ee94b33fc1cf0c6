//! Who has proved who he is, and comes too often; who has not, and makes room.
//!
//! Must not know: credentials, seats.

use super::Connection;
use crate::front::limits::log_ins::TooOften;
use crate::identity::Identity;
use crate::mqtt::packet::ConnectReturnCode;
use crate::session::{CloseReason, Refusal};

impl<S> Connection<S> {
    /// Charges the log-in to the identity, and gives the address credit for it.
    pub(super) fn log_in(&mut self, identity: &Identity) -> Result<(), Refusal> {
        let later =
            |label, detail| Refusal { code: ConnectReturnCode::ServerUnavailable, label, detail };
        self.pass.log_in(identity).map_err(|too_often| match too_often {
            TooOften::Fight { holder, wait } => later(
                "identity_fight",
                format!(
                    "{identity} is connected from {holder}, and clients take it from each other again and again: the next \
                     one may in {} s",
                    wait.as_secs() + 1
                ),
            ),
            TooOften::LogIns(wait) => later(
                "log_in_rate",
                format!("{identity} logs in too often: again in {} s", wait.as_secs() + 1),
            ),
        })
    }
}

/// It had not logged in.
pub(super) fn crowded_out() -> CloseReason {
    CloseReason::environment("crowded_out", "others needed the room, and it had not logged in")
}
