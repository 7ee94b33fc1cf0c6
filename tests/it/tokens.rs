//! Devices and modules that log in with tokens: what they are answered, what arrives, when they have to leave.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use hub_double::{DeviceSpec, Key, ModuleSpec, sas_token};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    Connect, ConnectReturnCode, Login, Packet, Publish, Subscribe, SubscribeReasonCode,
};
use sphere_gateway::clock::{self, Clock as _};
use sphere_gateway::gateway::Gateway;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::{refusals, silent_tls};
use crate::device;
use crate::site::{EDGE, GATEWAY};
use crate::support::{PATIENCE, World, eventually, metrics, series};

fn key() -> String {
    STANDARD.encode(rand::random::<[u8; 32]>())
}

/// `resource` is signed as it stands, until `seconds` from now.
fn token(key: &str, resource: &str, seconds: i64) -> String {
    let now = clock::SystemClock.wall().as_secs() as i64;
    sas_token(resource, &Key::from_base64(key), now + seconds)
}

/// A device's token as the C SDK writes it.
fn own(key: &str, id: &str) -> String {
    token(key, &format!("localhost/devices/{id}"), 3600)
}

/// Without a client certificate; says how it was answered.
async fn log_in(
    world: &World,
    id: &str,
    password: &str,
) -> (TlsStream<TcpStream>, ConnectReturnCode) {
    let mut config = world.device(0);
    config.tls = device::client_tls(device::gateway_roots(&world.pki), None);
    let mut stream = silent_tls(&config).await;
    let mut connect = Connect::new(id);
    connect.keep_alive = 240;
    connect.login = Some(Login {
        username: format!("{GATEWAY}/{id}/?api-version=2021-04-12"),
        password: password.to_owned(),
    });
    device::write(&mut stream, &Packet::Connect(connect)).await.expect("write");
    match device::read(&mut stream, &mut BytesMut::new()).await.expect("an answer") {
        Packet::ConnAck(ack) => (stream, ack.code),
        other => panic!("wanted CONNACK, got {other:?}"),
    }
}

/// The scope may still be under way: then it is tried again.
async fn admitted(world: &World, id: &str, password: &str) -> TlsStream<TcpStream> {
    let mut admitted = None;
    eventually(&format!("{id} is let in"), async || {
        let (stream, code) = log_in(world, id, password).await;
        assert!(
            matches!(code, ConnectReturnCode::Success | ConnectReturnCode::ServiceUnavailable),
            "{code:?}"
        );
        admitted = (code == ConnectReturnCode::Success).then_some(stream);
        admitted.is_some()
    })
    .await;
    admitted.expect("waited for")
}

async fn publish(stream: &mut TlsStream<TcpStream>, topic: &str) {
    let mut publish = Publish::new(topic, QoS::AtLeastOnce, "{}");
    publish.pkid = 7;
    device::write(stream, &Packet::Publish(publish)).await.expect("write");
    let answer = device::read(stream, &mut BytesMut::new()).await.expect("an answer");
    assert!(matches!(&answer, Packet::PubAck(ack) if ack.pkid == 7), "{answer:?}");
}

async fn closed(stream: &mut TlsStream<TcpStream>) {
    let read = tokio::time::timeout(PATIENCE, device::read(stream, &mut BytesMut::new())).await;
    let read = read.expect("closed in time");
    assert!(read.is_err(), "without a word: {read:?}");
}

async fn dismissed(gateway: &Gateway, reason: &str) -> f64 {
    let labels = ["event=\"client_dismissed\"", &format!("reason=\"{reason}\"")];
    series(&metrics(gateway).await, "sphere_gateway_events_total", &labels)
}

fn module(device: &str, id: &str, key: &str) -> ModuleSpec {
    ModuleSpec {
        device_id: device.into(),
        module_id: id.into(),
        primary_key: Some(Key::from_base64(key)),
        ..ModuleSpec::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_answered_as_iot_hub_would() {
    let world = World::new(1).await;
    let (first, second, module_key) = (key(), key(), key());
    let spec = DeviceSpec {
        secondary_key: Some(Key::from_base64(&*second)),
        ..DeviceSpec::sas("sas1", &*first).child_of(EDGE)
    };
    world.hub.put_device(spec);
    world.hub.put_device(DeviceSpec::sas("off", &*first).child_of(EDGE).disabled());
    world.hub.put_device(DeviceSpec::sas("elsewhere", &*first));
    world.hub.put_module(module("sas1", "m1", &module_key)).expect("its device is there");
    let gateway = world.gateway().await;
    drop(admitted(&world, "sas1", &own(&first, "sas1")).await);
    let x509 = world.device(0).id;
    let module_of = |key: &str| token(key, "localhost%2fdevices%2fsas1%2fmodules%2fm1", 3600);
    use ConnectReturnCode::{NotAuthorized, Success};
    for (case, id, password, code, reason) in [
        ("secondary key", "sas1", own(&second, "sas1"), Success, ""),
        (
            "to the gateway",
            "sas1",
            token(&first, &format!("{GATEWAY}/devices/sas1"), 60),
            Success,
            "",
        ),
        ("within the skew", "sas1", token(&first, "localhost/devices/sas1", -200), Success, ""),
        ("wrong key", "sas1", own(&key(), "sas1"), NotAuthorized, "sas_signature"),
        (
            "expired",
            "sas1",
            token(&first, "localhost/devices/sas1", -400),
            NotAuthorized,
            "sas_expired",
        ),
        (
            "another hub",
            "sas1",
            token(&first, "evil.example/devices/sas1", 60),
            NotAuthorized,
            "sas_audience",
        ),
        ("another device", "sas1", own(&first, "off"), NotAuthorized, "sas_identity"),
        ("disabled", "off", own(&first, "off"), NotAuthorized, "disabled"),
        ("not our child", "elsewhere", own(&first, "elsewhere"), NotAuthorized, "not_in_scope"),
        ("no token", "sas1", String::new(), NotAuthorized, "no_credentials"),
        ("a certificate device", &x509, own(&first, &x509), NotAuthorized, "not_a_token_device"),
        ("module, own key", "sas1/m1", module_of(&module_key), Success, ""),
        ("module, device's key", "sas1/m1", module_of(&first), Success, ""),
        ("module, wrong key", "sas1/m1", module_of(&key()), NotAuthorized, "sas_signature"),
    ] {
        let before =
            if reason.is_empty() { 0.0 } else { refusals(&gateway, "connect", reason).await };
        assert_eq!(log_in(&world, id, &password).await.1, code, "{case}");
        if !reason.is_empty() {
            eventually(&format!("{case}: counted as {reason}"), async || {
                refusals(&gateway, "connect", reason).await > before
            })
            .await;
        }
    }
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_of_token_devices_and_modules_arrives_under_their_own_identities() {
    let world = World::new(1).await;
    let (device_key, module_key, edge_module_key) = (key(), key(), key());
    world.hub.put_device(DeviceSpec::sas("sas1", &*device_key).child_of(EDGE));
    world.hub.put_module(module("sas1", "m1", &module_key)).expect("its device is there");
    world.hub.put_module(module(EDGE, "sensor", &edge_module_key)).expect("its device is there");
    let gateway = world.gateway().await;
    let module_token = |key: &str, device: &str, module: &str| {
        token(key, &format!("localhost%2Fdevices%2F{device}%2Fmodules%2F{module}"), 3600)
    };
    let edge_module = format!("{EDGE}/sensor");
    for (id, password, topic) in [
        ("sas1", own(&device_key, "sas1"), "devices/sas1/messages/events/".to_owned()),
        (
            "sas1/m1",
            module_token(&module_key, "sas1", "m1"),
            "devices/sas1/modules/m1/messages/events/".to_owned(),
        ),
        (
            &edge_module,
            module_token(&edge_module_key, EDGE, "sensor"),
            format!("devices/{EDGE}/modules/sensor/messages/events/"),
        ),
    ] {
        let mut stream = admitted(&world, id, &password).await;
        publish(&mut stream, &topic).await;
        // Only as itself.
        let foreign = Publish::new("devices/other/messages/events/", QoS::AtMostOnce, "{}");
        device::write(&mut stream, &Packet::Publish(foreign)).await.expect("write");
        closed(&mut stream).await;
    }
    world.hub.wait_for(3).await;
    let mut arrived: Vec<(String, Option<String>)> =
        world.hub.messages().iter().map(|m| (m.device_id.clone(), m.module_id.clone())).collect();
    arrived.sort();
    let expected = [
        (EDGE.to_owned(), Some("sensor".to_owned())),
        ("sas1".to_owned(), None),
        ("sas1".to_owned(), Some("m1".to_owned())),
    ];
    assert_eq!(arrived, expected);
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_subscribes_to_its_own_topics() {
    let world = World::new(1).await;
    let module_key = key();
    world.hub.put_module(module(EDGE, "sensor", &module_key)).expect("its device is there");
    let gateway = world.gateway().await;
    let id = format!("{EDGE}/sensor");
    let password = token(&module_key, &format!("localhost/devices/{EDGE}/modules/sensor"), 3600);
    let mut stream = admitted(&world, &id, &password).await;
    for (filter, granted) in [
        (format!("devices/{EDGE}/modules/sensor/#"), true),
        (format!("devices/{EDGE}/messages/devicebound/#"), false),
        (format!("devices/{EDGE}/modules/other/inputs/#"), false),
    ] {
        let mut subscribe = Subscribe::new(&*filter, QoS::AtLeastOnce);
        subscribe.pkid = 3;
        device::write(&mut stream, &Packet::Subscribe(subscribe)).await.expect("write");
        let answer = device::read(&mut stream, &mut BytesMut::new()).await.expect("a SUBACK");
        let Packet::SubAck(ack) = answer else { panic!("wanted SUBACK, got {answer:?}") };
        let expected = match granted {
            true => SubscribeReasonCode::Success(QoS::AtLeastOnce),
            false => SubscribeReasonCode::Failure,
        };
        assert_eq!(ack.return_codes, [expected], "{filter}");
    }
    gateway.shutdown().await;
    world.end().await;
}

/// The scope is asked for once an hour here: nothing but the end of the token ends the session.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_token() {
    let mut world = World::new(1).await;
    world.set("authSettings__clockSkewSecs", "0");
    let first = key();
    world.hub.put_device(DeviceSpec::sas("short", &*first).child_of(EDGE));
    world.hub.put_device(DeviceSpec::sas("stays", &*first).child_of(EDGE));
    let gateway = world.gateway().await;
    let mut stays = admitted(&world, "stays", &own(&first, "stays")).await;
    let mut short = None;
    // Another token for each try: a slow machine may let one end before it is looked at.
    eventually("it is let in", async || {
        let password = token(&first, "localhost/devices/short", 5);
        let (stream, code) = log_in(&world, "short", &password).await;
        short = (code == ConnectReturnCode::Success).then_some(stream);
        short.is_some()
    })
    .await;
    closed(&mut short.expect("waited for")).await;
    // The connection may end before who was asked to leave is counted.
    eventually("it is counted", async || dismissed(&gateway, "sas_expired").await == 1.0).await;
    eventually("the session says why it ended", async || {
        refusals(&gateway, "session", "sas_expired").await == 1.0
    })
    .await;
    publish(&mut stays, "devices/stays/messages/events/").await;
    gateway.shutdown().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_key() {
    let mut world = World::new(1).await;
    world.set("DeviceScopeCacheRefreshRateSecs", "1");
    let (first, second) = (key(), key());
    world.hub.put_device(DeviceSpec::sas("rekeyed", &*first).child_of(EDGE));
    world.hub.put_device(DeviceSpec::sas("stays", &*first).child_of(EDGE));
    let gateway = world.gateway().await;
    let mut stays = admitted(&world, "stays", &own(&first, "stays")).await;
    let mut rekeyed = admitted(&world, "rekeyed", &own(&first, "rekeyed")).await;
    world.hub.put_device(DeviceSpec::sas("rekeyed", &*second).child_of(EDGE));
    closed(&mut rekeyed).await;
    // The connection may end before who was asked to leave is counted.
    eventually("it is counted", async || dismissed(&gateway, "key_replaced").await == 1.0).await;
    let (_, code) = log_in(&world, "rekeyed", &own(&first, "rekeyed")).await;
    assert_eq!(code, ConnectReturnCode::NotAuthorized);
    drop(admitted(&world, "rekeyed", &own(&second, "rekeyed")).await);
    publish(&mut stays, "devices/stays/messages/events/").await;
    gateway.shutdown().await;
    world.end().await;
}
