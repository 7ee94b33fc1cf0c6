//! The way to a client: letters, PUBACKs, sessions that outlive connections, and what the relay hears of it.

use std::sync::Mutex;

use tokio::sync::oneshot;

use super::*;
use crate::front::mailbox::{Client, Handed, Letter, Mailbox, TooMany, Unsent};
use crate::identity::Identity;
use crate::iothub::subscriptions::Subscription;
use crate::message::{Properties, SystemProperties};
use crate::mqtt::packet::{
    Delivery, PacketId, Publish, QoS, SubAck, Subscribe, SubscribeReturnCode, Unsubscribe,
};
use crate::session::{Outbound, TwinRequest};

const C2D: &str = "devices/d1/messages/devicebound/#";
const TWIN: &str = "$iothub/twin/res/#";
const METHODS: &str = "$iothub/methods/POST/#";

/// Writes down what it hears.
#[derive(Default)]
struct Book {
    heard: Mutex<Vec<Heard>>,
    clients: Mutex<Vec<Client>>,
    /// Whether each request is one too many.
    is_full: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Arrived(u64, Subscriptions),
    Subscribed(u64, Subscriptions),
    Asked(u64, TwinRequest),
    Answered(u64, MethodResponse),
    Left(u64),
}

impl Book {
    fn write(&self, heard: Heard) {
        self.heard.lock().unwrap().push(heard);
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// The mailbox of the newest connection.
    fn mailbox(&self) -> Mailbox {
        self.clients.lock().unwrap().last().unwrap().mailbox.clone()
    }
}

impl Relay for Book {
    fn arrived(&self, client: Client, subscriptions: Subscriptions) {
        assert_eq!(client.identity, admitted("d1").identity);
        assert_eq!(client.model_id.as_deref(), Some("dtmi:x;1"));
        assert_eq!(client.product_info.as_deref(), Some("p/1"));
        self.write(Heard::Arrived(client.serial, subscriptions));
        self.clients.lock().unwrap().push(client);
    }

    fn subscribed(&self, _: &Identity, serial: u64, subscriptions: Subscriptions) {
        self.write(Heard::Subscribed(serial, subscriptions));
    }

    fn asked(&self, _: &Identity, serial: u64, request: TwinRequest) -> Result<(), TooMany> {
        self.write(Heard::Asked(serial, request));
        if self.is_full { Err(TooMany) } else { Ok(()) }
    }

    fn answered(&self, _: &Identity, serial: u64, response: MethodResponse) -> bool {
        self.write(Heard::Answered(serial, response));
        false
    }

    fn left(&self, _: &Identity, serial: u64) {
        self.write(Heard::Left(serial));
    }
}

/// A client at its end of the stream.
struct Peer {
    stream: DuplexStream,
    inbox: BytesMut,
}

impl Peer {
    /// Connected; also says whether a session was present.
    async fn new(site: &Site, clean_session: bool) -> (Self, bool) {
        let stream = site.connect_with(clean_session).await;
        let mut peer = Self { stream, inbox: BytesMut::new() };
        match peer.next().await {
            Some(Packet::ConnAck(ack)) if ack.code == ConnectReturnCode::Accepted => {
                (peer, ack.session_present)
            }
            other => panic!("{other:?}"),
        }
    }

    /// `None` = the gateway has closed.
    async fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = codec::decode(&mut self.inbox, 300_000).unwrap() {
                return Some(packet);
            }
            if self.stream.read_buf(&mut self.inbox).await.unwrap() == 0 {
                return None;
            }
        }
    }

    async fn send(&mut self, all: &[Packet]) {
        self.stream.write_all(&packets(all)).await.unwrap();
    }

    async fn subscribe(&mut self, filters: &[(&'static str, QoS)]) {
        self.send(&[subscribe(filters)]).await;
        let codes = filters.iter().map(|(_, qos)| SubscribeReturnCode::Granted(*qos)).collect();
        let expected = Packet::SubAck(SubAck { packet_id: id(1), codes });
        assert_eq!(self.next().await, Some(expected));
    }

    async fn published(&mut self) -> Publish {
        match self.next().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("{other:?}"),
        }
    }
}

fn id(n: u16) -> PacketId {
    PacketId::new(n).unwrap()
}

fn subscribe(filters: &[(&'static str, QoS)]) -> Packet {
    let filters = filters.iter().map(|(filter, qos)| (text(filter), *qos)).collect();
    Packet::Subscribe(Subscribe { packet_id: id(1), filters })
}

fn publish(topic: &'static str, packet_id: u16) -> Packet {
    let delivery = Delivery::AtLeastOnce { packet_id: id(packet_id), dup: false };
    Packet::Publish(Publish {
        topic: text(topic),
        payload: Bytes::from_static(b"{}"),
        delivery,
        retain: false,
    })
}

fn subscriptions(all: &[(Subscription, QoS)]) -> Subscriptions {
    let mut subscriptions = Subscriptions::default();
    for (kind, qos) in all {
        subscriptions.set(*kind, Some(*qos));
    }
    subscriptions
}

fn c2d(body_bytes: usize) -> Outbound {
    let (system, properties) = (SystemProperties::default(), Properties::default());
    Outbound::CloudToDevice { system, properties, body: vec![b'x'; body_bytes].into() }
}

fn letter(content: Outbound) -> (Letter, oneshot::Receiver<Handed>) {
    let (handed, told) = oneshot::channel();
    (Letter::Send { content, handed: Some(handed) }, told)
}

#[track_caller]
fn put(mailbox: &Mailbox, content: Outbound) -> oneshot::Receiver<Handed> {
    let (letter, told) = letter(content);
    mailbox.try_send(letter).unwrap();
    told
}

/// Until `book` has heard that the connection with this serial is gone.
async fn gone(book: &Book, serial: u64) {
    while !book.heard().contains(&Heard::Left(serial)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn counted(site: &Site, event: &str, reason: &str) -> bool {
    let (event, reason) = (format!("event=\"{event}\""), format!("reason=\"{reason}\""));
    site.front.metrics.render().lines().any(|line| line.contains(&event) && line.contains(&reason))
}

#[tokio::test]
async fn a_letter_goes_to_the_client_and_its_puback_comes_back() {
    let book = Arc::new(Book::default());
    let site = Site::with(Arc::clone(&book) as _);
    let (mut peer, _) = Peer::new(&site, true).await;
    let sphere = [(C2D, QoS::AtLeastOnce), (TWIN, QoS::AtMostOnce), (METHODS, QoS::AtMostOnce)];
    peer.subscribe(&sphere).await;
    let all = subscriptions(&[
        (Subscription::CloudToDevice, QoS::AtLeastOnce),
        (Subscription::TwinResponses, QoS::AtMostOnce),
        (Subscription::Methods, QoS::AtMostOnce),
    ]);
    let none = Subscriptions::default();
    assert_eq!(book.heard(), [Heard::Arrived(1, none), Heard::Subscribed(1, all)]);

    let mailbox = book.mailbox();
    let (mut first, second) = (put(&mailbox, c2d(3)), put(&mailbox, c2d(4)));
    let (one, two) = (peer.published().await, peer.published().await);
    assert_eq!((one.payload.len(), two.payload.len()), (3, 4), "in order");
    assert_eq!(one.topic.as_str(), "devices/d1/messages/devicebound/");
    let two = two.delivery.packet_id().unwrap();
    peer.send(&[Packet::PubAck(two), Packet::PubAck(two)]).await;
    assert_eq!(second.await, Ok(Handed::Acknowledged));
    assert!(first.try_recv().is_err(), "its own PUBACK counts");
    let desired = Outbound::Desired { version: 1, body: Bytes::new() };
    assert_eq!(put(&mailbox, desired).await, Ok(Handed::NotSubscribed));
    let method =
        |name: &str| Outbound::Method { rid: "1".into(), name: name.into(), body: Bytes::new() };
    assert_eq!(put(&mailbox, method("m")).await, Ok(Handed::Written));
    assert_eq!(peer.published().await.topic.as_str(), "$iothub/methods/POST/m/?$rid=1");
    assert_eq!(put(&mailbox, method("a+b")).await, Ok(Handed::Unsendable));
    assert!(counted(&site, "letter_not_sent", "not_subscribed"));
    assert!(counted(&site, "letter_not_sent", "unsendable"));

    peer.send(&[Packet::Disconnect]).await;
    assert_eq!(peer.next().await, None);
    assert!(first.await.is_err(), "nobody will acknowledge it");
    assert!(mailbox.is_closed());
    gone(&book, 1).await;
    site.store.close().await;
}

#[tokio::test]
async fn a_session_outlives_its_connection_unless_the_client_begins_anew() {
    let book = Arc::new(Book::default());
    let site = Site::with(Arc::clone(&book) as _);
    let (mut peer, is_present) = Peer::new(&site, false).await;
    assert!(!is_present);
    peer.subscribe(&[(C2D, QoS::AtLeastOnce)]).await;
    let folder = site.folder.path().join("sessions");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "before its SUBACK");
    drop(peer);
    gone(&book, 1).await;

    // What waits comes without a new SUBSCRIBE, behind the CONNACK.
    let (mut peer, is_present) = Peer::new(&site, false).await;
    assert!(is_present);
    let kept = subscriptions(&[(Subscription::CloudToDevice, QoS::AtLeastOnce)]);
    assert_eq!(book.heard().last(), Some(&Heard::Arrived(2, kept)));
    let _told = put(&book.mailbox(), c2d(1));
    assert_eq!(peer.published().await.delivery.qos(), QoS::AtLeastOnce);
    drop(peer);
    gone(&book, 2).await;

    let (mut peer, is_present) = Peer::new(&site, true).await;
    assert!(!is_present && std::fs::read_dir(&folder).unwrap().count() == 0);
    assert_eq!(put(&book.mailbox(), c2d(1)).await, Ok(Handed::NotSubscribed));
    peer.subscribe(&[(C2D, QoS::AtLeastOnce)]).await;
    drop(peer);
    gone(&book, 3).await;
    let (_peer, is_present) = Peer::new(&site, false).await;
    assert!(!is_present, "a session of CleanSession 1 ends with its connection");
    site.store.close().await;
}

/// All in one flight, as a client may that does not wait for the CONNACK.
#[tokio::test]
async fn what_was_granted_in_a_flight_that_ends_with_disconnect_is_kept() {
    let book = Arc::new(Book::default());
    let site = Site::with(Arc::clone(&book) as _);
    let mut stream = site.connect_with(false).await;
    let twice = [subscribe(&[(C2D, QoS::AtLeastOnce)]), subscribe(&[(TWIN, QoS::AtMostOnce)])];
    stream.write_all(&packets(&[&twice[..], &[Packet::Disconnect]].concat())).await.unwrap();
    gone(&book, 1).await;
    let (_peer, is_present) = Peer::new(&site, false).await;
    let kept = subscriptions(&[
        (Subscription::CloudToDevice, QoS::AtLeastOnce),
        (Subscription::TwinResponses, QoS::AtMostOnce),
    ]);
    assert!(is_present);
    assert_eq!(book.heard().last(), Some(&Heard::Arrived(2, kept)));
    site.store.close().await;
}

#[tokio::test]
async fn a_takeover_tells_of_the_end_before_the_beginning() {
    let book = Arc::new(Book::default());
    let site = Site::with(Arc::clone(&book) as _);
    let (mut old, _) = Peer::new(&site, false).await;
    old.subscribe(&[(C2D, QoS::AtLeastOnce)]).await;
    let waits = put(&book.mailbox(), c2d(1));
    let sent = old.published().await.delivery.packet_id().unwrap();
    let (mut new, is_present) = Peer::new(&site, false).await;
    assert!(is_present && waits.await.is_err());
    let heard: Vec<Heard> =
        book.heard().into_iter().filter(|h| !matches!(h, Heard::Subscribed(..))).collect();
    assert!(
        matches!(heard[..], [Heard::Arrived(1, _), Heard::Left(1), Heard::Arrived(2, _)]),
        "{heard:?}"
    );
    // Its sender delivers it again; a PUBACK that belongs to the old connection is not taken for one of it.
    let mut again = put(&book.mailbox(), c2d(1));
    let publish = new.published().await;
    assert_ne!(publish.delivery.packet_id(), Some(sent));
    new.send(&[Packet::PubAck(sent), Packet::PingReq]).await;
    assert_eq!(new.next().await, Some(Packet::PingResp));
    assert!(again.try_recv().is_err());
    new.send(&[Packet::PubAck(publish.delivery.packet_id().unwrap())]).await;
    assert_eq!(again.await, Ok(Handed::Acknowledged));
    site.store.close().await;
}

#[tokio::test]
async fn a_client_that_never_acknowledges_stalls_nothing_else() {
    let book = Arc::new(Book::default());
    let site = Site::with(Arc::clone(&book) as _);
    let (mut peer, _) = Peer::new(&site, true).await;
    peer.subscribe(&[(C2D, QoS::AtLeastOnce), (METHODS, QoS::AtMostOnce)]).await;
    let mailbox = book.mailbox();
    let mut waiting = Vec::new();
    for _ in 0..64 {
        waiting.push(put(&mailbox, c2d(1)));
        peer.published().await;
    }
    assert_eq!(put(&mailbox, c2d(1)).await, Ok(Handed::Full));
    assert!(counted(&site, "letter_not_sent", "window_full"));
    let method = Outbound::Method { rid: "1".into(), name: "m".into(), body: Bytes::new() };
    assert_eq!(put(&mailbox, method).await, Ok(Handed::Written));
    peer.published().await;
    peer.send(&[publish("devices/d1/messages/events/", 9), Packet::PingReq]).await;
    let mut answers = [peer.next().await.unwrap(), peer.next().await.unwrap()];
    answers.sort_by_key(Packet::name);
    assert_eq!(answers, [Packet::PingResp, Packet::PubAck(id(9))]);
    assert!(waiting.iter_mut().all(|told| told.try_recv().is_err()));
    site.store.close().await;
}

/// What it does not read waits at most in the mailbox, then its senders are told.
#[tokio::test]
async fn a_client_that_does_not_read_is_sent_no_more() {
    let book = Arc::new(Book::default());
    let site = Site::with(Arc::clone(&book) as _);
    let (mut peer, _) = Peer::new(&site, true).await;
    peer.subscribe(&[(C2D, QoS::AtMostOnce)]).await;
    let mailbox = book.mailbox();
    let (mut told, mut refused) = (Vec::new(), 0);
    while refused < 100 {
        let (letter, hears) = letter(c2d(40_000));
        match mailbox.try_send(letter) {
            Ok(()) => told.push(hears),
            Err(Unsent::Full(_)) => {
                refused += 1;
                tokio::task::yield_now().await;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    // The pipe, the outbox, the mailbox.
    assert!(told.len() < 40, "{} letters of 40,000 bytes", told.len());
    for _ in 0..told.len() {
        assert_eq!(peer.published().await.payload.len(), 40_000);
    }
    for told in told {
        assert_eq!(told.await, Ok(Handed::Written));
    }
    site.store.close().await;
}

#[tokio::test]
async fn twin_requests_and_answers_reach_the_relay() {
    let book = Arc::new(Book::default());
    let site = Site::with(Arc::clone(&book) as _);
    let (mut peer, _) = Peer::new(&site, true).await;
    peer.send(&[
        publish("$iothub/twin/GET/?$rid=4", 1),
        publish("$iothub/twin/PATCH/properties/reported/?$rid=5&$version=2", 2),
        publish("$iothub/methods/res/200/?$rid=1f", 3),
        publish("devices/d1/messages/events/", 4),
    ])
    .await;
    assert_eq!(peer.next().await, Some(Packet::PubAck(id(1))));
    let body = Bytes::from_static(b"{}");
    let patch = TwinRequest::Patch {
        tag: Some(1),
        rid: Some("5".into()),
        version: Some(2),
        body: body.clone(),
    };
    while book.heard().len() < 4 {
        tokio::task::yield_now().await;
    }
    let expected = [
        Heard::Asked(1, TwinRequest::Get { rid: "4".into() }),
        Heard::Asked(1, patch),
        Heard::Answered(1, MethodResponse { rid: "1f".into(), status: 200, body }),
    ];
    assert_eq!(book.heard()[1..], expected);
    // Behind the patch all PUBACKs wait until it is kept.
    book.mailbox().try_send(Letter::Kept { tag: 1 }).unwrap();
    for n in 2..=4 {
        assert_eq!(peer.next().await, Some(Packet::PubAck(id(n))));
    }
    assert!(counted(&site, "method_response", "not_asked_for"));
    site.store.close().await;
}

#[tokio::test]
async fn one_request_too_many_is_answered_429_or_ends_the_connection() {
    const PATCH: &str = "$iothub/twin/PATCH/properties/reported/?$rid=5";
    let book = Arc::new(Book { is_full: true, ..Book::default() });
    let site = Site::with(Arc::clone(&book) as _);
    let (mut peer, _) = Peer::new(&site, true).await;
    peer.subscribe(&[(TWIN, QoS::AtMostOnce)]).await;
    peer.send(&[publish("$iothub/twin/GET/?$rid=4", 1), publish(PATCH, 2)]).await;
    let mut topics = Vec::new();
    let mut acknowledged = Vec::new();
    for _ in 0..4 {
        match peer.next().await.unwrap() {
            Packet::Publish(publish) => topics.push(publish.topic.to_string()),
            Packet::PubAck(id) => acknowledged.push(id.get()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(topics, ["$iothub/twin/res/429/?$rid=4", "$iothub/twin/res/429/?$rid=5"]);
    assert_eq!(acknowledged, [1, 2]);
    assert!(counted(&site, "twin_request", "too_many"));
    // Who cannot be told keeps it.
    for unanswerable in [PATCH, "$iothub/twin/PATCH/properties/reported/"] {
        let (mut peer, _) = Peer::new(&site, true).await;
        if unanswerable != PATCH {
            peer.subscribe(&[(TWIN, QoS::AtMostOnce)]).await;
        }
        peer.send(&[publish(unanswerable, 3)]).await;
        assert_eq!(peer.next().await, None, "{unanswerable}: no PUBACK");
    }
    site.store.close().await;
}

#[tokio::test]
async fn the_relay_can_end_a_connection() {
    let book = Arc::new(Book::default());
    let site = Site::with(Arc::clone(&book) as _);
    let (mut peer, _) = Peer::new(&site, true).await;
    peer.subscribe(&[(C2D, QoS::AtLeastOnce)]).await;
    let mailbox = book.mailbox();
    let close = Letter::Close { label: "storage_failure", detail: "no disk".to_owned() };
    let waits = put(&mailbox, c2d(1));
    mailbox.try_send(close).unwrap();
    let never = put(&mailbox, c2d(2));
    assert_eq!(peer.published().await.payload.len(), 1);
    assert_eq!(peer.next().await, None);
    assert!(waits.await.is_err() && never.await.is_err());
    assert!(matches!(mailbox.try_send(letter(c2d(1)).0), Err(Unsent::Closed(_))));
    site.store.close().await;
}

/// Each change is a file: a client that does nothing else gets a few for nothing, then one a second.
#[tokio::test]
async fn a_flood_of_subscribes_is_slowed_and_one_that_changes_nothing_costs_nothing() {
    let book = Arc::new(Book::default());
    let site = Site::with(Arc::clone(&book) as _);
    let (mut peer, _) = Peer::new(&site, false).await;
    let same = subscribe(&[(METHODS, QoS::AtMostOnce)]);
    peer.send(&vec![same; 500]).await;
    for _ in 0..500 {
        assert!(matches!(peer.next().await, Some(Packet::SubAck(_))));
    }
    assert!(!counted(&site, "subscriptions_slowed", "changes"), "one file");
    let clock = crate::clock::system();
    let begin = clock.monotonic();
    for n in 0..18 {
        let filters = vec![text(METHODS)];
        let change = match n % 2 {
            0 => Packet::Unsubscribe(Unsubscribe { packet_id: id(1), filters }),
            _ => subscribe(&[(METHODS, QoS::AtMostOnce)]),
        };
        peer.send(&[change]).await;
        assert!(matches!(peer.next().await, Some(Packet::SubAck(_) | Packet::UnsubAck(_))));
    }
    assert!(clock.monotonic() - begin >= Duration::from_secs(2), "19 changes, 16 of them free");
    assert!(counted(&site, "subscriptions_slowed", "changes"));
    // Who keeps no session costs no file.
    let (mut peer, _) = Peer::new(&site, true).await;
    for _ in 0..50 {
        peer.subscribe(&[(METHODS, QoS::AtMostOnce)]).await;
        peer.subscribe(&[(METHODS, QoS::AtLeastOnce)]).await;
    }
    site.store.close().await;
}

/// What thousands of idle connections cost: their futures, and what hangs on them.
#[tokio::test]
async fn an_idle_connection_stays_small() {
    let site = Site::new();
    let (_client, stream) = tokio::io::duplex(64);
    let stop = CancellationToken::new();
    let peer = SocketAddr::from(([127, 0, 0, 1], 4711));
    let pass = site.door.enter(peer, &stop).unwrap();
    let future = run(stream, Vec::new(), peer, Arc::clone(&site.front), pass, stop);
    println!(
        "{} {} {} {}",
        size_of_val(&future),
        size_of::<Connection<DuplexStream>>(),
        size_of::<Downward>(),
        size_of::<Session>()
    );
    assert!(size_of_val(&future) <= 2000 && size_of::<Downward>() <= 96);
    assert!(size_of::<Letter>() <= 256, "{}", size_of::<Letter>());
    drop(future);
    site.store.close().await;
}
