//! The machine against a hub that loses, delays and overtakes at random: what is handed out was true once, is never
//! older than what was before, and in the end it is true.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::clock;
use crate::upstream::pairs::{Answer, Operation};
use crate::upstream::twin::machine::{Action, Machine};

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// The service side patches this key: with a value, a nested one, or null.
    Patch { key: u8, kind: u8, told: bool },
    /// The hub carries the oldest operation out.
    Serve { refuse: bool },
    /// The oldest answer arrives, however many changes wait.
    Answer,
    /// The oldest change arrives, however many answers wait.
    Change,
    /// The connection is lost with all that is on its way, and another one stands.
    Reconnect,
    /// Time passes.
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4, 0u8..4, prop::bool::weighted(0.8)).prop_map(|(key, kind, told)| Step::Patch { key, kind, told }),
        3 => prop::bool::weighted(0.2).prop_map(|refuse| Step::Serve { refuse }),
        3 => Just(Step::Answer),
        4 => Just(Step::Change),
        1 => Just(Step::Reconnect),
        1 => (0u16..10).prop_map(Step::Wait),
    ]
}

struct World {
    machine: Machine,
    now: Instant,
    /// Each version there was, from 1.
    history: Vec<Map<String, Value>>,
    asked: VecDeque<(u64, Operation)>,
    answers: VecDeque<(u64, Answer)>,
    changes: VecDeque<String>,
    subscribed: bool,
    last: Option<(u64, Value)>,
}

impl World {
    fn new() -> Self {
        let now = clock::system().monotonic();
        let machine = Machine::new(Duration::from_secs(1_000_000), Duration::from_secs(3600));
        let mut world = Self {
            machine,
            now,
            history: vec![Map::new()],
            asked: VecDeque::new(),
            answers: VecDeque::new(),
            changes: VecDeque::new(),
            subscribed: false,
            last: None,
        };
        let actions = world.machine.open(now);
        world.note(actions);
        world
    }

    fn version(&self) -> u64 {
        self.history.len() as u64
    }

    fn shown(&self, version: u64) -> Value {
        let mut shown = self.history[usize::try_from(version).unwrap() - 1].clone();
        shown.insert("$version".to_owned(), version.into());
        Value::Object(shown)
    }

    fn note(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Ask { id, operation, .. } => self.asked.push_back((id, operation)),
                Action::Desired(document) => {
                    let text: Value = serde_json::from_str(&document.text).unwrap();
                    assert_eq!(text, self.shown(document.version), "it was true once");
                    let before = self.last.as_ref().map_or(0, |(version, _)| *version);
                    assert!(document.version > before, "{} after {before}", document.version);
                    self.last = Some((document.version, text));
                }
                Action::Reopen(_) => self.reconnect(),
                Action::Reported(_) => unreachable!("nothing is reported"),
            }
        }
    }

    fn reconnect(&mut self) {
        self.asked.clear();
        self.answers.clear();
        self.changes.clear();
        self.subscribed = false;
        self.machine.close();
        let actions = self.machine.open(self.now);
        self.note(actions);
    }

    fn patch(&mut self, key: u8, kind: u8, told: bool) {
        let key = format!("k{key}");
        let mut next = self.history[self.history.len() - 1].clone();
        let count = self.version();
        let value = match kind {
            0 => Value::Null,
            1 => json!(count),
            2 => json!([count]),
            _ => json!({"a": count, "b": {"c": count}}),
        };
        // Written without a merge, so that the two cannot share a mistake: a nested value has always the same keys.
        match &value {
            Value::Null => drop(next.remove(&key)),
            other => drop(next.insert(key.clone(), other.clone())),
        }
        self.history.push(next);
        if told && self.subscribed {
            let version = self.version();
            self.changes.push_back(json!({key: value, "$version": version}).to_string());
        }
    }

    fn serve(&mut self, refuse: bool) {
        let Some((id, operation)) = self.asked.pop_front() else { return };
        let mut answer = Answer { status: 200, version: None, body: Vec::new() };
        match operation {
            Operation::Get if refuse => answer.status = 503,
            Operation::Get => {
                let twin =
                    json!({"desired": self.shown(self.version()), "reported": {"$version": 1}});
                answer.body = twin.to_string().into_bytes();
            }
            Operation::Subscribe => self.subscribed = true,
            Operation::Report => unreachable!("nothing is reported"),
        }
        self.answers.push_back((id, answer));
    }

    fn answer(&mut self) {
        if let Some((id, answer)) = self.answers.pop_front() {
            let actions = self.machine.answered(self.now, id, &answer);
            self.note(actions);
        }
    }

    fn change(&mut self) {
        if let Some(change) = self.changes.pop_front() {
            let actions = self.machine.changed(self.now, change.as_bytes());
            self.note(actions);
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        let actions = self.machine.tick(self.now);
        self.note(actions);
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Patch { key, kind, told } => self.patch(key, kind, told),
            Step::Serve { refuse } => self.serve(refuse),
            Step::Answer => self.answer(),
            Step::Change => self.change(),
            Step::Reconnect => self.reconnect(),
            Step::Wait(minutes) => self.wait(Duration::from_secs(60) * u32::from(minutes)),
        }
    }

    /// Everything on its way arrives.
    fn settle(&mut self) {
        while !(self.asked.is_empty() && self.answers.is_empty() && self.changes.is_empty()) {
            self.serve(false);
            self.change();
            self.answer();
        }
    }
}

proptest! {
    #[test]
    fn what_is_handed_out_was_true_and_in_the_end_is(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.run(step));
        world.settle();
        // A change that was lost at the very end shows at the hourly read.
        world.wait(Duration::from_secs(3600));
        world.settle();
        let version = world.version();
        prop_assert_eq!(world.last.clone(), Some((version, world.shown(version))));
    }
}
