//! From what the user set to what each module takes: the only place where the two meet.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::daemon::{DAEMON_BUNDLE, FromDaemon};
use super::{DRAIN_TIMEOUT, Problem};
use crate::auth;
use crate::config::{self, Config, Credentials};
use crate::front::{connection, limits, tls};
use crate::iothub::sas::Signer;
use crate::metrics::Metrics;
use crate::pump::deadletter::DeadLetterQueue;
use crate::relay::twins;
use crate::{pump, session, store, upstream};

/// `daemon` is there if the configuration says that the IoT Edge daemon is asked.
pub(super) fn of_upstream(
    config: &Config,
    daemon: Option<&FromDaemon>,
) -> Result<upstream::Config, Problem> {
    let (roots, refused) = upstream_roots(config, daemon.map(FromDaemon::bundle_pem).as_deref())?;
    for refused in refused {
        warn!("{refused}");
    }
    let signer: Arc<dyn Signer> = match (&config.connection.credentials, daemon) {
        (_, Some(daemon)) => Arc::clone(&daemon.workload) as _,
        (Credentials::Key(key), None) => Arc::new(key.clone()),
        (Credentials::Daemon(_), None) => {
            unreachable!("who reads the configuration asks the daemon first")
        }
    };
    Ok(upstream_with(config, signer, roots))
}

/// Who may have signed the hub's certificate, and in words what was left out.
pub(super) fn upstream_roots(
    config: &Config,
    daemon_bundle: Option<&[u8]>,
) -> Result<(rustls::RootCertStore, Vec<String>), Problem> {
    let (pem, source) = match (&config.upstream.extra_roots, daemon_bundle) {
        (Some(path), _) => {
            let failed = |e: std::io::Error| Problem::UpstreamRoots {
                path: path.clone(),
                reason: e.to_string(),
            };
            (std::fs::read(path).map_err(failed)?, path.display().to_string())
        }
        (None, Some(pem)) => (pem.to_owned(), DAEMON_BUNDLE.to_owned()),
        (None, None) => (Vec::new(), String::new()),
    };
    let (roots, refused) =
        upstream::tls::roots(Some(&pem).filter(|pem| !pem.is_empty()).map(Vec::as_slice));
    Ok((roots, refused.iter().map(|refused| format!("{source}: {refused}")).collect()))
}

pub(super) fn upstream_with(
    config: &Config,
    signer: Arc<dyn Signer>,
    roots: rustls::RootCertStore,
) -> upstream::Config {
    let connection = &config.connection;
    let mut upstream =
        upstream::Config::new(connection.host_name.clone(), connection.device.clone(), signer);
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
    upstream
}

/// What the TLS handshake asks clients for.
pub(super) fn asks(config: &Config) -> tls::Asks {
    match config.auth.certificates {
        true => tls::Asks::Certificates,
        false => tls::Asks::Nothing,
    }
}

pub(super) fn of_auth(config: &Config) -> auth::Policy {
    auth::Policy {
        hosts: vec![config.connection.host_name.clone(), config.gateway_host_name.clone()],
        clock_skew: config.auth.clock_skew,
        certificates: config.auth.certificates,
        expired_leaf_grace: config.auth.expired_leaf_grace,
        renewal_time: config.auth.renewal_time,
        away_after: config.upstream.operation_timeout,
    }
}

pub(super) fn of_pumps(config: &Config) -> pump::Config {
    pump::Config {
        window_messages_max: config.upstream.window_messages as usize,
        stop_grace: DRAIN_TIMEOUT,
        ..pump::Config::default()
    }
}

/// A module has a smaller window than the hub: it is near, and there may be many inputs.
/// A module that is slow or hangs is so for all senders: side queues would only write everything twice. So a delivery may take as
/// long as the module may take for each of its messages, and who fails is given a few tries: it goes on from where it was after
/// its back-off, and is parked early only when it has failed twice and nobody else's messages fit into the window beside it.
pub(super) fn of_input_pumps(config: &Config) -> pump::Config {
    const BATCH: u32 = 32;
    let ack_timeout = config.relay.ack_timeout;
    pump::Config {
        window_messages_max: 256,
        // Every input of each priority has its own, and as much again that is read ahead: 100 inputs are 50 MiB.
        window_bytes_max: 256 << 10,
        batch_messages_max: BATCH as usize,
        pending_max: ack_timeout * BATCH,
        park_after: ack_timeout * 4,
        much_is_part: 1,
        park_after_failures: 2,
        lanes_max: 64,
        stop_grace: DRAIN_TIMEOUT,
        ..pump::Config::default()
    }
}

pub(super) fn of_twins(config: &Config) -> twins::Config {
    twins::Config {
        push_every: config.relay.push_every,
        sync_at_least: config.relay.sync_at_least,
        read_within: config.upstream.operation_timeout,
        offline_get: config.relay.offline_get,
        ..twins::Config::default()
    }
}

/// `document_bytes_max` is what the desired document allows.
pub(super) fn of_store(config: &Config, document_bytes_max: Option<u64>) -> store::Config {
    let set = &config.store;
    let mut store = store::Config::new(config.storage.join(config::QUEUES_FOLDER));
    store.commit_window = set.commit_window;
    if let Some(bytes) = set.segment_bytes {
        store.segment_bytes_max = bytes;
    }
    store.limits = limits(set, document_bytes_max);
    store.hold_when_full = set.hold;
    store.rings =
        vec![store::Ring { queue: DeadLetterQueue::id(), bytes_max: set.dead_letter_bytes }];
    store
}

/// Where the setting and the document both name a size, the smaller one counts.
fn limits(set: &config::Store, document_bytes_max: Option<u64>) -> store::Limits {
    store::Limits {
        budget_bytes: set.bytes_max.into_iter().chain(document_bytes_max).min(),
        min_free_bytes: set.min_free_bytes,
        when_full: set.when_full,
    }
}

/// What the store does not do as it is set, with what to do; `volume_bytes` is the size of its volume, if that is known.
pub(super) fn of_store_warnings(
    set: &config::Store,
    store: &store::Config,
    volume_bytes: Option<u64>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some((asked, total)) = set.min_free_bytes.zip(volume_bytes)
        && asked >= total
    {
        warnings.push(format!(
            "storeSettings__minFreeBytes is {asked}, the whole volume has {total}: every message is refused; write less"
        ));
    }
    let used = store.segment_bytes();
    if let Some(asked) = set.segment_bytes.filter(|asked| *asked > used) {
        warnings.push(format!(
            "storeSettings__segmentBytes is {asked}: the store's size allows {used}, which is used; write that or less, or \
             raise the size"
        ));
    }
    for ring in &store.rings {
        let (asked, used) = (ring.bytes_max, store.ring_bytes(ring));
        if used < asked {
            warnings.push(format!(
                "storeSettings__deadLetterBytes is {asked}: the store's size allows {used}, which is used; write that or less, \
                 or raise the size"
            ));
        }
    }
    warnings
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

pub(super) fn metrics(config: &Config) -> Arc<Metrics> {
    let (hub, edge) = (&config.connection.host_name, config.connection.device.as_str());
    Metrics::with_ids_max(hub, edge, config.metrics.ids_max as usize)
}

/// Handshakes leave one core to those who are in, where there is more than one.
pub(super) fn of_limits(set: &config::Mqtt) -> limits::Config {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    limits::Config {
        failures_per_min: set.failures_per_min,
        ban_max: set.ban_max,
        log_ins_per_min: set.log_ins_per_min,
        packets_per_sec: set.packets_per_sec,
        handshake_threads: cores.saturating_sub(1).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> config::Store {
        config::Store {
            commit_window: Duration::ZERO,
            segment_bytes: None,
            bytes_max: None,
            min_free_bytes: Some(1),
            when_full: store::WhenFull::DropOldest,
            hold: Duration::ZERO,
            live_first: false,
            dead_letter_bytes: 1,
        }
    }

    #[test]
    fn what_the_store_does_not_do_as_it_is_set_is_said() {
        const MIB: u64 = 1 << 20;
        let check = |budget, segment, free, letters, parts: &[&str]| {
            let (segment_bytes, min_free_bytes) = (segment, Some(free));
            let set = config::Store { segment_bytes, min_free_bytes, ..set() };
            let mut store = store::Config::new("/s");
            store.segment_bytes_max = segment.unwrap_or(store.segment_bytes_max);
            store.limits.budget_bytes = budget;
            store.rings = vec![store::Ring { queue: DeadLetterQueue::id(), bytes_max: letters }];
            let warnings = of_store_warnings(&set, &store, Some(1000 * MIB));
            assert_eq!(warnings.len(), parts.len(), "{warnings:?}");
            for (warning, part) in warnings.iter().zip(parts) {
                assert!(warning.starts_with(part) && warning.contains("write"), "{warning}");
            }
        };
        check(None, Some(64 * MIB), MIB, 512 * MIB, &[]);
        check(None, None, 1000 * MIB, MIB, &["storeSettings__minFreeBytes is 1048576000"]);
        // Its own default is not what somebody set.
        check(Some(16 * MIB), None, MIB, MIB, &[]);
        check(
            Some(16 * MIB),
            Some(4 * MIB),
            MIB,
            16 * MIB,
            &[
                "storeSettings__segmentBytes is 4194304",
                "storeSettings__deadLetterBytes is 16777216",
            ],
        );
    }

    #[test]
    fn of_two_sizes_of_the_store_the_smaller_counts() {
        for (setting, document, expected) in [
            (None, None, None),
            (Some(8), None, Some(8)),
            (None, Some(9), Some(9)),
            (Some(8), Some(9), Some(8)),
            (Some(9), Some(8), Some(8)),
        ] {
            let set = config::Store { bytes_max: setting, ..set() };
            let limits = limits(&set, document);
            let when_full = store::WhenFull::DropOldest;
            let min_free_bytes = Some(1);
            let expected = store::Limits { budget_bytes: expected, min_free_bytes, when_full };
            assert_eq!(limits, expected, "{setting:?} {document:?}");
        }
    }
}
