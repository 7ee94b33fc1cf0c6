//! AMQP 1.0 as IoT Hub speaks it, written for this double alone.
//!
//! ```text
//!  (crate::driver: bytes in and out, timers, commands)
//!    connection  protocol headers, SASL, open/begin/end/close, heartbeats: bytes -> state -> bytes; no IO
//!      attach, link, settle   who may hold a link; flow and transfer; telemetry into the log and outcomes back
//!        cbs         put-token and what a link's identity may do
//!        outgoing    messages to the peer: credit, frames, those that wait
//!        c2d         cloud-to-device links: locks out, outcomes back
//!        twin, method   links of twins and methods: requests and answers
//!        message     sections, batches, properties
//!        skim        lean mode: the same bytes walked for nothing but the bodies; transfer headers read without allocation
//!      frame, value  framing and the type system
//! ```

pub(crate) mod attach;
pub(crate) mod c2d;
pub(crate) mod cbs;
pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod method;
pub(crate) mod outgoing;
pub(crate) mod settle;
pub(crate) mod skim;
pub(crate) mod twin;
pub(crate) mod value;
