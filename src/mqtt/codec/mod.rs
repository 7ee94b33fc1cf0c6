//! The wire form of the control packets.
//!
//! Owns: [`decode`] and [`encode`]. Both are symmetric: every packet that decodes encodes back to the same bytes, but
//! for overlong Remaining Length fields, which the standard lets a sender write and which nobody writes.
//! Must not know: which side of the connection it is on.
//!
//! # What counts against the limit
//!
//! `max_bytes` bounds, for a PUBLISH, topic and payload together; their sum follows from the fixed header alone:
//! Remaining Length less the two bytes of the topic's length and, with QoS 1 and 2, the two of the packet id. For every
//! other packet the whole Remaining Length counts. A packet over the limit is refused as soon as its fixed header (two
//! to five bytes) has arrived; nothing of it needs to be buffered. With the default of 262,144 bytes this is never
//! stricter than the reference, whose decoder counts the four bytes of overhead too.

mod decode;
mod encode;
mod error;
#[cfg(test)]
mod tests;

pub use decode::{announced, decode};
pub use encode::encode;
pub use error::{CodecError, EncodeError};

/// Most filters in one SUBSCRIBE or UNSUBSCRIBE. IoT Hub knows five; a packet of 256 KiB could name 65,536 and would
/// unfold to ten times its size in memory.
pub const FILTERS_MAX: usize = 256;

/// Largest Remaining Length that four bytes can tell (section 2.2.3).
pub const REMAINING_LENGTH_MAX: usize = 268_435_455;

/// Packet type numbers (table 2.1).
mod kind {
    pub(super) const CONNECT: u8 = 1;
    pub(super) const CONNACK: u8 = 2;
    pub(super) const PUBLISH: u8 = 3;
    pub(super) const PUBACK: u8 = 4;
    pub(super) const PUBREC: u8 = 5;
    pub(super) const PUBREL: u8 = 6;
    pub(super) const PUBCOMP: u8 = 7;
    pub(super) const SUBSCRIBE: u8 = 8;
    pub(super) const SUBACK: u8 = 9;
    pub(super) const UNSUBSCRIBE: u8 = 10;
    pub(super) const UNSUBACK: u8 = 11;
    pub(super) const PINGREQ: u8 = 12;
    pub(super) const PINGRESP: u8 = 13;
    pub(super) const DISCONNECT: u8 = 14;
}

/// Connect flags (section 3.1.2.3).
mod connect_flag {
    pub(super) const RESERVED: u8 = 0x01;
    pub(super) const CLEAN_SESSION: u8 = 0x02;
    pub(super) const WILL: u8 = 0x04;
    pub(super) const WILL_QOS_SHIFT: u8 = 3;
    pub(super) const WILL_QOS: u8 = 0x18;
    pub(super) const WILL_RETAIN: u8 = 0x20;
    pub(super) const PASSWORD: u8 = 0x40;
    pub(super) const USER_NAME: u8 = 0x80;
}
