//! The `$edgeHub` module's own SAS token, with which it speaks for every identity below it.
//!
//! Owns: the current token. Invariants: a token that is handed out has at least nine tenths of its life before it; the
//! text never reaches a log (no `Debug` of it exists).
//! Must not know: where it is put.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::clock::{SharedClock, UnixMillis};
use crate::iothub::sas::{self, SignError, Signer};

/// Makes tokens and hands out the current one.
pub(super) struct TokenSource {
    signer: Arc<dyn Signer>,
    audience: String,
    ttl: Duration,
    clock: SharedClock,
    current: Mutex<Option<Minted>>,
}

struct Minted {
    text: Arc<str>,
    at: Instant,
    at_wall: UnixMillis,
}

/// A token and the time from which a fresh one should take its place.
pub(super) struct Token {
    /// `SharedAccessSignature sr=...&sig=...&se=...`: a secret.
    pub(super) text: Arc<str>,
    /// Monotonic time at which four fifths of the token's life are over.
    pub(super) renew_at: Instant,
}

impl TokenSource {
    /// `audience` is the module's own (`{hub}/devices/{edge}/modules/%24edgeHub`).
    pub(super) fn new(
        signer: Arc<dyn Signer>,
        audience: String,
        ttl: Duration,
        clock: SharedClock,
    ) -> Self {
        Self { signer, audience, ttl, clock, current: Mutex::new(None) }
    }

    /// The current token, or a new one: when asked (`fresh`), when a tenth of its life is over, or when wall time
    /// jumped (a Raspberry Pi has no RTC: a token made before the clock was set has expired long ago).
    pub(super) async fn token(&self, fresh: bool) -> Result<Token, SignError> {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall());
        if !fresh && let Some(token) = self.kept(now, wall) {
            return Ok(token);
        }
        let expiry = wall.plus(self.ttl).as_secs();
        let text: Arc<str> = sas::build(&*self.signer, &self.audience, expiry).await?.into();
        *self.current() = Some(Minted { text: text.clone(), at: now, at_wall: wall });
        Ok(Token { text, renew_at: now + self.ttl / 5 * 4 })
    }

    fn kept(&self, now: Instant, wall: UnixMillis) -> Option<Token> {
        let current = self.current();
        let minted = current.as_ref()?;
        let age = now.saturating_duration_since(minted.at);
        let jump = Duration::from_millis(wall.0.abs_diff(minted.at_wall.plus(age).0));
        let good = age < self.ttl / 10 && jump < self.ttl / 10;
        good.then(|| Token { text: minted.text.clone(), renew_at: minted.at + self.ttl / 5 * 4 })
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<Minted>> {
        self.current.lock().expect("nothing panics under this lock")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::clock::Clock;

    struct Echo;
    impl Signer for Echo {
        fn sign<'a>(&'a self, data: &'a [u8]) -> BoxFuture<'a, Result<[u8; 32], SignError>> {
            assert!(data.starts_with(b"h%2Fdevices%2Fedge1%2Fmodules%2F%2524edgeHub\n"));
            Box::pin(std::future::ready(Ok([0xff; 32])))
        }
    }

    struct Hands(Mutex<(Instant, u64)>);
    impl Hands {
        fn turn(&self, monotonic: u64, wall: u64) {
            let mut at = self.0.lock().unwrap();
            at.0 += Duration::from_secs(monotonic);
            at.1 += wall * 1000;
        }
    }
    impl Clock for Hands {
        fn wall(&self) -> UnixMillis {
            UnixMillis(self.0.lock().unwrap().1)
        }
        fn monotonic(&self) -> Instant {
            self.0.lock().unwrap().0
        }
    }

    #[tokio::test]
    async fn a_token_is_kept_for_a_tenth_of_its_life_and_not_over_a_jump_of_the_clock() {
        let start = crate::clock::system().monotonic();
        let hands = Arc::new(Hands(Mutex::new((start, 1_000_000_000))));
        let source = TokenSource::new(
            Arc::new(Echo),
            "h/devices/edge1/modules/%24edgeHub".to_owned(),
            Duration::from_secs(3600),
            hands.clone(),
        );
        let first = source.token(false).await.unwrap();
        let head = "SharedAccessSignature sr=h%2Fdevices%2Fedge1%2Fmodules%2F%2524edgeHub&sig=";
        assert!(first.text.starts_with(head), "{}", first.text);
        assert!(first.text.ends_with("&se=1003600"), "{}", first.text);
        assert_eq!(first.renew_at, start + Duration::from_secs(2880));
        hands.turn(300, 300);
        assert_eq!(source.token(false).await.unwrap().text, first.text);
        assert_ne!(source.token(true).await.unwrap().text, first.text);
        let second = source.token(false).await.unwrap().text;
        hands.turn(1, 50_000_000);
        assert_ne!(source.token(false).await.unwrap().text, second);
        let third = source.token(false).await.unwrap().text;
        hands.turn(361, 361);
        assert_ne!(source.token(false).await.unwrap().text, third);
    }
}
