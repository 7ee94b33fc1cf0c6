//! The direct methods of `$edgeHub` (`edgehub.md` 3.3).
//!
//! Owns: their names, what they take and the statuses of their answers. Must not know: how a call came.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::identity::{ClientName, DeviceId, ModuleId};
use crate::upstream::refresh::ScopeRefresher;
use crate::upstream::scope_api::ScopeFetchError;
use crate::upstream::twin::Methods;

/// The one method that there is. Names are compared as the reference does: without regard to case.
const REFRESH: &str = "RefreshDeviceScopeIdentityCache";

/// A caller waits 30 s if he says nothing else (A8): he is to hear why there is no scope.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(25);

/// More names than this take more requests than the pages of the whole scope, and more time than the caller has.
const NAMES_MAX: usize = 100;

/// Answers them.
pub(super) struct EdgeHubMethods {
    refresher: Arc<ScopeRefresher>,
}

impl EdgeHubMethods {
    pub(super) fn new(refresher: Arc<ScopeRefresher>) -> Self {
        Self { refresher }
    }
}

impl Methods for EdgeHubMethods {
    fn call(&self, name: String, payload: Vec<u8>) -> BoxFuture<'static, (i32, Value)> {
        let refresher = Arc::clone(&self.refresher);
        Box::pin(async move {
            if !name.eq_ignore_ascii_case(REFRESH) {
                let name: String = name.chars().take(100).collect();
                return answer(404, &format!("there is no method {name:?}; there is {REFRESH}"));
            }
            let ids = match ids(&payload) {
                Ok(ids) => ids,
                Err(why) => return answer(400, &why),
            };
            match timeout(REFRESH_TIMEOUT, refresh(&refresher, &ids)).await {
                Err(_) => answer(
                    500,
                    &format!(
                        "the hub did not give the scope within {REFRESH_TIMEOUT:?}; the next regular refresh will"
                    ),
                ),
                Ok(Ok(count)) => {
                    info!(
                        count,
                        named = ids.len(),
                        "the scope was refreshed because a direct method asked"
                    );
                    (200, Value::Null)
                }
                Ok(Err(error)) => {
                    warn!(%error, "a direct method asked for the scope, which was not refreshed");
                    answer(500, &format!("the scope was not refreshed: {error}"))
                }
            }
        })
    }
}

/// Those that are named; the whole scope if that is nobody in particular, or too many.
async fn refresh(
    refresher: &ScopeRefresher,
    names: &[ClientName],
) -> Result<usize, ScopeFetchError> {
    match names.len() {
        1..=NAMES_MAX => refresher.refresh_these(names).await,
        _ => refresher.refresh_now().await,
    }
}

fn answer(status: i32, words: &str) -> (i32, Value) {
    (status, json!({"message": words}))
}

/// The identities that `{"deviceIds":["d1","d2/m"]}` names.
fn ids(payload: &[u8]) -> Result<Vec<ClientName>, String> {
    #[derive(Deserialize)]
    struct Request {
        #[serde(rename = "deviceIds")]
        ids: Vec<String>,
    }
    let form = r#"write {"deviceIds": ["device", "device/module"]}"#;
    let request: Request = serde_json::from_slice(payload)
        .map_err(|e| format!("the payload is wrong ({e}): {form}"))?;
    let name = |id: &str| {
        let (device, module) = id.split_once('/').map_or((id, None), |(d, m)| (d, Some(m)));
        let device = DeviceId::parse(device).ok()?;
        Some(match module {
            None => ClientName::Device(device),
            Some(module) => ClientName::Module(device, ModuleId::parse(module).ok()?),
        })
    };
    let mut names = Vec::with_capacity(request.ids.len());
    for id in &request.ids {
        names.push(name(id).ok_or_else(|| {
            let id: String = id.chars().take(100).collect();
            format!("{id:?} is no id: {form}")
        })?);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_identities_is_refused() {
        for (payload, expected) in [
            (r#"{"deviceIds":["d1","d2/m","edge1/$edgeHub"]}"#, Ok(3)),
            (r#"{"deviceIds":[],"more":1}"#, Ok(0)),
            (r#"{"deviceIds":["d 1"]}"#, Err("no id")),
            (r#"{"deviceIds":["a/b/c"]}"#, Err("no id")),
            (r#"{"deviceIds":"d1"}"#, Err("payload is wrong")),
            (r#"{}"#, Err("payload is wrong")),
            ("", Err("payload is wrong")),
        ] {
            match (ids(payload.as_bytes()), expected) {
                (Ok(got), Ok(wanted)) => assert_eq!(got.len(), wanted, "{payload}"),
                (Err(got), Err(words)) => {
                    assert!(got.contains(words) && got.contains("write"), "{got}");
                }
                (got, _) => panic!("{payload}: {got:?}"),
            }
        }
    }
}
