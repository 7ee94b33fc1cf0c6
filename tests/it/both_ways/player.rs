//! A client with a mind of its own: it reports, asks, publishes, answers methods, takes messages, leaves and comes back, by
//! a seed; and it writes down what it was told.

mod hears;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    Connect, ConnectReturnCode, Login, Packet, Publish, Subscribe, SubscribeFilter,
};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::book::{Book, Weather};
use super::speaker::Who;
use crate::device;
use crate::site::GATEWAY;

/// Statuses of a device begin here, so that they are told from the gateway's own.
pub(super) const STATUS: i64 = 10_000;
const TELEMETRY_WINDOW: usize = 3;
const PATCH_WINDOW: usize = 3;
/// A time that does not come.
const NEVER: Duration = Duration::from_secs(3600);

/// What a client likes to do, as weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    pub(super) patch: u32,
    pub(super) get: u32,
    pub(super) telemetry: u32,
    pub(super) leave: u32,
    /// How likely it keeps its session.
    pub(super) keeps: f64,
    /// Longest pause between two deeds.
    pub(super) pause: Duration,
}

/// A patch under way.
struct Patch {
    rid: String,
    /// Of QoS 1.
    pkid: u16,
    body: Value,
}

/// See [the module](self).
pub(super) struct Player {
    who: Who,
    habits: Habits,
    weather: Arc<Weather>,
    book: Arc<Mutex<Book>>,
    random: StdRng,
    stop: CancellationToken,
    /// Whether the gateway has a session with all subscriptions, if that is certain.
    kept: Option<bool>,
    numbers: u64,
    again: Option<Value>,
    unacked: VecDeque<u64>,
}

/// What is under way on one connection.
struct Wire {
    stream: TlsStream<TcpStream>,
    inbox: BytesMut,
    clean: bool,
    serial: u64,
    /// SUBACK is here, or was not needed.
    is_subscribed: bool,
    get: Option<String>,
    patches: VecDeque<Patch>,
    pkid: u16,
    /// What is written later; with the id of the message to the device that it acknowledges.
    later: Vec<(Instant, Packet, Option<String>)>,
    /// PUBACKs of messages to the device, by the number of telemetry that was the last before.
    confirming: Vec<(u64, String)>,
    next: Instant,
    leaves: bool,
}

impl Player {
    pub(super) fn new(
        who: Who,
        habits: Habits,
        seed: u64,
        weather: &Arc<Weather>,
        stop: &CancellationToken,
    ) -> (Self, Arc<Mutex<Book>>) {
        let book = Arc::new(Mutex::new(Book::new()));
        let player = Self {
            who,
            habits,
            weather: Arc::clone(weather),
            book: Arc::clone(&book),
            random: StdRng::seed_from_u64(seed),
            stop: stop.clone(),
            kept: Some(false),
            numbers: 0,
            again: None,
            unacked: VecDeque::new(),
        };
        (player, book)
    }

    /// Until it is stopped.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(async {
            loop {
                self.connection().await;
                let pause = self.random.random_range(0..80);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        })
        .await;
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics with it")
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    async fn connection(&mut self) {
        let clean = !self.random.random_bool(self.habits.keeps);
        // A gateway that is killed during a handshake never answers.
        let opened = timeout(Duration::from_secs(20), self.open(clean)).await;
        let Ok(Ok(mut wire)) = opened else { return };
        let _ended: io::Result<()> = self.speak(&mut wire).await;
        let patches: Vec<_> = wire.patches.into_iter().map(|patch| patch.body).collect();
        self.again = patches.first().cloned().filter(|_| {
            let may_lose = self.book().may_lose();
            !may_lose || self.random.random_bool(0.5)
        });
        let mut book = self.book();
        book.unanswered(&patches);
        book.view = None;
    }

    async fn open(&mut self, clean: bool) -> io::Result<Wire> {
        let config = &self.who.config;
        let port = config.port.load(Ordering::Relaxed);
        let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(GATEWAY).expect("a name");
        let mut stream = TlsConnector::from(Arc::clone(&config.tls)).connect(name, tcp).await?;
        let mut connect = Connect::new(self.who.id.clone());
        (connect.keep_alive, connect.clean_session) = (240, clean);
        let username = format!("{GATEWAY}/{}/?api-version=2020-09-30", self.who.id);
        connect.login = Some(Login { username, password: self.who.password() });
        let before = self.kept;
        if clean {
            self.kept = None;
        }
        device::write(&mut stream, &Packet::Connect(connect)).await?;
        let mut inbox = BytesMut::new();
        let present = match device::read(&mut stream, &mut inbox).await? {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => ack.session_present,
            // The scope is still under way, or the store.
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::ServiceUnavailable => {
                self.kept = before;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            other => {
                self.book().wrong(format!("CONNECT was answered by {other:?}"));
                return Err(io::ErrorKind::InvalidData.into());
            }
        };
        let expected = if clean { Some(false) } else { before };
        let serial = {
            let mut book = self.book();
            book.connections += 1;
            book.present += u64::from(present);
            if expected.is_some_and(|expected| expected != present) {
                book.wrong(format!("session present {present}, clean {clean}, before {before:?}"));
            }
            book.connections
        };
        self.kept = Some(present);
        Ok(Wire {
            stream,
            inbox,
            clean,
            serial,
            is_subscribed: false,
            get: None,
            patches: VecDeque::new(),
            pkid: 0x4000,
            later: Vec::new(),
            confirming: Vec::new(),
            next: Instant::now(),
            leaves: false,
        })
    }

    async fn speak(&mut self, wire: &mut Wire) -> io::Result<()> {
        let is_kept = self.kept == Some(true);
        if is_kept && self.random.random_bool(0.7) {
            wire.is_subscribed = true;
            self.begin(wire).await?;
        } else {
            self.subscribe(wire).await?;
        }
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while !wire.leaves {
            let is_quiet = self.weather.is_quiet();
            let now = Instant::now();
            if let Some(at) = wire.later.iter().position(|(due, ..)| is_quiet || *due <= now) {
                let (_, packet, id) = wire.later.remove(at);
                if let Some(id) = id {
                    self.acknowledged(wire, &id);
                }
                self.write(wire, packet).await?;
                continue;
            }
            let busy = wire.is_subscribed && !is_quiet;
            tokio::select! {
                packet = device::read(&mut wire.stream, &mut wire.inbox) => {
                    let packet = packet?;
                    self.on_packet(wire, packet).await?;
                }
                () = sleep_until(wire.next), if busy => self.act(wire).await?,
                _ = tick.tick() => {}
            }
        }
        Ok(())
    }

    async fn subscribe(&mut self, wire: &mut Wire) -> io::Result<()> {
        let qos = |random: &mut StdRng| match random.random_bool(0.5) {
            true => QoS::AtLeastOnce,
            false => QoS::AtMostOnce,
        };
        let mut filters: Vec<_> = [
            "$iothub/methods/POST/#",
            "$iothub/twin/PATCH/properties/desired/#",
            "$iothub/twin/res/#",
        ]
        .iter()
        .map(|filter| SubscribeFilter::new((*filter).to_owned(), qos(&mut self.random)))
        .collect();
        if !self.who.id.contains('/') {
            let filter = format!("devices/{}/messages/devicebound/#", self.who.id);
            filters.push(SubscribeFilter::new(filter, QoS::AtLeastOnce));
        }
        let mut subscribe = Subscribe::new_many(filters);
        subscribe.pkid = 1;
        if !wire.clean && self.kept != Some(true) {
            self.kept = None;
        }
        self.write(wire, Packet::Subscribe(subscribe)).await
    }

    /// The subscriptions stand: what was not acknowledged is sent again, and the twin is asked for.
    async fn begin(&mut self, wire: &mut Wire) -> io::Result<()> {
        for number in self.unacked.clone() {
            self.publish_telemetry(wire, number, true).await?;
        }
        self.ask(wire).await
    }

    async fn act(&mut self, wire: &mut Wire) -> io::Result<()> {
        let pause = self.habits.pause.as_millis() as u64;
        wire.next = Instant::now() + Duration::from_millis(self.random.random_range(0..=pause));
        let Habits { patch, get, telemetry, leave, .. } = self.habits;
        let dice = self.random.random_range(0..patch + get + telemetry + leave);
        if dice < patch {
            if wire.patches.len() < PATCH_WINDOW {
                return self.patch(wire).await;
            }
            // As fast as they are answered, and no faster.
            wire.next = Instant::now() + Duration::from_millis(1);
            return Ok(());
        }
        if dice < patch + get {
            return if wire.get.is_none() { self.ask(wire).await } else { Ok(()) };
        }
        if dice < patch + get + telemetry {
            if self.unacked.len() < TELEMETRY_WINDOW {
                let number = {
                    let mut book = self.book();
                    book.sent += 1;
                    book.sent
                };
                self.unacked.push_back(number);
                return self.publish_telemetry(wire, number, false).await;
            }
            return Ok(());
        }
        wire.leaves = true;
        match self.random.random_bool(0.5) {
            true => self.write(wire, Packet::Disconnect).await,
            false => Ok(()),
        }
    }

    async fn ask(&mut self, wire: &mut Wire) -> io::Result<()> {
        let rid = format!("g{}", self.number());
        let topic = format!("$iothub/twin/GET/?$rid={rid}");
        wire.get = Some(rid);
        self.write(wire, Packet::Publish(Publish::new(topic, QoS::AtMostOnce, ""))).await
    }

    async fn patch(&mut self, wire: &mut Wire) -> io::Result<()> {
        let number = self.number();
        let body = self.again.take().unwrap_or_else(|| {
            let value = |random: &mut StdRng| match random.random_bool(0.3) {
                true => Value::Null,
                false => json!(number),
            };
            let random = &mut self.random;
            let (key, deep) = (random.random_range(0..5), random.random_range(0..3));
            json!({
                "n": number, format!("k{key}"): value(random),
                "deep": {format!("d{deep}"): value(random)},
            })
        });
        let rid = format!("p{number}");
        let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}");
        let qos = match self.random.random_bool(0.5) {
            true => QoS::AtLeastOnce,
            false => QoS::AtMostOnce,
        };
        let mut publish = Publish::new(topic, qos, body.to_string());
        publish.pkid = if qos == QoS::AtLeastOnce { wire.packet_id() } else { 0 };
        wire.patches.push_back(Patch { rid, pkid: publish.pkid, body });
        self.write(wire, Packet::Publish(publish)).await
    }

    async fn publish_telemetry(
        &mut self,
        wire: &mut Wire,
        number: u64,
        again: bool,
    ) -> io::Result<()> {
        let of = self.who.id.replace('/', "/modules/");
        let topic = format!("devices/{of}/messages/events/%24.mid=t{number}&seq={number}");
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, "{}");
        publish.pkid = (number % 0x3fff) as u16 + 1;
        publish.dup = again;
        self.write(wire, Packet::Publish(publish)).await
    }

    async fn write(&mut self, wire: &mut Wire, packet: Packet) -> io::Result<()> {
        device::write(&mut wire.stream, &packet).await
    }

    async fn on_packet(&mut self, wire: &mut Wire, packet: Packet) -> io::Result<()> {
        match packet {
            Packet::SubAck(_) => {
                if !wire.clean {
                    self.kept = Some(true);
                }
                wire.is_subscribed = true;
                self.begin(wire).await
            }
            Packet::PubAck(ack) if ack.pkid >= 0x4000 => {
                let is = |patch: &Patch| patch.pkid == ack.pkid;
                if let Some(at) = wire.patches.iter().position(is) {
                    self.taken(wire, at);
                }
                Ok(())
            }
            Packet::PubAck(ack) => {
                self.telemetry_acked(wire, ack.pkid);
                Ok(())
            }
            Packet::Publish(publish) => self.on_publish(wire, publish).await,
            other => {
                self.book().wrong(format!("unasked: {other:?}"));
                Ok(())
            }
        }
    }
}

impl Wire {
    /// Above those that the gateway uses, and those of telemetry.
    fn packet_id(&mut self) -> u16 {
        self.pkid = if self.pkid == u16::MAX { 0x4001 } else { self.pkid + 1 };
        self.pkid
    }
}
