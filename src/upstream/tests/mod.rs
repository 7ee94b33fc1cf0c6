//! The upstream against the hub double: what it promises its callers when the hub behaves and when it does not.
//!
//! The double shares neither code nor AMQP library with the upstream, so that both cannot agree on a mistake.

mod delivery;
mod faults;
mod mute;
mod scope;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hub_double::{DeviceSpec, HubDouble};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Config, Upstream};
use crate::auth::scope::Scope;
use crate::clock::{self, UnixMillis};
use crate::deliver::{Deliver, Outcome};
use crate::identity::{ClientName, DeviceId, Identity, ModuleId};
use crate::iothub::sas::KeySigner;
use crate::message::{Message, Properties, Source, SystemKey, SystemProperties};
use crate::metrics::Metrics;

const HUB: &str = "contoso.azure-devices.net";
const KEY: &str = "a2V5IG9mIGVkZ2VIdWIsIGZvciB0ZXN0cw==";
/// A bound that no healthy run comes near: a test that hangs fails here.
pub(super) const LONG: Duration = Duration::from_secs(180);

/// A hub, and an upstream that dials it.
pub(super) struct Lab {
    pub(super) hub: HubDouble,
    pub(super) upstream: Arc<Upstream>,
    pub(super) scope: Arc<Scope>,
    config: Config,
    pub(super) stop: CancellationToken,
    pub(super) tracker: TaskTracker,
    _folder: TempDir,
}

/// A chain and a key for [`HUB`], and the CA to trust for it.
fn pki() -> (String, String, rustls::RootCertStore) {
    // Silent unless RUST_LOG is set.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter(filter).try_init();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_der = ca.self_signed(&ca_key).unwrap().der().clone();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![HUB.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca_der).unwrap();
    (leaf.pem(), key.serialize_pem(), roots)
}

impl Lab {
    /// With children `d1`, `d2`, `d3` of `edge1`, short limits, and whatever else the two closures set.
    pub(super) async fn with(
        hub: impl FnOnce(&mut hub_double::Config),
        upstream: impl FnOnce(&mut Config),
    ) -> Self {
        let (chain, key, roots) = pki();
        let mut hub_config = hub_double::Config::new(HUB, "edge1", KEY, chain, key);
        hub_config.devices =
            ["d1", "d2", "d3"].map(|d| DeviceSpec::certificate(d).child_of("edge1")).to_vec();
        hub(&mut hub_config);
        let hub = HubDouble::start(hub_config).await.unwrap();

        let edge = DeviceId::parse("edge1").unwrap();
        let mut config =
            Config::new(HUB, edge.clone(), Arc::new(KeySigner::from_base64(KEY).unwrap()));
        config.dial_host = Some("127.0.0.1".to_owned());
        config.amqp_port = hub.ports().amqp;
        config.https_port = hub.ports().https;
        config.roots = roots;
        config.operation_timeout = Duration::from_secs(2);
        upstream(&mut config);

        let folder = tempfile::tempdir().unwrap();
        let scope = Arc::new(Scope::load(folder.path().join("scope.json"), edge).0);
        let tracker = TaskTracker::new();
        let upstream = Upstream::new(
            config.clone(),
            scope.clone(),
            Metrics::new(HUB, "edge1"),
            clock::system(),
            tracker.clone(),
        );
        let stop = CancellationToken::new();
        let (running, stopped) = (upstream.clone(), stop.clone());
        tracker.spawn(async move { running.run(stopped).await });
        Self { hub, upstream, scope, config, stop, tracker, _folder: folder }
    }

    /// Where the upstream counts.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.upstream.shared.metrics
    }

    pub(super) async fn start() -> Self {
        Self::with(|_| {}, |_| {}).await
    }

    pub(super) async fn deliver(&self, sender: &Identity, batch: &[Message]) -> Outcome {
        timeout(LONG, async {
            self.upstream.ready().await;
            self.upstream.deliver(sender, batch).await
        })
        .await
        .expect("a delivery ends")
    }

    /// Delivers as the pump would: again and again while the outcome says so.
    async fn deliver_at_last(&self, sender: &Identity, batch: &[Message]) {
        timeout(LONG, async {
            loop {
                match self.deliver(sender, batch).await {
                    Outcome::Delivered => return,
                    Outcome::Retry { .. } | Outcome::Offline => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    other => panic!("{other:?}"),
                }
            }
        })
        .await
        .expect("delivered at last");
    }

    /// Ends everything; when it returns no task of the upstream is left.
    pub(super) async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        timeout(LONG, self.tracker.wait()).await.expect("no task outlives stop");
        self.hub.shutdown().await;
    }
}

pub(super) fn device(id: &str) -> Identity {
    Identity::vouched(ClientName::Device(DeviceId::parse(id).unwrap()))
}

pub(super) fn module(device: &str, id: &str) -> Identity {
    Identity::vouched(ClientName::Module(
        DeviceId::parse(device).unwrap(),
        ModuleId::parse(id).unwrap(),
    ))
}

/// A message that the double recognises: `seq` is its id and its place.
fn message(sender: &Identity, seq: u64, body: impl Into<Bytes>) -> Message {
    let mut system = SystemProperties::default();
    system.set(SystemKey::MessageId, format!("{sender}-{seq}"));
    let mut properties = Properties::default();
    properties.set("seq", Some(seq.to_string().into()));
    Message {
        source: Source { sender: sender.clone() },
        system,
        properties,
        body: body.into(),
        received: UnixMillis(0),
    }
}

pub(super) fn messages(sender: &Identity, seqs: std::ops::Range<u64>) -> Vec<Message> {
    seqs.map(|seq| message(sender, seq, format!("{{\"n\":{seq}}}"))).collect()
}

fn is_retry(outcome: &Outcome, want: &str) -> bool {
    matches!(outcome, Outcome::Retry { reason, .. } if *reason == want)
}
