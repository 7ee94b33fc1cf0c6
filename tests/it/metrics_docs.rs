//! `docs/metrics.md` is what a gateway exposes, and the other way round; the administrator's warnings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sphere_gateway::clock::{self, Clock, SharedClock, UnixMillis};
use sphere_gateway::gateway::Gateway;
use sphere_gateway::metrics::Metrics;

use crate::prometheus::parse;
use crate::support::{World, eventually, get, metrics};

/// `edgehub.md` section 10: all names of the reference.
const REFERENCE: [&str; 21] = [
    "edgehub_messages_received_total",
    "edgehub_messages_sent_total",
    "edgehub_message_size_bytes",
    "edgehub_message_send_duration_seconds",
    "edgehub_message_process_duration_seconds",
    "edgehub_queue_length",
    "edgehub_messages_dropped_total",
    "edgehub_messages_unack_total",
    "edgehub_gettwin_total",
    "edgehub_reported_properties_total",
    "edgehub_direct_methods_total",
    "edgehub_offline_count_total",
    "edgehub_offline_duration_seconds",
    "edgehub_operation_retry_total",
    "edgehub_client_connect_success_total",
    "edgehub_client_disconnect_total",
    "edgehub_client_connect_failed_total",
    "edgehub_connected_clients",
    "edgehub_gettwin_duration_seconds",
    "edgehub_reported_properties_update_duration_seconds",
    "edgehub_direct_method_duration_seconds",
];

const PAGE: &str = include_str!("../../docs/metrics.md");

/// Type with mark, labels.
type Row = (String, BTreeSet<String>);

/// What stands between back-ticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The page's tables of metrics.
fn documented() -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for line in PAGE.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, meaning, _] = cells[..] else { continue };
        let Some(name) = quoted(name).next() else { continue };
        assert!(!meaning.is_empty(), "{line}");
        let row = (kind.to_owned(), quoted(labels).map(str::to_owned).collect());
        assert!(rows.insert(name.to_owned(), row).is_none(), "{name} is there twice");
    }
    rows
}

/// The page's table of events.
fn documented_events() -> BTreeSet<String> {
    let (_, table) = PAGE.split_once("## Events").expect("the part is there");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.flat_map(|row| {
        let (cell, _) = row.split_once(" | ").expect("two columns");
        format!("`{cell}").split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    })
    .collect()
}

/// The sources without their tests.
fn sources(folder: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path: PathBuf = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("tests") && !path.ends_with("metrics") {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            into.push(text.split("#[cfg(test)]\nmod tests {").next().expect("a part").to_owned());
        }
    }
}

/// The text literals that are the first argument of one of `calls` anywhere in the program.
fn named_in_sources(calls: &[&str]) -> BTreeSet<String> {
    let mut texts = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    let mut names = BTreeSet::new();
    for text in &texts {
        for (at, call) in calls.iter().flat_map(|call| text.match_indices(call)) {
            let argument = text[at + call.len()..].trim_start();
            if let Some(name) = argument.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

#[test]
fn the_page_lists_what_the_program_can_expose_and_nothing_else() {
    let mut known: BTreeMap<String, Row> = BTreeMap::new();
    for metric in Metrics::new("hub", "edge").described() {
        let mark = if metric.telemetry { ", T" } else { "" };
        let labels = metric.labels.iter().map(|label| (*label).to_owned()).collect();
        known.insert(metric.name, (format!("{}{mark}", metric.kind), labels));
    }
    for name in named_in_sources(&["gauge(", "gauge_if("]) {
        known.insert(format!("sphere_gateway_{name}"), ("gauge".to_owned(), BTreeSet::new()));
    }
    assert!(known.len() > 40, "{known:?}");
    let documented = documented();
    for (name, row) in &known {
        assert_eq!(documented.get(name), Some(row), "{name}: docs/metrics.md is not the program");
    }
    for name in documented.keys() {
        assert!(known.contains_key(name), "{name} is in docs/metrics.md alone");
    }
}

#[test]
fn the_page_lists_each_event() {
    assert_eq!(documented_events(), named_in_sources(&[".counted(", ".counted_many("]));
}

#[test]
fn each_name_of_the_reference_is_there_or_said_to_be_missing() {
    // Nothing is missing: the paragraph comes back when something is.
    let missing = PAGE.split_once("Not there,").and_then(|(_, after)| after.split("\n\n").next());
    let missing: BTreeSet<&str> = missing.into_iter().flat_map(quoted).collect();
    let documented = documented();
    for name in REFERENCE {
        assert!(documented.contains_key(name) ^ missing.contains(name), "{name}");
    }
    let ours = documented.keys().map(String::as_str);
    for name in ours.filter(|name| name.starts_with("edgehub_")).chain(missing) {
        assert!(REFERENCE.contains(&name), "{name} is no name of the reference");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_gateway_exposes_what_the_page_says() {
    let world = World::new(1).await;
    let gateway = world.gateway().await;
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    fleet.finish().await;
    eventually("the sampler has shown the store", async || {
        metrics(&gateway).await.contains("sphere_gateway_store_free_bytes{")
    })
    .await;
    let answer = metrics(&gateway).await;
    let families = parse(answer.split_once("\r\n\r\n").expect("head and body").1);
    let documented = documented();
    for (name, family) in &families {
        let (kind, labels) = documented.get(name).unwrap_or_else(|| panic!("{name} is not on it"));
        let mut wanted = labels.clone();
        wanted.extend(["iothub", "edge_device", "instance_number"].map(str::to_owned));
        if kind.ends_with(", T") {
            wanted.insert("ms_telemetry".to_owned());
        }
        assert_eq!((family.kind.as_str(), family.labels()), (kind.trim_end_matches(", T"), wanted));
    }
    for name in ["scope_age_seconds", "scope_entries", "server_certificate_expires_seconds"] {
        let family = &families[&format!("sphere_gateway_{name}")];
        assert!(family.samples[0].value >= 0.0, "{name}");
    }
    gateway.shutdown().await;
    world.end().await;
}

/// A clock that is ahead.
struct Ahead(SharedClock, Duration);

impl Clock for Ahead {
    fn wall(&self) -> UnixMillis {
        self.0.wall().plus(self.1)
    }

    fn monotonic(&self) -> Instant {
        self.0.monotonic()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_warns_of_a_server_certificate_that_ends_soon_and_stays_good() {
    // The site's certificates are good for 30 days.
    for (days, words) in [(0, None), (25, Some("ends on"))] {
        let world = World::new(1).await;
        let ahead = Duration::from_secs(days * 86_400);
        let clock = Arc::new(Ahead(clock::system(), ahead));
        let gateway = Gateway::start(world.configuration(), clock).await.expect("it starts");
        let answer = get(&gateway, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let warned = answer.contains("the server certificate");
        assert_eq!(warned, words.is_some(), "{days} days ahead: {answer}");
        assert!(words.is_none_or(|words| answer.contains(words)), "{answer}");
        let text = metrics(&gateway).await;
        let name = "sphere_gateway_server_certificate_expires_seconds";
        let left = crate::support::series(&text, name, &[]) / 86_400.0;
        let wanted = 30.0 - days as f64;
        assert!((left - wanted).abs() < 0.1, "{left} days");
        gateway.shutdown().await;
        world.end().await;
    }
}
