//! What the service side does with twins and methods: in the library, and over the admin API.
//!
//! Invariant: when a change is answered, word of it is on its way to the identity. Must not know: AMQP.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::amqp::link::METHOD_REQUESTS;
use crate::hub::{Command, Hub};
use crate::methods::{MethodAnswer, MethodError};
use crate::registry::Principal;
use crate::twins::Refused;
use crate::{Hands, HubDouble};

/// The service's own default.
const METHOD_TIMEOUT_SECS: u64 = 30;

impl Hub {
    fn principal(&self, device: &str, module: Option<&str>) -> Option<Principal> {
        self.registry.find(device, module).map(|entry| entry.principal)
    }

    fn desire(
        &self,
        who: &Principal,
        patch: &Value,
        replace: bool,
        if_match: Option<&str>,
    ) -> Result<Value, Refused> {
        let told = self.twins.desire(who, patch, replace, if_match)?;
        if !self.faults.drops_desired(&who.device) {
            let patch = told.to_string().into();
            self.roster.command_all(&Command::Desired { who: who.clone(), patch });
        }
        Ok(self.twins.of_service(who))
    }

    async fn call(
        &self,
        who: &Principal,
        name: &str,
        payload: &Value,
        limit: Duration,
    ) -> Result<MethodAnswer, MethodError> {
        let (id, answered) = self.methods.begin(who);
        let payload = match payload {
            Value::Null => Vec::new(),
            payload => payload.to_string().into_bytes(),
        };
        let command =
            Command::Method { who: who.clone(), id, name: name.into(), payload: payload.into() };
        let called = self.roster.command_one(who, METHOD_REQUESTS, command);
        let answer = match called {
            false => Err(MethodError::NotOnline),
            true => match tokio::time::timeout(limit, answered).await {
                Ok(Ok(answer)) => Ok(answer),
                _ => Err(MethodError::Timeout),
            },
        };
        self.methods.forget(&id);
        answer
    }
}

impl HubDouble {
    /// The twin of an identity as the service side sees it; `None` when nobody has that id.
    pub fn twin(&self, device: &str, module: Option<&str>) -> Option<Value> {
        let who = self.hub().principal(device, module)?;
        Some(self.hub().twins.of_service(&who))
    }

    /// Merges `patch` into the desired properties of an identity, and tells it.
    ///
    /// # Panics
    /// Nobody has that id, or the patch breaks a limit: a test's own mistake.
    pub fn patch_desired(&self, device: &str, module: Option<&str>, patch: &Value) {
        self.set_desired(device, module, patch, false);
    }

    /// Replaces the desired properties of an identity, and tells it the difference.
    ///
    /// # Panics
    /// As [`HubDouble::patch_desired`].
    pub fn put_desired(&self, device: &str, module: Option<&str>, desired: &Value) {
        self.set_desired(device, module, desired, true);
    }

    fn set_desired(&self, device: &str, module: Option<&str>, patch: &Value, replace: bool) {
        let who = self.hub().principal(device, module).expect("a registered identity");
        self.hub().desire(&who, patch, replace, None).expect("a patch within the limits");
    }

    /// Calls a direct method and waits for its answer, at most `limit`.
    ///
    /// # Errors
    /// There is none.
    pub async fn call_method(
        &self,
        device: &str,
        module: Option<&str>,
        name: &str,
        payload: &Value,
        limit: Duration,
    ) -> Result<MethodAnswer, MethodError> {
        let who = self.hub().principal(device, module).ok_or(MethodError::NotOnline)?;
        self.hub().call(&who, name, payload, limit).await
    }
}

/// The routes of twins and methods.
pub(crate) fn routes() -> Router<Arc<Hands>> {
    let twin = || get(get_twin).patch(patch_twin).put(put_twin);
    Router::new()
        .route("/twins/{id}", twin())
        .route("/twins/{id}/modules/{module}", twin())
        .route("/twins/{id}/methods", post(call))
        .route("/twins/{id}/modules/{module}/methods", post(call))
}

#[derive(Deserialize)]
struct Who {
    id: String,
    module: Option<String>,
}

impl Who {
    fn find(&self, hands: &Hands) -> Result<Principal, (StatusCode, String)> {
        let nobody = || (StatusCode::NOT_FOUND, "ErrorCode:DeviceNotFound;".to_owned());
        hands.hub.principal(&self.id, self.module.as_deref()).ok_or_else(nobody)
    }
}

type Answer = Result<Json<Value>, (StatusCode, String)>;

async fn get_twin(State(hands): State<Arc<Hands>>, Path(who): Path<Who>) -> Answer {
    Ok(Json(hands.hub.twins.of_service(&who.find(&hands)?)))
}

async fn patch_twin(
    State(hands): State<Arc<Hands>>,
    Path(who): Path<Who>,
    headers: HeaderMap,
    Json(twin): Json<Value>,
) -> Answer {
    change(&hands, &who, &headers, &twin, false)
}

async fn put_twin(
    State(hands): State<Arc<Hands>>,
    Path(who): Path<Who>,
    headers: HeaderMap,
    Json(twin): Json<Value>,
) -> Answer {
    change(&hands, &who, &headers, &twin, true)
}

fn change(hands: &Hands, who: &Who, headers: &HeaderMap, twin: &Value, replace: bool) -> Answer {
    let who = who.find(hands)?;
    let if_match = headers.get("if-match").and_then(|etag| etag.to_str().ok());
    let desired = twin.pointer("/properties/desired").cloned().unwrap_or_else(|| json!({}));
    let changed = hands.hub.desire(&who, &desired, replace, if_match);
    changed.map(Json).map_err(|refused| {
        let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_REQUEST);
        (status, refused.words)
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    method_name: String,
    #[serde(default)]
    payload: Value,
    response_timeout_in_seconds: Option<u64>,
}

async fn call(
    State(hands): State<Arc<Hands>>,
    Path(who): Path<Who>,
    Json(call): Json<Call>,
) -> Answer {
    let who = who.find(&hands)?;
    let limit =
        Duration::from_secs(call.response_timeout_in_seconds.unwrap_or(METHOD_TIMEOUT_SECS));
    match hands.hub.call(&who, &call.method_name, &call.payload, limit).await {
        Ok(answer) => Ok(Json(json!({"status": answer.status, "payload": answer.payload}))),
        Err(e @ MethodError::NotOnline) => Err((StatusCode::NOT_FOUND, e.to_string())),
        Err(e @ MethodError::Timeout) => Err((StatusCode::GATEWAY_TIMEOUT, e.to_string())),
    }
}
