//! Which metrics there are: names, kinds, labels.
//!
//! Owns: [`Families`], the list, and how each is made and registered. `docs/metrics.md` has the same list in words, and a
//! test that holds the two together. Must not know: when something is counted.

use std::cell::RefCell;
use std::sync::Arc;

use prometheus::Registry;

use super::family::{Cell, Family, Kind, Room, Shape};
use crate::clock::SharedClock;

/// All that always exist.
pub(super) struct Families {
    pub(super) received: Family,
    pub(super) size: Family,
    pub(super) sent: Family,
    pub(super) send_seconds: Family,
    pub(super) process_seconds: Family,
    pub(super) dropped: Family,
    pub(super) unacked: Family,
    pub(super) queue_length: Family,
    pub(super) queue_bytes: Family,
    pub(super) queue_age: Family,
    pub(super) twin_gets: Family,
    pub(super) twin_get_seconds: Family,
    pub(super) reported: Family,
    pub(super) reported_seconds: Family,
    pub(super) offline: Family,
    pub(super) offline_seconds: Family,
    pub(super) retries: Family,
    pub(super) connected: Family,
    pub(super) disconnected: Family,
    pub(super) connect_failed: Family,
    pub(super) clients: Family,
    pub(super) upstream_connected: Family,
    pub(super) client_refused: Family,
    pub(super) refused: Family,
    pub(super) events: Family,
    pub(super) methods: Family,
    pub(super) method_seconds: Family,
}

/// What a new family needs.
pub(super) struct Maker<'m> {
    pub(super) registry: &'m Registry,
    pub(super) base: &'m [(&'static str, String)],
    pub(super) clock: &'m SharedClock,
    /// Most series of a family.
    pub(super) series_max: usize,
    /// Where it is counted that a family had no room for a series; not for the family that counts this.
    pub(super) folded: Option<Arc<Cell>>,
    /// All that were made.
    pub(super) made: &'m RefCell<Vec<Family>>,
}

impl Maker<'_> {
    /// Makes and registers a family; `telemetry` = marked for the Azure Monitor collector.
    pub(super) fn make(
        &self,
        name: &str,
        help: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
        telemetry: bool,
    ) -> Family {
        let mut constant = self.base.to_vec();
        if telemetry {
            constant.push(("ms_telemetry", "True".to_owned()));
        }
        let shape = Shape { name: name.to_owned(), help, kind, labels };
        let room = Room { series_max: self.series_max, folded: self.folded.clone() };
        let family = Family::new(shape, constant, Arc::clone(self.clock), room);
        self.made.borrow_mut().push(family.clone());
        let registered = self.registry.register(Box::new(family.clone()));
        debug_assert!(registered.is_ok(), "{name}: {registered:?}");
        family
    }

    /// A series of the reference that the Azure Monitor collector picks up.
    fn picked(
        &self,
        name: &str,
        help: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
    ) -> Family {
        self.make(name, help, kind, labels, true)
    }

    /// Any other series.
    fn plain(
        &self,
        name: &str,
        help: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
    ) -> Family {
        self.make(name, help, kind, labels, false)
    }
}

impl Families {
    #[rustfmt::skip]
    pub(super) fn new(m: &Maker<'_>) -> Self {
        use Kind::{Counter, Gauge, Summary};
        Self {
            received: m.picked("edgehub_messages_received_total", "Messages received from clients", Counter, &["route_output", "id"]),
            size: m.plain("edgehub_message_size_bytes", "Body size of received messages", Summary, &["id"]),
            sent: m.picked("edgehub_messages_sent_total", "Messages that the endpoint has taken", Counter, &["from", "to", "from_route_output", "to_route_input", "priority"]),
            send_seconds: m.plain("edgehub_message_send_duration_seconds", "Time taken by a send operation", Summary, &["from", "to", "from_route_output", "to_route_input"]),
            process_seconds: m.picked("edgehub_message_process_duration_seconds", "Time from stored to delivered", Summary, &["from", "to", "priority"]),
            dropped: m.picked("edgehub_messages_dropped_total", "Messages dropped on purpose, by reason", Counter, &["reason", "from", "from_route_output"]),
            unacked: m.picked("edgehub_messages_unack_total", "Messages not acknowledged, by reason", Counter, &["reason", "from", "from_route_output"]),
            queue_length: m.picked("edgehub_queue_length", "Messages that wait in a queue", Gauge, &["endpoint", "priority"]),
            queue_bytes: m.plain("sphere_gateway_queue_bytes", "Bytes that wait in a queue", Gauge, &["endpoint", "priority"]),
            queue_age: m.plain("sphere_gateway_queue_oldest_message_age_seconds", "How long the oldest message of a queue waits, in the store's own time", Gauge, &["endpoint", "priority"]),
            twin_gets: m.picked("edgehub_gettwin_total", "Twins asked for", Counter, &["source", "id"]),
            twin_get_seconds: m.plain("edgehub_gettwin_duration_seconds", "Time taken by asking for a twin", Summary, &["source", "id"]),
            reported: m.picked("edgehub_reported_properties_total", "Updates of reported properties", Counter, &["target", "id"]),
            reported_seconds: m.plain("edgehub_reported_properties_update_duration_seconds", "Time taken by an update of reported properties", Summary, &["target", "id"]),
            offline: m.picked("edgehub_offline_count_total", "Times that the upstream went away", Counter, &["id"]),
            offline_seconds: m.picked("edgehub_offline_duration_seconds", "How long the upstream was away", Summary, &["id"]),
            retries: m.picked("edgehub_operation_retry_total", "Operations tried again", Counter, &["id", "operation"]),
            connected: m.plain("edgehub_client_connect_success_total", "Clients connected", Counter, &["id"]),
            disconnected: m.plain("edgehub_client_disconnect_total", "Clients gone", Counter, &["id"]),
            connect_failed: m.picked("edgehub_client_connect_failed_total", "Clients refused at connect, by reason", Counter, &["id", "reason"]),
            clients: m.plain("edgehub_connected_clients", "Clients that are connected now", Gauge, &[]),
            upstream_connected: m.plain("sphere_gateway_upstream_connected", "1 while the hub is reached", Gauge, &[]),
            client_refused: m.plain("sphere_gateway_client_refused_total", "Clients refused at connect, by the exact reason", Counter, &["id", "reason"]),
            refused: m.plain("sphere_gateway_refused_total", "Peers and packets refused, by stage and reason", Counter, &["stage", "reason"]),
            methods: m.picked("edgehub_direct_methods_total", "Direct methods called", Counter, &["from", "to"]),
            method_seconds: m.plain("edgehub_direct_method_duration_seconds", "Time from a direct method's call to its answer", Summary, &["from", "to"]),
            events: m.plain("sphere_gateway_events_total", "Other counted events", Counter, &["event", "reason"]),
        }
    }
}
