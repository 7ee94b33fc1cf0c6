//! The HTTPS scope API.

use hub_double::{DeviceSpec, Fault, FaultKind, HubDouble, ModuleSpec};
use serde_json::{Value, json};

use super::client::{DEVICE_KEY, EDGE, device_token, edge_token, http, now_secs, tls, with_hub};

const BASE: &str = "/devices/edge1/modules/%24edgeHub";
const NESTED: &str = "api-version=2020-06-30-preview";

async fn call(hub: &HubDouble, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
    let stream = tls(hub.ports().https).await.expect("HTTPS listens");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (status, answer) = http(stream, method, path, Some(token), &body).await;
    (status, serde_json::from_str(&answer).unwrap_or_default())
}

fn ids(page: &Value) -> Vec<String> {
    let text = |v: &Value| v.as_str().expect("an id").to_owned();
    let devices = page["devices"].as_array().expect("devices").iter();
    let modules = page["modules"].as_array().expect("modules").iter();
    devices
        .map(|d| text(&d["deviceId"]))
        .chain(modules.map(|m| format!("{}/{}", text(&m["deviceId"]), text(&m["moduleId"]))))
        .collect()
}

#[tokio::test]
async fn the_nested_list_is_paged() {
    with_hub(|hub| async move {
        let path = format!("{BASE}/devicesAndModulesInTargetDeviceScope?{NESTED}");
        for page_size in [1, 2, 3, 100] {
            let (mut found, mut link, mut pages) = (Vec::new(), Value::Null, 0);
            loop {
                let body =
                    json!({"pageSize": page_size, "continuationLink": link, "authChain": EDGE});
                let (status, page) = call(&hub, "POST", &path, &edge_token(), body).await;
                assert_eq!(status, 200);
                let some = ids(&page);
                assert!(some.len() <= page_size && !some.is_empty());
                found.extend(some);
                pages += 1;
                link = page["continuationLink"].clone();
                if link.is_null() {
                    break;
                }
            }
            assert_eq!(found, ["child1", "child2", "edge1", "off", "edge1/$edgeHub"]);
            assert_eq!(pages, 5_usize.div_ceil(page_size), "pages of {page_size}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_old_list_follows_its_link() {
    with_hub(|hub| async move {
        let mut path = format!(
            "{BASE}/devicesAndModulesInDeviceScope?deviceCount=3&api-version=2018-08-30-preview"
        );
        let mut found = Vec::new();
        loop {
            let (status, page) = call(&hub, "GET", &path, &edge_token(), Value::Null).await;
            assert_eq!(status, 200);
            found.extend(ids(&page));
            match page["continuationLink"].as_str() {
                Some(link) => link.clone_into(&mut path),
                None => break,
            }
        }
        assert_eq!(found.len(), 5);
    })
    .await;
}

#[tokio::test]
async fn identities_have_the_real_shape() {
    with_hub(|hub| async move {
        hub.put_device(DeviceSpec::sas("keyed", DEVICE_KEY).child_of(EDGE));
        hub.put_module(ModuleSpec {
            device_id: EDGE.into(),
            module_id: "filter".into(),
            ..ModuleSpec::default()
        });
        let path = format!("{BASE}/getDeviceAndModuleOnBehalfOf?{NESTED}");
        let one = |id: &str| json!({"targetDeviceId": id, "authChain": EDGE});
        let (status, page) = call(&hub, "POST", &path, &edge_token(), one("child1")).await;
        assert_eq!(status, 200);
        let child = &page["devices"][0];
        let scope = "ms-azure-iot-edge://edge1-637000000000000000";
        assert_eq!(child["deviceScope"], scope);
        assert_eq!(child["parentScopes"], json!([scope]));
        assert_eq!(child["authentication"]["type"], "certificateAuthority");
        assert_eq!(child["authentication"]["symmetricKey"]["primaryKey"], Value::Null);
        assert_eq!(child["status"], "enabled");
        assert_eq!(child["capabilities"]["iotEdge"], false);
        assert!(child["generationId"].is_string());

        let (_, page) = call(&hub, "POST", &path, &edge_token(), one("keyed")).await;
        let auth = &page["devices"][0]["authentication"];
        assert_eq!(auth["symmetricKey"]["primaryKey"], DEVICE_KEY);
        assert_eq!(auth["type"], "sas");
        let (_, page) = call(&hub, "POST", &path, &edge_token(), one("off")).await;
        assert_eq!(page["devices"][0]["status"], "disabled");
        let module = json!({"targetDeviceId": EDGE, "targetModuleId": "filter",
            "authChain": EDGE});
        let (_, page) = call(&hub, "POST", &path, &edge_token(), module).await;
        assert_eq!(page["modules"][0]["moduleId"], "filter");
        assert_eq!(page["modules"][0]["managedBy"], "iotEdge");

        for (gone, expected) in [("nobody", 404), ("orphan", 401), ("others", 401)] {
            let (status, _) = call(&hub, "POST", &path, &edge_token(), one(gone)).await;
            assert_eq!(status, expected, "{gone}");
        }
        let foreign = json!({"targetDeviceId": "child1", "authChain": "edge2"});
        let (status, _) = call(&hub, "POST", &path, &edge_token(), foreign).await;
        assert_eq!(status, 401, "the chain does not lead to who asks");
        assert!(hub.delete_module(EDGE, "filter") && !hub.delete_module(EDGE, "filter"));
        let module = json!({"targetDeviceId": EDGE, "targetModuleId": "filter", "authChain": EDGE});
        let (status, _) = call(&hub, "POST", &path, &edge_token(), module).await;
        assert_eq!(status, 404, "the module is gone");
        let old = format!(
            "{BASE}/deviceAndModuleInDeviceScope?targetDeviceId=child1&api-version=2018-08-30-preview"
        );
        let (status, page) = call(&hub, "GET", &old, &edge_token(), Value::Null).await;
        assert_eq!((status, ids(&page)), (200, vec!["child1".to_owned()]));
    })
    .await;
}

#[tokio::test]
async fn only_the_edge_hub_of_the_path_is_answered() {
    with_hub(|hub| async move {
        let list = "devicesAndModulesInTargetDeviceScope";
        let own = format!("{BASE}/{list}?{NESTED}");
        let body = || json!({"pageSize": 10, "authChain": EDGE});
        let device = device_token("dev1", now_secs() + 3600);
        let table = [
            ("a device's token", own.clone(), device.as_str().to_owned(), body(), 401),
            ("rubbish", own.clone(), "rubbish".into(), body(), 401),
            ("another edge", own.replace("edge1", "edge2"), edge_token(), body(), 401),
            ("another chain", own.clone(), edge_token(), json!({"authChain": "edge2"}), 401),
            ("no version", format!("{BASE}/{list}"), edge_token(), body(), 400),
            ("no JSON", own.clone(), edge_token(), Value::Null, 400),
            (
                "a bad link",
                own.clone(),
                edge_token(),
                json!({"authChain": EDGE, "continuationLink": "?"}),
                400,
            ),
        ];
        for (what, path, token, body, expected) in table {
            assert_eq!(call(&hub, "POST", &path, &token, body).await.0, expected, "{what}");
        }
        hub.fault(Fault::new(FaultKind::RefuseScope { status: 429 }).times(1));
        assert_eq!(call(&hub, "POST", &own, &edge_token(), body()).await.0, 429);
        assert_eq!(call(&hub, "POST", &own, &edge_token(), body()).await.0, 200);
    })
    .await;
}
