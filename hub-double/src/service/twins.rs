//! Twins as the service side reads and changes them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Failure, Who};
use crate::hub::{Command, Hub};
use crate::registry::Principal;
use crate::twins::{Change, Refused};
use crate::{Hands, HubDouble};

impl Hub {
    fn change_twin(&self, who: &Principal, change: Change<'_>) -> Result<(), Refused> {
        let told = self.twins.change(who, change)?;
        if let Some(patch) = told
            && !self.faults.drops_desired(&who.device)
        {
            let patch = patch.to_string().into();
            self.roster.command_all(&Command::Desired { who: who.clone(), patch });
        }
        Ok(())
    }

    /// The whole document: the twin, and what the registry says of the identity.
    fn twin_document(&self, who: &Principal) -> Value {
        let mut shown = self.twins.of_service(who, true);
        let Some(device) = self.registry.device(&who.device) else { return shown };
        let connected = self.roster.knows(who);
        shown["connectionState"] = if connected { "Connected" } else { "Disconnected" }.into();
        if who.module.is_none() {
            let waiting = self.list_c2d(&who.device).iter().filter(|r| r.outcome.is_none()).count();
            shown["status"] = json!(device.status);
            shown["authenticationType"] = json!(device.auth_type);
            shown["capabilities"] = json!({"iotEdge": device.iot_edge});
            shown["cloudToDeviceMessageCount"] = waiting.into();
        }
        shown
    }
}

impl HubDouble {
    /// The twin of an identity as the service side sees it, but without `$metadata`; `None` when nobody has that id.
    pub fn twin(&self, device: &str, module: Option<&str>) -> Option<Value> {
        let who = self.hub().principal(device, module)?;
        Some(self.hub().twins.of_service(&who, false))
    }

    /// Waits until the twin of an identity is as `wanted`; gives it, as [`HubDouble::twin`] does. Put a time limit around
    /// it.
    ///
    /// # Panics
    /// Nobody has that id: a test's own mistake.
    pub async fn wait_for_twin(
        &self,
        device: &str,
        module: Option<&str>,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut changes = self.hub().twins.changes();
        loop {
            changes.mark_unchanged();
            let twin = self.twin(device, module).expect("a registered identity");
            if wanted(&twin) || changes.changed().await.is_err() {
                return twin;
            }
        }
    }

    /// Merges `patch` into the desired properties of an identity, and tells it.
    ///
    /// # Panics
    /// Nobody has that id, or the patch breaks a limit: a test's own mistake.
    pub fn patch_desired(&self, device: &str, module: Option<&str>, patch: &Value) {
        self.set_desired(device, module, patch, false);
    }

    /// Replaces the desired properties of an identity, and tells it the difference. Its tags are emptied.
    ///
    /// # Panics
    /// As [`HubDouble::patch_desired`].
    pub fn put_desired(&self, device: &str, module: Option<&str>, desired: &Value) {
        self.set_desired(device, module, desired, true);
    }

    fn set_desired(&self, device: &str, module: Option<&str>, patch: &Value, replace: bool) {
        let who = self.hub().principal(device, module).expect("a registered identity");
        let change = Change { desired: Some(patch), replace, ..Change::default() };
        self.hub().change_twin(&who, change).expect("a patch within the limits");
    }
}

pub(super) fn routes() -> Router<Arc<Hands>> {
    let twin = || get(get_twin).patch(patch_twin).put(put_twin);
    Router::new().route("/twins/{id}", twin()).route("/twins/{id}/modules/{module}", twin())
}

async fn get_twin(State(hands): State<Arc<Hands>>, Who(who): Who) -> Response {
    answer(&hands, &who)
}

async fn patch_twin(
    State(hands): State<Arc<Hands>>,
    Who(who): Who,
    headers: HeaderMap,
    Json(twin): Json<Value>,
) -> Result<Response, Failure> {
    change(&hands, &who, &headers, &twin, false)
}

async fn put_twin(
    State(hands): State<Arc<Hands>>,
    Who(who): Who,
    headers: HeaderMap,
    Json(twin): Json<Value>,
) -> Result<Response, Failure> {
    change(&hands, &who, &headers, &twin, true)
}

/// Other parts of the document than tags and desired properties are ignored, so that a document that was read can be put
/// back. `If-Match` guards the change.
fn change(
    hands: &Hands,
    who: &Principal,
    headers: &HeaderMap,
    twin: &Value,
    replace: bool,
) -> Result<Response, Failure> {
    let if_match = headers.get(header::IF_MATCH).and_then(|etag| etag.to_str().ok());
    let change = Change {
        tags: twin.get("tags"),
        desired: twin.pointer("/properties/desired"),
        replace,
        if_match,
    };
    hands.hub.change_twin(who, change)?;
    Ok(answer(hands, who))
}

fn answer(hands: &Hands, who: &Principal) -> Response {
    let document = hands.hub.twin_document(who);
    let etag = document["etag"].as_str().unwrap_or_default();
    let etag = HeaderValue::from_str(&format!("\"{etag}\""));
    let mut response = Json(document).into_response();
    if let Ok(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}
