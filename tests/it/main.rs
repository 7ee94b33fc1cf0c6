//! Integration tests: the whole gateway against the hub double, a file per behaviour.

#[path = "../../examples/quickstart/device.rs"]
mod device;
#[path = "../../examples/quickstart/kill.rs"]
mod kills;
#[path = "../../examples/quickstart/site.rs"]
mod site;

#[path = "../../examples/durability/readme.rs"]
mod quoted;

mod architecture;
mod attack;
mod both_ways;
mod bundle;
mod certs;
mod check;
mod client;
mod closed_lists;
mod commands;
mod configuration;
mod daemon;
mod der;
mod disk;
mod expiry;
mod frontend;
mod grace;
mod happy;
mod health;
mod hostile;
mod inspect;
mod kill;
mod live_first;
mod log_format;
mod manifest;
mod maximal;
mod metrics_docs;
mod metrics_queries;
mod outage;
mod outcomes;
mod process;
mod prometheus;
mod ran;
mod readme;
mod refusals;
mod routes;
mod routes_check;
mod scope;
mod sessions;
mod startup;
mod support;
mod tokens;
mod twin;
mod volume;
mod walkthrough;
