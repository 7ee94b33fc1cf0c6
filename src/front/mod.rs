//! The front end: sockets of devices, one task each.
//!
//! ```text
//!  [listener] -- pass --> TLS handshake (own task, time limit) --> [connection] -- CONNECT --> auth, [roster]
//!      |                      | in turns                               |  PUBLISH -> [ingest] -> routes -> store
//!      '------ [door] <-------'-------- failed, logged in -------------'- receipts -> PUBACK
//!                 '-- [limits]
//! ```
//!
//! Owns: accepted sockets, the connection cap, takeover of a device by its newcomer.
//! Invariants: nothing a peer does (silence, garbage, flood) holds up the accept loop or another device; every refusal
//! is counted under `sphere_gateway_refused_total{stage,reason}`.
//! Must not know: `upstream`, `pump`, where the configuration comes from.

pub mod connection;
mod door;
pub mod ingest;
pub mod kept_sessions;
pub mod limits;
pub mod listener;
pub mod live;
pub mod mailbox;
mod measured;
mod refused;
pub mod roster;
pub mod tls;
mod unfinished;
