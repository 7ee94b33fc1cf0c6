//! Another bundle is judged, its effect on who is connected is told, and it is put in force.
//!
//! Owns: the decision and its words. Invariants: what would be lost is told before it is; who is not concerned notices
//! nothing: no lock of the front end is held while sessions are judged. Must not know: where a bundle comes from.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use tracing::{info, warn};

use super::tell;
use crate::auth::bundle::{BundleChange, BundleError};
use crate::auth::{Admission, Authenticator, Credential, Refusal, TrustBundle};
use crate::clock::SharedClock;
use crate::front::roster::Roster;
use crate::metrics::Metrics;

/// Looks after a change at which newcomers are judged again: who was let in by the old bundle and took his seat only
/// after the others were asked to leave. Verdict and seat are milliseconds apart.
const NEWCOMER_LOOKS: u32 = 2;

/// Most names of a log line: ids of 128 characters.
const NAMES_MAX: usize = 10;

/// What came of a reload of the trust bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleReload {
    /// Nothing is different.
    Unchanged,
    /// Another one is in force.
    Applied(Applied),
    /// The old one serves on.
    Refused {
        /// For counters, out of a closed list: `unreadable`, `too_big`, `nothing_usable`, `worse`, `unquiet`; `stopped`
        /// while the gateway ends.
        label: &'static str,
        /// In words, with what to do.
        why: String,
    },
}

/// What is different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Subjects of CAs that admit from now on.
    pub added: Vec<String>,
    /// Subjects of CAs that no longer do.
    pub removed: Vec<String>,
    /// Who had to leave, as it was told before.
    pub closing: Vec<Closing>,
}

/// Clients that have to leave, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// The CA that is gone, or the label of what else is the matter.
    pub cause: String,
    /// Who, in the order of their names.
    pub names: Vec<String>,
}

/// The words of the preview.
impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<&str> = self.names.iter().take(NAMES_MAX).map(String::as_str).collect();
        write!(f, "{}: {} ({}", self.cause, self.names.len(), shown.join(", "))?;
        match self.names.len() - shown.len() {
            0 => f.write_str(")"),
            more => write!(f, " and {more} more)"),
        }
    }
}

/// Takes bundles.
pub(super) struct Offers {
    authenticator: Arc<Authenticator>,
    roster: Arc<Roster>,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    /// What was told of the last refused one.
    told: Option<String>,
    newcomers: Newcomers,
}

/// Who was judged under the bundle in force.
#[derive(Default)]
struct Newcomers {
    looks_left: u32,
    concerns_all: bool,
    /// By the place in memory, which is theirs as long as they are kept here: whether they stay.
    judged: HashMap<usize, (Arc<Admission>, Result<(), Refusal>)>,
}

fn place(admission: &Admission) -> usize {
    std::ptr::from_ref(admission) as usize
}

impl Offers {
    pub(super) fn new(
        authenticator: &Arc<Authenticator>,
        roster: &Arc<Roster>,
        metrics: &Arc<Metrics>,
        clock: &SharedClock,
    ) -> Self {
        Self {
            authenticator: Arc::clone(authenticator),
            roster: Arc::clone(roster),
            metrics: Arc::clone(metrics),
            clock: Arc::clone(clock),
            told: None,
            newcomers: Newcomers::default(),
        }
    }

    /// Judges what was read, and puts it in force if it is fit to follow.
    pub(super) fn offer(
        &mut self,
        loaded: Result<TrustBundle, BundleError>,
        asked: bool,
    ) -> BundleReload {
        let old = self.authenticator.bundle();
        let new = match loaded {
            Ok(new) => new,
            // The daemon may have none.
            Err(BundleError::NoAnchor(_)) if old.entries().is_empty() => {
                return BundleReload::Unchanged;
            }
            Err(e) => {
                let label = match e {
                    BundleError::Read { .. } => "unreadable",
                    BundleError::NoAnchor(_) => "nothing_usable",
                    _ => "too_big",
                };
                return self.refuse(label, e.to_string(), asked);
            }
        };
        if let Some(why) = new.why_worse_than(&old) {
            return self.refuse("worse", why, asked);
        }
        let change = new.change_from(&old);
        if self.told.take().is_some() {
            info!("the trust bundle's files are whole again");
        }
        if change.is_nothing {
            if asked {
                info!("the trust bundle is read again: nothing has changed");
                self.metrics.counted("trust_bundle_reload", "unchanged");
            }
            return BundleReload::Unchanged;
        }
        BundleReload::Applied(self.apply(&old, new, &change))
    }

    /// It changed while it was read. Who asked is told; else the next quiet look reads it.
    pub(super) fn torn(&mut self, asked: bool) -> BundleReload {
        let why =
            "its files were written while they were read; they are read again when they are quiet";
        match asked {
            true => self.refuse("unquiet", why.to_owned(), asked),
            false => BundleReload::Refused { label: "unquiet", why: why.to_owned() },
        }
    }

    /// Says so once, unless somebody `asked`.
    fn refuse(&mut self, label: &'static str, why: String, asked: bool) -> BundleReload {
        if asked || self.told.as_ref() != Some(&why) {
            self.metrics.counted("trust_bundle_reload", label);
            warn!("the changed trust bundle is not applied, the one in force serves on: {why}");
            self.told = Some(why.clone());
        }
        BundleReload::Refused { label, why }
    }

    fn apply(&mut self, old: &TrustBundle, new: TrustBundle, change: &BundleChange) -> Applied {
        let now = self.clock.wall();
        // A list may have waited for the CA that signed it.
        let concerns_all =
            change.has_new_lists || (new.list_count() > 0 && !change.added.is_empty());
        let live = self.roster.admissions();
        let all = live.len();
        let mut newcomers =
            Newcomers { looks_left: NEWCOMER_LOOKS, concerns_all, judged: HashMap::new() };
        let mut closing: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for admission in live {
            let verdict = self.judge(&new, &admission, concerns_all);
            if let Err(refusal) = &verdict {
                let cause = cause(old, &new, &admission, refusal);
                closing.entry(cause).or_default().push(admission.identity.to_string());
            }
            newcomers.judged.insert(place(&admission), (admission, verdict));
        }
        let named = |(cause, mut names): (String, Vec<String>)| {
            names.sort();
            Closing { cause, names }
        };
        let closing: Vec<Closing> = closing.into_iter().map(named).collect();
        preview(&closing, all);
        tell(&new, Some(old), now);
        self.authenticator.replace_bundle(new);
        self.newcomers = newcomers;
        self.close();
        self.metrics.counted("trust_bundle_reload", "applied");
        let subjects = |entries: &[crate::auth::bundle::Entry]| -> Vec<String> {
            entries.iter().map(|entry| entry.info.subject.clone()).collect()
        };
        let (added, removed) = (subjects(&change.added), subjects(&change.removed));
        info!("another trust bundle is in force: added {added:?}, removed {removed:?}");
        Applied { added, removed, closing }
    }

    /// Who took a seat since the last change and is not admitted by the bundle in force is asked to leave.
    pub(super) fn look_at_newcomers(&mut self) {
        if self.newcomers.looks_left > 0 {
            self.newcomers.looks_left -= 1;
            self.close();
        }
        if self.newcomers.looks_left == 0 {
            self.newcomers.judged = HashMap::new();
        }
    }

    fn close(&self) {
        let (bundle, Newcomers { judged, concerns_all, .. }) =
            (self.authenticator.bundle(), &self.newcomers);
        let left = self.roster.dismiss(|admission| match judged.get(&place(admission)) {
            Some((_, verdict)) => verdict.clone(),
            None => self.judge(&bundle, admission, *concerns_all),
        });
        self.metrics.counted_many("client_dismissed", "trust_bundle", left.len() as u64);
    }

    /// Whether somebody stays under `bundle`. Without a signature check for who came in by a CA that is still there.
    fn judge(
        &self,
        bundle: &TrustBundle,
        admission: &Admission,
        concerns_all: bool,
    ) -> Result<(), Refusal> {
        match &admission.credential {
            Credential::CertificateAuthority { anchor_sha256, .. }
                if concerns_all || !bundle.has_anchor(anchor_sha256) =>
            {
                self.authenticator.would_stay(bundle, admission, self.clock.wall())
            }
            _ => Ok(()),
        }
    }
}

/// The CA that is gone, or else the reason.
fn cause(old: &TrustBundle, new: &TrustBundle, admission: &Admission, refusal: &Refusal) -> String {
    match &admission.credential {
        Credential::CertificateAuthority { anchor_sha256, .. }
            if !new.has_anchor(anchor_sha256) =>
        {
            let entry = old.entries().iter().find(|entry| entry.info.sha256 == *anchor_sha256);
            let subject = entry.map_or("a CA", |entry| &*entry.info.subject);
            format!("{subject} (SHA-256 {anchor_sha256}) is gone")
        }
        _ => refusal.label.to_owned(),
    }
}

fn preview(closing: &[Closing], all: usize) {
    if closing.is_empty() {
        return;
    }
    let many: usize = closing.iter().map(|closing| closing.names.len()).sum();
    warn!("the changed trust bundle would disconnect {many} of {all} clients, and is applied:");
    for closing in closing {
        warn!("would disconnect, {closing}");
    }
}
