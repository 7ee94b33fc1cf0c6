//! Packets that have come in part: how many bytes all connections together hold of them.
//!
//! A packet of more than [`FREE_BYTES`] is read on only while its connection has a [`Place`] for the whole of it, out of a
//! fixed number of bytes: [`CLIENTS_BYTES_MAX`] for those who are in, [`STRANGERS_BYTES_MAX`] for those who have not logged
//! in, so that who is no client takes no place of a client's. Who has none waits, in order, with what it sends in its
//! socket. Who holds one and does not come to the packet's end goes when its [`CHANCE`] is over and a client waits; a
//! stranger's time for its CONNECT is bounded anyhow.
//!
//! Napkin: without it 1,000 clients that each hold back the last byte of 256 KiB held 290 MB (measured: 288 KiB each). An
//! Azure Sphere device sends up to some KiB: it never needs a place. 64 packets of the largest size come at a time; at 1 Mbit/s
//! each takes 2 s. What is held beside: 16 KiB of one read and [`FREE_BYTES`] a connection.
//!
//! Owns: the places. Invariants: a place is for one packet, taken whole or not at all, so that nobody who holds one waits for
//! another; whatever is dropped gives back what it held. Must not know: what packets mean, sockets.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use crate::metrics::Metrics;

/// Packets up to this size need no place. A CONNECT has some hundred bytes, with a token and a will perhaps a thousand.
const FREE_BYTES: usize = 4096;
/// Bytes of clients' packets that have come in part.
const CLIENTS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of strangers' packets that have come in part.
const STRANGERS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What a client has for the rest of its packet, at least: 256 KiB over 210 kbit/s. Longer while nobody else waits.
const CHANCE: Duration = Duration::from_secs(10);
/// How often who is over its time looks whether somebody waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Places are counted in these.
const UNIT_BYTES: usize = 1024;

/// All places. See [the module](self).
#[derive(Debug)]
pub(super) struct Unfinished {
    clients: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    /// Clients that wait for a place.
    waiting: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl Unfinished {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            clients: Arc::new(Semaphore::new(CLIENTS_BYTES_MAX / UNIT_BYTES)),
            strangers: Arc::new(Semaphore::new(STRANGERS_BYTES_MAX / UNIT_BYTES)),
            waiting: AtomicUsize::new(0),
            metrics,
        })
    }

    /// Of a connection that has not logged in.
    pub(super) fn place(self: &Arc<Self>) -> Place {
        Place { all: Arc::clone(self), is_client: false, state: State::None }
    }

    /// Bytes of the places that are taken.
    pub(super) fn taken_bytes(&self) -> usize {
        let all = (CLIENTS_BYTES_MAX + STRANGERS_BYTES_MAX) / UNIT_BYTES;
        let free = self.clients.available_permits() + self.strangers.available_permits();
        (all - free) * UNIT_BYTES
    }
}

/// One connection's.
pub(super) struct Place {
    all: Arc<Unfinished>,
    is_client: bool,
    state: State,
}

enum State {
    None,
    Waits(Box<Waits>),
    Held(Box<Held>),
}

struct Waits {
    acquired: BoxFuture<'static, OwnedSemaphorePermit>,
    /// `None` for a stranger: nobody goes for it.
    _counted: Option<Counted>,
}

struct Held {
    _permit: OwnedSemaphorePermit,
    /// Runs while the connection reads.
    overdue: Option<Pin<Box<Sleep>>>,
}

/// One client that waits.
struct Counted(Arc<Unfinished>);

impl Drop for Counted {
    fn drop(&mut self) {
        // A count on its own: no order with other memory is needed, here and below.
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// It has logged in; what it sends from now on has the places of clients.
    pub(super) fn is_of_client(&mut self) {
        self.is_client = true;
    }

    /// Whether a packet may be read on of which `bytes` in all are announced; 0 = nothing is known of it yet.
    pub(super) fn is_there(&mut self, bytes: usize) -> bool {
        match self.state {
            State::Held(_) => true,
            State::Waits(_) => false,
            State::None => bytes <= FREE_BYTES || self.take(bytes),
        }
    }

    /// Resolves when it may be read on.
    pub(super) fn poll_there(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<()> {
        if self.is_there(bytes) {
            return Poll::Ready(());
        }
        let State::Waits(waits) = &mut self.state else { return Poll::Ready(()) };
        let permit = ready!(waits.acquired.as_mut().poll(cx));
        self.state = State::Held(Box::new(Held { _permit: permit, overdue: None }));
        Poll::Ready(())
    }

    /// Resolves when the rest of its packet is overdue and a client waits for a place. To be polled while nothing comes.
    pub(super) fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Held(held) = &mut self.state else { return Poll::Pending };
        if !self.is_client {
            return Poll::Pending;
        }
        let overdue = held.overdue.get_or_insert_with(|| Box::pin(sleep(CHANCE)));
        while overdue.as_mut().poll(cx).is_ready() {
            if self.all.waiting.load(Ordering::Relaxed) > 0 {
                return Poll::Ready(());
            }
            overdue.as_mut().reset(Instant::now() + LOOK_EVERY);
        }
        Poll::Pending
    }

    /// We do not read: that is not the peer's delay.
    pub(super) fn rests(&mut self) {
        if let State::Held(held) = &mut self.state {
            held.overdue = None;
        }
    }

    /// The packet has come to its end.
    pub(super) fn is_done(&mut self) {
        self.state = State::None;
    }

    /// Takes a place, or its turn in the line for one.
    fn take(&mut self, bytes: usize) -> bool {
        let (places, most, who) = match self.is_client {
            true => (&self.all.clients, CLIENTS_BYTES_MAX, "clients"),
            false => (&self.all.strangers, STRANGERS_BYTES_MAX, "strangers"),
        };
        // More than there are would never come; the limit of a packet is far below that.
        let units = u32::try_from(bytes.min(most).div_ceil(UNIT_BYTES)).expect("a few thousand");
        if let Ok(permit) = Arc::clone(places).try_acquire_many_owned(units) {
            self.state = State::Held(Box::new(Held { _permit: permit, overdue: None }));
            return true;
        }
        let places = Arc::clone(places);
        let acquired = Box::pin(async move {
            places.acquire_many_owned(units).await.expect("places are never closed")
        });
        let counted = self.is_client.then(|| {
            self.all.waiting.fetch_add(1, Ordering::Relaxed);
            Counted(Arc::clone(&self.all))
        });
        self.all.metrics.counted("packet_waits", who);
        self.state = State::Waits(Box::new(Waits { acquired, _counted: counted }));
        false
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    const LARGE: usize = 256 * 1024;

    fn places(all: &Arc<Unfinished>, count: usize, is_client: bool) -> Vec<Place> {
        let place = || Place { is_client, ..all.place() };
        std::iter::repeat_with(place).take(count).collect()
    }

    async fn is_there(place: &mut Place) -> bool {
        let there = std::future::poll_fn(|cx| place.poll_there(cx, LARGE));
        poll!(std::pin::pin!(there)).is_ready()
    }

    async fn is_overdue(place: &mut Place) -> bool {
        let overdue = std::future::poll_fn(|cx| place.poll_overdue(cx));
        poll!(std::pin::pin!(overdue)).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_so_many_places_and_who_waits_has_the_next_in_order() {
        let all = Unfinished::new(Metrics::new("hub", "edge"));
        let mut held = places(&all, 64, true);
        for place in &mut held {
            assert!(is_there(place).await);
        }
        assert_eq!(all.taken_bytes(), CLIENTS_BYTES_MAX);
        let mut waiting = places(&all, 2, true);
        assert!(!is_there(&mut waiting[0]).await && !is_there(&mut waiting[1]).await);
        // Strangers have their own, and small packets need none.
        let mut stranger = all.place();
        assert!(stranger.is_there(65_536) && waiting.len() == 2);
        assert!(all.place().is_there(FREE_BYTES) && places(&all, 1, true)[0].is_there(0));
        held[7].is_done();
        assert!(!is_there(&mut waiting[1]).await && is_there(&mut waiting[0]).await);
        drop(held);
        assert!(is_there(&mut waiting[1]).await);
        drop((waiting, stranger));
        assert_eq!((all.taken_bytes(), all.waiting.load(Ordering::Relaxed)), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_over_its_time_goes_when_somebody_waits_and_not_before() {
        let all = Unfinished::new(Metrics::new("hub", "edge"));
        let mut held = places(&all, 64, true);
        for place in &mut held {
            assert!(is_there(place).await && !is_overdue(place).await);
        }
        tokio::time::sleep(20 * CHANCE).await;
        assert!(!is_overdue(&mut held[0]).await, "nobody waits");
        let mut waiting = places(&all, 1, true);
        assert!(!is_there(&mut waiting[0]).await);
        tokio::time::sleep(LOOK_EVERY).await;
        assert!(is_overdue(&mut held[0]).await);
        assert!(!is_overdue(&mut waiting[0]).await, "it holds nothing");
        // Whose bytes we do not take is not late.
        held[1].rests();
        assert!(!is_overdue(&mut held[1]).await);
        tokio::time::sleep(CHANCE).await;
        assert!(is_overdue(&mut held[1]).await);
        drop(waiting);
        held[2].rests();
        assert!(!is_overdue(&mut held[2]).await);
        tokio::time::sleep(CHANCE).await;
        assert!(!is_overdue(&mut held[2]).await, "who waited has left");
    }

    #[tokio::test(start_paused = true)]
    async fn no_stranger_takes_a_client_s_place_or_has_one_go() {
        let all = Unfinished::new(Metrics::new("hub", "edge"));
        let mut strangers = places(&all, 100, false);
        let mut inside = 0;
        for place in &mut strangers {
            inside += usize::from(is_there(place).await);
        }
        assert_eq!((inside, all.taken_bytes()), (8, STRANGERS_BYTES_MAX));
        let mut clients = places(&all, 64, true);
        for place in &mut clients {
            assert!(is_there(place).await && !is_overdue(place).await);
        }
        tokio::time::sleep(2 * CHANCE).await;
        assert!(!is_overdue(&mut clients[0]).await, "only strangers wait");
        assert!(!is_overdue(&mut strangers[0]).await, "its CONNECT has a time of its own");
    }
}
