//! Where messages end up: the hub (AMQP double, lean), an MQTT broker for bridges, an MQTT subscriber.
//!
//! ```text
//!  gateway  ==AMQP, TLS==> hub double (lean)            --+
//!  bridge   ==MQTT (TLS)=> broker     } codec, acks     --+--> tally
//!  rumqttd  <=MQTT, TLS=== subscriber } (delayed PUBACKs) --+
//! ```
//! All of them can go away and come back, and acknowledge late. Must not know: which process is under test.

mod acks;
pub(crate) mod broker;
mod codec;
pub(crate) mod subscriber;
mod tally;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[allow(unused_imports, reason = "for whoever reports")]
pub(crate) use self::tally::{Arrived, Tally};

/// How much later a sink acknowledges; shared, changes act at once.
#[derive(Debug, Default)]
pub(crate) struct Delay(AtomicU64);

impl Delay {
    pub(crate) fn set(&self, by: Duration) {
        self.0.store(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}
