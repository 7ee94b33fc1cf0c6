//! What the service side does with cloud-to-device messages and their feedback: in the library, and over the admin API.
//!
//! Must not know: how messages reach a device.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Failure, Who};
use crate::c2d::{Ack, C2dMessage, C2dRecord};
use crate::feedback::FeedbackRecord;
use crate::twins::Refused;
use crate::{Hands, HubDouble};

impl HubDouble {
    /// Puts a message into the queue of a device; gives its message-id.
    ///
    /// # Errors
    /// As the service: 404 for a device that is not registered, 413 above 64 KB, 403 when 50 messages wait.
    pub fn send_c2d(&self, device: &str, message: C2dMessage) -> Result<String, Refused> {
        self.hub().send_c2d(device, message).map(|(_, id)| id)
    }

    /// The cloud-to-device messages of a device, in order: those that wait and the last 1,000 that are settled.
    pub fn c2d(&self, device: &str) -> Vec<C2dRecord> {
        self.hub().list_c2d(device)
    }

    /// Waits until the messages of a device are as `wanted`; gives them. Put a time limit around it.
    pub async fn wait_for_c2d(
        &self,
        device: &str,
        wanted: impl Fn(&[C2dRecord]) -> bool,
    ) -> Vec<C2dRecord> {
        let mut changes = self.hub().c2d.changes();
        loop {
            changes.mark_unchanged();
            let records = self.c2d(device);
            if wanted(&records) || changes.changed().await.is_err() {
                return records;
            }
        }
    }

    /// Empties the queue of a device; gives how many messages it held.
    pub fn purge_c2d(&self, device: &str) -> usize {
        self.hub().purge_c2d(device)
    }

    /// All feedback so far, in order, whether its batch is closed or not.
    pub fn feedback(&self) -> Vec<FeedbackRecord> {
        let (batches, open) = self.hub().feedback.list();
        batches.into_iter().flat_map(|batch| batch.records).chain(open).collect()
    }

    /// Waits until there are `n` records of feedback since the start. Put a time limit around it.
    pub async fn wait_for_feedback(&self, n: u64) -> Vec<FeedbackRecord> {
        let mut total = self.hub().feedback.total();
        // The sender lives as long as `self`.
        let _ = total.wait_for(|total| *total >= n).await;
        self.feedback()
    }
}

/// The routes of cloud-to-device messages.
pub(super) fn routes() -> Router<Arc<Hands>> {
    Router::new()
        .route("/devices/{id}/c2d", post(send).get(list))
        .route("/devices/{id}/commands", delete(purge))
        .route("/feedback", get(feedback))
}

/// A message as the admin API takes it; only the body is needed. A body that is no text is sent as JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sending {
    #[serde(default)]
    body: Value,
    #[serde(default)]
    body_encoding: BodyEncoding,
    message_id: Option<String>,
    correlation_id: Option<String>,
    user_id: Option<String>,
    content_type: Option<String>,
    content_encoding: Option<String>,
    /// RFC 3339.
    expiry_time_utc: Option<String>,
    /// Seconds from now, instead of a time.
    expires_in_seconds: Option<i64>,
    #[serde(default)]
    ack: Ack,
    #[serde(default)]
    properties: Map<String, Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum BodyEncoding {
    #[default]
    Utf8,
    Base64,
}

impl Sending {
    fn message(self, now_ms: i64) -> Result<C2dMessage, Failure> {
        let body = match (self.body, self.body_encoding) {
            (Value::Null, _) => Vec::new(),
            (Value::String(text), BodyEncoding::Utf8) => text.into_bytes(),
            (Value::String(text), BodyEncoding::Base64) => {
                STANDARD.decode(text).map_err(|_| Failure::bad("the body is not base64"))?
            }
            (json, _) => json.to_string().into_bytes(),
        };
        let text = |(name, value)| match value {
            Value::String(text) => (name, text),
            other => (name, other.to_string()),
        };
        let from_now = |seconds: i64| now_ms.saturating_add(seconds.saturating_mul(1000));
        let expiry = match self.expiry_time_utc.map(|text| text.parse::<jiff::Timestamp>()) {
            Some(Ok(at)) => Some(at.as_millisecond()),
            Some(Err(_)) => return Err(Failure::bad("expiryTimeUtc is no time")),
            None => None,
        };
        Ok(C2dMessage {
            message_id: self.message_id,
            correlation_id: self.correlation_id,
            user_id: self.user_id,
            content_type: self.content_type,
            content_encoding: self.content_encoding,
            expiry: expiry.or(self.expires_in_seconds.map(from_now)),
            ack: self.ack,
            properties: self.properties.into_iter().map(text).collect(),
            body: body.into(),
        })
    }
}

async fn send(
    State(hands): State<Arc<Hands>>,
    Path(id): Path<String>,
    Json(sending): Json<Sending>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let message = sending.message(hands.hub.clock.wall_ms())?;
    let (sequence, id) = hands.hub.send_c2d(&id, message)?;
    let body = json!({"messageId": id, "sequenceNumber": sequence});
    Ok((StatusCode::CREATED, Json(body)))
}

async fn list(State(hands): State<Arc<Hands>>, Who(who): Who) -> Json<Value> {
    Json(json!({"messages": hands.hub.list_c2d(&who.device)}))
}

/// As the service's `Purge Command Queue`.
async fn purge(State(hands): State<Arc<Hands>>, Who(who): Who) -> Json<Value> {
    let purged = hands.hub.purge_c2d(&who.device);
    Json(json!({"deviceId": &*who.device, "totalMessagesPurged": purged}))
}

async fn feedback(State(hands): State<Arc<Hands>>) -> Json<Value> {
    let (batches, open) = hands.hub.feedback.list();
    Json(json!({"batches": batches, "open": open}))
}
