//! A token that somebody else than telemetry needs: put once, renewed for as long as it is held.
//!
//! Owns: that count. Invariants: what is held is renewed whether or not telemetry uses it; one put serves both. Must not know:
//! what it is held for.

use std::sync::Arc;

use super::{Live, PutError, Slot};
use crate::identity::Identity;

/// While it lives, the identity's token on this connection is renewed.
pub(in crate::upstream) struct Hold {
    slot: Arc<Slot>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.slot.times().held -= 1;
    }
}

impl Live {
    /// Sees to it that the hub has a token for `who`, and keeps it renewed. `again`: puts it even if there is one, because the hub
    /// has refused the identity since.
    ///
    /// Two who come at the same time may both put it: the hub takes the second as a renewal.
    pub(in crate::upstream) async fn hold_token(
        &self,
        who: &Identity,
        again: bool,
    ) -> Result<Hold, PutError> {
        let slot = self.slot(who);
        slot.times().held += 1;
        // From here on it is given back however this ends.
        let hold = Hold { slot };
        if again || hold.slot.times().renew_at.is_none() {
            let renew_at = self.put_token(who.name(), again).await?;
            hold.slot.times().renew_at = Some(renew_at);
        }
        Ok(hold)
    }
}
