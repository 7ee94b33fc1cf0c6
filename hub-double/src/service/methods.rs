//! Direct methods as the service side calls them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Failure, Who};
use crate::faults::CallFault;
use crate::hub::{Command, Hub, METHOD_REQUESTS};
use crate::methods::{MethodAnswer, MethodError};
use crate::registry::Principal;
use crate::{Hands, HubDouble};

/// The service's own default.
const RESPONSE_SECS: u64 = 30;
/// The service's longest, seconds.
const TIMEOUT_SECS_MAX: u64 = 300;
/// Name and payload: the service's 128 KB.
const CALL_BYTES_MAX: usize = 128 * 1024;
/// How often it is looked whether somebody who is waited for has come.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A call, and how long it may take.
struct Call<'a> {
    name: &'a str,
    payload: &'a Value,
    response_limit: Duration,
    connect_limit: Duration,
}

impl Hub {
    async fn call(&self, who: &Principal, call: Call<'_>) -> Result<MethodAnswer, MethodError> {
        let (id, answered) = self.methods.begin(who);
        let answer = self.deliver_call(who, id, &call, answered).await;
        self.methods.forget(&id);
        answer
    }

    async fn deliver_call(
        &self,
        who: &Principal,
        id: [u8; 16],
        call: &Call<'_>,
        answered: tokio::sync::oneshot::Receiver<MethodAnswer>,
    ) -> Result<MethodAnswer, MethodError> {
        let payload = match call.payload {
            Value::Null => Vec::new(),
            payload => payload.to_string().into_bytes(),
        };
        let (name, payload) = (call.name.into(), payload.into());
        let command = Command::Method { who: who.clone(), id, name, payload };
        let connected = async {
            while !self.roster.serves(who, METHOD_REQUESTS) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(call.connect_limit, connected).await.is_err() {
            return Err(MethodError::NotOnline);
        }
        let answered = async {
            match self.faults.on_call(&who.device) {
                Some(CallFault::Lost) => {}
                Some(CallFault::Late(delay)) => {
                    tokio::time::sleep(delay).await;
                    self.roster.command_one(who, METHOD_REQUESTS, command);
                }
                // Who went just now is not online.
                None if !self.roster.command_one(who, METHOD_REQUESTS, command) => {
                    return Err(MethodError::NotOnline);
                }
                None => {}
            }
            answered.await.map_err(|_| MethodError::Timeout)
        };
        tokio::time::timeout(call.response_limit, answered)
            .await
            .unwrap_or(Err(MethodError::Timeout))
    }
}

impl HubDouble {
    /// Calls a direct method and waits for its answer, at most `limit`. Who is not connected is not waited for.
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
        let (response_limit, connect_limit) = (limit, Duration::ZERO);
        self.hub().call(&who, Call { name, payload, response_limit, connect_limit }).await
    }

    /// The same, and waits for the identity to be there, at most `connect_limit`.
    ///
    /// # Errors
    /// As [`HubDouble::call_method`].
    pub async fn call_method_when_connected(
        &self,
        (device, module): (&str, Option<&str>),
        name: &str,
        payload: &Value,
        response_limit: Duration,
        connect_limit: Duration,
    ) -> Result<MethodAnswer, MethodError> {
        let who = self.hub().principal(device, module).ok_or(MethodError::NotOnline)?;
        self.hub().call(&who, Call { name, payload, response_limit, connect_limit }).await
    }
}

pub(super) fn routes() -> Router<Arc<Hands>> {
    Router::new()
        .route("/twins/{id}/methods", post(call))
        .route("/twins/{id}/modules/{module}/methods", post(call))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    method_name: String,
    #[serde(default)]
    payload: Value,
    response_timeout_in_seconds: Option<u64>,
    connect_timeout_in_seconds: Option<u64>,
}

impl Request {
    fn check(&self) -> Result<(), Failure> {
        let name = &self.method_name;
        let taken = |c: char| c.is_ascii_graphic() && !"$()<>@,;:\\\"/[]?={}".contains(c);
        if name.is_empty() || !name.chars().all(taken) {
            return Err(Failure::bad("ErrorCode:ArgumentInvalid;methodName"));
        }
        if name.len() + self.payload.to_string().len() > CALL_BYTES_MAX {
            let message = "ErrorCode:MessageTooLarge;a call has at most 128 KB".to_owned();
            return Err(Failure { status: StatusCode::PAYLOAD_TOO_LARGE, message });
        }
        let timeouts = [self.response_timeout_in_seconds, self.connect_timeout_in_seconds];
        match timeouts.into_iter().flatten().all(|secs| secs <= TIMEOUT_SECS_MAX) {
            true => Ok(()),
            false => Err(Failure::bad("ErrorCode:ArgumentInvalid;a time-out has at most 300 s")),
        }
    }
}

async fn call(
    State(hands): State<Arc<Hands>>,
    Who(who): Who,
    Json(request): Json<Request>,
) -> Result<Json<Value>, Failure> {
    request.check()?;
    let secs = |given: Option<u64>, or| Duration::from_secs(given.unwrap_or(or));
    let call = Call {
        name: &request.method_name,
        payload: &request.payload,
        response_limit: secs(request.response_timeout_in_seconds, RESPONSE_SECS),
        connect_limit: secs(request.connect_timeout_in_seconds, 0),
    };
    let answer = hands.hub.call(&who, call).await.map_err(|error| {
        let (status, code) = match error {
            MethodError::NotOnline => (StatusCode::NOT_FOUND, 404_103),
            MethodError::Timeout => (StatusCode::GATEWAY_TIMEOUT, 504_101),
        };
        // As the service words it: JSON within JSON.
        let timestamp = crate::clock::iso8601(hands.hub.clock.wall_ms());
        let words = error.to_string();
        let message = json!({"errorCode": code, "message": words, "timestampUtc": timestamp});
        Failure { status, message: message.to_string() }
    })?;
    Ok(Json(json!({"status": answer.status, "payload": answer.payload})))
}
