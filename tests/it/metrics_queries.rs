//! What watches an IoT Edge gateway finds what it asks for: the stock queries and alert rules, and the parts of IoT Edge that
//! pick metrics by name and label.
//!
//! Each row says whose query it is. The workbooks' own text (Fleet View, Device Details) is not published as a file; they are
//! made of the built-in metrics and labels that Microsoft documents, which are rows here.

use std::collections::BTreeMap;

use rumqttc::mqttbytes::v4::ConnectReturnCode;
use serde_json::json;

use crate::device;
use crate::prometheus::{Family, Sample, parse};
use crate::site::EDGE;
use crate::support::{World, eventually, metrics};

/// A query: the series that it selects, and the labels that it reads or groups by.
struct Query {
    whose: &'static str,
    name: &'static str,
    select: &'static [(&'static str, &'static str)],
    read: &'static [&'static str],
}

const fn query(
    whose: &'static str,
    name: &'static str,
    select: &'static [(&'static str, &'static str)],
    read: &'static [&'static str],
) -> Query {
    Query { whose, name, select, read }
}

/// Azure Monitor's sample queries for the table InsightsMetrics (azure-reference-other,
/// azure-monitor-ref/queries/insightsmetrics.md), which are the alert rules that the portal offers.
const AZURE_MONITOR: &str = "Azure Monitor, alert rule";
/// doc/BuiltInMetrics.md of Azure/iotedge and "Access built-in metrics": what the workbooks are made of.
const BUILT_IN: &str = "built-in metrics, workbooks";
/// edgeAgent's own upload, MetricsWorker.cs: it takes what has ms_telemetry="True" and the 0.9 quantile, and adds up by label.
const EDGE_AGENT: &str = "edgeAgent, MetricsWorker";
/// The metrics collector with TransformForIoTCentral=true flattens these (README of edge-modules/metrics-collector).
const IOT_CENTRAL: &str = "metrics collector, TransformForIoTCentral";

const PICKED: (&str, &str) = ("ms_telemetry", "True");
const P90: (&str, &str) = ("quantile", "0.9");

#[rustfmt::skip]
const QUERIES: &[Query] = &[
    // "Device offline or not sending messages upstream at expected rate": `to` contains upstream; by edge_device, from, to.
    query(AZURE_MONITOR, "edgehub_messages_sent_total", &[("to", "upstream")], &["edge_device", "from", "to"]),
    // "Edge Hub queue size over threshold": the sum by edge_device; reads endpoint.
    query(AZURE_MONITOR, "edgehub_queue_length", &[("endpoint", "iothub")], &["edge_device", "endpoint"]),
    query(BUILT_IN, "edgehub_messages_received_total", &[PICKED], &["route_output", "id"]),
    query(BUILT_IN, "edgehub_messages_sent_total", &[PICKED, ("to_route_input", "")], &["from", "to", "from_route_output", "to_route_input", "priority"]),
    query(BUILT_IN, "edgehub_message_size_bytes", &[("quantile", "0.1")], &["id"]),
    query(BUILT_IN, "edgehub_message_size_bytes", &[("quantile", "0.99")], &["id"]),
    query(BUILT_IN, "edgehub_message_size_bytes_sum", &[], &["id"]),
    query(BUILT_IN, "edgehub_message_size_bytes_count", &[], &["id"]),
    query(BUILT_IN, "edgehub_message_send_duration_seconds", &[("quantile", "0.5")], &["from", "to", "from_route_output", "to_route_input"]),
    query(BUILT_IN, "edgehub_message_process_duration_seconds", &[PICKED, P90], &["from", "to", "priority"]),
    query(BUILT_IN, "edgehub_queue_length", &[PICKED, ("priority", "2000000000")], &["endpoint", "priority"]),
    query(BUILT_IN, "edgehub_messages_dropped_total", &[PICKED, ("reason", "no_route")], &["from", "from_route_output"]),
    query(BUILT_IN, "edgehub_offline_count_total", &[PICKED, ("id", "$edgeHub")], &["id"]),
    query(BUILT_IN, "edgehub_offline_duration_seconds", &[PICKED, ("quantile", "0.99")], &["id"]),
    query(BUILT_IN, "edgehub_operation_retry_total", &[PICKED], &["id", "operation"]),
    query(BUILT_IN, "edgehub_client_connect_failed_total", &[PICKED, ("reason", "not_authenticated")], &["id", "reason"]),
    query(BUILT_IN, "edgehub_client_connect_success_total", &[], &["id"]),
    query(BUILT_IN, "edgehub_client_disconnect_total", &[], &["id"]),
    query(BUILT_IN, "edgehub_connected_clients", &[], &[]),
    query(EDGE_AGENT, "edgehub_messages_received_total", &[PICKED], &["route_output", "id"]),
    query(EDGE_AGENT, "edgehub_messages_sent_total", &[PICKED], &["from", "to", "from_route_output", "to_route_input"]),
    query(EDGE_AGENT, "edgehub_message_process_duration_seconds", &[PICKED, P90], &["from", "to"]),
    query(EDGE_AGENT, "edgehub_queue_length", &[PICKED], &["endpoint"]),
    query(EDGE_AGENT, "edgehub_messages_dropped_total", &[PICKED], &["from", "from_route_output"]),
    query(EDGE_AGENT, "edgehub_client_connect_failed_total", &[PICKED], &["id"]),
    query(IOT_CENTRAL, "edgehub_messages_sent_total", &[], &["edge_device", "instance_number", "from", "from_route_output", "to", "to_route_input", "priority"]),
    query(IOT_CENTRAL, "edgehub_messages_received_total", &[], &["edge_device", "instance_number", "id", "route_output"]),
];

/// Not asked for above, as this run has none of it: `edgehub_messages_unack_total` (a disk that fails), and twins and methods
/// of devices.
fn matching<'s>(families: &'s BTreeMap<String, Family>, query: &Query) -> Vec<&'s Sample> {
    let all = families.values().flat_map(|family| &family.samples);
    all.filter(|sample| sample.name == query.name)
        .filter(|s| {
            query.select.iter().all(|(l, part)| s.labels.get(*l).is_some_and(|v| v.contains(part)))
        })
        .collect()
}

/// As the rule "Device offline or not sending": what went upstream, by edge device.
fn sent_upstream(families: &BTreeMap<String, Family>) -> f64 {
    matching(families, &QUERIES[0]).iter().map(|sample| sample.value).sum()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("head and body").1
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_queries_find_their_series_after_a_day_in_a_gateway_s_life() {
    let mut world = World::new(3).await;
    let routes = json!({"some": "FROM /messages/* WHERE NOT (seq = '1') INTO $upstream"});
    world.set_document(&json!({"schemaVersion": "1.1", "routes": routes,
                               "storeAndForwardConfiguration": {"timeToLiveSecs": 7200}}));
    world.hub.delete_device(&world.device(2).id);
    let gateway = world.gateway().await;
    let fleet = world.fleet_of(0..2, |_| {});
    fleet.progress(20).await;
    let stranger = world.device(2);
    eventually("a stranger is refused", async || {
        let answer = device::connect(&stranger, 60).await;
        answer.is_ok_and(|(_, code)| code == ConnectReturnCode::NotAuthorized)
    })
    .await;
    let before = parse(body(&metrics(&gateway).await));
    world.hub.go_away().await;
    fleet.progress(150).await;
    eventually("the queue is over the alert rule's threshold", async || {
        let families = parse(body(&metrics(&gateway).await));
        matching(&families, &QUERIES[1]).iter().map(|sample| sample.value).sum::<f64>() >= 100.0
    })
    .await;
    world.hub.come_back().await.expect("the ports are still ours");
    let needed = sent_upstream(&before) + 100.0;
    eventually("the backlog drains, and the outage has an end", async || {
        let families = parse(body(&metrics(&gateway).await));
        sent_upstream(&families) > needed
            && families.contains_key("edgehub_offline_duration_seconds")
    })
    .await;
    fleet.finish().await;
    eventually("the devices are gone", async || {
        let families = parse(body(&metrics(&gateway).await));
        families["edgehub_connected_clients"].samples[0].value == 0.0
    })
    .await;
    let families = parse(body(&metrics(&gateway).await));
    for query in QUERIES {
        let found = matching(&families, query);
        assert!(!found.is_empty(), "{}: {} {:?}", query.whose, query.name, query.select);
        for sample in found {
            for label in query.read {
                assert!(
                    sample.labels.contains_key(*label),
                    "{}: {label} of {sample:?}",
                    query.whose
                );
            }
        }
    }
    base_labels(&families);
    gateway.shutdown().await;
    world.end().await;
}

/// Every series says of which hub, edge device and process it is.
fn base_labels(families: &BTreeMap<String, Family>) {
    let all: Vec<&Sample> = families.values().flat_map(|family| &family.samples).collect();
    let instance = &all[0].labels["instance_number"];
    let parts: Vec<usize> = instance.split('-').map(str::len).collect();
    assert_eq!(parts, [8, 4, 4, 4, 12], "a GUID: {instance}");
    for sample in all {
        assert_eq!(sample.labels["edge_device"], EDGE, "{sample:?}");
        assert_eq!(sample.labels["iothub"], "localhost", "{sample:?}");
        assert_eq!(&sample.labels["instance_number"], instance, "{sample:?}");
        assert!(sample.labels.get("ms_telemetry").is_none_or(|mark| mark == "True"), "{sample:?}");
    }
}
