//! What comes down to the devices: desired properties, method calls and cloud-to-device messages, before, during and after the
//! outage, and what the devices report meanwhile.
//!
//! Everything is seen at both ends: what a device was told is in its ledger, what the cloud has is asked of the hub double.
//! Invariant: nothing is told that was not seen; what did not happen is named in [`Report::not_done`].

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use hub_double::{C2dMessage, C2dState, HubDouble, MethodError};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::device::{Heard, Ledger};

/// Longest wait for something that must happen; a bound for a hang, not a measure of speed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Method calls under way at once.
const CALLS: usize = 64;
/// How long a device may take for a method.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Of how many devices it was seen, and how long that took for the last of them.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Seen {
    devices: u64,
    seconds: f64,
}

/// One change of desired properties, one method call and one cloud-to-device message for each device, with the hub there.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Exchange {
    /// The device was told the change.
    desired_told: Seen,
    /// The hub's twin has what the device reported of it.
    desired_reported: Seen,
    /// The cloud has the device's own answer.
    methods_answered: Seen,
    /// The device has the message, once, and the hub its PUBACK.
    messages_taken: Seen,
}

/// With the hub away. The cloud changes desired properties twice, and has a message for each device.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Outage {
    /// A question for the twin was answered 200, with what was desired before.
    twins_answered: Seen,
    /// A reported patch was answered 204.
    patches_taken: Seen,
    /// Such patches at the hub before it came back.
    pub(crate) patches_at_hub: u64,
    /// The cloud's method calls that were told at once that the device is not online.
    methods_not_online: u64,
}

/// After the hub's return.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Return {
    /// The hub's twin has what was reported while it was away.
    patches_arrived: Seen,
    /// The device was told what was desired meanwhile.
    desired_told: Seen,
    /// In one patch.
    desired_in_one_patch: u64,
    /// The hub's twin has what the device reported of it.
    desired_reported: Seen,
    /// The message that waited.
    messages_taken: Seen,
}

/// What came of it all.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    before: Exchange,
    outage: Outage,
    on_return: Return,
    after: Exchange,
    /// What should have been seen and was not, in words. Must be empty.
    pub(crate) not_done: Vec<String>,
}

/// The cloud's side of it.
pub(crate) struct Cloud<'a> {
    pub(crate) hub: &'a HubDouble,
    pub(crate) devices: &'a [(String, Arc<Ledger>)],
    pub(crate) button: &'a watch::Sender<u64>,
}

/// What is desired, by the moment.
const BEFORE: u64 = 40;
const MEANWHILE: u64 = 50;
const AFTER: u64 = 60;
const COLOUR: &str = "green";

/// The one thing that must not be seen.
const AT_HUB: &str = "had that at the hub before it was back";

impl Cloud<'_> {
    pub(crate) async fn before(&self) -> Exchange {
        self.all(|_, heard| heard.subscribed).await;
        self.exchange("before", BEFORE).await
    }

    pub(crate) async fn after(&self) -> Exchange {
        self.exchange("after", AFTER).await
    }

    async fn exchange(&self, name: &str, limit: u64) -> Exchange {
        for (id, _) in self.devices {
            self.hub.patch_desired(id, None, &json!({"alertLimit": limit}));
        }
        self.send(name);
        let told = self.all(|_, heard| heard.desired.get("alertLimit") == Some(&json!(limit)));
        let (desired_told, desired_reported, methods_answered, messages_taken) =
            tokio::join!(told, self.reported(limit), self.call(name), self.taken(name));
        Exchange { desired_told, desired_reported, methods_answered, messages_taken }
    }

    /// Everything that happens while the hub is away.
    pub(crate) async fn outage(&self) -> Outage {
        let online = async |id| {
            let call = self.hub.call_method(id, None, "displayAlert", &Value::Null, ANSWER_WITHIN);
            matches!(call.await, Err(MethodError::NotOnline))
        };
        let mut outage = Outage::default();
        for (id, _) in self.devices {
            outage.methods_not_online += u64::from(online(id).await);
            self.hub.patch_desired(id, None, &json!({"alertLimit": MEANWHILE}));
            self.hub.patch_desired(id, None, &json!({"colour": COLOUR}));
        }
        self.send("meanwhile");
        let before: Vec<Heard> = self.devices.iter().map(|(_, ledger)| heard(ledger)).collect();
        self.button.send_modify(|presses| *presses += 1);
        let twin = |at: usize, heard: &Heard| {
            let answers = heard.twins.get(before[at].twins.len()..).unwrap_or_default();
            answers
                .iter()
                .any(|(status, desired)| *status == 200 && desired["alertLimit"] == BEFORE)
        };
        let patch = |at: usize, heard: &Heard| {
            let answers = heard.reported.get(before[at].reported.len()..).unwrap_or_default();
            answers.contains(&204)
        };
        let (twins, patches) = tokio::join!(self.all(twin), self.all(patch));
        (outage.twins_answered, outage.patches_taken) = (twins, patches);
        outage
    }

    /// How many of the patches that were reported while the hub was away it has.
    pub(crate) fn patches_at_hub(&self) -> u64 {
        self.devices.iter().filter(|(id, _)| self.has_presses(id)).count() as u64
    }

    /// How many patches of desired properties each device has had.
    pub(crate) fn patches(&self) -> Vec<u64> {
        self.devices.iter().map(|(_, ledger)| heard(ledger).patches).collect()
    }

    /// What the outage left to do; `before` are the patches until then.
    pub(crate) async fn on_return(&self, before: &[u64]) -> Return {
        let told = self.all(|_, heard| {
            let desired = |name| heard.desired.get(name);
            desired("alertLimit") == Some(&json!(MEANWHILE))
                && desired("colour") == Some(&json!(COLOUR))
        });
        let arrived = self.all(|at, _| self.has_presses(&self.devices[at].0));
        let (patches_arrived, desired_told, desired_reported, messages_taken) =
            tokio::join!(arrived, told, self.reported(MEANWHILE), self.taken("meanwhile"));
        let patches = self.patches();
        let in_one = before.iter().zip(&patches).filter(|(before, now)| *before + 1 == **now);
        Return {
            patches_arrived,
            desired_told,
            desired_in_one_patch: in_one.count() as u64,
            desired_reported,
            messages_taken,
        }
    }

    /// Sends each device a message.
    fn send(&self, name: &str) {
        for (id, _) in self.devices {
            let message = C2dMessage::new(name.to_owned()).id(name);
            self.hub.send_c2d(id, message).expect("a registered device with room in its queue");
        }
    }

    async fn taken(&self, name: &str) -> Seen {
        self.all(|at, heard| {
            let records = self.hub.c2d(&self.devices[at].0);
            let mut records = records.iter().filter(|record| record.message_id == name);
            heard.messages.iter().filter(|id| *id == name).count() == 1
                && records.all(|record| record.state == C2dState::Completed)
        })
        .await
    }

    async fn reported(&self, limit: u64) -> Seen {
        let reported =
            |id| self.hub.twin(id, None).map(|twin| twin["properties"]["reported"].clone());
        self.all(|at, _| {
            reported(&*self.devices[at].0).is_some_and(|r| r["alertLimit"]["value"] == limit)
        })
        .await
    }

    fn has_presses(&self, id: &str) -> bool {
        let presses = *self.button.borrow();
        let twin = self.hub.twin(id, None);
        twin.is_some_and(|twin| twin["properties"]["reported"]["buttonPresses"] == presses)
    }

    /// Calls a method of each device; it answers with what it was given.
    async fn call(&self, text: &str) -> Seen {
        let began = Instant::now();
        let (payload, wanted) = (json!({"text": text}), json!({"displayed": {"text": text}}));
        let calls = self.devices.iter().map(async |(id, _)| {
            let target = (&**id, None);
            let name = "displayAlert";
            let call = self.hub.call_method_when_connected(
                target,
                name,
                &payload,
                ANSWER_WITHIN,
                PATIENCE,
            );
            call.await.is_ok_and(|answer| answer.status == 200 && answer.payload == wanted)
        });
        let answers: Vec<bool> = stream::iter(calls).buffer_unordered(CALLS).collect().await;
        let devices = answers.iter().filter(|answered| **answered).count() as u64;
        Seen { devices, seconds: began.elapsed().as_secs_f64() }
    }

    /// Waits until it is so for each device, by its place.
    async fn all(&self, is: impl Fn(usize, &Heard) -> bool) -> Seen {
        let began = Instant::now();
        let mut waiting: Vec<usize> = (0..self.devices.len()).collect();
        loop {
            waiting.retain(|at| !is(*at, &heard(&self.devices[*at].1)));
            if waiting.is_empty() || began.elapsed() > PATIENCE {
                let devices = (self.devices.len() - waiting.len()) as u64;
                return Seen { devices, seconds: began.elapsed().as_secs_f64() };
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn heard(ledger: &Ledger) -> Heard {
    ledger.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Report {
    /// Of `devices` devices; `stale`: patches of desired properties that told nothing newer.
    pub(crate) fn new(
        devices: u64,
        (before, outage): (Exchange, Outage),
        (on_return, after): (Return, Exchange),
        stale: u64,
    ) -> Self {
        let mut report = Self { before, outage, on_return, after, not_done: Vec::new() };
        for (when, seen, _, what) in report.rows() {
            let wanted = if what == AT_HUB { 0 } else { devices };
            if seen != wanted {
                report.not_done.push(format!("{when}: {seen} and not {wanted} {what}"));
            }
        }
        if stale > 0 {
            let words = format!("{stale} patches of desired properties told nothing newer");
            report.not_done.push(words);
        }
        report
    }

    /// When, how many devices, seconds until the last of them, and what they did.
    fn rows(&self) -> Vec<(&'static str, u64, Option<f64>, &'static str)> {
        let of = |when, seen: Seen, what| (when, seen.devices, Some(seen.seconds), what);
        let exchange = |when, exchange: &Exchange| {
            [
                of(when, exchange.desired_told, "were told a change of desired properties"),
                of(when, exchange.desired_reported, "reported it back: the hub's twin has it"),
                of(when, exchange.methods_answered, "answered a method call of the cloud"),
                of(when, exchange.messages_taken, "took a cloud-to-device message, once"),
            ]
        };
        let (away, back) = (&self.outage, &self.on_return);
        let mut rows = Vec::from(exchange("before", &self.before));
        rows.extend([
            of("outage", away.twins_answered, "asked for their twin, and got what is kept"),
            of("outage", away.patches_taken, "reported properties, and were answered 204"),
            ("outage", away.patches_at_hub, None, AT_HUB),
            ("outage", away.methods_not_online, None, "were called; the cloud heard: not online"),
            of("return", back.patches_arrived, "have at the hub what they reported meanwhile"),
            of("return", back.desired_told, "were told the two changes made meanwhile"),
            ("return", back.desired_in_one_patch, None, "were told them in one patch"),
            of("return", back.desired_reported, "reported them back: the hub's twin has it"),
            of("return", back.messages_taken, "took the message that waited, once"),
        ]);
        rows.extend(exchange("after", &self.after));
        rows
    }

    pub(crate) fn print(&self, devices: u64) {
        println!("both ways   of {devices} devices, and the seconds until the last of them");
        let mut last = "";
        for (when, seen, seconds, what) in self.rows() {
            let seconds = seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.2}"));
            let head = if when == last { "" } else { when };
            println!("{head:11} {seen:>10}   {seconds:>7}   {what}");
            last = when;
        }
        for what in &self.not_done {
            println!("NOT DONE    {what}");
        }
    }
}

/// Patches of desired properties that told nothing newer, all devices together.
pub(crate) fn stale(devices: &[(String, Arc<Ledger>)]) -> u64 {
    devices.iter().map(|(_, ledger)| heard(ledger).stale).sum()
}
