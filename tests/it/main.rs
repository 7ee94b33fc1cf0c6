//! Integration tests: the whole gateway against the hub double, a file per behaviour.

#[path = "../../examples/quickstart/device.rs"]
mod device;
#[path = "../../examples/quickstart/site.rs"]
mod site;

mod architecture;
mod client;
mod frontend;
mod happy;
mod hostile;
mod kill;
mod outage;
mod outcomes;
mod startup;
mod support;
