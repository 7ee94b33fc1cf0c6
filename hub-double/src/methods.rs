//! Direct methods that wait for their answers (fact sheet A8, B7).
//!
//! Owns: the calls under way. Invariant: an answer reaches the caller whose id it carries, once, and only when the identity
//! that was called gives it. Must not know: AMQP, HTTP.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::oneshot;

use crate::registry::Principal;

/// What a method answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodAnswer {
    /// The identity's own status; any integer.
    pub status: i64,
    /// Its payload; null when there is none, text when it is not JSON.
    pub payload: Value,
}

/// Why a method has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// 404103: nobody has method links for the identity.
    #[error("ErrorCode:DeviceNotOnline;the identity has no method links")]
    NotOnline,
    /// 504101: no answer in time.
    #[error("ErrorCode:GatewayTimeout;no answer in time")]
    Timeout,
}

type Waiting = (Principal, oneshot::Sender<MethodAnswer>);

/// The calls under way.
#[derive(Debug, Default)]
pub(crate) struct Methods {
    calls: AtomicU64,
    waiting: Mutex<HashMap<[u8; 16], Waiting>>,
}

impl Methods {
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<[u8; 16], Waiting>) -> T) -> T {
        work(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new call of `who`: its id, and its answer.
    pub(crate) fn begin(&self, who: &Principal) -> ([u8; 16], oneshot::Receiver<MethodAnswer>) {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        // In the form of version 4: the Node SDK answers with a text what does not look like versions 1 to 5.
        let id = (u128::from(number) | (0x4 << 76) | (0x2 << 62)).to_be_bytes();
        let (answer, answered) = oneshot::channel();
        self.with(|waiting| waiting.insert(id, (who.clone(), answer)));
        (id, answered)
    }

    /// Gives up.
    pub(crate) fn forget(&self, id: &[u8; 16]) {
        self.with(|waiting| waiting.remove(id));
    }

    /// `who` answers; false when nobody waits for that.
    pub(crate) fn answer(&self, who: &Principal, id: &[u8; 16], answer: MethodAnswer) -> bool {
        let asker = self.with(|waiting| match waiting.get(id) {
            Some((called, _)) if called == who => waiting.remove(id),
            _ => None,
        });
        asker.is_some_and(|(_, asker)| asker.send(answer).is_ok())
    }
}
