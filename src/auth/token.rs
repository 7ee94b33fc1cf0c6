//! Log-in with a SAS token: which keys may have signed it, and what is left of that while the session lasts.
//!
//! Owns: the choice of keys (edgehub.md 7.2: a module's own, then its device's), and the words.
//! Invariants: a key vouches for its own identity, a device's also for the modules of that device, and for nobody else;
//! while keys are missing that might have signed, nobody is refused for good; a session stays while the one that signed has
//! the key. Keys and tokens are in no text.
//! Must not know: where the scope comes from, the text form of a token (`iothub::sas`).

use super::admission::Credential;
use super::policy::Policy;
use super::refusal::Refusal;
use super::scope::{AuthKind, ScopeEntry, SymmetricKeys};
use crate::clock::UnixMillis;
use crate::identity::ClientName;
use crate::iothub::sas::{self, KeySigner, SasError, SasToken};

/// Who may have signed a token.
pub(super) struct Signatories<'s> {
    /// Who logs in.
    pub(super) entry: &'s ScopeEntry,
    /// The module's device, if it is enabled; `None` for a device.
    pub(super) device: Option<&'s ScopeEntry>,
}

/// Reads what was given as the password.
pub(super) fn read(password: &[u8]) -> Result<SasToken, Refusal> {
    let text = std::str::from_utf8(password).map_err(|_| SasError::NotAToken);
    let token = text
        .and_then(SasToken::parse)
        .map_err(|e| Refusal::no(e.label(), format!("the password is refused: {e}")))?;
    match token.policy() {
        None => Ok(token),
        Some(policy) => {
            let policy: String = policy.escape_debug().take(64).collect();
            Err(Refusal::no(
                "sas_policy",
                format!(
                    "the token names the shared access policy {policy}: a gateway does not know the keys of policies; \
                     sign with the key of the device or module, and without skn"
                ),
            ))
        }
    }
}

/// What a token of `name` may be for, each once: a gateway may be called as its hub is.
fn audiences(hosts: &[String], name: &ClientName) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for host in hosts {
        let audience = sas::audience(host, name);
        if !all.iter().any(|known| known.eq_ignore_ascii_case(&audience)) {
            all.push(audience);
        }
    }
    all
}

impl<'s> Signatories<'s> {
    /// The keys of each that logs in with keys, the module's before its device's.
    fn keys(&self) -> impl Iterator<Item = &'s SymmetricKeys> + use<'s> {
        [Some(self.entry), self.device].into_iter().flatten().filter_map(keys_of)
    }

    /// Those that are known.
    fn known(&self) -> Vec<&'s KeySigner> {
        self.keys().flat_map(SymmetricKeys::known).collect()
    }

    /// Whether there are keys that may have signed and have not come from the hub yet. Of a module with keys of its own the
    /// device's count if they are on their way: the hub may have none for it.
    fn misses_keys(&self) -> bool {
        let own = keys_of(self.entry);
        let has_own = own.is_some_and(SymmetricKeys::is_known);
        own.is_some_and(|keys| !keys.is_known())
            || self
                .device
                .and_then(keys_of)
                .is_some_and(|keys| !(keys.is_known() || (has_own && keys.is_told)))
    }

    /// Judges `token` at `now`, in the reference's order (iothub-protocol.md J5): type, signature, audience, expiry.
    pub(super) fn judge(
        &self,
        token: &SasToken,
        policy: &Policy,
        now: UnixMillis,
    ) -> Result<Credential, Refusal> {
        let name = &self.entry.name;
        self.takes_tokens()?;
        let hosts: Vec<&str> = policy.hosts.iter().map(String::as_str).collect();
        match token.verify(&self.known(), name, &hosts, now, policy.clock_skew) {
            Ok(key) => Ok(Credential::Token {
                expires_secs: token.expiry_secs(),
                key_sha256: key.digest(),
                by_device: !keys_of(self.entry).is_some_and(|own| own.has(&key.digest())),
            }),
            Err(SasError::Signature) if self.misses_keys() => Err(Refusal::later(
                "keys_unknown",
                format!(
                    "the keys of {name} have not come from IoT Hub since this gateway was started: it may come back when \
                     the hub was reached"
                ),
            )),
            Err(e @ (SasError::OtherHost(_) | SasError::OtherIdentity(_))) => {
                let wanted = audiences(&policy.hosts, name).join(" or ");
                let detail = format!("the token of {name} is refused: {e}; make it for {wanted}");
                Err(Refusal::no(e.label(), detail))
            }
            Err(e) => Err(Refusal::no(e.label(), format!("the token of {name} is refused: {e}"))),
        }
    }

    /// Whether a token that was good still is: its time, and that its key is still registered for the one that signed: the
    /// module's device if `by_device`. Keys of that one that are not known (now) change nothing.
    pub(super) fn judge_standing(
        &self,
        expires_secs: u64,
        (key_sha256, by_device): (&[u8; 32], bool),
        policy: &Policy,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let name = &self.entry.name;
        self.takes_tokens()?;
        let signer = if by_device { self.device } else { Some(self.entry) };
        let keys = signer.and_then(keys_of);
        if !keys.is_some_and(|keys| !keys.is_known() || keys.has(key_sha256)) {
            return Err(Refusal::no(
                "key_replaced",
                format!(
                    "the key that signed the token of {name} is no longer registered in IoT Hub: give the device its new one"
                ),
            ));
        }
        let over = now.as_secs().saturating_sub(expires_secs);
        if over > policy.clock_skew.as_secs() {
            let e = SasError::Expired(over);
            return Err(Refusal::no(e.label(), format!("the session of {name} ends: {e}")));
        }
        Ok(())
    }

    /// Whether a token can be taken at all.
    pub(super) fn takes_tokens(&self) -> Result<(), Refusal> {
        if self.keys().next().is_some() {
            return Ok(());
        }
        let name = &self.entry.name;
        let advice = match self.entry.auth {
            AuthKind::None => "register it with the authentication type symmetric key",
            _ => "let it connect with its certificate and without a password",
        };
        Err(Refusal::no(
            "not_a_token_device",
            format!("{name} is not registered for tokens (symmetric key): {advice}"),
        ))
    }
}

fn keys_of(entry: &ScopeEntry) -> Option<&SymmetricKeys> {
    match &entry.auth {
        AuthKind::Sas { keys } => Some(keys),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
