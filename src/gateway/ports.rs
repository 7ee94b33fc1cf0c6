//! The ports, bound before anything runs: a start that cannot listen leaves nothing behind.
//!
//! Must not know: who is served on them.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tracing::warn;

use super::StartError;
use crate::config::{self, Config};

/// What is listened on.
pub(super) struct Ports {
    pub(super) mqtt: TcpListener,
    pub(super) mqtt_addr: SocketAddr,
    /// Without metrics it may be missing: then nobody scrapes, and devices are served all the same.
    pub(super) admin: Option<TcpListener>,
}

impl Ports {
    pub(super) async fn bind(config: &Config) -> Result<Self, StartError> {
        let mqtt = bind(&config.mqtt.bind).await?;
        let mqtt_addr = mqtt.local_addr().map_err(listen_error(&config.mqtt.bind))?;
        let admin = match config.metrics.enabled {
            true => Some(bind(&config.metrics.bind).await?),
            false => without_metrics(&config.metrics).await,
        };
        Ok(Self { mqtt, mqtt_addr, admin })
    }
}

/// For health checks and commands on this machine.
async fn without_metrics(metrics: &config::MetricsListener) -> Option<TcpListener> {
    let address = metrics.asked()?;
    match TcpListener::bind(address).await {
        Ok(listener) => Some(listener),
        Err(e) => {
            warn!(
                "cannot listen on {address} for the health check: {e}; the container will be called unhealthy: set \
                 metrics__listener__port to a free port"
            );
            None
        }
    }
}

async fn bind(bind: &config::Bind) -> Result<TcpListener, StartError> {
    let mut last = None;
    for address in bind.candidates() {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(source) => last = Some(StartError::Listen { address, source }),
        }
    }
    Err(last.expect("there is always a candidate"))
}

fn listen_error(bind: &config::Bind) -> impl FnOnce(io::Error) -> StartError {
    let address = bind.candidates()[0];
    move |source| StartError::Listen { address, source }
}
