//! Names, labels and text of the metrics, literally.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::clock::{Clock, UnixMillis};
use crate::identity::{ClientName, DeviceId, ModuleId};

/// A clock that stands still until it is moved.
#[derive(Debug)]
struct Still {
    origin: Instant,
    secs: AtomicU64,
}

impl Clock for Still {
    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }

    fn monotonic(&self) -> Instant {
        self.origin + Duration::from_secs(self.secs.load(Ordering::Relaxed))
    }
}

fn fixture() -> (Arc<Metrics>, Arc<Still>) {
    let clock = Arc::new(Still { origin: clock::system().monotonic(), secs: AtomicU64::new(0) });
    let metrics = Metrics::with_instance(
        "hub.net",
        "edge",
        "guid",
        Arc::clone(&clock) as SharedClock,
        IDS_MAX,
    );
    (metrics, clock)
}

fn device(name: &str) -> Identity {
    Identity::vouched(ClientName::Device(DeviceId::parse(name).unwrap()))
}

fn module(name: &str) -> Identity {
    let (edge, module) = (DeviceId::parse("edge").unwrap(), ModuleId::parse(name).unwrap());
    Identity::vouched(ClientName::Module(edge, module))
}

/// The lines of a text that belong to one of `names`, comments left out.
fn lines(text: &str, names: &[&str]) -> Vec<String> {
    let belongs = |line: &&str| names.iter().any(|n| line.starts_with(n));
    text.lines().filter(belongs).map(str::to_owned).collect()
}

const BASE: &str = r#"edge_device="edge",instance_number="guid",iothub="hub.net""#;

#[test]
fn the_series_that_azure_monitor_picks_up_read_as_the_reference_writes_them() {
    let (m, _) = fixture();
    let (d, s) = (device("d1"), Duration::from_secs(2));
    m.message_received(&mut KeptSeries::default(), &d, None, 100);
    m.message_received(&mut KeptSeries::default(), &module("m"), Some("out"), 100);
    m.messages_sent(&d, None, priority_label(10), Duration::from_millis(1), [s].into_iter());
    m.message_dropped("no_route", &d, None);
    m.message_unacked("storage_failure", &d, Some("out"));
    m.set_queue("iothub", priority_label(3), 5, 640);
    m.went_offline("edge/$edgeHub");
    m.came_online("edge/$edgeHub", s);
    m.retried("d1", "telemetry");
    m.connect_failed("who", "thumbprint", true);
    let text = m.render();
    let picked: Vec<&str> = text
        .lines()
        .filter(|l| l.contains("ms_telemetry=\"True\"") && !l.contains("quantile"))
        .collect();
    assert_eq!(
        picked,
        [
            r#"edgehub_client_connect_failed_total{edge_device="edge",id="who",instance_number="guid",iothub="hub.net",ms_telemetry="True",reason="not_authenticated"} 1"#,
            r#"edgehub_message_process_duration_seconds_sum{edge_device="edge",from="d1",instance_number="guid",iothub="hub.net",ms_telemetry="True",priority="2000000000",to="upstream"} 2"#,
            r#"edgehub_message_process_duration_seconds_count{edge_device="edge",from="d1",instance_number="guid",iothub="hub.net",ms_telemetry="True",priority="2000000000",to="upstream"} 1"#,
            r#"edgehub_messages_dropped_total{edge_device="edge",from="d1",from_route_output="",instance_number="guid",iothub="hub.net",ms_telemetry="True",reason="no_route"} 1"#,
            r#"edgehub_messages_received_total{edge_device="edge",id="d1",instance_number="guid",iothub="hub.net",ms_telemetry="True",route_output=""} 1"#,
            r#"edgehub_messages_received_total{edge_device="edge",id="edge/m",instance_number="guid",iothub="hub.net",ms_telemetry="True",route_output="out"} 1"#,
            r#"edgehub_messages_sent_total{edge_device="edge",from="d1",from_route_output="",instance_number="guid",iothub="hub.net",ms_telemetry="True",priority="2000000000",to="upstream",to_route_input=""} 1"#,
            r#"edgehub_messages_unack_total{edge_device="edge",from="d1",from_route_output="out",instance_number="guid",iothub="hub.net",ms_telemetry="True",reason="storage_failure"} 1"#,
            r#"edgehub_offline_count_total{edge_device="edge",id="edge/$edgeHub",instance_number="guid",iothub="hub.net",ms_telemetry="True"} 1"#,
            r#"edgehub_offline_duration_seconds_sum{edge_device="edge",id="edge/$edgeHub",instance_number="guid",iothub="hub.net",ms_telemetry="True"} 2"#,
            r#"edgehub_offline_duration_seconds_count{edge_device="edge",id="edge/$edgeHub",instance_number="guid",iothub="hub.net",ms_telemetry="True"} 1"#,
            r#"edgehub_operation_retry_total{edge_device="edge",id="d1",instance_number="guid",iothub="hub.net",ms_telemetry="True",operation="telemetry"} 1"#,
            r#"edgehub_queue_length{edge_device="edge",endpoint="iothub",instance_number="guid",iothub="hub.net",ms_telemetry="True",priority="3"} 5"#,
        ]
    );
    for (name, kind) in [
        ("edgehub_messages_received_total", "counter"),
        ("edgehub_messages_sent_total", "counter"),
        ("edgehub_message_size_bytes", "summary"),
        ("edgehub_message_send_duration_seconds", "summary"),
        ("edgehub_message_process_duration_seconds", "summary"),
        ("edgehub_queue_length", "gauge"),
        ("edgehub_messages_dropped_total", "counter"),
        ("edgehub_messages_unack_total", "counter"),
        ("edgehub_offline_count_total", "counter"),
        ("edgehub_offline_duration_seconds", "summary"),
        ("edgehub_operation_retry_total", "counter"),
        ("edgehub_client_connect_failed_total", "counter"),
        ("edgehub_connected_clients", "gauge"),
    ] {
        let line = format!("# TYPE {name} {kind}");
        assert!(text.lines().any(|l| l == line), "{line}");
    }
}

#[test]
fn the_other_series() {
    let (m, _) = fixture();
    m.client_connected(&device("a"));
    m.client_connected(&device("b"));
    m.client_disconnected(&device("a"));
    m.refused("tls", "bad_certificate");
    m.counted("takeover", "same_id");
    m.set_upstream_connected(true);
    m.set_gauge("store_bytes", "Bytes on disk", 7.5);
    m.set_gauge("store_bytes", "Bytes on disk", 8.5);
    let text = m.render();
    let mut got = lines(&text, &["edgehub_c", "sphere_gateway_"]);
    let folded = got.extract_if(.., |line| line.starts_with("sphere_gateway_labels_folded_total"));
    assert!(folded.into_iter().all(|line| line.ends_with(" 0")));
    assert_eq!(
        got,
        [
            r#"edgehub_client_connect_success_total{edge_device="edge",id="a",instance_number="guid",iothub="hub.net"} 1"#.to_owned(),
            r#"edgehub_client_connect_success_total{edge_device="edge",id="b",instance_number="guid",iothub="hub.net"} 1"#.to_owned(),
            r#"edgehub_client_disconnect_total{edge_device="edge",id="a",instance_number="guid",iothub="hub.net"} 1"#.to_owned(),
            format!("edgehub_connected_clients{{{BASE}}} 1"),
            r#"sphere_gateway_events_total{edge_device="edge",event="takeover",instance_number="guid",iothub="hub.net",reason="same_id"} 1"#.to_owned(),
            format!(
                r#"sphere_gateway_refused_total{{{BASE},reason="bad_certificate",stage="tls"}} 1"#
            ),
            format!("sphere_gateway_store_bytes{{{BASE}}} 8.5"),
            format!("sphere_gateway_upstream_connected{{{BASE}}} 1"),
        ]
    );
}

#[test]
fn what_the_store_removes_is_counted_by_reason_alone() {
    let (m, _) = fixture();
    m.messages_removed("store_full", 4000);
    m.messages_removed("store_full", 2);
    m.counted_many("dead_letter_dropped", "ring", 3);
    let text = m.render();
    let dropped = lines(&text, &["edgehub_messages_dropped_total"]);
    assert!(dropped[0].contains(r#"from="",from_route_output="""#), "{dropped:?}");
    assert!(dropped[0].contains(r#"reason="store_full""#) && dropped[0].ends_with(" 4002"));
    assert!(lines(&text, &["sphere_gateway_events_total"])[0].ends_with(" 3"));
}

#[test]
fn quantiles_look_back_an_hour_and_then_read_nan() {
    let (m, clock) = fixture();
    m.message_received(&mut KeptSeries::default(), &device("d"), None, 1000);
    let quantile = |m: &Metrics| -> Vec<f64> {
        let text = m.render();
        let lines = lines(&text, &["edgehub_message_size_bytes{"]);
        assert!(lines[0].contains(r#"quantile="0.1""#) && lines[3].contains(r#"quantile="0.99""#));
        lines.iter().map(|l| l.rsplit(' ').next().unwrap().parse().unwrap()).collect()
    };
    let fresh = quantile(&m);
    assert_eq!(fresh.len(), 4);
    assert!(fresh.iter().all(|v| (v - 1000.0).abs() <= 50.1), "{fresh:?}");
    clock.secs.store(3601, Ordering::Relaxed);
    assert!(quantile(&m).iter().all(|v| v.is_nan()));
    let sum = lines(&m.render(), &["edgehub_message_size_bytes_sum"]);
    assert!(sum[0].ends_with(" 1000"), "{sum:?}");
}

#[test]
fn ids_beyond_the_limit_are_counted_together_and_none_is_lost() {
    let (m, _) = fixture();
    for i in 0..IDS_MAX + 5 {
        m.message_received(&mut KeptSeries::default(), &device(&format!("d{i}")), None, 1);
    }
    m.message_received(&mut KeptSeries::default(), &device("d0"), None, 1);
    let text = m.render();
    let got = lines(&text, &["edgehub_messages_received_total"]);
    assert_eq!(got.len(), IDS_MAX + 1);
    let ends = |id: &str, value: &str| {
        got.iter().any(|l| l.contains(&format!("id=\"{id}\",")) && l.ends_with(value))
    };
    assert!(ends("other", " 5") && ends("d0", " 2"));
}

#[test]
fn strangers_cannot_use_up_the_devices_labels() {
    let (m, _) = fixture();
    m.client_connected(&device("known"));
    for i in 0..IDS_MAX + STRANGERS_MAX {
        m.connect_failed(&format!("stranger{i}"), "auth", false);
    }
    m.connect_failed("known", "auth", false);
    m.client_connected(&device("late"));
    let text = m.render();
    assert_eq!(lines(&text, &["edgehub_client_connect_failed_total"]).len(), STRANGERS_MAX + 2);
    assert_eq!(lines(&text, &["edgehub_client_connect_success_total"]).len(), 2);
    assert!(text.contains("id=\"late\""));
}

#[test]
fn a_hundred_thousand_unknown_names_make_a_bounded_scrape_and_are_all_counted() {
    const NAMES: usize = 100_000;
    const REASONS: [&str; 4] = ["not_in_scope", "not_our_child", "no_credentials", "thumbprint"];
    let (m, _) = fixture();
    m.client_connected(&device("d1"));
    let before = m.render().len();
    for i in 0..NAMES {
        // As long as names may be.
        m.connect_failed(&format!("{i:0128}/{i:0128}"), REASONS[i % REASONS.len()], i % 2 == 0);
    }
    let text = m.render();
    let values = |name: &str| -> Vec<u64> {
        lines(&text, &[name])
            .iter()
            .map(|l| l.rsplit(' ').next().unwrap().parse().unwrap())
            .collect()
    };
    for name in ["edgehub_client_connect_failed_total", "sphere_gateway_client_refused_total"] {
        let counts = values(name);
        assert!(counts.len() <= STRANGERS_MAX + REASONS.len(), "{name}: {} series", counts.len());
        assert_eq!(counts.iter().sum::<u64>(), NAMES as u64, "{name}");
    }
    let folded = lines(&text, &["sphere_gateway_labels_folded_total"]);
    let of = |label: &str| folded.iter().find(|l| l.contains(label)).unwrap().as_str();
    assert!(of("stranger").ends_with(&format!(" {}", NAMES - STRANGERS_MAX)), "{folded:?}");
    assert!(of("\"id\"").ends_with(" 0"), "{folded:?}");
    // 408 series of 500 bytes.
    assert!(text.len() - before < 300_000, "{}", text.len() - before);
    // The devices have their places still.
    m.client_connected(&device("late"));
    assert!(m.render().contains("id=\"late\""));
}

#[test]
fn the_places_of_who_is_gone_are_freed_when_all_are_taken() {
    let clock = Arc::new(Still { origin: clock::system().monotonic(), secs: AtomicU64::new(0) });
    let m = Metrics::with_instance("hub.net", "edge", "guid", clock, 3);
    let took = || [Duration::from_secs(1)].into_iter();
    for name in ["a", "b"] {
        m.message_received(&mut KeptSeries::default(), &device(name), None, 1);
        m.messages_sent(&device(name), None, "0", Duration::ZERO, took());
    }
    let is_b = |who: &Identity| *who == device("b");
    assert_eq!(m.free_ids(is_b), 0, "there is room: a series that existed goes on");
    m.went_offline("edge/$edgeHub");
    m.client_connected(&device("c"));
    let text = m.render();
    assert!(text.contains(r#"label="id""#) && text.contains(r#"id="other""#), "{text}");
    assert_eq!(m.free_ids(is_b), 1);
    m.client_connected(&device("c"));
    let text = m.render();
    assert!(!text.contains(r#"id="a""#) && !text.contains(r#"from="a""#), "{text}");
    for own in [r#"id="b""#, r#"from="b""#, r#"id="c""#, r#"id="edge/$edgeHub""#] {
        assert!(text.contains(own), "{own}");
    }
    // It comes back: counted from 0, while nobody else took the place.
    assert_eq!(m.free_ids(|who| *who != device("c")), 1);
    m.message_received(&mut KeptSeries::default(), &device("a"), None, 1);
    let of_a = lines(&m.render(), &["edgehub_messages_received_total"]);
    assert!(of_a.iter().any(|l| l.contains(r#"id="a""#) && l.ends_with(" 1")), "{of_a:?}");
}

#[test]
fn a_busy_id_costs_no_more_of_a_scrape_than_the_limit_of_ids_reckons_with() {
    let (m, _) = fixture();
    let before = m.render().len();
    let who = device(&"a".repeat(64));
    m.client_connected(&who);
    m.client_disconnected(&who);
    m.connect_failed(&who.to_string(), "auth", true);
    m.message_received(&mut KeptSeries::default(), &who, None, 1);
    m.messages_sent(&who, None, "0", Duration::ZERO, [Duration::ZERO].into_iter());
    m.message_dropped("no_route", &who, None);
    m.message_unacked("storage_failure", &who, None);
    m.send_retried(&who);
    // Help and type of 10 families are in it once, 1.5 KB.
    let bytes = m.render().len() - before;
    assert!(bytes < 8_500, "{bytes}");
}

#[test]
fn a_gauge_with_nothing_to_tell_has_no_series() {
    let (m, _) = fixture();
    m.set_gauge_if("store_budget_bytes", "Where the store is full.", None);
    m.set_gauge_if("store_budget_bytes", "Where the store is full.", Some(1.0));
    assert_eq!(lines(&m.render(), &["sphere_gateway_store_budget_bytes"]).len(), 1);
    m.set_gauge_if("store_budget_bytes", "Where the store is full.", None);
    assert!(!m.render().contains("sphere_gateway_store_budget_bytes"));
}

#[test]
fn output_names_are_limited_too() {
    let (m, _) = fixture();
    for i in 0..OUTPUTS_MAX + 7 {
        m.message_received(&mut KeptSeries::default(), &module("m"), Some(&format!("o{i}")), 1);
    }
    let got = lines(&m.render(), &["edgehub_messages_received_total"]);
    assert_eq!(got.len(), OUTPUTS_MAX + 1);
    assert!(got.iter().any(|l| l.contains("route_output=\"other\"") && l.ends_with(" 7")));
}

#[test]
fn label_values_that_only_differ_in_where_they_are_cut_stay_apart() {
    let (m, _) = fixture();
    m.message_dropped("r", &device("ab"), Some("c"));
    m.message_dropped("r", &device("a"), Some("bc"));
    assert_eq!(lines(&m.render(), &["edgehub_messages_dropped_total"]).len(), 2);
}

#[test]
fn gauges_are_refreshed_by_a_scrape_and_a_queue_can_be_forgotten() {
    let (m, _) = fixture();
    m.on_scrape(|m| m.set_queue("iothub", "0", 1, 2));
    m.set_queue("EDGE/m/i", "0", 1, 2);
    m.forget_queue("EDGE/m/i", "0");
    let text = m.render();
    let got = lines(&text, &["edgehub_queue_length", "sphere_gateway_queue_bytes"]);
    assert_eq!(got.len(), 2, "{got:?}");
}

#[test]
fn label_values_are_escaped() {
    let (m, _) = fixture();
    m.connect_failed("a\"b\\c\nd", "auth", false);
    assert!(m.render().contains(r#"id="a\"b\\c\nd""#));
}

#[test]
fn the_instance_number_is_a_guid() {
    let text = guid([0xff; 16]);
    assert_eq!(text, "ffffffff-ffff-4fff-bfff-ffffffffffff");
}

#[test]
fn messages_of_one_send_operation_count_one_by_one() {
    let (m, _) = fixture();
    let process = [1, 2, 3].map(Duration::from_secs).into_iter();
    m.messages_sent(&device("d1"), None, "0", Duration::from_millis(500), process);
    let names = [
        "edgehub_messages_sent_total",
        "edgehub_message_send_duration_seconds_",
        "edgehub_message_process_duration_seconds_",
    ];
    let text = m.render();
    let values: Vec<String> = lines(&text, &names)
        .iter()
        .map(|l| l.rsplit(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(values, ["6", "3", "1.5", "3", "3"], "{text}");
}
