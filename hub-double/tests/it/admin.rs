//! The admin API, and the end of everything.

use hub_double::HubDouble;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{DEVICE_KEY, admin, child_of, config, send, with_hub};

async fn get(hub: &HubDouble, path: &str) -> Value {
    let (status, body) = admin(hub, "GET", path, "").await;
    assert_eq!(status, 200, "{path}");
    serde_json::from_str(&body).expect("JSON")
}

#[tokio::test]
async fn messages_are_listed_and_streamed() {
    with_hub(|hub| async move {
        let mut stream = TcpStream::connect(("127.0.0.1", hub.ports().admin)).await.expect("admin");
        let request = "GET /messages/stream?device=child1 HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut seen = String::new();
        read_until(&mut stream, &mut seen, "text/event-stream").await;

        let (mut client, mut one) = child_of(&hub, "child1").await;
        let mut two = client.child("child2").await;
        send(&mut two, "hidden", 1).await.expect("sent");
        for seq in 0..5 {
            send(&mut one, &format!("m{seq}"), seq).await.expect("sent");
        }
        read_until(&mut stream, &mut seen, r#""message-id":"m4""#).await;
        assert!(!seen.contains("hidden"), "one device only");

        let page = get(&hub, "/messages?device=CHILD1&limit=2").await;
        assert_eq!(page["messages"].as_array().expect("list").len(), 2);
        assert_eq!(page["nextSince"], 3);
        let page = get(&hub, "/messages?device=child1&since=3").await;
        let rest = page["messages"].as_array().expect("list");
        assert_eq!(rest.len(), 3);
        assert_eq!(rest[0]["systemProperties"]["message-id"], "m2");
        assert_eq!(rest[0]["properties"]["seq"], "2");
        assert_eq!(rest[0]["body"], "body");
        let counts = get(&hub, "/counts").await;
        assert_eq!(counts["received"], 6);
        assert_eq!(counts["perDevice"]["child1"]["received"], 5);
        let connections = get(&hub, "/connections").await;
        assert_eq!(connections[0]["links"], json!(["child1 telemetry", "child2 telemetry"]));
        assert_eq!(connections[0]["sasl"], "ANONYMOUS");
    })
    .await;
}

async fn read_until(stream: &mut TcpStream, seen: &mut String, wanted: &str) {
    let mut chunk = [0; 4096];
    while !seen.contains(wanted) {
        let n = stream.read(&mut chunk).await.expect("readable");
        assert!(n > 0, "ended before {wanted}");
        seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
}

#[tokio::test]
async fn devices_come_and_go_and_keys_stay_inside() {
    with_hub(|hub| async move {
        let spec = json!({"primaryKey": DEVICE_KEY, "parent": "edge1"}).to_string();
        let (status, body) = admin(&hub, "PUT", "/devices/new1", &spec).await;
        assert_eq!(status, 200);
        assert!(body.contains(r#""deviceId":"new1""#) && !body.contains(DEVICE_KEY), "{body}");
        let (_, body) = admin(&hub, "GET", "/devices/NEW1", "").await;
        assert!(body.contains(r#""parent":"edge1""#) && !body.contains(DEVICE_KEY), "{body}");
        assert!(!format!("{:?}", hub.device("new1")).contains(DEVICE_KEY));
        assert_eq!(admin(&hub, "PUT", "/devices/new1/modules/m", "{}").await.0, 200);
        assert_eq!(admin(&hub, "PUT", "/devices/none/modules/m", "{}").await.0, 404);
        assert_eq!(admin(&hub, "DELETE", "/devices/new1", "").await.0, 204);
        assert_eq!(admin(&hub, "GET", "/devices/new1", "").await.0, 404);
        assert_eq!(admin(&hub, "GET", "/healthz", "").await, (200, "ok".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn faults_are_set_by_json() {
    with_hub(|hub| async move {
        for fault in [
            json!({"kind": "refuse_connections", "count": 1}),
            json!({"kind": "black_hole", "duration_ms": 60_000}),
            json!({"kind": "withhold_dispositions", "device": "d"}),
            json!({"kind": "delay_dispositions", "ms": 5}),
            json!({"kind": "throttle", "per_second": 100}),
            json!({"kind": "reject_message", "condition": "amqp:x", "property": ["a", "b"]}),
            json!({"kind": "expire_tokens", "older_than_ms": 5, "duration_ms": 60_000}),
            json!({"kind": "slow", "bytes_per_second": 1000}),
            json!({"kind": "drop_desired", "count": 1}),
            json!({"kind": "delay_twins", "ms": 5}),
            json!({"kind": "refuse_twins", "status": 429, "device": "edge1"}),
            json!({"kind": "ignore_twins", "carried_out": true}),
            json!({"kind": "lose_calls", "count": 1}),
            json!({"kind": "delay_calls", "ms": 5}),
            json!({"kind": "drop_locks", "device": "child1"}),
            json!({"kind": "detach_links"}),
            json!({"kind": "drop_connections"}),
        ] {
            let (status, body) = admin(&hub, "POST", "/faults", &fault.to_string()).await;
            assert_eq!(status, 201, "{fault}: {body}");
        }
        let listed = get(&hub, "/faults").await;
        let listed = listed.as_array().expect("list");
        assert_eq!(listed.len(), 14, "momentary ones are over");
        let first = format!("/faults/{}", listed[0]["id"]);
        assert_eq!(admin(&hub, "DELETE", &first, "").await.0, 204);
        assert_eq!(admin(&hub, "DELETE", &first, "").await.0, 404);
        assert_eq!(admin(&hub, "DELETE", "/faults", "").await.0, 204);
        assert_eq!(get(&hub, "/faults").await, json!([]));
        assert_eq!(admin(&hub, "POST", "/faults", r#"{"kind":"unheard_of"}"#).await.0, 422);
        assert_eq!(admin(&hub, "POST", "/away", "").await.0, 204);
        assert_eq!(admin(&hub, "POST", "/back", "").await.0, 204);
        drop(child_of(&hub, "child1").await);
    })
    .await;
}

#[tokio::test]
async fn shutdown_ends_everything_and_frees_the_ports() {
    let hub = HubDouble::start(config()).await.expect("starts");
    let ports = hub.ports();
    let (mut client, _link) = child_of(&hub, "child1").await;
    hub.shutdown().await;
    assert!(client.connection.on_close().await.is_err());
    for port in [ports.amqp, ports.https, ports.admin] {
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    }
}
