//! Certificate or token -> [`crate::identity::Identity`]: who may come in, and saying no in plain words.
//!
//! ```text
//!  certificate chain --x509--> facts --bundle--> VerifiedLeaf (common name)  \
//!  claim of the CONNECT ------------------scope--> ScopeEntry (registered id) >-- authenticator --> Admission | Refusal
//!  password -------------------token--> the key that signed it                /        ^               |
//!                                                                          grace: the hub is away      '--> standing
//! ```
//!
//! Owns: the trust bundle (which CAs admit clients), the scope snapshot (which devices are ours), and the decision, with the
//! closed list of reasons to say no ([`decision`]).
//! Invariants: only this module makes an `Identity` out of a claim; nothing here is admitted without a known scope;
//! private keys, symmetric keys and tokens never enter a log line.
//! Must not know: sockets, MQTT packets, the hub's HTTP API (`upstream` fetches the scope and hands entries in).

pub mod admission;
pub mod authenticator;
pub mod bundle;
pub mod decision;
pub mod dependents;
pub mod grace;
pub mod policy;
pub mod question;
pub mod refusal;
pub mod scope;
mod standing;
mod token;
pub mod x509;

pub use admission::{Admission, Credential};
pub use authenticator::{Attempt, Authenticator};
pub use bundle::{TrustBundle, VerifiedLeaf, X509Refusal};
pub use grace::{Horizon, Ledger, LedgerLoaded};
pub use policy::Policy;
pub use question::{AskHub, Question};
pub use refusal::{Refusal, RefusalCode};
pub use scope::{AuthKind, Lookup, Scope, ScopeEntry, Status, SymmetricKeys};

#[cfg(test)]
mod hostile;
#[cfg(test)]
pub(crate) mod testing;
