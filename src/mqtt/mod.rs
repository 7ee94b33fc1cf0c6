//! MQTT 3.1.1: bytes to packets and back.
//!
//! Owns: the fourteen control packets ([`packet`]), their wire form ([`codec`]) and topic filters ([`filter`]).
//! Clause numbers in brackets, like \[MQTT-2.2.2-2\], are those of the OASIS standard of 29 October 2014.
//! Invariants: a decoded packet obeys every rule of the standard that one packet alone can show; no input makes the
//! decoder panic, and none makes it hold more than the limit it was given.
//! Must not know: Azure, connections, time, tokio.

pub mod codec;
pub mod filter;
#[doc(hidden)]
pub mod fuzz;
pub mod packet;
