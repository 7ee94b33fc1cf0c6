//! The `$edgeHub` module's own SAS token, with which it speaks for every identity below it.
//!
//! Owns: the current token. Invariants: a token that is handed out has at least nine tenths of its life before it, or as much
//! as the last one has left while none can be made (the IoT Edge daemon signs, and it may be away); the text never reaches a
//! log (no `Debug` of it exists).
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
    /// When a token could last not be made.
    failed: Mutex<Option<Instant>>,
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
    /// Monotonic time at which four fifths of the token's life are over; later if no new one can be had now.
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
        Self { signer, audience, ttl, clock, current: Mutex::new(None), failed: Mutex::new(None) }
    }

    /// The current token, or a new one: when asked (`fresh`), when a tenth of its life is over, or when wall time
    /// jumped (a Raspberry Pi has no RTC: a token made before the clock was set has expired long ago).
    pub(super) async fn token(&self, fresh: bool) -> Result<Token, SignError> {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall());
        if !fresh && let Some(token) = self.kept(now, wall) {
            return Ok(token);
        }
        // A thousand devices ask for their token at once: who signs and does not answer is not asked for each of them.
        if self.failed_lately(now)
            && let Some(token) = self.last(now, wall)
        {
            return Ok(token);
        }
        let expiry = wall.plus(self.ttl).as_secs();
        match sas::build(&*self.signer, &self.audience, expiry).await {
            Ok(text) => {
                let text: Arc<str> = text.into();
                *self.current() = Some(Minted { text: text.clone(), at: now, at_wall: wall });
                *self.failed() = None;
                Ok(Token { text, renew_at: now + self.ttl / 5 * 4 })
            }
            Err(error) => {
                let now = self.clock.monotonic();
                let before = self.failed().replace(now);
                let last = self.last(now, self.clock.wall()).ok_or_else(|| error.clone())?;
                if before.is_none() {
                    tracing::warn!(%error, "the last token serves on");
                }
                Ok(last)
            }
        }
    }

    fn kept(&self, now: Instant, wall: UnixMillis) -> Option<Token> {
        let age_max = self.ttl / 10;
        let current = self.current();
        let minted = current.as_ref().filter(|minted| self.age(minted, now, wall) < age_max)?;
        Some(Token { text: minted.text.clone(), renew_at: minted.at + self.ttl / 5 * 4 })
    }

    /// The last token while it lasts, though a newer one is wanted. It is put again when half of the rest is over, so that
    /// the hub never sees a gap, and an eighth of a whole life later at most, to pass on a newer one.
    fn last(&self, now: Instant, wall: UnixMillis) -> Option<Token> {
        let current = self.current();
        let minted = current.as_ref()?;
        let left = self.ttl.checked_sub(self.age(minted, now, wall)).filter(|l| !l.is_zero())?;
        let again_at = now + (left / 2).min(self.ttl / 8);
        let renew_at = again_at.max(minted.at + self.ttl / 5 * 4);
        Some(Token { text: minted.text.clone(), renew_at })
    }

    fn failed_lately(&self, now: Instant) -> bool {
        // Half a minute of an hour.
        self.failed().is_some_and(|at| now.saturating_duration_since(at) < self.ttl / 120)
    }

    /// How old it is; over the end of its life if the wall clock has jumped since, for its expiry is then another one.
    fn age(&self, minted: &Minted, now: Instant, wall: UnixMillis) -> Duration {
        let age = now.saturating_duration_since(minted.at);
        let jump = Duration::from_millis(wall.0.abs_diff(minted.at_wall.plus(age).0));
        if jump < self.ttl / 10 { age } else { self.ttl }
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.failed.lock().expect("nothing panics under this lock")
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<Minted>> {
        self.current.lock().expect("nothing panics under this lock")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::clock::Clock;

    /// Signs while it is not away, and counts how often it was asked.
    #[derive(Default)]
    struct Echo {
        away: AtomicBool,
        asked: AtomicU32,
    }
    impl Signer for Echo {
        fn sign<'a>(&'a self, data: &'a [u8]) -> BoxFuture<'a, Result<[u8; 32], SignError>> {
            assert!(data.starts_with(b"h%2Fdevices%2Fedge1%2Fmodules%2F%2524edgeHub\n"));
            self.asked.fetch_add(1, Ordering::Relaxed);
            let away = self.away.load(Ordering::Relaxed);
            let signed = if away { Err(SignError("away".into())) } else { Ok([0xff; 32]) };
            Box::pin(std::future::ready(signed))
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

    /// A source with tokens of an hour, and what moves its clock.
    fn source(signer: Arc<Echo>) -> (TokenSource, Arc<Hands>, Instant) {
        let start = crate::clock::system().monotonic();
        let hands = Arc::new(Hands(Mutex::new((start, 1_000_000_000))));
        let audience = "h/devices/edge1/modules/%24edgeHub".to_owned();
        let ttl = Duration::from_secs(3600);
        (TokenSource::new(signer, audience, ttl, hands.clone()), hands, start)
    }

    #[tokio::test]
    async fn the_last_token_serves_while_none_can_be_made_and_it_lasts() {
        let signer = Arc::new(Echo::default());
        let away = |away| signer.away.store(away, Ordering::Relaxed);
        let asked = || signer.asked.load(Ordering::Relaxed);
        let (source, hands, start) = source(Arc::clone(&signer));
        let first = source.token(false).await.unwrap().text;
        away(true);
        for (minutes, renew_at) in [(10, 48 * 60), (40, 3300), (8, 3540)] {
            hands.turn(minutes * 60, minutes * 60);
            for fresh in [true, false, false] {
                let token = source.token(fresh).await.unwrap();
                assert_eq!(token.text, first, "after {minutes} more minutes");
                assert_eq!(token.renew_at, start + Duration::from_secs(renew_at));
            }
        }
        assert_eq!(asked(), 4, "once, and once in each of the three times that it was away");
        // Its life is over: nobody is told that it serves.
        hands.turn(120, 120);
        assert!(source.token(false).await.is_err());
        away(false);
        let second = source.token(false).await.unwrap().text;
        assert_ne!(second, first);
        away(true);
        hands.turn(31, 50_000_000);
        assert!(source.token(true).await.is_err(), "the clock has jumped: the hub would refuse it");
    }

    #[tokio::test]
    async fn a_token_is_kept_for_a_tenth_of_its_life_and_not_over_a_jump_of_the_clock() {
        let (source, hands, start) = source(Arc::default());
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
