//! What all ports of the double share: registry, log, faults, twins, and the roster of AMQP connections.
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
use crate::clock::Clock;
use crate::faults::{Fault, FaultKind, Faults};
use crate::log::MessageLog;
use crate::methods::Methods;
use crate::registry::{Principal, Registry};
use crate::twins::Twins;

/// Shared by every task of one double.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) clock: Clock,
    pub(crate) registry: Registry,
    pub(crate) log: MessageLog,
    pub(crate) faults: Faults,
    pub(crate) roster: Roster,
    pub(crate) twins: Twins,
    pub(crate) methods: Methods,
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

/// What the AMQP side announces.
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
}

/// One live AMQP connection, as the others see it.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) no: u64,
    pub(crate) peer: String,
    pub(crate) since_ms: i64,
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
    /// What the client calls itself.
    pub container_id: String,
    /// SASL mechanism, or `none` when the client skipped SASL.
    pub sasl: String,
    /// `identity purpose`, one entry for each link.
    pub links: Vec<String>,
    /// Identities that a token was put for.
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
    pub(crate) fn enter(&self, peer: String, since_ms: i64) -> Arc<Handle> {
        self.with(|state| {
            state.last_no += 1;
            let handle = Arc::new(Handle {
                no: state.last_no,
                peer,
                since_ms,
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

    /// Leaves a command with the connection that has a link of this purpose for `who`; false when there is none.
    pub(crate) fn command_one(&self, who: &Principal, purpose: &str, command: Command) -> bool {
        let serving = self.handles().into_iter().find(|handle| handle.serves(who, purpose));
        serving.map(|handle| handle.command(command)).is_some()
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
            FaultKind::ExpireTokens { older_than_ms } => {
                let older_than = Duration::from_millis(older_than_ms);
                self.roster.command_all(&Command::ExpireTokens { older_than });
            }
            _ => {}
        }
        id
    }
}
