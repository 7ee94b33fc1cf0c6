//! What all ports of the double share: registry, log, faults, twins, and the roster of connections.
//!
//! Owns: who holds which identity's links, so that a newcomer takes over. Invariant: locks here are held for a few
//! instructions and never over an await. Must not know: frames.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::BodySink;
use crate::c2d::Queues;
use crate::clock::Clock;
use crate::faults::{Fault, FaultKind, Faults};
use crate::feedback::Feedback;
use crate::log::MessageLog;
use crate::methods::Methods;
use crate::mqtt::certificate::Cas;
use crate::mqtt::filters::Sessions;
use crate::registry::{Principal, Registry};
use crate::twins::Twins;

/// Purpose of a link that takes calls of methods, as a connection shows it.
pub(crate) const METHOD_REQUESTS: &str = "method requests";
/// Purpose of a link that takes cloud-to-device messages, as a connection shows it.
pub(crate) const CLOUD_TO_DEVICE: &str = "cloud-to-device";

/// Shared by every task of one double.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) clock: Arc<Clock>,
    pub(crate) registry: Registry,
    pub(crate) log: MessageLog,
    pub(crate) faults: Faults,
    pub(crate) roster: Roster,
    pub(crate) twins: Twins,
    pub(crate) methods: Methods,
    pub(crate) c2d: Queues,
    pub(crate) feedback: Feedback,
    /// Wakes who waits for the next end of a lock, a message or a feedback batch.
    pub(crate) due: Notify,
    /// What MQTT clients without CleanSession left.
    pub(crate) sessions: Sessions,
    /// Whose certificates devices log in with.
    pub(crate) device_cas: Cas,
    pub(crate) limits: LinkLimits,
    pub(crate) lean: Option<Lean>,
}

/// Who hears bodies in lean mode.
pub(crate) struct Lean(pub(crate) BodySink);

impl fmt::Debug for Lean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lean")
    }
}

/// What the AMQP side announces; the size of messages is for MQTT too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkLimits {
    /// Credit of a sender's link, messages.
    pub(crate) credit: u32,
    /// `max-message-size` of a link, bytes.
    pub(crate) message_bytes_max: u64,
    /// Announced `idle-time-out`.
    pub(crate) idle_timeout: Duration,
}

/// What one connection is told to do by others.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// End with a `close` that carries this condition.
    Close { condition: String },
    /// Another connection attached links of this identity.
    Stolen(Principal),
    /// Detach links, of one device only when named.
    Detach { device: Option<String>, condition: String },
    /// The registry changed: judge the links again.
    Recheck,
    /// Tokens put longer ago than this are expired.
    ExpireTokens { older_than: Duration },
    /// Tell an identity of changed desired properties, if it wants to know: the patch with its version.
    Desired { who: Principal, patch: Arc<str> },
    /// Call a method of an identity.
    Method { who: Principal, id: [u8; 16], name: Arc<str>, payload: Arc<[u8]> },
    /// A device's queue of cloud-to-device messages has something to take.
    CloudToDevice { who: Principal },
}

/// One live connection of a client, as the others see it.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) no: u64,
    pub(crate) peer: String,
    pub(crate) since_ms: i64,
    pub(crate) protocol: &'static str,
    pub(crate) killed: CancellationToken,
    pub(crate) wake: Notify,
    commands: Mutex<VecDeque<Command>>,
    info: Mutex<Info>,
}

/// What a connection shows of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Info {
    pub(crate) container_id: String,
    pub(crate) sasl: String,
    pub(crate) links: BTreeMap<(u16, u32), (Principal, &'static str)>,
    pub(crate) tokens: BTreeSet<Principal>,
}

/// A line of `GET /connections`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionInfo {
    /// Number of the connection, from 1.
    pub no: u64,
    /// Address of the client.
    pub peer: String,
    /// When it was taken, milliseconds since 1970.
    pub since: i64,
    /// `AMQP` or `MQTT`.
    pub protocol: String,
    /// What the client calls itself: container id, client id.
    pub container_id: String,
    /// SASL mechanism, or `none` when the client skipped SASL; empty for MQTT.
    pub sasl: String,
    /// `identity purpose`, one entry for each link; for MQTT one for the connection, and one for each subscription.
    pub links: Vec<String>,
    /// Identities that a token was given for.
    pub tokens: Vec<String>,
}

impl Handle {
    /// Leaves a command; the connection takes it before it reads on.
    pub(crate) fn command(&self, command: Command) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push_back(command);
        self.wake.notify_one();
    }

    pub(crate) fn next_command(&self) -> Option<Command> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(crate) fn info<T>(&self, work: impl FnOnce(&mut Info) -> T) -> T {
        work(&mut self.info.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it has a link of this purpose for `who`.
    fn serves(&self, who: &Principal, purpose: &str) -> bool {
        self.info(|info| info.links.values().any(|(w, what)| w == who && *what == purpose))
    }

    fn holds(&self, device: &str) -> bool {
        let of = |p: &Principal| p.device.eq_ignore_ascii_case(device);
        self.info(|info| info.links.values().any(|(principal, _)| of(principal)))
    }

    fn show(&self) -> ConnectionInfo {
        let info = self.info(|info| info.clone());
        ConnectionInfo {
            no: self.no,
            peer: self.peer.clone(),
            since: self.since_ms,
            protocol: self.protocol.to_owned(),
            container_id: info.container_id,
            sasl: info.sasl,
            links: info.links.values().map(|(who, what)| format!("{who} {what}")).collect(),
            tokens: info.tokens.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Live connections, and which of them holds an identity's links.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    state: Mutex<RosterState>,
}

#[derive(Debug, Default)]
struct RosterState {
    last_no: u64,
    live: BTreeMap<u64, Arc<Handle>>,
    owners: HashMap<Principal, u64>,
}

impl Roster {
    fn with<T>(&self, work: impl FnOnce(&mut RosterState) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Enters a new connection.
    pub(crate) fn enter(&self, protocol: &'static str, peer: String, since_ms: i64) -> Arc<Handle> {
        self.with(|state| {
            state.last_no += 1;
            let handle = Arc::new(Handle {
                no: state.last_no,
                peer,
                since_ms,
                protocol,
                killed: CancellationToken::new(),
                wake: Notify::new(),
                commands: Mutex::default(),
                info: Mutex::default(),
            });
            state.live.insert(handle.no, Arc::clone(&handle));
            handle
        })
    }

    /// Forgets a connection that ended.
    pub(crate) fn leave(&self, no: u64) {
        self.with(|state| {
            state.live.remove(&no);
            state.owners.retain(|_, owner| *owner != no);
        });
    }

    /// Makes `no` the holder of an identity's links; true when another connection loses them.
    pub(crate) fn take_over(&self, principal: &Principal, no: u64) -> bool {
        self.with(|state| match state.owners.insert(principal.clone(), no) {
            Some(old) if old != no => {
                if let Some(handle) = state.live.get(&old) {
                    handle.command(Command::Stolen(principal.clone()));
                }
                true
            }
            _ => false,
        })
    }

    /// Whether `no` holds the links of `principal`.
    pub(crate) fn owns(&self, principal: &Principal, no: u64) -> bool {
        self.with(|state| state.owners.get(principal) == Some(&no))
    }

    fn handles(&self) -> Vec<Arc<Handle>> {
        self.with(|state| state.live.values().cloned().collect())
    }

    /// Ends all connections abruptly.
    pub(crate) fn kill_all(&self) {
        for handle in self.handles() {
            handle.killed.cancel();
        }
    }

    /// Leaves a command with every connection.
    pub(crate) fn command_all(&self, command: &Command) {
        for handle in self.handles() {
            handle.command(command.clone());
        }
    }

    /// Leaves a command with the connection that holds the links of `who`, if it has one of this purpose; false when it has
    /// not.
    pub(crate) fn command_one(&self, who: &Principal, purpose: &str, command: Command) -> bool {
        let serving = self.owner(who).filter(|handle| handle.serves(who, purpose));
        serving.map(|handle| handle.command(command)).is_some()
    }

    /// Whether the connection that holds the links of `who` has one of this purpose.
    pub(crate) fn serves(&self, who: &Principal, purpose: &str) -> bool {
        self.owner(who).is_some_and(|handle| handle.serves(who, purpose))
    }

    /// Whether a connection has a link of `who`.
    pub(crate) fn knows(&self, who: &Principal) -> bool {
        let has = |info: &mut Info| info.links.values().any(|(of, _)| of == who);
        self.owner(who).is_some_and(|handle| handle.info(has))
    }

    /// The connection that holds the links of `who`.
    fn owner(&self, who: &Principal) -> Option<Arc<Handle>> {
        self.with(|state| state.live.get(state.owners.get(who)?).cloned())
    }

    /// Leaves a command with every connection that has a link of this purpose for `who`.
    pub(crate) fn command_serving(&self, who: &Principal, purpose: &str, command: &Command) {
        for handle in self.handles().iter().filter(|handle| handle.serves(who, purpose)) {
            handle.command(command.clone());
        }
    }

    /// The live connections.
    pub(crate) fn show(&self) -> Vec<ConnectionInfo> {
        self.handles().iter().map(|h| h.show()).collect()
    }
}

impl Hub {
    /// Sets a fault: lasting ones are put in force, momentary ones happen.
    pub(crate) fn fault(&self, fault: Fault) -> u64 {
        let momentary = fault.clone();
        let id = self.faults.set(fault);
        let Fault { kind, device, .. } = momentary;
        match kind {
            FaultKind::DropConnections { condition } => {
                let reach = |h: &Handle| device.as_deref().is_none_or(|d| h.holds(d));
                for handle in self.roster.handles().iter().filter(|h| reach(h)) {
                    match &condition {
                        Some(c) => handle.command(Command::Close { condition: c.clone() }),
                        None => handle.killed.cancel(),
                    }
                }
            }
            FaultKind::DetachLinks { condition } => {
                let condition = condition.unwrap_or_else(|| "amqp:link:detach-forced".to_owned());
                self.roster.command_all(&Command::Detach { device, condition });
            }
            FaultKind::DropLocks => self.drop_c2d_locks(device.as_deref()),
            FaultKind::ExpireTokens { older_than_ms } => {
                let older_than = Duration::from_millis(older_than_ms);
                self.roster.command_all(&Command::ExpireTokens { older_than });
            }
            _ => {}
        }
        id
    }
}
