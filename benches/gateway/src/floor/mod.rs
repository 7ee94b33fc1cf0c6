//! What the machine can do at best: the ground on which the figures stand.
//!
//! Each floor is what is left of our work when everything but one step is taken away: the disk's sync, the handshake, the
//! record layer, or (the [`null_broker`]) all of the network and none of the keeping.

mod disk;
pub(crate) mod null_broker;
mod tls;

pub(crate) use self::disk::fdatasync;
#[cfg(test)]
pub(crate) use self::tls::{Check, server_config};
pub(crate) use self::tls::{bare_handshakes_per_core, handshakes_per_core, tls_bytes_per_second};
