//! What is sent to a client against a model that is too simple to be wrong: lists, searched from the front.

use proptest::prelude::*;

use super::*;

/// What happens on the way down.
#[derive(Debug, Clone)]
enum Down {
    /// Something is to be sent, by the n-th kind of subscription.
    Letter(usize),
    /// The client acknowledges the n-th of those that wait.
    Ack(prop::sample::Index),
    /// It acknowledges what nothing waits for.
    StrayAck(u16),
    /// It subscribes to the n-th kind, with QoS 0 or 1.
    Subscribe(usize, bool),
    Unsubscribe(usize),
    /// Telemetry is stored and acknowledged meanwhile.
    Telemetry,
}

fn any_down() -> impl Strategy<Value = Down> {
    let kind = 0..DOWN.len();
    prop_oneof![
        8 => kind.clone().prop_map(Down::Letter),
        4 => any::<prop::sample::Index>().prop_map(Down::Ack),
        1 => any::<u16>().prop_map(Down::StrayAck),
        2 => (kind.clone(), any::<bool>()).prop_map(|(kind, qos1)| Down::Subscribe(kind, qos1)),
        1 => kind.prop_map(Down::Unsubscribe),
        1 => Just(Down::Telemetry),
    ]
}

const DOWN: [(Subscription, &str); 3] = [
    (Subscription::CloudToDevice, "devices/dev1/messages/devicebound/#"),
    (Subscription::Methods, "$iothub/methods/POST/#"),
    (Subscription::Desired, "$iothub/twin/PATCH/properties/desired/#"),
];

fn content(kind: usize) -> Outbound {
    let body = Bytes::from_static(b"{}");
    match DOWN[kind].0 {
        Subscription::Methods => Outbound::Method { rid: "1".into(), name: "m".into(), body },
        Subscription::Desired => Outbound::Desired { version: 1, body },
        _ => Outbound::CloudToDevice {
            system: Default::default(),
            properties: Default::default(),
            body,
        },
    }
}

/// Lists again: what waits with its packet id, and which QoS was granted.
#[derive(Default)]
struct DownModel {
    waiting: Vec<(PacketId, u64)>,
    granted: [Option<QoS>; DOWN.len()],
    next_tag: u64,
    next_id: u16,
}

impl DownModel {
    fn letter(&mut self, bench: &mut Bench, kind: usize) {
        let (tag, mut out) = (self.next_tag, Vec::new());
        self.next_tag += 1;
        let sent = bench.session.send(tag, content(kind), &mut out);
        let expected = match self.granted[kind] {
            None => Sent::NotSubscribed,
            Some(QoS::AtMostOnce) => Sent::Written,
            Some(_) if self.waiting.len() == 64 => Sent::Full,
            Some(_) => Sent::AwaitsAck,
        };
        assert_eq!(sent, expected);
        match (&out[..], sent) {
            ([], Sent::NotSubscribed | Sent::Full) => {}
            ([Output::Send(Packet::Publish(publish))], _) => {
                assert_eq!(publish.delivery.packet_id().is_some(), sent == Sent::AwaitsAck);
                assert!(!publish.delivery.dup() && !publish.retain);
                if let Some(id) = publish.delivery.packet_id() {
                    assert!(self.waiting.iter().all(|(other, _)| *other != id), "[MQTT-2.3.1-4]");
                    self.waiting.push((id, tag));
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn step(&mut self, bench: &mut Bench, step: &Down) {
        match step {
            Down::Letter(kind) => self.letter(bench, *kind),
            Down::Ack(which) if !self.waiting.is_empty() => {
                let (id, tag) = self.waiting.remove(which.index(self.waiting.len()));
                assert_eq!(bench.packet(Packet::PubAck(id)), [Output::Acknowledged { tag }]);
            }
            Down::Ack(_) => {}
            Down::StrayAck(n) => {
                let stray =
                    PacketId::new(*n).filter(|id| self.waiting.iter().all(|(w, _)| w != id));
                if let Some(id) = stray {
                    assert_eq!(bench.packet(Packet::PubAck(id)), []);
                }
            }
            Down::Subscribe(kind, qos1) => {
                let qos = if *qos1 { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                let filters = vec![(text(DOWN[*kind].1), qos)];
                let out = bench.packet(Packet::Subscribe(Subscribe { packet_id: id(1), filters }));
                self.granted[*kind] = Some(qos);
                assert!(matches!(
                    out[..],
                    [Output::Subscriptions(_), Output::Send(Packet::SubAck(_))]
                ));
            }
            Down::Unsubscribe(kind) => {
                let filters = vec![text(DOWN[*kind].1)];
                let unsubscribe = Unsubscribe { packet_id: id(1), filters };
                let out = bench.packet(Packet::Unsubscribe(unsubscribe));
                let changes = self.granted[*kind].take().is_some();
                assert_eq!(out.len(), 1 + usize::from(changes), "{out:?}");
            }
            Down::Telemetry => {
                self.next_id += 1;
                let (tag, _) = routed(bench.packet(publish(TOPIC, "x", qos1(self.next_id))));
                assert_eq!(bench.durable(tag), [puback(self.next_id)], "the ways are apart");
            }
        }
        assert_eq!(bench.session.unacknowledged(), self.waiting.len());
        for (n, (kind, _)) in DOWN.iter().enumerate() {
            assert_eq!(bench.session.subscribed(*kind), self.granted[n]);
        }
    }
}

proptest! {
    #[test]
    fn the_way_down_is_what_the_model_says(
        serial in any::<u64>(),
        steps in proptest::collection::vec(any_down(), 0..400),
    ) {
        let mut bench = Bench::new();
        bench.packet(Packet::Connect(Box::new(connect_as("dev1"))));
        bench.session.set_serial(serial);
        bench.verdict(Ok(Identity::vouched(name("dev1"))));
        let mut model = DownModel::default();
        for step in &steps {
            model.step(&mut bench, step);
        }
    }
}
