//! Merging, gaps, versions, statuses and times, without a hub.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clock;
use crate::upstream::pairs::{Answer, Operation};
use crate::upstream::twin::machine::{Action, Machine};
use crate::upstream::twin::{DesiredDocument, ReportError};

const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const REFRESH_EVERY: Duration = Duration::from_secs(3600);

/// A machine, a clock that stands still, and what was asked last.
struct Bench {
    machine: Machine,
    now: Instant,
    asked: Vec<(u64, Operation)>,
}

impl Bench {
    /// Opened, and not answered yet.
    fn open() -> Self {
        let now = clock::system().monotonic();
        let mut bench =
            Self { machine: Machine::new(ANSWER_WITHIN, REFRESH_EVERY), now, asked: Vec::new() };
        let actions = bench.machine.open(now);
        let (rest, _) = bench.note(actions);
        assert_eq!(rest, []);
        let asked: Vec<Operation> = bench.asked.iter().map(|(_, operation)| *operation).collect();
        assert_eq!(asked, [Operation::Subscribe, Operation::Get], "no change falls in between");
        bench
    }

    /// Knows version 5: `{"a":{"b":1,"c":2},"d":[1]}`.
    fn known() -> Self {
        let mut bench = Self::open();
        bench.answer(Operation::Subscribe, 200, "");
        let twin = json!({"desired": {"a": {"b": 1, "c": 2}, "d": [1], "$version": 5, "$metadata": {"x": 1}},
                          "reported": {"$version": 9}});
        let (actions, _) = bench.answer(Operation::Get, 200, &twin.to_string());
        let text = r#"{"$version":5,"a":{"b":1,"c":2},"d":[1]}"#;
        assert_eq!(actions, [desired(5, text)]);
        bench
    }

    /// Takes what is asked out of `actions`; whether anything was asked.
    fn note(&mut self, actions: Vec<Action>) -> (Vec<Action>, Vec<Operation>) {
        let mut rest = Vec::new();
        let mut asked = Vec::new();
        for action in actions {
            match action {
                Action::Ask { id, operation, .. } => {
                    self.asked.push((id, operation));
                    asked.push(operation);
                }
                other => rest.push(other),
            }
        }
        (rest, asked)
    }

    fn answer(
        &mut self,
        operation: Operation,
        status: i64,
        body: &str,
    ) -> (Vec<Action>, Vec<Operation>) {
        let place = self.asked.iter().position(|(_, asked)| *asked == operation);
        let (id, _) = self.asked.remove(place.expect("it was asked"));
        let answer = Answer { status, version: Some(7), body: body.as_bytes().to_vec() };
        let actions = self.machine.answered(self.now, id, &answer);
        self.note(actions)
    }

    fn change(&mut self, patch: &str) -> (Vec<Action>, Vec<Operation>) {
        let actions = self.machine.changed(self.now, patch.as_bytes());
        self.note(actions)
    }

    fn after(&mut self, time: Duration) -> (Vec<Action>, Vec<Operation>) {
        self.now += time;
        let actions = self.machine.tick(self.now);
        self.note(actions)
    }
}

fn desired(version: u64, text: &str) -> Action {
    let empty = !text.contains("\":{") && !text.contains(',');
    Action::Desired(DesiredDocument { text: text.to_owned(), version, empty })
}

#[test]
fn a_patch_is_merged_onto_the_version_before_it() {
    let check = |patch: Value, expected: Value| {
        let mut bench = Bench::known();
        let (actions, asked) = bench.change(&patch.to_string());
        assert_eq!(asked, [], "{patch}");
        assert_eq!(actions, [desired(6, &expected.to_string())], "{patch}");
    };
    check(json!({"$version": 6}), json!({"a": {"b": 1, "c": 2}, "d": [1], "$version": 6}));
    check(
        json!({"e": 1, "$version": 6}),
        json!({"a": {"b": 1, "c": 2}, "d": [1], "e": 1, "$version": 6}),
    );
    check(
        json!({"a": {"b": 7}, "$version": 6}),
        json!({"a": {"b": 7, "c": 2}, "d": [1], "$version": 6}),
    );
    check(
        json!({"a": {"b": null}, "$version": 6}),
        json!({"a": {"c": 2}, "d": [1], "$version": 6}),
    );
    check(json!({"a": null, "$version": 6}), json!({"d": [1], "$version": 6}));
    check(
        json!({"gone": null, "$version": 6}),
        json!({"a": {"b": 1, "c": 2}, "d": [1], "$version": 6}),
    );
    // Lists are replaced whole, and so is what was no object.
    check(
        json!({"d": [2, 3], "$version": 6}),
        json!({"a": {"b": 1, "c": 2}, "d": [2, 3], "$version": 6}),
    );
    check(
        json!({"d": {"x": {"y": 1, "z": null}}, "$version": 6}),
        json!({"a": {"b": 1, "c": 2}, "d": {"x": {"y": 1}}, "$version": 6}),
    );
    // What the hub says of the properties is not theirs.
    check(
        json!({"$metadata": {"a": 1}, "$version": 6}),
        json!({"a": {"b": 1, "c": 2}, "d": [1], "$version": 6}),
    );
}

#[test]
fn a_correction_works_on_top_of_what_it_corrects() {
    let mut bench = Bench::known();
    bench.change(r#"{"routes":{"bad":1,"good":2},"$version":6}"#);
    let (actions, _) = bench.change(r#"{"routes":{"bad":null},"$version":7}"#);
    let text = r#"{"$version":7,"a":{"b":1,"c":2},"d":[1],"routes":{"good":2}}"#;
    assert_eq!(actions, [desired(7, text)]);
}

#[test]
fn what_does_not_follow_is_read_as_a_whole() {
    for (patch, asks) in [
        (r#"{"x":1,"$version":7}"#, true),
        (r#"{"x":1,"$version":100}"#, true),
        // Known by a read that was quicker.
        (r#"{"x":1,"$version":5}"#, false),
        (r#"{"x":1,"$version":2}"#, false),
        (r#"{"x":1}"#, true),
        ("[1]", true),
        ("{", true),
    ] {
        let mut bench = Bench::known();
        let (actions, asked) = bench.change(patch);
        assert_eq!(actions, [], "{patch}: nothing is changed by it");
        assert_eq!(asked, vec![Operation::Get; usize::from(asks)], "{patch}");
        if asks {
            let (_, again) = bench.change(patch);
            assert_eq!(again, [], "{patch}: one read at a time");
        }
    }
}

/// Changes that come while the hub throttles are read together, once, when the wait is over.
#[test]
fn a_gap_does_not_press_a_hub_that_has_just_refused() {
    for status in [429, 500, 503] {
        for patch in [r#"{"x":1,"$version":9}"#, r#"{"x":1}"#, "{"] {
            let mut bench = Bench::known();
            let actions = bench.machine.refresh(bench.now);
            bench.note(actions);
            assert_eq!(bench.answer(Operation::Get, status, ""), (vec![], vec![]));
            let due = bench.machine.next_due().expect("it is tried again");
            for _ in 0..3 {
                assert_eq!(bench.change(patch), (vec![], vec![]), "{status} {patch}");
                assert_eq!(bench.machine.next_due(), Some(due), "{status} {patch}: nor later");
            }
            let wait = due.saturating_duration_since(bench.now);
            assert!(status != 429 || wait >= Duration::from_secs(10), "{wait:?}");
            assert_eq!(bench.after(wait), (vec![], vec![Operation::Get]), "{status} {patch}");
            let now = r#"{"desired":{"x":1,"$version":9}}"#;
            let (actions, asked) = bench.answer(Operation::Get, 200, now);
            assert_eq!((actions.len(), asked), (1, vec![]));
            // The hub is well again: the next gap is read at once.
            assert_eq!(bench.change(r#"{"y":1,"$version":12}"#).1, [Operation::Get]);
        }
    }
    // A person who asks, or links that are new, do not wait.
    let mut bench = Bench::known();
    let actions = bench.machine.refresh(bench.now);
    bench.note(actions);
    bench.answer(Operation::Get, 429, "");
    let actions = bench.machine.refresh(bench.now);
    assert_eq!(bench.note(actions).1, [Operation::Get]);
    bench.answer(Operation::Get, 429, "");
    bench.machine.close();
    let actions = bench.machine.open(bench.now);
    assert_eq!(bench.note(actions).1, [Operation::Subscribe, Operation::Get]);
}

#[test]
fn an_answer_that_a_change_has_overtaken_is_asked_for_again() {
    let mut bench = Bench::known();
    let actions = bench.machine.refresh(bench.now);
    bench.note(actions);
    bench.change(r#"{"x":1,"$version":6}"#);
    let old = json!({"desired": {"a": 1, "$version": 5}}).to_string();
    assert_eq!(bench.answer(Operation::Get, 200, &old), (vec![], vec![Operation::Get]));
    // Without a change in between the hub is believed: the module was made anew.
    let (actions, _) = bench.answer(Operation::Get, 200, &old);
    assert_eq!(
        actions,
        [Action::Desired(DesiredDocument {
            text: r#"{"$version":5,"a":1}"#.to_owned(),
            version: 5,
            empty: false
        })]
    );
}

#[test]
fn a_twin_is_handed_out_when_it_is_another_one() {
    let mut bench = Bench::known();
    for (body, told) in [
        (r#"{"desired":{"a":{"b":1,"c":2},"d":[1],"$version":5},"reported":{}}"#, None),
        (r#"{"desired":{"$version":5}}"#, Some((5, true))),
        (r#"{"desired":{"$version":1}}"#, Some((1, true))),
        (r#"{"desired":{"x":1,"$version":1}}"#, Some((1, false))),
    ] {
        let actions = bench.machine.refresh(bench.now);
        bench.note(actions);
        let (actions, _) = bench.answer(Operation::Get, 200, body);
        let got = match &actions[..] {
            [] => None,
            [Action::Desired(document)] => Some((document.version, document.empty)),
            other => panic!("{other:?}"),
        };
        assert_eq!(got, told, "{body}");
    }
}

#[test]
fn who_asked_is_shown_the_twin_also_if_it_is_the_same_and_nobody_else_is() {
    let same = r#"{"desired":{"a":{"b":1,"c":2},"d":[1],"$version":5}}"#;
    let text = r#"{"$version":5,"a":{"b":1,"c":2},"d":[1]}"#;
    let mut bench = Bench::known();
    for (asks, fails, shown) in
        [(true, false, true), (false, false, false), (true, true, true), (false, false, false)]
    {
        let actions = match asks {
            true => bench.machine.asked(bench.now),
            false => bench.machine.refresh(bench.now),
        };
        bench.note(actions);
        if fails {
            // The wish outlives a read that fails.
            assert_eq!(bench.answer(Operation::Get, 500, ""), (vec![], vec![]));
            let due = bench.machine.next_due().expect("it is tried again") - bench.now;
            bench.after(due);
        }
        let wanted = if shown { vec![desired(5, text)] } else { vec![] };
        assert_eq!(bench.answer(Operation::Get, 200, same).0, wanted, "asked: {asks}");
    }
    // Asked while a read is under way: that one answers.
    let actions = bench.machine.refresh(bench.now);
    bench.note(actions);
    assert_eq!(bench.machine.asked(bench.now), []);
    assert_eq!(bench.answer(Operation::Get, 200, same).0, [desired(5, text)]);
}

#[test]
fn a_read_that_fails_is_tried_again_later_and_nothing_changes() {
    for (status, body, least) in [
        (429, "", Duration::from_secs(10)),
        (500, "", Duration::from_millis(1)),
        (404, "", Duration::from_millis(1)),
        (200, "{", Duration::from_millis(1)),
        (200, r#"{"reported":{}}"#, Duration::from_millis(1)),
        (200, r#"{"desired":7}"#, Duration::from_millis(1)),
    ] {
        let mut bench = Bench::known();
        let actions = bench.machine.refresh(bench.now);
        bench.note(actions);
        assert_eq!(bench.answer(Operation::Get, status, body), (vec![], vec![]), "{status} {body}");
        let due = bench.machine.next_due().expect("it is tried again") - bench.now;
        assert!(due >= least && due <= Duration::from_secs(300), "{status} {body}: {due:?}");
        assert_eq!(bench.after(due).1, [Operation::Get], "{status} {body}");
    }
}

#[test]
fn the_twin_is_read_again_every_hour_and_on_each_opening() {
    let mut bench = Bench::known();
    assert_eq!(bench.machine.next_due(), Some(bench.now + REFRESH_EVERY));
    assert_eq!(bench.after(REFRESH_EVERY - Duration::from_secs(1)).1, []);
    assert_eq!(bench.after(Duration::from_secs(1)).1, [Operation::Get]);
    assert_eq!(bench.machine.close(), []);
    assert_eq!(bench.machine.next_due(), None, "nothing is due while the links are closed");
    let actions = bench.machine.open(bench.now);
    assert_eq!(bench.note(actions).1, [Operation::Subscribe, Operation::Get]);
}

#[test]
fn without_an_answer_in_time_the_links_are_given_up() {
    let mut bench = Bench::open();
    assert_eq!(bench.after(ANSWER_WITHIN - Duration::from_secs(1)).0, []);
    let (actions, _) = bench.after(Duration::from_secs(1));
    assert!(
        matches!(&actions[..], [Action::Reopen(why)] if why.contains("no answer")),
        "{actions:?}"
    );
    let mut bench = Bench::open();
    let (actions, _) = bench.answer(Operation::Subscribe, 500, "");
    assert!(matches!(&actions[..], [Action::Reopen(_)]), "{actions:?}");
}

#[test]
fn a_report_is_answered_once_whatever_happens() {
    let report = |bench: &mut Bench| {
        assert!(bench.machine.can_report());
        let action = bench.machine.report(bench.now, &json!({"x": 1}));
        assert!(matches!(&action, Action::Ask { body, .. } if body == r#"{"x":1}"#), "{action:?}");
        bench.note(vec![action]);
        assert!(!bench.machine.can_report(), "one at a time");
    };
    let busy = |after: Option<u64>, detail: &str| ReportError::Busy {
        after: after.map(Duration::from_secs),
        detail: detail.to_owned(),
    };
    for (status, expected) in [
        (200, Ok(Some(7))),
        (204, Ok(Some(7))),
        (400, Err(ReportError::Refused("status 400 why".to_owned()))),
        (413, Err(ReportError::Refused("status 413 why".to_owned()))),
        (408, Err(busy(None, "status 408 why"))),
        (429, Err(busy(Some(10), "status 429 why"))),
        (503, Err(busy(None, "status 503 why"))),
    ] {
        let mut bench = Bench::known();
        report(&mut bench);
        let (actions, _) = bench.answer(Operation::Report, status, "why");
        assert_eq!(actions, [Action::Reported(expected)], "{status}");
        assert_eq!(bench.machine.close(), []);
    }
    let mut bench = Bench::known();
    report(&mut bench);
    assert_eq!(bench.machine.close(), [Action::Reported(Err(ReportError::Lost))]);
    // The answer that comes after all is nobody's.
    assert_eq!(bench.answer(Operation::Report, 200, ""), (vec![], vec![]));
}
