//! The hub double from outside: clients of another make (fe2o3-amqp, rumqttc), raw HTTP, and the library API.

mod admin;
mod both_protocols;
mod c2d;
mod client;
mod faults;
mod login;
mod mqtt;
mod mqtt_client;
mod mqtt_ways;
mod scope;
mod telemetry;
mod twins;
