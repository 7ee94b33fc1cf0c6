//! A client that speaks both ways, packet by packet: a Sphere-like device, or a module with a token.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use hub_double::{Key, ModuleSpec, sas_token};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    Connect, ConnectReturnCode, Login, Packet, PubAck, Publish, Subscribe, SubscribeFilter,
    SubscribeReasonCode,
};
use serde_json::Value;
use sphere_gateway::clock::{self, Clock as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::silent_tls;
use crate::device::{self, DeviceConfig};
use crate::site::{EDGE, GATEWAY};
use crate::support::{PATIENCE, World};

/// Who a client is.
#[derive(Clone)]
pub(crate) struct Who {
    pub(super) config: DeviceConfig,
    pub(crate) id: String,
    key: Option<String>,
}

impl Who {
    /// A device by its certificate.
    pub(crate) fn device(world: &World, index: usize) -> Self {
        let config = world.device(index);
        Self { id: config.id.clone(), config, key: None }
    }

    /// A module of the edge device by its key, registered now.
    pub(crate) fn module(world: &World, name: &str) -> Self {
        use base64::Engine as _;
        let key = base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 32]>());
        let spec = ModuleSpec {
            device_id: EDGE.into(),
            module_id: name.into(),
            primary_key: Some(Key::from_base64(&*key)),
            ..ModuleSpec::default()
        };
        world.hub.put_module(spec).expect("its device is there");
        let mut config = world.device(0);
        config.tls = device::client_tls(device::gateway_roots(&world.pki), None);
        Self { id: format!("{EDGE}/{name}"), config, key: Some(key) }
    }

    pub(super) fn password(&self) -> String {
        let Some(key) = &self.key else { return String::new() };
        let now = clock::SystemClock.wall().as_secs() as i64;
        let resource = format!("localhost/devices/{}", self.id.replace('/', "/modules/"));
        sas_token(&resource, &Key::from_base64(&**key), now + 3600)
    }

    /// Connects; a scope that is still under way makes it try again.
    pub(crate) async fn connect(&self, clean: bool) -> Speaker {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut stream = silent_tls(&self.config).await;
            let mut connect = Connect::new(self.id.clone());
            connect.keep_alive = 240;
            connect.clean_session = clean;
            connect.login = Some(Login {
                username: format!("{GATEWAY}/{}/?api-version=2020-09-30", self.id),
                password: self.password(),
            });
            device::write(&mut stream, &Packet::Connect(connect)).await.expect("write");
            let mut inbox = BytesMut::new();
            match device::read(&mut stream, &mut inbox).await {
                Ok(Packet::ConnAck(ack)) if ack.code == ConnectReturnCode::Success => {
                    let (seen, present) = (VecDeque::new(), ack.session_present);
                    let id = self.id.clone();
                    return Speaker { id, stream, inbox, seen, present, next: 0 };
                }
                Ok(Packet::ConnAck(ack)) => {
                    assert_eq!(ack.code, ConnectReturnCode::ServiceUnavailable, "{}", self.id);
                }
                other => panic!("wanted CONNACK, got {other:?}"),
            }
            assert!(tokio::time::Instant::now() < give_up, "{} is not let in", self.id);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A connection.
pub(crate) struct Speaker {
    pub(crate) id: String,
    stream: TlsStream<TcpStream>,
    inbox: BytesMut,
    /// Read, and not asked for yet.
    seen: VecDeque<Packet>,
    /// Session present.
    pub(crate) present: bool,
    next: u16,
}

impl Speaker {
    pub(crate) async fn write(&mut self, packet: Packet) {
        device::write(&mut self.stream, &packet).await.expect("write");
    }

    /// The next packet that `is` one; others wait.
    async fn next_of(&mut self, what: &str, is: impl Fn(&Packet) -> bool) -> Packet {
        if let Some(at) = self.seen.iter().position(&is) {
            return self.seen.remove(at).expect("found");
        }
        let wait = async {
            loop {
                let packet = device::read(&mut self.stream, &mut self.inbox).await;
                let packet = packet.unwrap_or_else(|e| panic!("{}: {what}: {e}", self.id));
                if is(&packet) {
                    return packet;
                }
                self.seen.push_back(packet);
            }
        };
        let packet = tokio::time::timeout(PATIENCE, wait).await;
        packet.unwrap_or_else(|_| panic!("{} did not get in time: {what}", self.id))
    }

    /// The next PUBLISH whose topic begins with `prefix`.
    pub(crate) async fn publish_of(&mut self, prefix: &str) -> Publish {
        let is =
            |packet: &Packet| matches!(packet, Packet::Publish(p) if p.topic.starts_with(prefix));
        match self.next_of(prefix, is).await {
            Packet::Publish(publish) => publish,
            other => panic!("{other:?}"),
        }
    }

    /// All filters in one SUBSCRIBE, at QoS 1.
    pub(crate) async fn subscribe(&mut self, filters: &[&str]) {
        let at_qos_1: Vec<_> = filters.iter().map(|filter| (*filter, QoS::AtLeastOnce)).collect();
        let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
        let codes = self.subscribe_to(&at_qos_1).await;
        assert_eq!(codes, vec![granted; filters.len()], "{}", self.id);
    }

    /// All filters in one SUBSCRIBE; gives the codes of the SUBACK.
    pub(super) async fn subscribe_to(
        &mut self,
        filters: &[(&str, QoS)],
    ) -> Vec<SubscribeReasonCode> {
        let filters = filters.iter().map(|(f, qos)| SubscribeFilter::new((*f).to_owned(), *qos));
        let mut subscribe = Subscribe::new_many(filters);
        subscribe.pkid = self.id_of_packet();
        let id = subscribe.pkid;
        self.write(Packet::Subscribe(subscribe)).await;
        let is = |p: &Packet| matches!(p, Packet::SubAck(ack) if ack.pkid == id);
        let Packet::SubAck(ack) = self.next_of("SUBACK", is).await else { panic!("{id}") };
        ack.return_codes
    }

    /// Twin answers, changes of desired properties, methods, messages: all that Azure Sphere's sample asks for (in its own order
    /// and QoS: [`sequence`](super::sequence)).
    pub(crate) async fn subscribe_as_sphere(&mut self) {
        let devicebound = format!("devices/{}/messages/devicebound/#", self.id);
        self.subscribe(&[
            "$iothub/methods/POST/#",
            "$iothub/twin/PATCH/properties/desired/#",
            "$iothub/twin/res/#",
        ])
        .await;
        self.subscribe(&[&devicebound]).await;
    }

    pub(crate) async fn publish_qos0(&mut self, topic: &str, body: impl Into<Vec<u8>>) {
        self.write(Packet::Publish(Publish::new(topic, QoS::AtMostOnce, body))).await;
    }

    /// Publishes and waits for the PUBACK.
    pub(crate) async fn publish(&mut self, topic: &str, body: impl Into<Vec<u8>>) {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, body);
        publish.pkid = self.id_of_packet();
        let id = publish.pkid;
        self.write(Packet::Publish(publish)).await;
        self.next_of("PUBACK", |p| matches!(p, Packet::PubAck(ack) if ack.pkid == id)).await;
    }

    pub(crate) async fn acknowledge(&mut self, publish: &Publish) {
        assert_eq!(publish.qos, QoS::AtLeastOnce, "{}", publish.topic);
        self.write(Packet::PubAck(PubAck::new(publish.pkid))).await;
    }

    /// Asks for the twin: status and body.
    pub(crate) async fn get_twin(&mut self, rid: &str) -> (u16, Value) {
        self.publish_qos0(&format!("$iothub/twin/GET/?$rid={rid}"), "").await;
        let (status, _, body) = self.twin_answer(rid).await;
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).expect("JSON")
        };
        (status, body)
    }

    /// Reports: status and version.
    pub(crate) async fn report(&mut self, rid: &str, patch: &Value) -> (u16, Option<u64>) {
        let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}");
        self.publish_qos0(&topic, patch.to_string()).await;
        let (status, version, _) = self.twin_answer(rid).await;
        (status, version)
    }

    async fn twin_answer(&mut self, rid: &str) -> (u16, Option<u64>, Vec<u8>) {
        let of_rid = format!("$rid={rid}");
        let is = |packet: &Packet| match packet {
            Packet::Publish(p) => {
                p.topic.starts_with("$iothub/twin/res/")
                    && p.topic.split(['?', '&']).any(|part| part == of_rid)
            }
            _ => false,
        };
        let Packet::Publish(answer) = self.next_of("a twin's answer", is).await else { panic!() };
        if answer.qos == QoS::AtLeastOnce {
            self.acknowledge(&answer).await;
        }
        let status = answer.topic.split('/').nth(3).and_then(|s| s.parse().ok());
        let version = answer.topic.split(['?', '&']).find_map(|p| p.strip_prefix("$version="));
        let version = version.map(|v| v.parse().expect("a number"));
        (status.expect("a status"), version, answer.payload.to_vec())
    }

    /// The next call of a method, acknowledged.
    pub(crate) async fn method_call(&mut self) -> Publish {
        let call = self.publish_of("$iothub/methods/POST/").await;
        if call.qos == QoS::AtLeastOnce {
            self.acknowledge(&call).await;
        }
        call
    }

    /// Answers the next call of a method; gives its name and payload.
    pub(crate) async fn answer_method(&mut self, status: i32, body: &str) -> (String, String) {
        let call = self.method_call().await;
        let name = call.topic.split('/').nth(3).expect("a name").to_owned();
        let rid = call.topic.split("$rid=").nth(1).expect("a request id");
        self.publish_qos0(&format!("$iothub/methods/res/{status}/?$rid={rid}"), body).await;
        (name, String::from_utf8(call.payload.to_vec()).expect("text"))
    }

    /// Says nothing and closes, as a device does whose power goes.
    pub(crate) fn vanish(self) {
        drop(self.stream);
    }

    fn id_of_packet(&mut self) -> u16 {
        // Above those that the gateway uses.
        self.next += 1;
        0x4000 + self.next
    }
}
