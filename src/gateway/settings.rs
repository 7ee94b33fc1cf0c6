//! From what the user set to what each module takes: the only place where the two meet.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::{DRAIN_TIMEOUT, Problem};
use crate::config::Config;
use crate::front::connection;
use crate::{pump, session, store, upstream};

pub(super) fn of_upstream(config: &Config) -> Result<upstream::Config, Problem> {
    let path = &config.upstream.extra_roots;
    let pem = std::fs::read(path)
        .map_err(|e| Problem::UpstreamRoots { path: path.clone(), reason: e.to_string() })?;
    let (roots, refused) = upstream::tls::roots(Some(&pem));
    for refused in refused {
        warn!("{}: {refused}", path.display());
    }
    let connection = &config.connection;
    let mut upstream = upstream::Config::new(
        connection.host_name.clone(),
        connection.device.clone(),
        Arc::new(connection.key.clone()),
    );
    upstream.roots = roots;
    upstream.dial_host.clone_from(&connection.gateway_host_name);
    upstream.amqp_port = config.upstream.amqp_port;
    upstream.https_port = config.upstream.https_port;
    upstream.operation_timeout = config.upstream.operation_timeout;
    // A year is as good as never, and a sum with it does not overflow.
    let never = Duration::from_secs(365 * 24 * 3600);
    upstream.idle_link_close = config.upstream.idle_link_close.unwrap_or(never);
    upstream.token_ttl = config.upstream.token_ttl;
    upstream.scope_refresh_every = config.scope.every;
    upstream.scope_refresh_gap_min = config.scope.on_demand_every;
    Ok(upstream)
}

pub(super) fn of_pumps(config: &Config) -> pump::Config {
    pump::Config {
        window_messages_max: config.upstream.window_messages as usize,
        stop_grace: DRAIN_TIMEOUT,
        ..pump::Config::default()
    }
}

pub(super) fn of_store(config: &Config) -> store::Config {
    let mut store = store::Config::new(config.storage.join("queues"));
    store.commit_window = config.store.commit_window;
    if let Some(bytes) = config.store.segment_bytes {
        store.segment_bytes_max = bytes;
    }
    store
}

pub(super) fn of_connections(config: &Config) -> connection::Config {
    connection::Config {
        session: session::Limits {
            packet_bytes_max: config.mqtt.packet_bytes_max as usize,
            inflight_max: usize::from(config.mqtt.inflight_max),
            connect_timeout: config.mqtt.connect_timeout,
            keep_alive_max: config.mqtt.keep_alive_max,
            ..session::Limits::default()
        },
        write_timeout: Duration::from_secs(30),
        takeover_wait: DRAIN_TIMEOUT + Duration::from_secs(2),
        drain_timeout: DRAIN_TIMEOUT,
    }
}
