//! Whether devices can be let in now: what `/readyz` tells.
//!
//! Owns: the reasons against it. Must not know: HTTP.
//!
//! The store is open before there is anyone to ask (`Gateway::start`), so only that it is poisoned is looked at.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Gateway;
use crate::auth::Scope;
use crate::store::Health;

impl Gateway {
    /// Why devices cannot be let in now. The hub may be away: what is known of the scope serves.
    pub(super) fn readiness(
        &self,
        scope: Arc<Scope>,
    ) -> impl Fn() -> Vec<String> + Send + Sync + 'static {
        let (health, serving) = (self.health.clone(), Arc::clone(&self.serving));
        let stop = self.stops.front.clone();
        move || {
            let mut reasons = Vec::new();
            if let Health::Poisoned(why) = &*health.borrow() {
                reasons.push(why.clone());
            }
            if stop.is_cancelled() {
                reasons.push("the gateway is stopping".to_owned());
            } else if !serving.load(Ordering::Acquire) {
                reasons.push("the listener for devices is not open yet".to_owned());
            }
            if !scope.is_known() {
                let text = "the scope is not known: no device can be let in until the hub has told who they are";
                reasons.push(text.to_owned());
            }
            reasons
        }
    }
}
