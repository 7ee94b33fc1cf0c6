//! MQTT 3.1.1 as IoT Hub speaks it to devices and modules that connect directly (fact sheet A1 to A10). The codec is a
//! library's (rumqttc), and not the gateway's.
//!
//! ```text
//!  (crate::driver: bytes in and out, timers, commands)
//!    conn       packets -> state -> packets; no IO
//!      login        CONNECT: user name, token or certificate; what it is refused with
//!        certificate  what TLS takes, and what thumbprints and CAs make of it
//!      inbound      telemetry into the log; twin operations; answers of methods
//!      deliver      to the client: desired properties, methods, cloud-to-device
//!      filters      what may be subscribed, and who did
//!      topics, bag  names and property bags
//! ```

pub(crate) mod bag;
pub(crate) mod certificate;
pub(crate) mod conn;
mod deliver;
pub(crate) mod filters;
mod inbound;
mod login;
mod topics;
