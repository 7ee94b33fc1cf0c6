//! The document that a start begins with: the configured one, or the last good one when that cannot be used or when the
//! twin is still to come.
//!
//! Owns: the choice. Must not know: what the gateway does with it.

use std::path::PathBuf;

use tracing::{error, info, warn};

use super::{Accepted, Compiled, Origin, Refusal, file};
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::desired::last_good::{Kept, LastGood, Loaded};
use crate::desired::{DEFAULT_ROUTE, Desired, DesiredError};

/// The name of the last good document, beside the scope's. What a file said decides nothing once the twin does, and the
/// other way round: a document of long ago that selects nothing would acknowledge and drop everything.
fn kept_in(config: &Config) -> PathBuf {
    config.storage.join(if config.twin.is_some() { "desired-twin.json" } else { "desired.json" })
}

/// What an examination judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) enum Basis {
    /// The configured document.
    File,
    /// The built-in default: no document is configured, and the twin is not asked.
    Default,
    /// The twin's last good document, accepted then.
    LastGood(UnixMillis),
    /// The built-in default, until the twin is read.
    BeforeTwin {
        /// Why the document that is kept does not serve; `None` = none is kept.
        unusable: Option<String>,
    },
}

/// What a start begins with.
pub(in crate::gateway) struct First {
    pub(in crate::gateway) compiled: Compiled,
    pub(super) origin: Origin,
    /// `None` without a configured document.
    pub(super) accepted: Option<Accepted>,
    /// When it was accepted.
    pub(super) since: UnixMillis,
    /// Why the configured one does not serve.
    pub(super) refusal: Option<Refusal>,
    pub(super) last_good: Option<LastGood>,
    /// Why the last good document on disk is of no use, as metrics label it.
    pub(super) not_loaded: Option<&'static str>,
}

impl First {
    /// For a start: with the last good document to fall back on.
    ///
    /// # Errors
    /// The configured document cannot be used and there is no other.
    pub(in crate::gateway) fn choose(
        config: &Config,
        now: UnixMillis,
    ) -> Result<Self, DesiredError> {
        let configured = match configured(config) {
            None if config.twin.is_none() => return Ok(Self::without_document(config, now)),
            configured => configured,
        };
        let edge = config.connection.device.clone();
        let (last_good, loaded) = LastGood::load(kept_in(config), edge);
        let not_loaded = match &loaded {
            Loaded::Nothing | Loaded::Kept(_) => None,
            Loaded::SetAside { .. } => Some("set_aside"),
            Loaded::Unreadable { .. } => Some("unreadable"),
        };
        if not_loaded.is_some() {
            warn!("{loaded}");
        }
        let mut first = match (configured, loaded) {
            (None, loaded) => Self::before_twin(config, now, loaded),
            (Some(Ok((accepted, compiled))), loaded) => {
                let since = match loaded {
                    Loaded::Kept(kept) if kept.text == accepted.text => kept.accepted,
                    _ => now,
                };
                Self::of(Origin::File, accepted, since, compiled)
            }
            (Some(Err(refusal)), Loaded::Kept(Kept { text, desired, accepted })) => {
                error!(
                    "edgeHubTwinFile: {}. In its place the last good one serves, {}: correct the document, it is read again when \
                     it changes",
                    refusal.error,
                    super::of_time(accepted)
                );
                let kept = Kept { text, desired, accepted };
                Self { refusal: Some(refusal), ..Self::kept(config, kept) }
            }
            (Some(Err(Refusal { mut error, .. })), loaded) => {
                // It may be the shorter way to a gateway that runs.
                if not_loaded.is_some() {
                    error.problems.push(loaded.to_string());
                }
                return Err(error);
            }
        };
        (first.last_good, first.not_loaded) = (Some(last_good), not_loaded);
        Ok(first)
    }

    /// Whether a last good document is kept, whatever it is worth.
    pub(in crate::gateway) fn is_kept(config: &Config) -> bool {
        kept_in(config).is_file()
    }

    /// For an examination: what a start would begin with. Nothing on disk is touched.
    ///
    /// # Errors
    /// The configured document cannot be used.
    pub(in crate::gateway) fn strict(config: &Config) -> Result<(Compiled, Basis), DesiredError> {
        let default = || Compiled::new(&Desired::without_document(config.default_ttl_secs), config);
        match configured(config) {
            None if config.twin.is_none() => Ok((default(), Basis::Default)),
            None => Ok(match LastGood::look(&kept_in(config), &config.connection.device) {
                Ok(Some(kept)) => {
                    (Compiled::new(&kept.desired, config), Basis::LastGood(kept.accepted))
                }
                Ok(None) => (default(), Basis::BeforeTwin { unusable: None }),
                Err(why) => (default(), Basis::BeforeTwin { unusable: Some(why) }),
            }),
            Some(Ok((_, compiled))) => Ok((compiled, Basis::File)),
            Some(Err(refusal)) => Err(refusal.error),
        }
    }

    /// What serves at once, until the twin is read. The reference does not listen before it has a configuration; here a
    /// device that can reach the gateway is served: what the default route keeps goes where every usual route leads.
    fn before_twin(config: &Config, now: UnixMillis, loaded: Loaded) -> Self {
        match loaded {
            Loaded::Kept(kept) => {
                let since = super::of_time(kept.accepted);
                info!("until the $edgeHub twin is read, {since} serves");
                Self::kept(config, kept)
            }
            _ => {
                info!(
                    "no configuration is known yet: until the $edgeHub twin is read, the built-in default serves \
                     ({DEFAULT_ROUTE:?}), so that nothing is lost"
                );
                Self::without_document(config, now)
            }
        }
    }

    /// It ran when it was accepted: what an older version understood is not judged again.
    fn kept(config: &Config, Kept { text, desired, accepted }: Kept) -> Self {
        let compiled = Compiled::new(&desired, config);
        Self::of(Origin::LastGood, Accepted { text, desired }, accepted, compiled)
    }

    fn without_document(config: &Config, now: UnixMillis) -> Self {
        let desired = Desired::without_document(config.default_ttl_secs);
        let compiled = Compiled::new(&desired, config);
        let accepted = Accepted { text: String::new(), desired };
        Self { accepted: None, ..Self::of(Origin::Default, accepted, now, compiled) }
    }

    fn of(origin: Origin, accepted: Accepted, since: UnixMillis, compiled: Compiled) -> Self {
        compiled.log();
        let (refusal, last_good, not_loaded) = (None, None, None);
        Self { compiled, origin, accepted: Some(accepted), since, refusal, last_good, not_loaded }
    }
}

/// The configured document; `None` when none is.
fn configured(config: &Config) -> Option<Result<(Accepted, Compiled), Refusal>> {
    let path = config.desired_file.as_deref()?;
    let came = file::read(path, &config.connection.device);
    Some(came.and_then(|came| Accepted::judge(came, config)))
}
