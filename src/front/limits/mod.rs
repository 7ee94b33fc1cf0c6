//! How much of this gateway one address or one identity may take before others would notice.
//!
//! ```text
//!  accept --> [pressure], then [conduct]: is the address banned? --> [strangers]: is there room, and who makes it?
//!                ^ failed, admitted                      | first byte, TLS (in turns), CONNECT
//!                '---------------------------------------+--> [log_ins]: does the identity come too often?
//!                          refused, though a CA vouches: [vouched] --'--> admitted: [bucket::Pace] of its packets
//! ```
//!
//! Owns: [`Config`] and the six machines. They are pure: time is handed in, verdicts come out; [`super::door`] drives them.
//! Must not know: sockets, the runtime, MQTT.
//!
//! # What an honest site must not feel
//! A site may sit behind one router (or a container network that shows all devices as one address): 1,000 devices come back
//! from one address within a second after an outage. So nothing here bounds how many connections or log-ins *succeed* from an
//! address; there are bounds for what fails, for who has not logged in yet (only when there is no room left), and for one
//! identity that comes again and again. Nor is an
//! address ever turned away as a whole: see [`conduct`]. Loopback and container networks are not exempt: an address proves
//! nothing, and whoever succeeds is never banned.
//!
//! # Napkin
//! A full handshake costs 3 to 8 ms of a core of a Raspberry Pi 4 (P-256: one signature of ours, one of theirs checked).
//! 1,000 devices on three of its cores: 1 to 3 s. An address without a success has, while the gateway is pressed, 120 failures,
//! then 10 a ban of up to 60 s, and a quarter of the turns: three quarters of a core. Handshakes run on all cores but one, so
//! however many addresses there are, one is left for those that are in. What is no ClientHello costs 20 us: 1,000 a second
//! are 2 % of a core.
//! Memory: 4,096 addresses of 160 bytes, 4,096 identities of 250 bytes, and as many
//! devices that are refused: 2.5 MiB. A connection that has said nothing costs
//! its task and socket, 2 KiB; its TLS state (10 to 64 KiB) is made with its first byte. Maximal packets: what has come of packets in
//! part is 16 MiB of clients and 2 MiB of strangers in all, and 20 KiB a connection ([`super::unfinished`]); beside the store's
//! budget a client has one whole packet and 64 KiB on their way: 320 KiB, while the disk does not keep up.

pub(super) mod bucket;
pub(super) mod conduct;
pub(super) mod log_ins;
pub(super) mod pressure;
pub(crate) mod source;
pub(super) mod strangers;
pub(super) mod vouched;

use std::time::Duration;

pub(super) use self::source::Source;

/// What one address or identity may take. 0 = no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Handshakes and log-ins of one address that may fail in a minute.
    pub failures_per_min: u32,
    /// Longest time for which an address that only fails is held back under pressure. Zero = never.
    pub ban_max: Duration,
    /// Log-ins of one identity in a minute, after the first 30.
    pub log_ins_per_min: u32,
    /// Packets of one client in a second. What is above waits in its socket.
    pub packets_per_sec: u32,
    /// Threads that may compute handshakes at a time, at least 1.
    pub handshake_threads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            failures_per_min: 120,
            ban_max: Duration::from_secs(60),
            log_ins_per_min: 12,
            packets_per_sec: 0,
            handshake_threads: 1,
        }
    }
}
