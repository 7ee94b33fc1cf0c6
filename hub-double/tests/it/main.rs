//! The hub double from outside: an AMQP client of another make (fe2o3-amqp), raw HTTP, and the library API.

mod admin;
mod client;
mod faults;
mod login;
mod scope;
mod telemetry;
mod twins;
