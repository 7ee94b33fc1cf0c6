//! Who may come in and who is in, as the assembly holds it: scope, authenticator, roster.
//!
//! Must not know: how any of them judges.

use std::sync::Arc;

use super::known_scope::load_scope;
use super::settings;
use super::standing::load_ledger;
use crate::auth::{Authenticator, Scope, TrustBundle};
use crate::clock::{SharedClock, UnixMillis};
use crate::config::Config;
use crate::front::roster::Roster;
use crate::metrics::Metrics;

/// All three.
pub(super) struct Doors {
    pub(super) scope: Arc<Scope>,
    /// When the stored scope was written: it is at least that late.
    pub(super) scope_saved: UnixMillis,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) roster: Arc<Roster>,
}

impl Doors {
    /// By what is on the disk, until the hub tells more.
    pub(super) fn new(
        bundle: TrustBundle,
        config: &Config,
        metrics: &Metrics,
        clock: &SharedClock,
    ) -> Self {
        let (scope, scope_saved) = load_scope(config, metrics);
        let authenticator = Authenticator::new(bundle, Arc::clone(&scope), Arc::clone(clock))
            .not_before(scope_saved)
            .by(settings::of_auth(config))
            .with_ledger(load_ledger(config, metrics));
        let roster = Roster::new(config.mqtt.clients_max as usize);
        Self { scope, scope_saved, authenticator: Arc::new(authenticator), roster }
    }
}
