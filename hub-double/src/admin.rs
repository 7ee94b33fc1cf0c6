//! The admin HTTP API on loopback: what a service-side user sees and does (fact sheet G).
//!
//! ```text
//! GET    /healthz                          200 ok
//! GET    /messages?device=&since=&limit=   {"messages":[..],"nextSince":n}
//! GET    /messages/stream?device=          SSE, one message an event
//! GET    /counts    GET /connections
//! GET    /devices   GET|PUT|DELETE /devices/{id}   PUT|DELETE /devices/{id}/modules/{module}
//! GET|PATCH|PUT /twins/{id}[/modules/{module}]     {"properties":{"desired":{..}}}; If-Match: an ETag
//! POST   /twins/{id}[/modules/{module}]/methods    {"methodName":..,"payload":..,"responseTimeoutInSeconds":30}
//! POST|GET /devices/{id}/c2d               {"body":..,"properties":{..},"messageId":..,"ack":"full","expiresInSeconds":60}
//! DELETE /devices/{id}/commands            empties the queue of cloud-to-device messages
//! GET    /feedback                         {"batches":[..],"open":[..]}
//! GET|POST|DELETE /faults   DELETE /faults/{id}
//! POST   /away      POST /back             stop listening and drop all connections; listen again
//! POST   /clock     {"advance_ms":n}       wall time jumps forward
//! ```
//! Invariant: no key leaves here. Must not know: AMQP.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};
use tokio_stream::wrappers::BroadcastStream;

use crate::Hands;
use crate::faults::Fault;
use crate::log::Received;
use crate::registry::{DeviceSpec, ModuleSpec};

/// Messages of one answer when the request names no limit.
const LIMIT_DEFAULT: usize = 1000;

/// The routes of the admin port.
pub(crate) fn router(hands: Arc<Hands>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/messages", get(messages))
        .route("/messages/stream", get(stream))
        .route("/counts", get(counts))
        .route("/connections", get(connections))
        .route("/devices", get(devices))
        .route("/devices/{id}", put(put_device).get(get_device).delete(delete_device))
        .route("/devices/{id}/modules/{module}", put(put_module).delete(delete_module))
        .route("/faults", post(post_fault).get(get_faults).delete(clear_faults))
        .route("/faults/{id}", delete(clear_fault))
        .route("/away", post(away))
        .route("/back", post(back))
        .route("/clock", post(clock))
        .merge(crate::service::routes())
        .with_state(hands)
}

type Hub = State<Arc<Hands>>;
type Failure = (StatusCode, String);

#[derive(Deserialize)]
struct MessagesQuery {
    device: Option<String>,
    #[serde(default)]
    since: u64,
    limit: Option<usize>,
}

async fn messages(State(hands): Hub, Query(q): Query<MessagesQuery>) -> Json<Value> {
    let limit = q.limit.unwrap_or(LIMIT_DEFAULT);
    let found = hands.hub.log.messages(q.device.as_deref(), q.since, limit);
    let next = found.last().map_or(q.since, |m| m.seq + 1);
    let found: Vec<&Received> = found.iter().map(Arc::as_ref).collect();
    Json(json!({"messages": found, "nextSince": next}))
}

#[derive(Deserialize)]
struct StreamQuery {
    device: Option<String>,
}

/// Messages as they come. A reader that is too slow misses some and is told how many.
async fn stream(
    State(hands): Hub,
    Query(q): Query<StreamQuery>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = BroadcastStream::new(hands.hub.log.follow()).filter_map(move |item| {
        let event = match item {
            Ok(m) if q.device.as_ref().is_none_or(|d| m.device_id.eq_ignore_ascii_case(d)) => {
                let data = serde_json::to_string(m.as_ref()).unwrap_or_default();
                Some(Ok(Event::default().id(m.seq.to_string()).data(data)))
            }
            Ok(_) => None,
            Err(lagged) => Some(Ok(Event::default().event("skipped").data(lagged.to_string()))),
        };
        std::future::ready(event)
    });
    Sse::new(events)
}

async fn counts(State(hands): Hub) -> Json<crate::Counts> {
    Json(hands.hub.log.counts())
}

async fn connections(State(hands): Hub) -> Json<Vec<crate::ConnectionInfo>> {
    Json(hands.hub.roster.show())
}

async fn devices(State(hands): Hub) -> Json<Vec<DeviceSpec>> {
    Json(hands.hub.registry.read(|state| state.devices.values().cloned().collect()))
}

async fn put_device(
    State(hands): Hub,
    Path(id): Path<String>,
    Json(mut spec): Json<DeviceSpec>,
) -> Json<DeviceSpec> {
    spec.device_id = id;
    Json(hands.put_device(spec))
}

async fn get_device(
    State(hands): Hub,
    Path(id): Path<String>,
) -> Result<Json<DeviceSpec>, StatusCode> {
    hands.hub.registry.device(&id).map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn delete_device(State(hands): Hub, Path(id): Path<String>) -> StatusCode {
    if hands.delete_device(&id) { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

async fn put_module(
    State(hands): Hub,
    Path((device, module)): Path<(String, String)>,
    Json(mut spec): Json<ModuleSpec>,
) -> Result<Json<ModuleSpec>, StatusCode> {
    (spec.device_id, spec.module_id) = (device, module);
    hands.put_module(spec).map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn delete_module(
    State(hands): Hub,
    Path((device, module)): Path<(String, String)>,
) -> StatusCode {
    let found = hands.delete_module(&device, &module);
    if found { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

async fn post_fault(State(hands): Hub, Json(fault): Json<Fault>) -> (StatusCode, Json<Value>) {
    let id = hands.hub.fault(fault);
    (StatusCode::CREATED, Json(json!({ "id": id })))
}

async fn get_faults(State(hands): Hub) -> Json<Vec<Value>> {
    let shown = |(id, fault): (u64, Fault)| json!({"id": id, "fault": fault});
    Json(hands.hub.faults.list().into_iter().map(shown).collect())
}

async fn clear_faults(State(hands): Hub) -> StatusCode {
    hands.hub.faults.clear();
    StatusCode::NO_CONTENT
}

async fn clear_fault(State(hands): Hub, Path(id): Path<u64>) -> StatusCode {
    let found = hands.hub.faults.clear_one(id);
    if found { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

async fn away(State(hands): Hub) -> StatusCode {
    hands.go_away().await;
    StatusCode::NO_CONTENT
}

async fn back(State(hands): Hub) -> Result<StatusCode, Failure> {
    hands.come_back().await.map(|()| StatusCode::NO_CONTENT).map_err(failure)
}

fn failure(error: std::io::Error) -> Failure {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

#[derive(Deserialize)]
struct ClockRequest {
    advance_ms: u64,
}

async fn clock(State(hands): Hub, Json(request): Json<ClockRequest>) -> StatusCode {
    hands.hub.clock.advance(std::time::Duration::from_millis(request.advance_ms));
    hands.hub.c2d_on_time();
    StatusCode::NO_CONTENT
}

impl Serialize for Received {
    /// The shape of fact sheet G; a body that is not UTF-8 comes in base64.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (body, encoding) = match std::str::from_utf8(&self.body) {
            Ok(text) => (text.to_owned(), "utf-8"),
            Err(_) => (STANDARD.encode(&self.body), "base64"),
        };
        json!({
            "seq": self.seq,
            "enqueuedTime": crate::clock::iso8601(self.enqueued_time),
            "deviceId": self.device_id,
            "moduleId": self.module_id,
            "systemProperties": self.system_properties,
            "properties": self.application_properties,
            "annotations": self.annotations.as_ref(),
            "body": body,
            "bodyEncoding": encoding,
            "connection": self.connection_no,
            "batch": self.batch_no,
            "duplicate": self.duplicate,
            "reordered": self.reordered,
        })
        .serialize(serializer)
    }
}
