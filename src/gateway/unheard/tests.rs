//! When an input is told as unheard, when no longer, and in which words.

use super::*;
use crate::auth::scope::{AuthKind, ScopeEntry, Status};
use crate::clock::{self, UnixMillis};
use crate::identity::ModuleId;

fn edge() -> DeviceId {
    DeviceId::parse("edge1").unwrap()
}

fn module(id: &str) -> ClientName {
    ClientName::Module(edge(), ModuleId::parse(id).unwrap())
}

fn waiting(messages: u64, presence: Presence) -> Waiting {
    Waiting {
        module: module("m"),
        input: "in".to_owned(),
        messages,
        bytes: messages * 10,
        presence,
    }
}

#[test]
fn it_begins_when_nobody_has_listened_for_minutes_and_ends_when_somebody_does_or_nothing_waits() {
    use Presence::{Away, Listening, NotSubscribed};
    let endpoint: Arc<str> = Arc::from("edge1/m/in");
    let (begins, ends) = (Change::Begins(endpoint.clone()), Change::Ends(endpoint.clone()));
    // Seconds, what waits, what is told then.
    let steps = [
        (0, Some((1, Away)), None),
        (299, Some((5, Away)), None),
        // It came for a moment: all begins anew.
        (299, Some((5, Listening)), None),
        (300, Some((5, NotSubscribed)), None),
        (599, Some((5, Away)), None),
        (600, Some((5, Away)), Some(&begins)),
        (610, Some((6, NotSubscribed)), None),
        (9000, Some((7, Away)), None),
        (9010, Some((7, Listening)), Some(&ends)),
        (9020, Some((7, Away)), None),
        (9320, Some((7, Away)), Some(&begins)),
        // Its time to live is over.
        (9330, Some((0, Away)), Some(&ends)),
        (9700, Some((0, Away)), None),
        (9710, Some((1, Away)), None),
        (10_009, Some((1, Away)), None),
        (10_010, Some((1, Away)), Some(&begins)),
        // The queue itself is gone.
        (10_020, None, Some(&ends)),
        (10_030, None, None),
    ];
    let (mut model, start) = (Model::default(), clock::system().monotonic());
    let mut is_told = false;
    for (at, what, expected) in steps {
        let now = start + Duration::from_secs(at);
        let all = what.map(|(messages, presence)| (endpoint.clone(), waiting(messages, presence)));
        let changes = model.look(now, &all.into_iter().collect());
        assert_eq!(changes.first(), expected, "at {at} s");
        assert!(changes.len() <= 1);
        match expected {
            Some(Change::Begins(_)) => is_told = true,
            Some(Change::Ends(_)) => is_told = false,
            None => {}
        }
        assert_eq!(model.told(now).count(), usize::from(is_told), "at {at} s");
    }
    assert!(model.since.is_empty(), "nothing is kept of what does not wait");
}

#[test]
fn the_time_is_that_for_which_nobody_has_listened() {
    let all = BTreeMap::from([(Arc::from("edge1/m/in"), waiting(1, Presence::Away))]);
    let (mut model, start) = (Model::default(), clock::system().monotonic());
    model.look(start, &all);
    let now = start + UNHEARD_AFTER * 3;
    model.look(now, &all);
    let told: Vec<Duration> = model.told(now).map(|(_, unheard)| unheard).collect();
    assert_eq!(told, [UNHEARD_AFTER * 3]);
}

#[test]
fn the_words_name_what_waits_where_and_what_to_do() {
    let check = |presence, known: &Known, limit, when_full, parts: &[&str]| {
        let long = Duration::from_secs(7500);
        let told = told(&waiting(2048, presence), long, limit, when_full, known);
        let text = &told.text;
        let common =
            ["2,048 messages (20.0 KiB", "input \"in\" of module \"m\"", "for 2 h 5 min: "];
        for part in common.iter().chain(parts).chain(&["timeToLiveSecs"]) {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(text.contains('%'), limit.is_some(), "{text}");
        assert_eq!((told.messages, told.bytes, told.unheard_secs), (2048, 20_480, 7500));
        assert_eq!((&*told.module, &*told.input), ("m", "in"));
        told
    };
    use Presence::{Away, NotSubscribed};
    let (reject, drop) = (WhenFull::Reject, WhenFull::DropOldest);
    let away = check(
        Away,
        &Known::Perhaps,
        Some(163_840),
        reject,
        &["12.5 % of", "deploy or start it", "are refused"],
    );
    assert_eq!(away.budget_percent, Some(12.5));
    check(Away, &Known::Perhaps, Some(1 << 40), reject, &["less than 0.1 % of"]);
    let no_limit =
        check(Away, &Known::No, None, drop, &["no such module", "oldest messages are dropped"]);
    assert_eq!(no_limit.budget_percent, None);
    let other_case = Known::As("M".to_owned());
    check(Away, &other_case, None, reject, &["\"M\", in other letter case: correct the route"]);
    check(NotSubscribed, &other_case, None, reject, &["has not subscribed to its inputs"]);
}

#[test]
fn the_scope_tells_a_missing_module_from_a_misspelt_one() {
    let entry = |name: ClientName| ScopeEntry {
        name,
        generation: "1".to_owned(),
        status: Status::Enabled,
        auth: AuthKind::None,
        scope: String::new(),
        parent_scopes: Vec::new(),
        is_edge: false,
    };
    let folder = tempfile::tempdir().unwrap();
    let (scope, _) = Scope::load(folder.path().join("scope.json"), edge());
    let check =
        |name: &str, expected: Known| assert_eq!(Known::of(&module(name), &scope), expected);
    check("filter", Known::Perhaps);
    // A module of another device is none of ours, whatever it is called.
    let other = DeviceId::parse("edge2").unwrap();
    let others = ClientName::Module(other, ModuleId::parse("VIEWER").unwrap());
    scope.replace(vec![entry(module("Filter")), entry(others)], UnixMillis(1));
    check("Filter", Known::Perhaps);
    check("filter", Known::As("Filter".to_owned()));
    check("filters", Known::No);
    check("viewer", Known::No);
}

#[test]
fn health_names_some_and_counts_the_others() {
    let input = |n: usize| {
        let waiting = Waiting { input: n.to_string(), ..waiting(1, Presence::Away) };
        told(&waiting, UNHEARD_AFTER, None, WhenFull::Reject, &Known::Perhaps)
    };
    let warned = |count: usize| warnings(&(0..count).map(input).collect::<Vec<_>>());
    assert!(warned(0).is_empty());
    assert_eq!(warned(WARNINGS_MAX).len(), WARNINGS_MAX);
    let many = warned(WARNINGS_MAX + 2);
    assert_eq!(many.len(), WARNINGS_MAX + 1);
    assert!(many[0].contains("1 message (10 B) for input \"0\""), "{}", many[0]);
    assert!(many[WARNINGS_MAX].contains("2 more inputs"), "{}", many[WARNINGS_MAX]);
}
