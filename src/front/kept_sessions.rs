//! What clients with persistent sessions (CleanSession 0) had subscribed to: known at their next connection, also after a
//! restart.
//!
//! Owns: the folder of sessions and the index over it. Invariants: what was kept is on the disk before its SUBACK leaves, and
//! after a `kill -9` a session is there as it was kept last, or not at all; the disk is written only when a session changed;
//! at most `sessions_max` sessions, and the one of the client that has been away longest makes room; a session that cannot be
//! read is none, and counted. A session begins with the first SUBSCRIBE: a client that only sends costs no file.
//! Must not know: packets, what is sent by a subscription.
//!
//! # A document
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version = 1 |
//! | 5 | QoS of each kind of [`Subscription`] in order, 0 or 1; 255 = not subscribed |
//! | rest | [`Remembered::prefix`]; empty = the usual |

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::warn;

use crate::cabinet::{Cabinet, CabinetError, Key, Limits};
use crate::identity::ClientName;
use crate::iothub::subscriptions::Subscription;
use crate::metrics::Metrics;
use crate::mqtt::packet::QoS;
use crate::session::{Remembered, Subscriptions};

/// Sessions that are kept: more than clients may be connected.
pub const SESSIONS_MAX: usize = 10_000;

/// Files that are read or written at a time. Those of one identity take their turns.
const LANES: usize = 4;

/// The longest wait for the disk. What took longer is carried out later, or not; the client is served.
const DISK_WAIT: Duration = Duration::from_secs(60);

/// A topic's prefix is two ids of 128 bytes, each percent-encoded at worst.
const DOCUMENT_BYTES_MAX: usize = 1024;

/// Whether the disk had to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It was there already.
    AsBefore,
    /// A file was written, or it was tried.
    Written,
}

/// See [the module](self).
#[derive(Debug)]
pub struct KeptSessions {
    cabinet: Cabinet,
    sessions_max: usize,
    index: Mutex<Index>,
    lanes: [Arc<Semaphore>; LANES],
    /// Whether somebody was told that the disk takes nothing.
    is_told: AtomicBool,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Index {
    sessions: HashMap<Key, Session>,
    /// Counts the uses.
    uses: u64,
}

#[derive(Debug)]
struct Session {
    /// `None` = on the disk, and not read since the start.
    remembered: Option<Remembered>,
    /// Number of the last change, and of that which the disk has: of all sessions, for one that is forgotten and begins anew
    /// while it is written is not the one that was.
    changed: u64,
    stored: u64,
    /// When it was used last, in uses of all.
    used: u64,
    /// Of the newest connection that used it.
    serial: u64,
    is_connected: bool,
}

impl Session {
    fn new(used: u64) -> Self {
        Self { remembered: None, changed: 0, stored: 0, used, serial: 0, is_connected: false }
    }
}

impl KeptSessions {
    /// Those in `folder`, which need not be there yet; at most `sessions_max` ([`SESSIONS_MAX`]). Lists the folder: blocks.
    pub fn open(folder: PathBuf, sessions_max: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        // The file of one that makes room may still be there when the newcomer's is.
        let limits =
            Limits { documents_max: sessions_max + LANES, document_bytes_max: DOCUMENT_BYTES_MAX };
        let kept = Self {
            cabinet: Cabinet::new(folder, limits),
            sessions_max,
            index: Mutex::default(),
            lanes: std::array::from_fn(|_| Arc::new(Semaphore::new(1))),
            is_told: AtomicBool::new(false),
            metrics,
        };
        let keys = kept.cabinet.keys().unwrap_or_else(|e| {
            kept.failed("unreadable", &e);
            Vec::new()
        });
        let excess = keys.len().saturating_sub(sessions_max);
        for key in &keys[..excess] {
            kept.count("made_room");
            kept.remove(key);
        }
        let mut index = kept.lock();
        for key in &keys[excess..] {
            index.uses += 1;
            let session = Session::new(index.uses);
            index.sessions.insert(*key, session);
        }
        drop(index);
        Arc::new(kept)
    }

    /// Those in the storage folder of the gateway. Blocks.
    pub fn in_storage(storage: &Path, metrics: &Arc<Metrics>) -> Arc<Self> {
        Self::open(storage.join("sessions"), SESSIONS_MAX, Arc::clone(metrics))
    }

    /// The session of `who`, whose connection with this serial (a later one has a higher one) takes it up; `None` = there is
    /// none. Waits for the disk only for the first time after a start.
    pub async fn resume(self: &Arc<Self>, who: &ClientName, serial: u64) -> Option<Remembered> {
        let key = Key::of(who);
        {
            let mut index = self.lock();
            index.uses += 1;
            let used = index.uses;
            let session = index.sessions.get_mut(&key)?;
            (session.used, session.serial, session.is_connected) = (used, serial, true);
            if session.remembered.is_some() {
                return session.remembered.clone();
            }
        }
        let name = who.clone();
        self.on_lane(key, move |kept| kept.read(key, &name)).await;
        self.lock().sessions.get(&key)?.remembered.clone()
    }

    /// `who` has a session with this content; durable when this returns, or counted as `not_stored`. A connection that is no
    /// longer the newest changes nothing.
    pub async fn keep(
        self: &Arc<Self>,
        who: &ClientName,
        serial: u64,
        remembered: &Remembered,
    ) -> Kept {
        let key = Key::of(who);
        let evicted = {
            let mut index = self.lock();
            let evicted = match self.room_for(&mut index, &key) {
                Ok(evicted) => evicted,
                Err(()) => {
                    self.count("full");
                    return Kept::AsBefore;
                }
            };
            let used = index.uses + 1;
            index.uses = used;
            let session = index.sessions.entry(key).or_insert_with(|| Session::new(used));
            if serial < session.serial {
                return Kept::AsBefore;
            }
            (session.used, session.serial, session.is_connected) = (used, serial, true);
            if session.remembered.as_ref() != Some(remembered) {
                session.remembered = Some(remembered.clone());
                session.changed = used;
            }
            if session.changed == session.stored {
                return Kept::AsBefore;
            }
            evicted
        };
        if let Some(evicted) = evicted {
            self.on_lane(evicted, move |kept| kept.store(evicted, None)).await;
        }
        let name = who.clone();
        self.on_lane(key, move |kept| kept.store(key, Some(&name))).await;
        Kept::Written
    }

    /// Nothing is remembered of `who` any more (CleanSession 1, or it left the scope). Asks the disk only if something was.
    pub async fn forget(self: &Arc<Self>, who: &ClientName) {
        let key = Key::of(who);
        if self.lock().sessions.remove(&key).is_some() {
            self.on_lane(key, move |kept| kept.store(key, None)).await;
        }
    }

    /// The connection with this serial has ended.
    pub fn left(&self, who: &ClientName, serial: u64) {
        let mut index = self.lock();
        index.uses += 1;
        let used = index.uses;
        if let Some(session) = index.sessions.get_mut(&Key::of(who))
            && session.serial == serial
        {
            (session.used, session.is_connected) = (used, false);
        }
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.lock().sessions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for a session under `key`; says whose had to go. `Err` = all are of clients that are connected.
    fn room_for(&self, index: &mut Index, key: &Key) -> Result<Option<Key>, ()> {
        if index.sessions.contains_key(key) || index.sessions.len() < self.sessions_max {
            return Ok(None);
        }
        let away = index.sessions.iter().filter(|(_, session)| !session.is_connected);
        let (oldest, _) = away.min_by_key(|(_, session)| session.used).ok_or(())?;
        let oldest = *oldest;
        index.sessions.remove(&oldest);
        self.count("made_room");
        Ok(Some(oldest))
    }

    /// Runs `work` where it may block, after what else concerns `key`.
    async fn on_lane(self: &Arc<Self>, key: Key, work: impl FnOnce(&Self) + Send + 'static) {
        let (kept, lane) = (Arc::clone(self), Arc::clone(&self.lanes[key.share(LANES)]));
        let done = tokio::time::timeout(DISK_WAIT, async move {
            let turn = lane.acquire_owned().await.expect("never closed");
            let work = move || {
                work(&kept);
                drop(turn);
            };
            // An error means that the runtime ends.
            let _ = tokio::task::spawn_blocking(work).await;
        });
        if done.await.is_err() {
            self.count("slow_disk");
        }
    }

    fn read(&self, key: Key, name: &ClientName) {
        let wants =
            |index: &Index| index.sessions.get(&key).is_some_and(|s| s.remembered.is_none());
        if !wants(&self.lock()) {
            return;
        }
        let found = match self.cabinet.get(name) {
            Ok(document) => document.as_deref().and_then(decode),
            Err(e) => {
                self.failed("unreadable", &e);
                None
            }
        };
        let mut index = self.lock();
        if !wants(&index) {
            return;
        }
        if let Entry::Occupied(mut session) = index.sessions.entry(key) {
            match found {
                Some(found) => session.get_mut().remembered = Some(found),
                None => {
                    session.remove();
                    drop(index);
                    self.count("damaged");
                    self.remove(&key);
                }
            }
        }
    }

    /// Brings the disk to what the index says now, which may be later than what it was called for.
    fn store(&self, key: Key, name: Option<&ClientName>) {
        let state = {
            let index = self.lock();
            let session = index.sessions.get(&key);
            session.map(|s| (s.remembered.clone(), s.changed, s.stored))
        };
        match (state, name) {
            (None, _) => self.remove(&key),
            (Some((Some(remembered), changed, stored)), Some(name)) if changed != stored => {
                if let Err(e) = self.cabinet.put(name, &encode(&remembered)) {
                    self.failed("not_stored", &e);
                    // An older one would be taken for the truth after a restart.
                    self.remove(&key);
                    return;
                }
                self.is_told.store(false, Ordering::Relaxed);
                if let Some(session) = self.lock().sessions.get_mut(&key) {
                    session.stored = changed;
                }
            }
            // It came back meanwhile, or another call has done it.
            (Some(_), _) => {}
        }
    }

    fn remove(&self, key: &Key) {
        if let Err(e) = self.cabinet.remove_key(key) {
            self.failed("not_removed", &e);
        }
    }

    /// Counted each time, told once until the disk takes something again.
    fn failed(&self, reason: &'static str, e: &CabinetError) {
        self.count(reason);
        if !self.is_told.swap(true, Ordering::Relaxed) {
            warn!(
                "sessions of clients are not kept over a restart: {e}; until the storage folder takes them, clients have to \
                 subscribe anew then"
            );
        }
    }

    fn count(&self, reason: &'static str) {
        self.metrics.counted("kept_session", reason);
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        // A panic aborts the process or ends a test; each change leaves the index whole.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const VERSION: u8 = 1;
const NOT_SUBSCRIBED: u8 = 255;

fn encode(remembered: &Remembered) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    let qos = |kind| remembered.subscriptions.get(kind).map_or(NOT_SUBSCRIBED, |qos| qos as u8);
    bytes.extend(Subscription::ALL.map(qos));
    bytes.extend(remembered.prefix.as_deref().unwrap_or_default().as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Remembered> {
    let rest = bytes.strip_prefix(&[VERSION])?;
    let (kinds, prefix) = rest.split_first_chunk::<{ Subscription::KINDS }>()?;
    let mut subscriptions = Subscriptions::default();
    for (kind, byte) in Subscription::ALL.into_iter().zip(kinds) {
        let qos = match *byte {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            NOT_SUBSCRIBED => None,
            _ => return None,
        };
        subscriptions.set(kind, qos);
    }
    let prefix = std::str::from_utf8(prefix).ok()?;
    Some(Remembered { subscriptions, prefix: (!prefix.is_empty()).then(|| prefix.into()) })
}

#[cfg(test)]
mod tests;
