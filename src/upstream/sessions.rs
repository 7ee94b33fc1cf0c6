//! The sessions of one connection, and the links placed on them.
//!
//! Owns: the connection's handle (in [`keep`]), the pool of sessions. Invariants: a session carries at most
//! [`LINKS_PER_SESSION`] links; an attach is never abandoned half way.
//! Must not know: tokens, messages.
//!
//! # Why several links share a session, and how one of them cannot block the others
//!
//! A session costs about as much memory as four links and another exchange with the hub, so links share. What a session
//! makes its links share is its transfer window: a link whose transfers the hub does not settle occupies at most one batch
//! (256 KiB, five frames of 64 KiB). 64 links x 5 frames = 320, while the hub opens a session with a window of 2,048
//! or more (B1; Azure announces 5,000): all links but one may be stuck and the last still has room. A link without
//! credit sends nothing, so it occupies nothing.
//!
//! Attaching is exclusive per session (the AMQP library borrows the session while it waits for the hub's attach). A
//! link whose attach is not answered therefore blocks new links of that one session: they go to another one, and the
//! established links do not notice. The attach is not cancelled, because the library would keep the half-attached
//! name and a late answer of the hub would then end the whole session. Who was left without an answer attaches to a
//! session of its own the next time ([`Sessions::turn_apart`]): that one can be ended, and the attach with it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Sender, Session};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Links on one session; Azure allows 256 handles.
const LINKS_PER_SESSION: usize = 64;
/// How long a link waits for its turn on an existing session before it gets a new one: a few round trips.
const TURN_WAIT: Duration = Duration::from_millis(200);
/// How long a polite close may take.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Asks [`keep`] for a new session.
pub(super) type Begin = oneshot::Sender<SessionHandle<()>>;

/// Keeps the connection: begins sessions, and severs everything when the connection ends, however it ends. Ends when
/// `stop` (politely) or `severed` is cancelled, or when the hub or the network ends the connection. Returns the hub's
/// words for it.
pub(super) async fn keep(
    mut handle: ConnectionHandle<()>,
    mut begins: mpsc::Receiver<Begin>,
    begin_timeout: Duration,
    stop: CancellationToken,
    severed: CancellationToken,
) -> String {
    let _severs = severed.clone().drop_guard();
    loop {
        tokio::select! {
            biased;
            () = severed.cancelled() => return "given up by this side".to_owned(),
            () = stop.cancelled() => {
                let _ = timeout(CLOSE_WAIT, handle.close()).await;
                return "closed by this side".to_owned();
            }
            ended = handle.on_close() => {
                return ended.map_or_else(|error| error.to_string(), |()| "closed".to_owned());
            }
            Some(begin) = begins.recv() => {
                match timeout(begin_timeout, Session::builder().begin(&mut handle)).await {
                    Ok(Ok(session)) => { let _ = begin.send(session); }
                    Ok(Err(error)) => tracing::warn!(%error, "the hub did not begin a session"),
                    Err(_) => return format!("the hub did not begin a session in {begin_timeout:?}"),
                }
            }
        }
    }
}

type Pool = Mutex<Vec<Arc<Shared>>>;

/// The pool.
pub(super) struct Sessions {
    begins: mpsc::Sender<Begin>,
    pool: Arc<Pool>,
}

struct Shared {
    handle: Arc<AsyncMutex<SessionHandle<()>>>,
    /// Links placed here, those being attached included.
    links: AtomicUsize,
    /// Attaches that hold or await `handle`.
    turns: AtomicUsize,
}

/// The places of some links on a session; gives them back when dropped.
pub(super) struct Place(Arc<Shared>, usize);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.links.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// A turn to attach: the session is ours until dropped.
pub(super) struct Turn {
    guard: OwnedMutexGuard<SessionHandle<()>>,
    // Dropped after the guard, by field order.
    waiting: Waiting,
    place: Place,
    /// Where the session goes once its first attach is answered; none: there it is.
    apart_from: Option<Arc<Pool>>,
}

struct Waiting(Arc<Shared>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.turns.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turn {
    /// The session to attach to.
    pub(super) fn session(&mut self) -> &mut SessionHandle<()> {
        &mut self.guard
    }

    /// Whether nobody else has anything on the session.
    pub(super) fn is_apart(&self) -> bool {
        self.apart_from.is_some()
    }

    /// Ends the turn; the link stays.
    pub(super) fn done(self) -> Place {
        drop(self.guard);
        drop(self.waiting);
        if let Some(pool) = self.apart_from {
            pool.lock().expect("nothing panics under this lock").push(self.place.0.clone());
        }
        self.place
    }

    /// Ends a session apart, and whatever was being attached to it. Ends when the hub has ended it too.
    pub(super) async fn end(mut self) {
        debug_assert!(self.is_apart(), "others have links on it");
        if let Err(error) = self.guard.end().await {
            tracing::debug!(%error, "a session that was given up");
        }
    }
}

/// An attached telemetry link; detaches when dropped.
pub(super) struct Link {
    /// `None` while a transfer has it.
    pub(super) sender: Option<Sender>,
    /// Where it leads: what its messages say in `to`.
    pub(super) address: String,
    /// Held for its drop, after the sender's.
    _place: Place,
}

impl Link {
    pub(super) fn new(sender: Sender, address: String, place: Place) -> Self {
        Self { sender: Some(sender), address, _place: place }
    }
}

impl Sessions {
    /// An empty pool over the connection that listens on `begins`.
    pub(super) fn new(begins: mpsc::Sender<Begin>) -> Self {
        Self { begins, pool: Arc::default() }
    }

    /// Another empty pool over the same connection.
    pub(super) fn beside(&self) -> Self {
        Self::new(self.begins.clone())
    }

    /// A session of its own, outside the pool. `None`: the connection is ending.
    pub(super) async fn begin(&self) -> Option<SessionHandle<()>> {
        let (begin, begun) = oneshot::channel();
        self.begins.send(begin).await.ok()?;
        begun.await.ok()
    }

    /// A turn to attach `links` links to one session. `None`: no session can be had.
    pub(super) async fn turn(&self, links: usize) -> Option<Turn> {
        if let Some((place, waiting)) = self.least_busy(links) {
            let lock = place.0.handle.clone().lock_owned();
            if let Ok(guard) = timeout(TURN_WAIT, lock).await
                && !guard.is_ended()
            {
                return Some(Turn { guard, waiting, place, apart_from: None });
            }
        }
        let mut turn = self.turn_apart(links).await?;
        turn.apart_from = None;
        self.pool.lock().expect("nothing panics under this lock").push(turn.place.0.clone());
        Some(turn)
    }

    /// A turn to attach `links` links to a session on which nobody has anything, and which nobody else attaches to before one
    /// of them is answered. `None`: no session can be had.
    pub(super) async fn turn_apart(&self, links: usize) -> Option<Turn> {
        let shared = match self.take_idle() {
            Some(idle) => idle,
            None => Arc::new(Shared {
                handle: Arc::new(AsyncMutex::new(self.begin().await?)),
                links: AtomicUsize::new(0),
                turns: AtomicUsize::new(0),
            }),
        };
        shared.links.fetch_add(links, Ordering::Relaxed);
        shared.turns.fetch_add(1, Ordering::Relaxed);
        let (place, waiting) = (Place(shared.clone(), links), Waiting(shared.clone()));
        let guard = shared.handle.clone().try_lock_owned().expect("nobody else has it");
        Some(Turn { guard, waiting, place, apart_from: Some(self.pool.clone()) })
    }

    /// Takes one on which nobody has anything any more out of the pool: else each that was apart would stay as long as the
    /// connection.
    fn take_idle(&self) -> Option<Arc<Shared>> {
        let mut pool = self.pool.lock().expect("nothing panics under this lock");
        let is_idle = |shared: &Arc<Shared>| {
            let has = |count: &AtomicUsize| count.load(Ordering::Relaxed) > 0;
            !has(&shared.links)
                && !has(&shared.turns)
                && shared.handle.try_lock().is_ok_and(|handle| !handle.is_ended())
        };
        let at = pool.iter().position(is_idle)?;
        Some(pool.swap_remove(at))
    }

    /// How many there are in the pool, and how many links are placed on them.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        let pool = self.pool.lock().expect("nothing panics under this lock");
        (pool.len(), pool.iter().map(|shared| shared.links.load(Ordering::Relaxed)).sum())
    }

    /// Reserves places on the session with the fewest attaches before us; forgets sessions that have ended.
    fn least_busy(&self, links: usize) -> Option<(Place, Waiting)> {
        let mut pool = self.pool.lock().expect("nothing panics under this lock");
        pool.retain(|shared| shared.handle.try_lock().map_or(true, |handle| !handle.is_ended()));
        let shared = pool
            .iter()
            .filter(|shared| shared.links.load(Ordering::Relaxed) + links <= LINKS_PER_SESSION)
            .min_by_key(|shared| shared.turns.load(Ordering::Relaxed))?;
        shared.links.fetch_add(links, Ordering::Relaxed);
        shared.turns.fetch_add(1, Ordering::Relaxed);
        Some((Place(shared.clone(), links), Waiting(shared.clone())))
    }
}
