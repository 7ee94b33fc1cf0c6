//! A connected session against a model that is too simple to be wrong: lists, searched from the front.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// Telemetry with QoS 1 (the id is chosen by the model: a free one).
    Telemetry,
    /// Telemetry with QoS 0.
    Fleeting,
    /// Twin request with QoS 1: nothing to wait for but its turn.
    Twin,
    /// The client sends the n-th PUBLISH in flight again.
    Resend(prop::sample::Index),
    /// The n-th Route without an answer reaches the disk.
    Durable(prop::sample::Index),
    Ping,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Telemetry),
        2 => Just(Step::Fleeting),
        1 => Just(Step::Twin),
        1 => any::<prop::sample::Index>().prop_map(Step::Resend),
        6 => any::<prop::sample::Index>().prop_map(Step::Durable),
        1 => Just(Step::Ping),
    ]
}

/// A PUBLISH that was handed in.
#[derive(Debug, Clone, Copy)]
struct Sent {
    /// 0 for QoS 0.
    packet_id: u16,
    twin: bool,
    /// Set when its Route comes out.
    tag: Option<u64>,
    durable: bool,
}

#[derive(Default)]
struct Model {
    sent: Vec<Sent>,
    /// How many of `sent` are done with: acknowledged, or durable in their turn.
    released: usize,
    next_id: u16,
}

impl Model {
    fn sends(&mut self, qos1: bool, twin: bool) -> Packet {
        self.next_id += 1;
        let packet_id = if qos1 { self.next_id } else { 0 };
        self.sent.push(Sent { packet_id, twin, tag: None, durable: false });
        let topic = if twin { "$iothub/twin/GET/?$rid=1" } else { TOPIC };
        publish(
            topic,
            "x",
            PacketId::new(packet_id).map_or(Delivery::AtMostOnce, |_| self::qos1(packet_id)),
        )
    }

    fn unanswered(&self) -> Vec<u64> {
        self.sent.iter().filter(|s| !s.durable).filter_map(|s| s.tag).collect()
    }

    /// Takes the outputs of one step; checks order and that nothing is acknowledged before it is durable.
    fn take(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Route { tag, .. } => {
                    let next =
                        self.sent.iter_mut().find(|s| s.tag.is_none() && !s.twin && !s.durable);
                    next.expect("something was sent").tag = Some(tag);
                }
                Output::TwinRequest(_) => {
                    let next = self.sent.iter_mut().find(|s| s.twin && !s.durable);
                    next.expect("something was sent").durable = true;
                }
                Output::Send(Packet::PubAck(packet_id)) => {
                    while self.sent[self.released].packet_id == 0 {
                        assert!(self.sent[self.released].durable, "QoS 0 keeps its place");
                        self.released += 1;
                    }
                    let due = self.sent[self.released];
                    assert_eq!(
                        due.packet_id,
                        packet_id.get(),
                        "PUBACKs in the order of the PUBLISHes"
                    );
                    assert!(due.durable, "no PUBACK before the disk");
                    self.released += 1;
                }
                Output::Send(Packet::PingResp) => {}
                other => panic!("not expected: {other:?}"),
            }
        }
    }
}

fn run(steps: Vec<Step>) {
    let mut bench = Bench::connected("dev1");
    let mut model = Model::default();
    let inflight_max = Limits::default().inflight_max;
    for step in steps {
        let out = match step {
            Step::Durable(which) => {
                let unanswered = model.unanswered();
                if unanswered.is_empty() {
                    continue;
                }
                let tag = unanswered[which.index(unanswered.len())];
                let slot = model.sent.iter_mut().find(|s| s.tag == Some(tag));
                slot.expect("it has this tag").durable = true;
                bench.durable(tag)
            }
            _ if !bench.session.wants_read() => continue,
            Step::Telemetry => bench.packet(model.sends(true, false)),
            Step::Fleeting => bench.packet(model.sends(false, false)),
            Step::Twin => bench.packet(model.sends(true, true)),
            Step::Resend(which) => {
                let waits = |s: &&Sent| s.packet_id != 0 && !s.twin && s.tag.is_some();
                let flying: Vec<_> = model.sent[model.released..].iter().filter(waits).collect();
                if flying.is_empty() {
                    continue;
                }
                let packet_id = flying[which.index(flying.len())].packet_id;
                let out = bench.packet(publish(TOPIC, "x", again(packet_id)));
                assert_eq!(out, [], "a resend of what is in flight changes nothing");
                out
            }
            Step::Ping => {
                let out = bench.packet(Packet::PingReq);
                assert_eq!(out, [Output::Send(Packet::PingResp)], "whatever waits");
                out
            }
        };
        model.take(out);
        assert!(model.unanswered().len() <= inflight_max);
    }
    // The disk catches up: everything is acknowledged in the end.
    while let Some(tag) = model.unanswered().first().copied() {
        model.sent.iter_mut().find(|s| s.tag == Some(tag)).expect("it has this tag").durable = true;
        model.take(bench.durable(tag));
    }
    assert_eq!(bench.session.in_flight(), 0);
    assert!(bench.session.wants_read());
    assert!(
        model.sent[model.released..].iter().all(|s| s.packet_id == 0),
        "every QoS 1 has its PUBACK"
    );
}

proptest! {
    #[test]
    fn the_window_is_what_the_model_says(steps in proptest::collection::vec(any_step(), 0..120)) {
        run(steps);
    }
}
