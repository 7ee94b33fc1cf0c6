//! Any schedule of patches, desired changes, outages, lost answers, refused writes and crashes: in the end both sides agree,
//! nothing that was answered 204 is missing, and no version that a client was told goes back.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::merge::{Object, apply};
use super::*;
use crate::upstream::downlinks::CloudError;

#[derive(Debug, Clone)]
enum Step {
    Patch(Object),
    Desire(Object),
    Get,
    /// The read or the push under way reaches the hub; its answer arrives, or is lost.
    ReadReaches,
    ReadAnswered(bool),
    PushReaches,
    PushAnswered(bool),
    /// The patch of desired properties that waits arrives.
    DesiredArrives,
    Online(bool),
    Disk(bool),
    Crash,
    /// The client connects anew.
    Reconnect,
    Park,
    Later(u64),
}

fn object() -> impl Strategy<Value = Object> {
    let leaf = prop_oneof![Just(Value::Null), (0..4_i32).prop_map(Value::from)];
    let key = || prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(str::to_owned);
    let value = leaf.prop_recursive(2, 6, 3, move |value| {
        prop::collection::btree_map(key(), value, 0..3)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    });
    prop::collection::btree_map(key(), value, 0..3).prop_map(|map| map.into_iter().collect())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => object().prop_map(Step::Patch),
        3 => object().prop_map(Step::Desire),
        2 => Just(Step::Get),
        3 => Just(Step::ReadReaches),
        3 => any::<bool>().prop_map(Step::ReadAnswered),
        4 => Just(Step::PushReaches),
        4 => any::<bool>().prop_map(Step::PushAnswered),
        3 => Just(Step::DesiredArrives),
        2 => any::<bool>().prop_map(Step::Online),
        1 => any::<bool>().prop_map(Step::Disk),
        1 => Just(Step::Crash),
        1 => Just(Step::Reconnect),
        2 => Just(Step::Park),
        4 => (1..130_u64).prop_map(Step::Later),
    ]
}

struct World {
    machine: Machine,
    disk: Option<Vec<u8>>,
    disk_works: bool,
    disk_failed: bool,
    online: bool,
    now: Instant,
    serial: u64,
    // The hub.
    desired: (Object, u64),
    reported: (Object, u64),
    /// Desired patches on their way.
    on_the_way: VecDeque<Bytes>,
    /// What is under way, and the hub's answer once it has reached it.
    read: Option<Option<Bytes>>,
    push: Option<(Bytes, Option<u64>)>,
    // The client.
    has: Option<(Object, u64)>,
    expected: Object,
    /// Patches whose answers are not there yet.
    asked: VecDeque<Object>,
    version_told: u64,
}

impl World {
    fn new() -> Self {
        #[allow(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        let machine = Machine::new(Config::default(), None, Memory::default(), true);
        let mut world = Self {
            machine,
            disk: None,
            disk_works: true,
            disk_failed: false,
            online: true,
            now,
            serial: 0,
            desired: (Object::new(), 1),
            reported: (Object::new(), 1),
            on_the_way: VecDeque::new(),
            read: None,
            push: None,
            has: None,
            expected: Object::new(),
            asked: VecDeque::new(),
            version_told: 0,
        };
        world.reconnect();
        world
    }

    fn reconnect(&mut self) {
        self.machine.memory().left(self.serial);
        self.serial += 1;
        self.machine.memory().arrived(self.serial, true);
        // Its links are made anew.
        self.on_the_way.clear();
        self.has = None;
        self.listening();
    }

    fn listening(&mut self) {
        if self.online {
            let (config, now) = (Config::default(), self.now);
            self.machine.memory().listening(&config, now);
        }
    }

    fn restart(&mut self, memory: Memory) {
        let kept = self.disk.as_ref().map(|bytes| Kept::from_bytes(bytes).unwrap());
        self.machine = Machine::new(Config::default(), kept, memory, self.online);
        self.machine.life(Some("g".to_owned()));
    }

    fn settle(&mut self) {
        if let Some(bytes) = self.machine.to_keep() {
            self.machine.take_accepted();
            let result = if self.disk_works { Ok(()) } else { Err("full".to_owned()) };
            if result.is_ok() {
                self.disk = Some(bytes);
            }
            self.machine.kept(result, self.now);
        }
        for action in self.machine.poll(self.now) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Read { .. } => {
                assert!(self.read.is_none(), "one read at a time");
                self.read = Some(None);
            }
            Action::Push(body) => {
                assert!(self.push.is_none(), "one push at a time");
                self.push = Some((body, None));
            }
            Action::Answer { serial, status, rid, version, body } => match &*rid {
                "get" => self.got(serial, status, &body),
                _ => self.patched(status, version),
            },
            Action::Tell { serial, version, body } if serial == self.serial => {
                let mut patch: Object = serde_json::from_slice(&body).unwrap();
                assert_eq!(patch.remove("$version"), Some(json!(version)));
                if let Some((has, before)) = &mut self.has {
                    assert!(version > *before, "desired version {version} after {before}");
                    apply(has, &patch);
                    *before = version;
                }
            }
            Action::Close { serial, .. } if serial == self.serial => self.reconnect(),
            _ => {}
        }
    }

    fn got(&mut self, serial: u64, status: u16, body: &[u8]) {
        if status == 503 {
            return assert!(self.disk_failed, "what it has was not kept");
        }
        assert_eq!(status, 200);
        let twin = super::super::kept::Told::read(body).unwrap();
        self.told(twin.reported_version);
        assert_eq!(twin.reported, self.expected, "what it reported is what it sees");
        if serial == self.serial && twin.desired_version > 0 {
            let before = self.has.as_ref().map_or(0, |(_, version)| *version);
            assert!(twin.desired_version >= before);
            self.has = Some((twin.desired, twin.desired_version));
        }
    }

    fn patched(&mut self, status: u16, version: Option<u64>) {
        let patch = self.asked.pop_front().expect("it was asked");
        if status == 204 {
            self.told(version.unwrap());
            apply(&mut self.expected, &patch);
        } else {
            assert!(!self.disk_works, "status {status}");
        }
    }

    fn told(&mut self, version: u64) {
        assert!(version >= self.version_told, "{version} after {}", self.version_told);
        self.version_told = version;
    }

    fn hub_takes_push(&mut self) {
        if let Some((body, reached @ None)) = &mut self.push {
            let patch: Object = serde_json::from_slice(body).unwrap();
            apply(&mut self.reported.0, &patch);
            self.reported.1 += 1;
            *reached = Some(self.reported.1);
        }
    }

    fn hub_reads(&mut self) {
        if let Some(answer @ None) = &mut self.read {
            let section = |(object, version): &(Object, u64)| {
                let mut object = object.clone();
                object.insert("$version".to_owned(), (*version).into());
                Value::Object(object)
            };
            let twin =
                json!({"desired": section(&self.desired), "reported": section(&self.reported)});
            *answer = Some(twin.to_string().into());
        }
    }

    fn go(&mut self, step: Step) {
        let at = self.now;
        match step {
            Step::Patch(patch) => {
                let (rid, body) = (Some("p".into()), super::super::kept::to_bytes(&patch));
                self.asked.push_back(patch);
                let (serial, version, tag) = (self.serial, None, None);
                self.machine.ask(Ask::Patch(Patch { serial, at, tag, rid, version, body }));
            }
            Step::Desire(patch) => {
                apply(&mut self.desired.0, &patch);
                self.desired.1 += 1;
                let mut body = patch;
                body.insert("$version".to_owned(), self.desired.1.into());
                if self.online {
                    self.on_the_way.push_back(super::super::kept::to_bytes(&body));
                }
            }
            Step::Get => {
                self.machine.ask(Ask::Get(Get { serial: self.serial, rid: "get".into(), at }));
            }
            Step::ReadReaches if self.online => self.hub_reads(),
            Step::PushReaches if self.online => self.hub_takes_push(),
            Step::ReadAnswered(well) => {
                if let Some(answer) = self.read.take() {
                    let answer = answer.filter(|_| well && self.online);
                    let lost = CloudError::Lost(String::new());
                    self.machine.read(answer.ok_or(lost), at);
                }
            }
            Step::PushAnswered(well) => {
                if let Some((_, answer)) = self.push.take() {
                    let answer = answer.filter(|_| well && self.online);
                    let lost = CloudError::Lost(String::new());
                    self.machine.pushed(answer.map(Some).ok_or(lost), at);
                }
            }
            Step::DesiredArrives => {
                if let Some(body) = self.on_the_way.pop_front() {
                    self.machine.desired(&body, at);
                }
            }
            Step::Online(online) => self.set_online(online),
            Step::Disk(works) => {
                self.disk_works = works;
                self.disk_failed |= !works;
            }
            Step::Crash => {
                self.asked.clear();
                (self.read, self.push) = (None, None);
                self.restart(Memory::default());
                self.reconnect();
            }
            Step::Reconnect => self.reconnect(),
            Step::Park if self.machine.is_idle() => {
                let memory = self.machine.memory().clone();
                self.restart(memory);
            }
            Step::Later(secs) => self.now += Duration::from_secs(secs),
            Step::ReadReaches | Step::PushReaches | Step::Park => {}
        }
        self.settle();
    }

    fn set_online(&mut self, online: bool) {
        if online == self.online {
            return;
        }
        self.online = online;
        self.machine.online(online);
        self.on_the_way.clear();
        self.listening();
    }

    /// All is well again, for long enough.
    fn calm(&mut self) {
        self.go(Step::Disk(true));
        self.go(Step::Online(true));
        for _ in 0..40 {
            self.go(Step::ReadReaches);
            self.go(Step::ReadAnswered(true));
            self.go(Step::PushReaches);
            self.go(Step::PushAnswered(true));
            self.go(Step::DesiredArrives);
            self.go(Step::Park);
            self.go(Step::Later(301));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn both_sides_agree_in_the_end(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        world.go(Step::Get);
        world.go(Step::ReadReaches);
        world.go(Step::ReadAnswered(true));
        for step in steps {
            world.go(step);
        }
        world.calm();
        prop_assert!(world.asked.is_empty(), "every patch is answered");
        prop_assert_eq!(&world.reported.0, &world.expected, "nothing answered is missing");
        prop_assert_eq!(&world.machine.draft.reported, &world.expected);
        prop_assert!(!world.machine.draft.pending.any);
        prop_assert_eq!(&world.machine.draft.desired, &world.desired.0);
        if let Some((has, version)) = &world.has {
            prop_assert_eq!((has, version), (&world.desired.0, &world.desired.1));
        }
    }
}
