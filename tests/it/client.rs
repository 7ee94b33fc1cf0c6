//! A device's connection by hand, for tests that look at single packets.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode, Login, Packet, Publish};
use rustls::pki_types::ServerName;
use sphere_gateway::gateway::Gateway;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::device::{self, DeviceConfig};
use crate::site::GATEWAY;
use crate::support::{PATIENCE, metrics, series};

/// Connects and wants to be let in; the first scope refresh may still be under way, so code 3 is tried again.
pub(crate) async fn admitted(config: &DeviceConfig) -> TlsStream<TcpStream> {
    let give_up = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (stream, code) = device::connect(config, 60).await.expect("an answer");
        match code {
            ConnectReturnCode::Success => return stream,
            ConnectReturnCode::ServiceUnavailable if tokio::time::Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => panic!("refused: {other:?}"),
        }
    }
}

/// TLS, and nothing said yet.
pub(crate) async fn silent_tls(config: &DeviceConfig) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(("127.0.0.1", config.port.load(Ordering::Relaxed))).await;
    let name = ServerName::try_from(GATEWAY).expect("a name");
    let connector = TlsConnector::from(Arc::clone(&config.tls));
    connector.connect(name, tcp.expect("connect")).await.expect("handshake")
}

/// A CONNECT in the short form of the user name.
pub(crate) fn connect(config: &DeviceConfig) -> Connect {
    let mut connect = Connect::new(config.id.clone());
    connect.login = Some(Login {
        username: format!("{GATEWAY}/{}/?api-version=2021-04-12", config.id),
        password: String::new(),
    });
    connect
}

/// Telemetry whose number is also its packet id.
pub(crate) fn telemetry(device: &str, number: u16, qos: QoS) -> Packet {
    let topic = format!("devices/{device}/messages/events/seq={number}&%24.mid=m-{number}");
    let mut publish = Publish::new(topic, qos, "{}");
    publish.pkid = number;
    Packet::Publish(publish)
}

/// What `sphere_gateway_refused_total` counts under this stage and reason.
pub(crate) async fn refusals(gateway: &Gateway, stage: &str, reason: &str) -> f64 {
    let labels = [format!("stage=\"{stage}\""), format!("reason=\"{reason}\"")];
    let labels = [labels[0].as_str(), labels[1].as_str()];
    series(&metrics(gateway).await, "sphere_gateway_refused_total", &labels)
}
