//! Who is connected: identity -> its live connection. A newcomer takes over.
//!
//! Owns: the seats. Invariants: at most one connection an identity; at most `clients_max` seats; a connection that was
//! taken over has ended (or `takeover_wait` passed) before the newcomer's CONNACK, so what the old one still had in
//! hand cannot be stored after what the newcomer sends again.
//! Must not know: MQTT, sockets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::auth::{Admission, Refusal};
use crate::identity::Identity;

/// All seats.
#[derive(Debug)]
pub struct Roster {
    clients_max: usize,
    seats: Mutex<Seats>,
    /// Turns with every change of the seats.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Seats {
    next_serial: u64,
    live: HashMap<Identity, Occupant>,
}

#[derive(Debug, Clone)]
struct Occupant {
    admission: Arc<Admission>,
    serial: u64,
    leave: CancellationToken,
    /// Why it is asked to leave; the first reason counts.
    why: Arc<OnceLock<Leave>>,
    gone: CancellationToken,
}

/// Why a connection is asked to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leave {
    /// A newer connection of the same identity is there.
    TakenOver,
    /// What let it in no longer counts.
    NotAdmitted(Refusal),
}

impl Occupant {
    /// Says whether it was asked for the first time.
    fn ask_to_leave(&self, why: Leave) -> bool {
        // Set before it is woken, so that who wakes finds it.
        let is_first = self.why.set(why).is_ok();
        self.leave.cancel();
        is_first
    }
}

/// All `clients_max` seats are taken by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} clients are connected, which is the limit: raise MaxConnectedClients")]
pub struct Full(pub usize);

/// A taken seat; dropping it frees the seat and tells a waiting newcomer.
#[derive(Debug)]
pub struct Seat {
    roster: Arc<Roster>,
    occupant: Occupant,
}

/// The connection that a newcomer displaced.
#[derive(Debug)]
pub struct Displaced(CancellationToken);

impl Displaced {
    /// Resolves when the displaced connection has ended.
    pub async fn gone(&self) {
        self.0.cancelled().await;
    }
}

impl Roster {
    /// An empty roster for at most `clients_max` clients (devices and modules together).
    pub fn new(clients_max: usize) -> Arc<Self> {
        Arc::new(Self { clients_max, seats: Mutex::default(), changed: watch::Sender::new(()) })
    }

    /// Seats a client, displacing an older connection of the same identity (whose `leave` is
    /// cancelled, as this one is when it is displaced or dismissed).
    ///
    /// # Errors
    /// [`Full`] when the limit is reached and the identity has no seat yet.
    pub fn enter(
        self: &Arc<Self>,
        admission: &Arc<Admission>,
        leave: CancellationToken,
    ) -> Result<(Seat, Option<Displaced>), Full> {
        let identity = &admission.identity;
        let mut seats = self.lock();
        if !seats.live.contains_key(identity) && seats.live.len() >= self.clients_max {
            return Err(Full(self.clients_max));
        }
        seats.next_serial += 1;
        let occupant = Occupant {
            admission: Arc::clone(admission),
            serial: seats.next_serial,
            leave,
            why: Arc::default(),
            gone: CancellationToken::new(),
        };
        let displaced = seats.live.insert(identity.clone(), occupant.clone()).map(|old| {
            old.ask_to_leave(Leave::TakenOver);
            Displaced(old.gone)
        });
        drop(seats);
        self.changed.send_replace(());
        let seat = Seat { roster: Arc::clone(self), occupant };
        Ok((seat, displaced))
    }

    /// Tells that somebody came or left, many such at once; who it was is in [`Roster::seats`].
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Who is connected. The number is another one for another connection of the same identity.
    pub fn seats(&self) -> Vec<(Identity, u64)> {
        self.lock().live.iter().map(|(who, occupant)| (who.clone(), occupant.serial)).collect()
    }

    /// Whether `who` is connected.
    pub fn has(&self, who: &Identity) -> bool {
        self.lock().live.contains_key(who)
    }

    /// How many are connected.
    pub fn len(&self) -> usize {
        self.lock().live.len()
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// By what everybody who is connected was let in.
    pub fn admissions(&self) -> Vec<Arc<Admission>> {
        self.lock().live.values().map(|occupant| Arc::clone(&occupant.admission)).collect()
    }

    /// Asks the connections of all whom `judge` refuses to leave, each with its reason; returns the reasons, of each
    /// connection once. `judge` runs without a lock held: it may check signatures. A client that came back meanwhile is not
    /// touched.
    pub fn dismiss(&self, judge: impl Fn(&Admission) -> Result<(), Refusal>) -> Vec<Refusal> {
        let all: Vec<Occupant> = self.lock().live.values().cloned().collect();
        let leaving = all.iter().filter_map(|occupant| {
            let refusal = judge(&occupant.admission).err()?;
            occupant.ask_to_leave(Leave::NotAdmitted(refusal.clone())).then_some(refusal)
        });
        leaving.collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seats> {
        // A panic while the lock is held cannot leave the map half changed: each change is one call.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Whose seat it is.
    pub fn identity(&self) -> &Identity {
        &self.occupant.admission.identity
    }

    /// Another one for another connection of the same identity; a later connection has a higher one.
    pub fn serial(&self) -> u64 {
        self.occupant.serial
    }

    /// By what its client was let in.
    pub fn admission(&self) -> &Admission {
        &self.occupant.admission
    }

    /// Whether this connection should leave.
    pub fn is_asked_to_leave(&self) -> bool {
        self.occupant.leave.is_cancelled()
    }

    /// Why this connection should leave; `None` = it was not asked to by the roster.
    pub fn why_leave(&self) -> Option<&Leave> {
        self.occupant.why.get()
    }

    /// Resolves when this connection should leave: a newcomer took over, or the identity is no longer admitted.
    #[cfg(test)]
    async fn asked_to_leave(&self) {
        self.occupant.leave.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.roster.lock();
        if seats
            .live
            .get(&self.occupant.admission.identity)
            .is_some_and(|o| o.serial == self.occupant.serial)
        {
            seats.live.remove(&self.occupant.admission.identity);
            self.roster.changed.send_replace(());
        }
        drop(seats);
        self.occupant.gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a test may spawn")]

    use super::*;
    use crate::auth::testing::admitted;
    use crate::identity::{ClientName, DeviceId, ModuleId};

    fn who(id: &str) -> Arc<Admission> {
        Arc::new(admitted(id))
    }

    #[tokio::test]
    async fn the_newcomer_takes_over_and_learns_when_the_old_one_is_gone() {
        let roster = Roster::new(1);
        let (old, displaced) = roster.enter(&who("a"), CancellationToken::new()).unwrap();
        assert!(displaced.is_none());
        let (new, displaced) = roster.enter(&who("a"), CancellationToken::new()).unwrap();
        old.asked_to_leave().await;
        let displaced = displaced.unwrap();
        drop(old);
        displaced.gone().await;
        assert_eq!(roster.len(), 1, "the old seat's end does not free the newcomer's");
        drop(new);
        assert!(roster.is_empty());
    }

    #[tokio::test]
    async fn whoever_waits_for_one_that_waits_learns_of_the_end_of_both() {
        let roster = Roster::new(1);
        let (first, _) = roster.enter(&who("a"), CancellationToken::new()).unwrap();
        let (second, waits_for_first) = roster.enter(&who("a"), CancellationToken::new()).unwrap();
        let (_third, waits_for_second) = roster.enter(&who("a"), CancellationToken::new()).unwrap();
        assert!(second.is_asked_to_leave());
        // As `connection` does: a seat is given up only after those before it are gone.
        let middle = tokio::spawn(async move {
            waits_for_first.unwrap().gone().await;
            drop(second);
        });
        let waits_for_second = waits_for_second.unwrap();
        let mut third = Box::pin(waits_for_second.gone());
        assert!(futures_util::poll!(&mut third).is_pending(), "the first one is still there");
        drop(first);
        middle.await.unwrap();
        third.await;
    }

    #[test]
    fn the_limit_counts_identities_and_spares_a_return() {
        let roster = Roster::new(1);
        let (_a, _) = roster.enter(&who("a"), CancellationToken::new()).unwrap();
        assert_eq!(roster.enter(&who("b"), CancellationToken::new()).unwrap_err(), Full(1));
        assert!(roster.enter(&who("a"), CancellationToken::new()).is_ok());
    }

    #[test]
    fn the_limit_counts_modules_as_it_counts_devices() {
        let module = |id: &str| {
            let name =
                ClientName::Module(DeviceId::parse("a").unwrap(), ModuleId::parse(id).unwrap());
            Arc::new(Admission { identity: Identity::vouched(name), ..admitted("a") })
        };
        let roster = Roster::new(2);
        let (_device, _) = roster.enter(&who("a"), CancellationToken::new()).unwrap();
        let (_module, _) = roster.enter(&module("m"), CancellationToken::new()).unwrap();
        for newcomer in [module("n"), who("b")] {
            let refused = roster.enter(&newcomer, CancellationToken::new()).unwrap_err();
            assert_eq!(refused, Full(2), "{}", newcomer.identity);
        }
        assert!(roster.enter(&module("m"), CancellationToken::new()).is_ok(), "a return");
    }

    #[tokio::test]
    async fn each_change_of_the_seats_is_told() {
        let roster = Roster::new(2);
        let mut changes = roster.changes();
        let mut told = || {
            changes.has_changed().unwrap() && {
                changes.mark_unchanged();
                true
            }
        };
        assert!(!told());
        let (first, _) = roster.enter(&who("a"), CancellationToken::new()).unwrap();
        assert!(told());
        let before = roster.seats();
        let (second, _) = roster.enter(&who("a"), CancellationToken::new()).unwrap();
        assert!(told() && roster.seats() != before, "another connection");
        drop(first);
        assert!(!told() && roster.seats().len() == 1, "it had left already");
        drop(second);
        assert!(told() && roster.seats().is_empty());
    }

    #[tokio::test]
    async fn dismiss_asks_only_those_that_are_refused_and_tells_them_why() {
        let roster = Roster::new(2);
        let (a, _) = roster.enter(&who("a"), CancellationToken::new()).unwrap();
        let (b, _) = roster.enter(&who("b"), CancellationToken::new()).unwrap();
        let refusal = |detail: &str| Refusal {
            code: crate::auth::RefusalCode::NotAuthorized,
            label: "disabled",
            detail: detail.to_owned(),
        };
        let judge = |detail: &'static str| {
            let refusal = refusal(detail);
            let kept = b.identity().clone();
            move |admission: &Admission| match admission.identity == kept {
                true => Ok(()),
                false => Err(refusal.clone()),
            }
        };
        assert_eq!(roster.dismiss(judge("first")), [refusal("first")]);
        a.asked_to_leave().await;
        assert!(!b.occupant.leave.is_cancelled() && b.why_leave().is_none());
        assert_eq!(roster.dismiss(judge("second")), [], "it has been asked");
        let (_newer, _) = roster.enter(&who("a"), CancellationToken::new()).unwrap();
        assert_eq!(a.why_leave(), Some(&Leave::NotAdmitted(refusal("first"))), "the first counts");
        let (_newer, _) = roster.enter(&who("b"), CancellationToken::new()).unwrap();
        assert_eq!(b.why_leave(), Some(&Leave::TakenOver));
    }
}
