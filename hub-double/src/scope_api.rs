//! The HTTPS calls that an edge hub makes: which identities are in its scope (fact sheet C2, J4; edgehub 7.4).
//!
//! Owns: paths, JSON shapes and paging. Invariant: nothing is answered before the `Authorization` token was verified
//! as the `$edgeHub` module of the path. Must not know: AMQP.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::hub::Hub;
use crate::registry::{AuthType, DeviceSpec, ModuleSpec, Principal, Status};
use crate::sas::{Key, Token};

/// Largest page.
const PAGE_MAX: usize = 1000;
/// Page when the request names no size.
const PAGE_DEFAULT: usize = 100;

/// The routes of the HTTPS port.
pub(crate) fn router(hub: Arc<Hub>) -> Router {
    let base = "/devices/{edge}/modules/{module}";
    Router::new()
        .route(
            &format!("{base}/devicesAndModulesInTargetDeviceScope"),
            post(nested_list).get(list_by_link),
        )
        .route(&format!("{base}/getDeviceAndModuleOnBehalfOf"), post(nested_one))
        .route(&format!("{base}/devicesAndModulesInDeviceScope"), get(list_by_link))
        .route(&format!("{base}/deviceAndModuleInDeviceScope"), get(flat_one))
        .layer(map_response_with_state(Arc::clone(&hub), dated))
        .with_state(hub)
}

/// Every answer, refusals included, tells the time of the double's own clock.
async fn dated(State(hub): State<Arc<Hub>>, mut answer: Response) -> Response {
    if let Some(date) = http_date(hub.clock.wall_ms()) {
        answer.headers_mut().insert(header::DATE, date);
    }
    answer
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(ms: i64) -> Option<HeaderValue> {
    let at = jiff::Timestamp::from_millisecond(ms).ok()?;
    HeaderValue::from_str(&at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()).ok()
}

/// An error answer in the hub's form (fact sheet C1).
struct Refused(u16, &'static str, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(status, code, words) = self;
        let body = json!({
            "Message": format!("ErrorCode:{code};{words}"),
            "ExceptionMessage": "Tracking ID:hub-double",
        });
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [("iothub-errorcode", code)], Json(body)).into_response()
    }
}

type Parameters = HashMap<String, String>;
type Actor = Path<(String, String)>;

/// Who asks, once proved: the device id of the edge.
async fn actor(
    hub: &Hub,
    path: (String, String),
    query: &Parameters,
    headers: &HeaderMap,
) -> Result<String, Refused> {
    let mut flags = hub.faults.flags();
    // The sender lives as long as the hub.
    let _ = flags.wait_for(|flags| !flags.black_hole).await;
    let result = prove(hub, path, query, headers);
    hub.log.count(|counts| match &result {
        Ok(_) => counts.scope_requests += 1,
        Err(_) => counts.scope_refused += 1,
    });
    result
}

fn prove(
    hub: &Hub,
    (edge, module): (String, String),
    query: &Parameters,
    headers: &HeaderMap,
) -> Result<String, Refused> {
    if let Some(status) = hub.faults.refuses_scope() {
        return Err(Refused(status, "Scripted", "refused by the fault script".into()));
    }
    if !query.contains_key("api-version") {
        return Err(Refused(400, "ArgumentInvalid", "api-version is missing".into()));
    }
    let unauthorized = |words: &str| Refused(401, "IotHubUnauthorizedAccess", words.to_owned());
    let text = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let token = Token::parse(text.ok_or_else(|| unauthorized("no Authorization header"))?);
    let token = token.map_err(unauthorized)?;
    let entry = hub
        .registry
        .check_token(&token, hub.clock.wall_ms())
        .map_err(|denied| unauthorized(denied.reason()))?;
    let who = &entry.principal;
    let same = who.device.eq_ignore_ascii_case(&edge)
        && who.module.as_deref().is_some_and(|m| m.eq_ignore_ascii_case(&module));
    if !same || !module.eq_ignore_ascii_case("$edgeHub") {
        return Err(unauthorized("the token is not of the module in the path"));
    }
    Ok(who.device.to_string())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListRequest {
    page_size: Option<usize>,
    continuation_link: Option<String>,
    auth_chain: Option<String>,
}

async fn nested_list(
    State(hub): State<Arc<Hub>>,
    Path(path): Actor,
    Query(query): Query<Parameters>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refused> {
    let actor = actor(&hub, path, &query, &headers).await?;
    let request: ListRequest = parse(&body)?;
    let chain = request.auth_chain.unwrap_or_default();
    let target = chain.split(';').next().unwrap_or_default().to_owned();
    let principal = Principal { device: target.as_str().into(), module: None };
    let own = chain.eq_ignore_ascii_case(&actor);
    if !own {
        hub.registry
            .read(|state| state.check_chain(&chain, &principal, &actor, true))
            .map_err(|words| Refused(401, "IotHubUnauthorizedAccess", words))?;
    }
    let after = request.continuation_link.as_deref().filter(|link| !link.is_empty());
    let after = after.map(cursor_of_link).transpose()?;
    Ok(Json(page(&hub, &actor, &target, request.page_size, after.as_deref(), true)))
}

/// The old list, and the next page of either by its link.
async fn list_by_link(
    State(hub): State<Arc<Hub>>,
    Path(path): Actor,
    Query(query): Query<Parameters>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refused> {
    let actor = actor(&hub, path, &query, &headers).await?;
    let size = query.get("deviceCount").and_then(|n| n.parse().ok());
    let token = query.get("continuationToken").filter(|token| !token.is_empty());
    let after = token.map(|token| cursor(token)).transpose()?;
    Ok(Json(page(&hub, &actor, &actor, size, after.as_deref(), false)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OneRequest {
    target_device_id: String,
    target_module_id: Option<String>,
    auth_chain: String,
}

async fn nested_one(
    State(hub): State<Arc<Hub>>,
    Path(path): Actor,
    Query(query): Query<Parameters>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refused> {
    let actor = actor(&hub, path, &query, &headers).await?;
    let request: OneRequest = parse(&body)?;
    let module = request.target_module_id.as_deref().filter(|m| !m.is_empty());
    one(&hub, &actor, &request.target_device_id, module, Some(&request.auth_chain))
}

async fn flat_one(
    State(hub): State<Arc<Hub>>,
    Path(path): Actor,
    Query(query): Query<Parameters>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refused> {
    let actor = actor(&hub, path, &query, &headers).await?;
    let device = query.get("targetDeviceId").map(String::as_str).unwrap_or_default();
    let module = query.get("targetModuleId").map(String::as_str).filter(|m| !m.is_empty());
    one(&hub, &actor, device, module, None)
}

/// One identity, when it is a child of the edge device that the chain begins with (without a chain: of the actor). The chain
/// leads from there up to the actor. Who is registered and somebody else's is 401, as a parent edge hub says it; who is not
/// registered is 404.
fn one(
    hub: &Hub,
    actor: &str,
    device: &str,
    module: Option<&str>,
    chain: Option<&str>,
) -> Result<Json<Value>, Refused> {
    hub.log.count(|counts| counts.scope_singles += 1);
    let denied = |words: String| Refused(401, "IotHubUnauthorizedAccess", words);
    let parent = chain.unwrap_or(actor).split(';').next().unwrap_or_default();
    hub.registry.read(|state| {
        if let Some(chain) = chain.filter(|chain| !chain.eq_ignore_ascii_case(actor)) {
            let principal = Principal { device: parent.into(), module: None };
            state.check_chain(chain, &principal, actor, true).map_err(denied)?;
        }
        let gone = || Refused(404, "DeviceNotFound", "no such identity".into());
        let target = state.find(device, module).ok_or_else(gone)?.principal;
        if !target.device.eq_ignore_ascii_case(parent) {
            let of_it = Principal { device: Arc::clone(&target.device), module: None };
            let direct = format!("{of_it};{parent}");
            state.check_chain(&direct, &of_it, parent, false).map_err(denied)?;
        }
        let id = target.device.to_ascii_lowercase();
        let devices: Vec<Value> =
            state.devices.get(&id).map(|d| device_json(state, d)).into_iter().collect();
        let of_target = |m: &&ModuleSpec| {
            module.is_some_and(|wanted| m.module_id.eq_ignore_ascii_case(wanted))
                && m.device_id.eq_ignore_ascii_case(device)
        };
        let modules: Vec<Value> =
            state.modules.values().filter(of_target).map(module_json).collect();
        Ok(Json(json!({"devices": devices, "modules": modules, "continuationLink": null})))
    })
}

/// One page of the scope of `target`: the edge itself, its children, their modules.
fn page(
    hub: &Hub,
    actor: &str,
    target: &str,
    size: Option<usize>,
    after: Option<&str>,
    nested: bool,
) -> Value {
    hub.log.count(|counts| counts.scope_pages += 1);
    let size = size.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    hub.registry.read(|state| {
        let inside = |d: &&DeviceSpec| {
            d.device_id.eq_ignore_ascii_case(target)
                || d.parent.as_deref().is_some_and(|p| p.eq_ignore_ascii_case(target))
        };
        let devices: Vec<&DeviceSpec> = state.devices.values().filter(inside).collect();
        let of_them = |m: &&ModuleSpec| {
            devices.iter().any(|d| d.device_id.eq_ignore_ascii_case(&m.device_id))
        };
        let modules = state.modules.iter().filter(|(_, m)| of_them(m));
        // A cursor is the key of the last item sent, so that changes in between neither skip nor repeat others.
        let keyed = devices.iter().map(|d| {
            (format!("d/{}", d.device_id.to_ascii_lowercase()), Some(*d), None::<&ModuleSpec>)
        });
        let keyed_modules = modules.map(|((d, m), spec)| (format!("m/{d}/{m}"), None, Some(spec)));
        let mut rest = keyed
            .chain(keyed_modules)
            .filter(|(key, ..)| after.is_none_or(|after| key.as_str() > after));
        let (mut some_devices, mut some_modules, mut last) = (Vec::new(), Vec::new(), None);
        for (key, device, module) in rest.by_ref().take(size) {
            some_devices.extend(device.map(|d| device_json(state, d)));
            some_modules.extend(module.map(module_json));
            last = Some(key);
        }
        let more = rest.next().is_some();
        let link = last.filter(|_| more).map(|key| next_link(actor, size, &key, nested));
        json!({"devices": some_devices, "modules": some_modules, "continuationLink": link})
    })
}

fn next_link(actor: &str, size: usize, key: &str, nested: bool) -> String {
    let (name, version) = match nested {
        true => ("devicesAndModulesInTargetDeviceScope", "2020-06-30-preview"),
        false => ("devicesAndModulesInDeviceScope", "2018-08-30-preview"),
    };
    let token = URL_SAFE_NO_PAD.encode(key);
    format!(
        "/devices/{actor}/modules/%24edgeHub/{name}?deviceCount={size}&continuationToken={token}&api-version={version}"
    )
}

fn cursor_of_link(link: &str) -> Result<String, Refused> {
    let token = link.split(['?', '&']).find_map(|part| part.strip_prefix("continuationToken="));
    cursor(token.unwrap_or(link))
}

fn cursor(token: &str) -> Result<String, Refused> {
    let bad = || Refused(400, "ArgumentInvalid", "an unknown continuation token".into());
    let raw = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
    String::from_utf8(raw).map_err(|_| bad())
}

fn parse<T: for<'a> Deserialize<'a>>(body: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body)
        .map_err(|error| Refused(400, "ArgumentInvalid", format!("the body: {error}")))
}

/// A device in the scope API's shape (fact sheet C2).
fn device_json(state: &crate::registry::State, d: &DeviceSpec) -> Value {
    let never = "0001-01-01T00:00:00";
    let status = if d.status == Status::Enabled { "enabled" } else { "disabled" };
    json!({
        "deviceId": d.device_id,
        "generationId": d.generation_id,
        "etag": "AAAAAAAAAAE=",
        "connectionState": "Disconnected",
        "status": status,
        "statusReason": null,
        "connectionStateUpdatedTime": never,
        "statusUpdatedTime": never,
        "lastActivityTime": never,
        "cloudToDeviceMessageCount": 0,
        "authentication": authentication(
            d.auth_type,
            [&d.primary_key, &d.secondary_key],
            [d.primary_thumbprint.as_deref(), d.secondary_thumbprint.as_deref()],
        ),
        "capabilities": {"iotEdge": d.iot_edge},
        "deviceScope": state.device_scope(d),
        "parentScopes": state.parent_scope(d).into_iter().collect::<Vec<_>>(),
    })
}

fn module_json(m: &ModuleSpec) -> Value {
    json!({
        "moduleId": m.module_id,
        "managedBy": "iotEdge",
        "deviceId": m.device_id,
        "generationId": m.generation_id,
        "etag": "AAAAAAAAAAE=",
        "connectionState": "Disconnected",
        "cloudToDeviceMessageCount": 0,
        "authentication":
            authentication(m.auth_type, [&m.primary_key, &m.secondary_key], [None, None]),
    })
}

fn authentication(kind: AuthType, keys: [&Option<Key>; 2], prints: [Option<&str>; 2]) -> Value {
    let shown = |key: &Option<Key>| match kind {
        AuthType::Sas => key.as_ref().map(|k| k.reveal().to_owned()),
        _ => None,
    };
    json!({
        "symmetricKey": {"primaryKey": shown(keys[0]), "secondaryKey": shown(keys[1])},
        "x509Thumbprint": {"primaryThumbprint": prints[0], "secondaryThumbprint": prints[1]},
        "type": kind,
    })
}
