//! A hub that leaves attaches unanswered, which the hub double never does: built on the AMQP library's own acceptor.

use fe2o3_amqp::acceptor::{
    ConnectionAcceptor, LinkAcceptor, LinkEndpoint, ListenerSessionHandle, SaslAnonymousMechanism,
    SessionAcceptor,
};
use fe2o3_amqp::{Receiver, Sender};
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Body, Message as AmqpMessage, Properties as AmqpProperties,
};
use fe2o3_amqp_types::primitives::Value;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;

use futures_util::future::BoxFuture;

use super::*;
use crate::upstream::downlinks::{
    self, Cloud, CloudError, CloudMessage, Downlinks, Kind, Listener, MethodCall, Product,
    Settlement, Wanted,
};

/// Serves one connection: `$cbs` on its first session, silence to every attach on the second, and answers on the others.
async fn serve(listener: TcpListener, chain: String, key: String, tracker: TaskTracker) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let stream = tokio_rustls::TlsAcceptor::from(Arc::new(tls)).accept(tcp).await.unwrap();
    let acceptor = ConnectionAcceptor::builder()
        .container_id("mute")
        .sasl_acceptor(SaslAnonymousMechanism {})
        .build();
    let mut connection = acceptor.accept(stream).await.unwrap();
    let mut mute = None;
    for number in 0.. {
        let Ok(session) = SessionAcceptor::new().accept(&mut connection).await else {
            break;
        };
        match number {
            1 => mute = Some(session),
            _ => drop(tracker.spawn(links(session, tracker.clone()))),
        }
    }
    drop(mute);
}

/// Answers attaches; takes everything; says yes to every token.
async fn links(mut session: ListenerSessionHandle, tracker: TaskTracker) {
    let mut requests: Option<Receiver> = None;
    let mut idle = Vec::new();
    while let Ok(endpoint) = LinkAcceptor::new().accept(&mut session).await {
        match endpoint {
            LinkEndpoint::Receiver(receiver) if receiver.name() == "$cbs-sender" => {
                requests = Some(receiver);
            }
            LinkEndpoint::Receiver(receiver) => drop(tracker.spawn(take(receiver))),
            // Of downlinks: nothing is sent on it.
            LinkEndpoint::Sender(silent) if silent.name() != "$cbs-receiver" => idle.push(silent),
            LinkEndpoint::Sender(answers) => {
                let requests = requests.take().expect("the sender is attached first");
                tracker.spawn(tokens(requests, answers));
            }
        }
    }
}

async fn take(mut receiver: Receiver) {
    while let Ok(delivery) = receiver.recv::<Body<Value>>().await {
        let _ = receiver.accept(&delivery).await;
    }
}

async fn tokens(mut requests: Receiver, mut answers: Sender) {
    while let Ok(delivery) = requests.recv::<Body<Value>>().await {
        requests.accept(&delivery).await.unwrap();
        let id = delivery.message().properties.as_ref().unwrap().message_id.clone().unwrap();
        let answer = AmqpMessage::builder()
            .properties(AmqpProperties::builder().correlation_id(id).build())
            .application_properties(
                ApplicationProperties::builder().insert("status-code", 200i32).build(),
            )
            .value("OK")
            .build();
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}

/// An upstream that dials such a hub.
struct MuteLab {
    upstream: Arc<Upstream>,
    stop: CancellationToken,
    tracker: TaskTracker,
    /// The fake's tasks end with the runtime.
    _fakes: TaskTracker,
    _folder: TempDir,
}

impl MuteLab {
    async fn start() -> Self {
        let (chain, key, roots) = pki();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let edge = DeviceId::parse("edge1").unwrap();
        let mut config =
            Config::new(HUB, edge.clone(), Arc::new(KeySigner::from_base64(KEY).unwrap()));
        config.dial_host = Some("127.0.0.1".to_owned());
        config.amqp_port = listener.local_addr().unwrap().port();
        config.roots = roots;
        config.operation_timeout = Duration::from_secs(2);
        let (tracker, fakes) = (TaskTracker::new(), TaskTracker::new());
        fakes.spawn(serve(listener, chain, key, fakes.clone()));
        let folder = tempfile::tempdir().unwrap();
        let scope = Arc::new(Scope::load(folder.path().join("scope.json"), edge).0);
        let metrics = Metrics::new(HUB, "edge1");
        let upstream = Upstream::new(config, scope, metrics, clock::system(), tracker.clone());
        let stop = CancellationToken::new();
        let (running, stopped) = (upstream.clone(), stop.clone());
        tracker.spawn(async move { running.run(stopped).await });
        Self { upstream, stop, tracker, _fakes: fakes, _folder: folder }
    }

    async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        timeout(LONG, self.tracker.wait()).await.expect("no task outlives stop");
    }
}

#[tokio::test]
async fn an_attach_without_an_answer_holds_up_nobody_else() {
    let lab = MuteLab::start().await;
    let upstream = &lab.upstream;
    timeout(LONG, upstream.ready()).await.unwrap();
    let (d1, d2) = (device("d1"), device("d2"));
    let (stuck, free) = (messages(&d1, 0..1), messages(&d2, 0..1));
    let (stuck, free) = tokio::join!(upstream.deliver(&d1, &stuck), async {
        // After d1 has taken the mute session.
        tokio::time::sleep(Duration::from_millis(100)).await;
        upstream.deliver(&d2, &free).await
    });
    assert!(is_retry(&stuck, "attach_timeout"), "{stuck:?}");
    assert_eq!(free, Outcome::Delivered);
    // It is given up, and tried again on a session of its own.
    let again = timeout(LONG, async {
        while upstream.deliver(&d1, &messages(&d1, 0..1)).await != Outcome::Delivered {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    again.await.expect("d1 has its link");
    assert_eq!(upstream.deliver(&d2, &messages(&d2, 1..2)).await, Outcome::Delivered);
    assert!(*upstream.connected().borrow());
    lab.end().await;
}

/// Hears nothing, and answers nothing.
struct Deaf;

impl Listener for Deaf {
    fn listening(&self, _: &Identity) {}
    fn desired(&self, _: &Identity, _: Bytes) {}
    fn method(&self, _: &Identity, _: MethodCall) -> BoxFuture<'static, (i32, Bytes)> {
        Box::pin(std::future::pending())
    }
    fn cloud_to_device(&self, _: &Identity, _: CloudMessage) -> BoxFuture<'static, Settlement> {
        Box::pin(std::future::pending())
    }
}

/// The first identity's attaches are never answered; there is room for one set-up at a time.
#[tokio::test]
async fn a_downlink_whose_attach_is_not_answered_holds_up_nobody_else() {
    let lab = MuteLab::start().await;
    let config = downlinks::Config { setups_max: 1, ..downlinks::Config::default() };
    let downlinks = Downlinks::new(lab.upstream.clone(), config);
    lab.tracker.spawn(downlinks.clone().run(Arc::new(Deaf), lab.stop.clone()));
    timeout(LONG, downlinks.connected().wait_for(|it| *it)).await.unwrap().unwrap();
    let (d1, d2) = (device("d1"), device("d2"));
    // It takes the mute session for itself.
    let busy = timeout(LONG, downlinks.twin(&d1)).await.unwrap();
    assert!(matches!(busy, Err(CloudError::Busy { .. })), "{busy:?}");
    let methods = Wanted { methods: true, ..Wanted::default() };
    downlinks.want(&d2, methods, Product::default());
    let open = async {
        while downlinks.open(Kind::Methods) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, open).await.expect("d2 has its links");
    // It is given up, and tried again on a session of its own.
    let desired = Wanted { desired: true, ..Wanted::default() };
    downlinks.want(&d1, desired, Product::default());
    let open = async {
        while downlinks.open(Kind::Twin) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, open).await.expect("d1 has its links");
    let batch = messages(&d2, 0..1);
    assert_eq!(lab.upstream.deliver(&d2, &batch).await, Outcome::Delivered);
    assert!(*lab.upstream.connected().borrow());
    lab.end().await;
}
