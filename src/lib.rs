//! sphere-gateway: the transparent IoT Edge gateway that keeps what it has acknowledged.
//!
//! This page is the map. Data flows from top to bottom; the modules are declared in that order.
//!
//! ```text
//!  device ==TLS==> front::listener -permit-> front::connection (one task per device)
//!                                              |  mqtt: bytes -> packets
//!                                              |  session: packets -> what to do (no socket, no clock)
//!                                              |  auth: certificate + user name -> Identity
//!                                              |  iothub: topic + property bag -> Message
//!                                              |  route: Message -> queues
//!                                              v
//!                                            store (one OS thread: write, fdatasync)
//!                                              |              \
//!                                              |               `-> Durable -> Session::on_durable -> PUBACK
//!                                              v
//!                                            pump (one task per queue, a lane per sender) --> relay::inputs --> module
//!                                              v
//!                                            upstream (one AMQP connection, links per device) ==TLS==> IoT Hub
//!
//!  device <--PUBLISH-- front::connection <--[front::mailbox]--> relay <--[upstream::downlinks]--> IoT Hub
//!                                                                |  twins: kept, answered, pushed   methods   c2d
//!                                                                `-> cabinet (one small file an identity)
//! ```
//!
//! Where a PUBACK is decided: [`session::Session::on_durable`] is the only place that releases one for a routed
//! message, and it takes a [`store::Durable`], which only the store's writer can make, after `fdatasync` returned.
//! Where a reported patch is answered: [`relay::twins`], once its file is on disk.
//!
//! Both ways: [`relay`] knows who is connected and what each is subscribed to; [`front::kept_sessions`] keeps the subscriptions.
//! Slow plane: [`desired`] (routes from the `$edgeHub` document, a file or what [`upstream::twin`] brings), [`auth::scope`] (who
//! may connect), [`edged`] (the IoT Edge daemon: signatures, the server's certificate, swapped in place), [`admin`] (metrics,
//! health). [`gateway`] is the only module that knows everyone.

// A Raspberry Pi 4 has neither: the first handshake would be an illegal instruction, since `ring` asks the processor only
// for what the compiler was not told. `-C target-cpu=cortex-a72` tells it so, wrongly for a Pi.
#[cfg(all(
    target_arch = "aarch64",
    target_os = "linux",
    any(target_feature = "aes", target_feature = "sha2")
))]
compile_error!(
    "built for processors with AES and SHA-2 instructions, which a Raspberry Pi 4 lacks: build for the generic target, or add \
     -C target-feature=-aes,-sha2"
);

// The words: no tokio, no sockets.
mod cabinet;
pub mod clock;
pub mod deliver;
pub mod identity;
mod kept_file;
pub mod message;
pub mod metrics;

// Bytes and dialect.
pub mod iothub;
pub mod mqtt;

// What is ours: who, what, where to, and keeping it.
pub mod auth;
pub mod route;
pub mod session;
pub mod store;

// Tasks and sockets.
pub mod front;
pub mod pump;
pub mod relay;
pub mod upstream;

// The slow plane and the assembly.
pub mod admin;
pub mod certs;
pub mod command;
pub mod config;
pub mod desired;
pub mod edged;
pub mod gateway;
pub mod log;
