//! rumqttd as a process of its own, started from a configuration file: `rumqttd-peer CONFIG.toml`.
//!
//! Owns nothing: it reads the file as rumqttd's own binary does and runs the broker. A process apart, because its CPU
//! time and its memory are measured. Warnings go to stderr.

use std::path::PathBuf;

use anyhow::Context as _;
use rumqttd::Broker;

fn main() -> anyhow::Result<()> {
    let path = std::env::args_os().nth(1).map(PathBuf::from);
    let path = path.context("say which configuration: rumqttd-peer CONFIG.toml")?;
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let config: rumqttd::Config = toml::from_str(&text)
        .with_context(|| format!("{} is no configuration of rumqttd", path.display()))?;
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("rumqttd=warn").init();
    let mut broker = Broker::new(config);
    broker.start().context("rumqttd does not start")?;
    Ok(())
}
