//! A connection without a socket: its seat, its session, and the way to its client.

#![allow(clippy::disallowed_methods, reason = "a test may spawn")]

use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;
use crate::auth::decision::Decision;
use crate::auth::testing::{NOW, StillClock, admitted};
use crate::auth::{AuthKind, Question, Scope, ScopeEntry, Status, SymmetricKeys, TrustBundle};
use crate::front::door::Door;
use crate::front::kept_sessions::SESSIONS_MAX;
use crate::front::limits;
use crate::front::live::LiveGate;
use crate::front::mailbox::NoRelay;
use crate::identity::DeviceId;
use crate::iothub::sas::{self, KeySigner};
use crate::mqtt::codec;
use crate::mqtt::packet::{Connect, Login, Utf8Bytes};
use crate::route::RouteTable;
use crate::store::{self, RealDisk, Store};

mod downward;

const OURS: &str = "ms-azure-iot-edge://edge1-1";

fn text(text: &'static str) -> Utf8Bytes {
    Utf8Bytes::new(Bytes::from_static(text.as_bytes())).unwrap()
}

/// Neither a hub nor anybody who listens.
struct Nobody;

impl AskHub for Nobody {
    fn ask(&self, _: Question) -> BoxFuture<'static, bool> {
        std::future::ready(false).boxed()
    }
}

impl Decisions for Nobody {
    fn decided(&self, _: Decision) {}

    fn wants_admissions(&self) -> bool {
        false
    }
}

/// A front end that lets the device `d1` in.
struct Site {
    folder: tempfile::TempDir,
    store: Store,
    scope: Arc<Scope>,
    key: KeySigner,
    front: Arc<Front>,
    door: Arc<Door>,
}

impl Site {
    fn new() -> Self {
        Self::with(Arc::new(NoRelay))
    }

    fn with(relay: Arc<dyn Relay>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let edge = DeviceId::parse("edge1").unwrap();
        let scope = Arc::new(Scope::load(folder.path().join("scope.json"), edge).0);
        let key = KeySigner::from_base64("a2V5").unwrap();
        let clock: SharedClock = StillClock::at(NOW);
        let metrics = Metrics::new("hub", "edge1");
        let config = store::Config::new(folder.path());
        let (store, _) = Store::open(config, Arc::new(RealDisk), Arc::clone(&clock)).unwrap();
        let authenticator =
            Authenticator::new(TrustBundle::empty(), Arc::clone(&scope), Arc::clone(&clock));
        let policy = auth::Policy { hosts: vec!["hub".to_owned()], ..auth::Policy::default() };
        let second = Duration::from_secs(1);
        let config = Config {
            session: Limits::default(),
            write_timeout: 60 * second,
            takeover_wait: 600 * second,
            drain_timeout: second,
        };
        let routes = Arc::new(ArcSwap::from_pointee(RouteTable::default()));
        let live = Arc::new(LiveGate::default());
        let door =
            Door::new(&limits::Config::default(), 10, Arc::clone(&clock), Arc::clone(&metrics));
        let front = Front {
            config,
            authenticator: Arc::new(authenticator.by(policy)),
            roster: Roster::new(10),
            ingest: Arc::new(Ingest::new(routes, live, Arc::clone(&metrics))),
            appender: store.appender(),
            relay,
            sessions: KeptSessions::open(
                folder.path().join("sessions"),
                SESSIONS_MAX,
                Arc::clone(&metrics),
            ),
            metrics,
            clock,
            hub: Box::new(Nobody),
            decisions: Arc::new(Nobody),
        };
        let site = Self { folder, store, scope, key, front: Arc::new(front), door };
        site.register(Status::Enabled);
        site
    }

    fn register(&self, status: Status) {
        let keys =
            SymmetricKeys { primary: Some(self.key.clone()), secondary: None, is_told: true };
        let entry = ScopeEntry {
            name: admitted("d1").identity.name().clone(),
            generation: "1".to_owned(),
            status,
            auth: AuthKind::Sas { keys },
            scope: OURS.to_owned(),
            parent_scopes: vec![OURS.to_owned()],
            is_edge: false,
        };
        let _ = self.scope.replace(vec![entry], NOW);
    }

    /// A connection of `d1` that has sent its CONNECT.
    async fn connect(&self) -> DuplexStream {
        self.connect_with(true).await
    }

    async fn connect_with(&self, clean_session: bool) -> DuplexStream {
        let (mut client, stream) = tokio::io::duplex(65_536);
        let stop = CancellationToken::new();
        let peer = SocketAddr::from(([127, 0, 0, 1], 4711));
        let pass = self.door.enter(peer, &stop).unwrap();
        let front = Arc::clone(&self.front);
        tokio::spawn(run(stream, Vec::new(), peer, front, pass, stop));
        let bytes = packets(&[self.hello(clean_session).await]);
        client.write_all(&bytes).await.unwrap();
        client
    }

    async fn hello(&self, clean_session: bool) -> Packet {
        let name = admitted("d1").identity.name().clone();
        let audience = sas::audience("hub", &name);
        let token = sas::build(&self.key, &audience, NOW.as_secs() + 3600).await.unwrap();
        let user_name =
            "hub/d1/?api-version=2021-04-12&DeviceClientType=p%2F1&model-id=dtmi%3Ax%3B1";
        let login = Login { user_name: text(user_name), password: Some(Bytes::from(token)) };
        Packet::Connect(Box::new(Connect {
            client_id: text("d1"),
            clean_session,
            keep_alive_secs: 60,
            will: None,
            login: Some(login),
        }))
    }
}

fn packets(packets: &[Packet]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for packet in packets {
        codec::encode(packet, &mut bytes).unwrap();
    }
    bytes
}

async fn answer(client: &mut DuplexStream) -> ConnectReturnCode {
    let mut bytes = [0; 4];
    client.read_exact(&mut bytes).await.unwrap();
    match codec::decode(&mut BytesMut::from(&bytes[..]), 100).unwrap() {
        Some(Packet::ConnAck(ack)) => ack.code,
        other => panic!("wanted CONNACK, got {other:?}"),
    }
}

/// The verdict was yes, and nobody who looks at the seats saw that it no longer is.
#[tokio::test]
async fn who_is_withdrawn_between_the_verdict_and_the_seat_is_not_let_in() {
    use ConnectReturnCode::{Accepted, ServerUnavailable};
    for (status, expected) in [(Status::Enabled, Accepted), (Status::Disabled, ServerUnavailable)] {
        let site = Site::new();
        let roster = &site.front.roster;
        let mut changes = roster.changes();
        let older = Arc::new(admitted("d1"));
        let (older, _) = roster.enter(&older, CancellationToken::new()).unwrap();
        changes.mark_unchanged();
        let mut client = site.connect().await;
        // Its verdict is there, and it waits for the older connection.
        changes.changed().await.unwrap();
        site.register(status);
        drop(older);
        assert_eq!(answer(&mut client).await, expected, "{status:?}");
        drop(client);
        while !roster.is_empty() {
            changes.changed().await.unwrap();
        }
        site.store.close().await;
    }
}
