//! What the service side does with twins, methods and messages to devices: in the library, and over the admin API.
//!
//! Invariants: when a change is answered, word of it is on its way to the identity; a request that is refused is answered
//! with the service's error body. Must not know: AMQP, MQTT.

mod c2d;
mod methods;
mod twins;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::Hands;
use crate::hub::Hub;
use crate::registry::Principal;
use crate::twins::Refused;

impl Hub {
    /// Who has these ids.
    pub(crate) fn principal(&self, device: &str, module: Option<&str>) -> Option<Principal> {
        self.registry.find(device, module).map(|entry| entry.principal)
    }
}

/// The routes of twins, methods and messages to devices.
pub(crate) fn routes() -> Router<Arc<Hands>> {
    Router::new().merge(twins::routes()).merge(methods::routes()).merge(c2d::routes())
}

/// The error body of the service: `{"Message":..,"ExceptionMessage":..}`.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    fn bad(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }
}

impl From<Refused> for Failure {
    fn from(Refused { status, words }: Refused) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        Self { status, message: words }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({"Message": self.message, "ExceptionMessage": ""});
        (self.status, axum::Json(body)).into_response()
    }
}

#[derive(Deserialize)]
struct Ids {
    id: String,
    module: Option<String>,
}

/// The identity that the path names.
struct Who(Principal);

impl FromRequestParts<Arc<Hands>> for Who {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, hands: &Arc<Hands>) -> Result<Self, Failure> {
        let ids = Path::<Ids>::from_request_parts(parts, hands).await;
        let Path(ids) = ids.map_err(|error| Failure::bad(error.to_string()))?;
        let found = hands.hub.principal(&ids.id, ids.module.as_deref());
        found.map(Who).ok_or_else(|| Failure {
            status: StatusCode::NOT_FOUND,
            message: "ErrorCode:DeviceNotFound;no such identity".to_owned(),
        })
    }
}
