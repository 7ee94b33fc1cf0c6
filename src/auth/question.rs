//! Asking the hub about a name that the scope does not let in.
//!
//! Owns: the words of the question, so that who meets clients and who speaks to the hub need not know each other.
//! Must not know: either.

use std::net::IpAddr;

use futures_util::future::BoxFuture;

use crate::identity::ClientName;

/// A name that was refused because of the scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who the client says it is.
    pub name: ClientName,
    /// Where it comes from: no address may spend what is there for all.
    pub source: IpAddr,
    /// It proved to hold a certificate of that name by a CA of the trust bundle, so it is no invented name.
    pub is_vouched: bool,
}

/// Asks.
pub trait AskHub: Send + Sync {
    /// Whether the hub answered, so that judging again may come out otherwise. Takes a bounded time, whoever asks how often:
    /// what is too much is answered `false` at once.
    fn ask(&self, question: Question) -> BoxFuture<'static, bool>;
}
