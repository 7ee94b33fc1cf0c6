//! Remembers which signatures under certificates were found good.
//!
//! A device reconnects with the same certificate all day, and a site whose Wi-Fi comes back reconnects at once; the
//! CA's signature under the certificate is the dearest step of it (P-384, as Azure Sphere's tenants have: 0.5 ms and
//! more, where the rest of a log-in takes 0.2 ms).
//!
//! Owns: the memory of good signatures.
//! Invariants:
//! - What is remembered is one fact of arithmetic, true forever: *this* algorithm, with *this* public key, finds
//!   *this* signature good for *these* bytes. The key is the SHA-256 over all four. Everything else (path, issuer in
//!   the bundle, validity, usage, name constraints, scope, possession of the key) is judged anew at every log-in.
//! - Only good ones are kept. Signatures are checked from the anchor downwards, so whoever no CA of the bundle vouches
//!   for leaves nothing here.
//! - The signatures worked out for one chain are bounded: [`SIGNATURES_MAX`]. Past that everything unknown counts as
//!   bad; bad ones are not remembered, so this is what a hostile chain costs each time.
//! - Bounded: [`GENERATION`] twice. Full, the older half goes; what is in use moves to the younger one.
//!
//! Must not know: certificates, time, bundles.

use std::collections::HashSet;
use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};
use sha2::{Digest as _, Sha256};

/// Signatures of one half. What a hash table of 8,192 places takes without growing: 270 KB.
pub(super) const GENERATION: usize = 7_168;

/// Most signatures worked out for one chain: 9 ms of P-384. The longest chain has seven, and each namesake of a CA
/// that is tried in vain is one more.
pub(super) const SIGNATURES_MAX: usize = 16;

type Fact = [u8; 32];

/// What one chain has cost so far.
#[derive(Debug, Default)]
pub(super) struct Effort(AtomicUsize);

impl Effort {
    /// Whether one more may be worked out.
    fn take(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) < SIGNATURES_MAX
    }

    /// Whether one was not worked out for that reason.
    pub(super) fn is_used_up(&self) -> bool {
        self.0.load(Ordering::Relaxed) > SIGNATURES_MAX
    }
}

/// The good signatures seen of late.
#[derive(Default)]
pub(super) struct GoodSignatures {
    halves: Mutex<Halves>,
    worked_out: AtomicUsize,
}

#[derive(Default)]
struct Halves {
    younger: HashSet<Fact>,
    older: HashSet<Fact>,
}

impl Halves {
    fn has(&mut self, fact: &Fact) -> bool {
        if self.younger.contains(fact) {
            return true;
        }
        let had = self.older.contains(fact);
        if had {
            self.add(*fact);
        }
        had
    }

    fn add(&mut self, fact: Fact) {
        if self.younger.len() >= GENERATION {
            self.older = mem::take(&mut self.younger);
        }
        self.younger.insert(fact);
    }
}

impl GoodSignatures {
    /// Each of `algorithms`, asking the memory first, for one chain.
    pub(super) fn with<'a>(
        &'a self,
        algorithms: &[&'a dyn SignatureVerificationAlgorithm],
        effort: &'a Effort,
    ) -> Vec<Remembering<'a>> {
        let one = |algorithm: &&'a _| Remembering { algorithm: *algorithm, good: self, effort };
        algorithms.iter().map(one).collect()
    }

    fn has(&self, fact: &Fact) -> bool {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner).has(fact)
    }

    fn add(&self, fact: Fact) {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner).add(fact);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let halves = self.halves.lock().unwrap();
        halves.younger.union(&halves.older).count()
    }

    /// How many signatures were worked out, good and bad.
    #[cfg(test)]
    pub(super) fn worked_out(&self) -> usize {
        self.worked_out.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for GoodSignatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GoodSignatures").finish_non_exhaustive()
    }
}

/// An algorithm that does not work out a second time what it found good.
#[derive(Debug)]
pub(super) struct Remembering<'a> {
    algorithm: &'a dyn SignatureVerificationAlgorithm,
    good: &'a GoodSignatures,
    effort: &'a Effort,
}

impl SignatureVerificationAlgorithm for Remembering<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let (of_key, of_signature) = (self.public_key_alg_id(), self.signature_alg_id());
        let fact = fact(&[&of_key, &of_signature, public_key, message, signature]);
        if self.good.has(&fact) {
            return Ok(());
        }
        if !self.effort.take() {
            return Err(InvalidSignature);
        }
        self.good.worked_out.fetch_add(1, Ordering::Relaxed);
        // Not under the lock: others need not wait for the arithmetic.
        self.algorithm.verify_signature(public_key, message, signature)?;
        self.good.add(fact);
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }

    fn fips(&self) -> bool {
        self.algorithm.fips()
    }
}

/// SHA-256 over the parts, each behind its length, so that no byte can move from one part to the next.
fn fact(parts: &[&[u8]]) -> Fact {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::alg_id;

    use super::*;

    /// Finds a signature good that is the key followed by the message; counts how often it was asked.
    #[derive(Debug, Default)]
    struct Toy(AtomicUsize);

    impl SignatureVerificationAlgorithm for Toy {
        fn verify_signature(
            &self,
            public_key: &[u8],
            message: &[u8],
            signature: &[u8],
        ) -> Result<(), InvalidSignature> {
            self.0.fetch_add(1, Ordering::Relaxed);
            if signature == [public_key, message].concat() { Ok(()) } else { Err(InvalidSignature) }
        }

        fn public_key_alg_id(&self) -> AlgorithmIdentifier {
            alg_id::ECDSA_P384
        }

        fn signature_alg_id(&self) -> AlgorithmIdentifier {
            alg_id::ECDSA_SHA384
        }
    }

    #[test]
    fn a_good_signature_is_worked_out_once_and_a_bad_one_each_time() {
        let (good, toy) = (GoodSignatures::default(), Toy::default());
        let effort = Effort::default();
        let algorithm = good.with(&[&toy], &effort).remove(0);
        for (round, worked_out) in [(0, 4), (1, 7), (2, 10)] {
            assert!(algorithm.verify_signature(b"key", b"text", b"keytext").is_ok(), "{round}");
            // The same bytes in another cut, another key, a changed message.
            assert!(algorithm.verify_signature(b"keyt", b"ext", b"keytex").is_err(), "{round}");
            assert!(algorithm.verify_signature(b"kez", b"text", b"keytext").is_err(), "{round}");
            assert!(algorithm.verify_signature(b"key", b"texu", b"keytext").is_err(), "{round}");
            assert_eq!(toy.0.load(Ordering::Relaxed), worked_out, "{round}");
        }
        assert_eq!((good.len(), good.worked_out()), (1, 10));
    }

    #[test]
    fn one_chain_has_so_many_worked_out_and_no_more() {
        let (good, toy) = (GoodSignatures::default(), Toy::default());
        let known =
            good.with(&[&toy], &Effort::default()).remove(0).verify_signature(b"k", b"t", b"kt");
        assert!(known.is_ok());
        let effort = Effort::default();
        let algorithm = good.with(&[&toy], &effort).remove(0);
        for _ in 0..SIGNATURES_MAX {
            assert!(!effort.is_used_up());
            assert!(algorithm.verify_signature(b"k", b"x", b"").is_err());
        }
        assert!(!effort.is_used_up(), "all were worked out");
        assert!(algorithm.verify_signature(b"k", b"new", b"knew").is_err());
        assert!(effort.is_used_up());
        assert!(algorithm.verify_signature(b"k", b"t", b"kt").is_ok(), "known, and so free");
        assert_eq!(good.worked_out(), 1 + SIGNATURES_MAX);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(fact(&[b"ab", b"c"]), fact(&[b"a", b"bc"]));
        assert_ne!(fact(&[b"", b"abc"]), fact(&[b"abc", b""]));
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_in_use() {
        let mut halves = Halves::default();
        let number = |n: usize| fact(&[&n.to_be_bytes()]);
        for n in 0..10 * GENERATION {
            halves.add(number(n));
            // Somebody who comes back now and then.
            assert!(n % 1000 != 0 || halves.has(&number(0)), "at {n}");
            assert!(halves.younger.len() <= GENERATION && halves.older.len() <= GENERATION);
        }
        assert!(halves.has(&number(10 * GENERATION - 1)));
        assert!(!halves.has(&number(1)), "the oldest are gone");
    }
}
