//! IoT Hub's dialect on top of MQTT: user names, topics, subscriptions, property bags.
//!
//! Owns: the texts that devices and IoT Hub exchange, and what they mean.
//! Invariants: parsers are lenient where real SDKs are sloppy and say so; no input makes one panic.
//! Must not know: packets, sockets, who is authenticated.

pub mod authorisation;
pub mod bag;
pub mod connection_string;
#[doc(hidden)]
pub mod fuzz;
pub mod sas;
pub mod subscriptions;
pub mod topics;
pub mod username;
