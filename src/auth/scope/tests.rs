//! The scope's states, its file, and auth chains.

mod date;
mod form;

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::auth::testing::NOW;
use crate::identity::ModuleId;
use crate::kept_file::without_sum;

const OURS: &str = "ms-azure-iot-edge://edge1-637000000000000000";
const CHILDS: &str = "ms-azure-iot-edge://child-1-42";

fn device(id: &str) -> ClientName {
    ClientName::Device(DeviceId::parse(id).unwrap())
}

fn module(id: &str, module: &str) -> ClientName {
    ClientName::Module(DeviceId::parse(id).unwrap(), ModuleId::parse(module).unwrap())
}

fn edge() -> DeviceId {
    DeviceId::parse("edge1").unwrap()
}

fn entry(name: ClientName, scope: &str, parents: &[&str], is_edge: bool) -> ScopeEntry {
    ScopeEntry {
        name,
        generation: "1".into(),
        status: Status::Enabled,
        auth: AuthKind::CertificateAuthority,
        scope: scope.into(),
        parent_scopes: parents.iter().map(ToString::to_string).collect(),
        is_edge,
    }
}

fn key(text: &str) -> Option<KeySigner> {
    KeySigner::from_base64(text).ok()
}

const PRIMARY: &str = "cHJpbWFyeSBrZXkgb2YgYSBkZXZpY2U=";
const SECONDARY: &str = "c2Vjb25kYXJ5IGtleSBvZiBhIGRldmljZQ==";

fn sas(id: &str) -> ScopeEntry {
    let keys = SymmetricKeys { primary: key(PRIMARY), secondary: key(SECONDARY), is_told: true };
    ScopeEntry { auth: AuthKind::Sas { keys }, ..leaf(id) }
}

fn keyless(id: &str) -> ScopeEntry {
    ScopeEntry { auth: AuthKind::Sas { keys: SymmetricKeys::default() }, ..leaf(id) }
}

fn found(scope: &Scope, id: &str) -> ScopeEntry {
    match scope.lookup(&device(id)) {
        Lookup::Entry(entry) => (*entry).clone(),
        other => panic!("{id}: {other:?}"),
    }
}

fn answer(asked: ClientName, entries: Vec<ScopeEntry>) -> Answer {
    Answer { asked, entries }
}

fn leaf(id: &str) -> ScopeEntry {
    entry(device(id), OURS, &[OURS], false)
}

#[test]
fn unknown_until_handed_in_then_kept_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/scope.json");
    let (scope, loaded) = Scope::load(&path, edge());
    assert_eq!(loaded, Loaded::Nothing);
    assert_eq!(scope.lookup(&device("d1")), Lookup::Unknown);
    assert_eq!(scope.auth_chain(&device("d1")), None);
    assert!(!scope.is_known());

    let mut disabled = leaf("d2");
    disabled.status = Status::Disabled;
    disabled.auth = AuthKind::SelfSigned { thumbprints: vec!["AB".into()] };
    let entries = vec![
        leaf("d1"),
        disabled,
        entry(device("edge1"), OURS, &[], true),
        entry(module("edge1", "$edgeHub"), "", &[], false),
    ];
    let replaced = scope.replace(entries.clone(), NOW);
    replaced.stored.unwrap();
    assert_eq!(replaced.added.len(), 4);
    assert_eq!(scope.lookup(&device("d3")), Lookup::NotInScope);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let (again, loaded) = Scope::load(&path, edge());
    assert_eq!(loaded, Loaded::Snapshot { entries: 4, saved: NOW });
    for entry in entries {
        assert_eq!(again.lookup(&entry.name.clone()), Lookup::Entry(Arc::new(entry)));
    }
}

#[test]
fn an_empty_scope_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scope.json");
    let (scope, _) = Scope::load(&path, edge());
    scope.replace(vec![], NOW).stored.unwrap();
    let (again, _) = Scope::load(&path, edge());
    assert_eq!(again.lookup(&device("d")), Lookup::NotInScope);
    assert!(again.is_known() && again.is_empty());
}

#[test]
fn a_replacement_says_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (scope, _) = Scope::load(folder.path().join("scope.json"), edge());
    scope.replace(vec![leaf("gone"), leaf("same"), leaf("other")], NOW);
    let mut other = leaf("other");
    other.generation = "2".into();
    let replaced = scope.replace(vec![leaf("same"), other, leaf("new")], NOW);
    assert_eq!(replaced.added, [device("new")]);
    assert_eq!(replaced.removed, [device("gone")]);
    assert_eq!(replaced.changed, [device("other")]);
}

#[test]
fn files_that_are_no_snapshot_are_set_aside_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scope.json");
    let (scope, _) = Scope::load(&path, edge());
    scope.replace(vec![leaf("d1")], NOW).stored.unwrap();
    let summed = std::fs::read_to_string(&path).unwrap();
    let good = without_sum(&summed);

    let cases = [
        (summed.replace("certificate_authority", "certificate_authorita"), "checksum"),
        (good[..good.len() / 2].to_owned(), "not a scope snapshot"),
        (String::new(), "not a scope snapshot"),
        ("\0".repeat(100), "not a scope snapshot"),
        (good.replace("\"version\":2", "\"version\":3"), "version 3"),
        (good.replace("edge1", "edge2"), "edge device \"edge2\""),
        (good.replace("\"d1\"", "\"d/1\""), "the id contains '/'"),
    ];
    for (index, (text, words)) in cases.iter().enumerate() {
        std::fs::write(&path, text).unwrap();
        let (scope, loaded) = Scope::load(&path, edge());
        let Loaded::SetAside { to, reason } = loaded else { panic!("{words}: {loaded:?}") };
        assert!(reason.contains(words), "{reason}");
        let to = to.unwrap();
        assert_eq!(to, folder.path().join(format!("scope.json.bad{index}")));
        assert_eq!(&std::fs::read_to_string(to).unwrap(), text);
        assert_eq!(scope.lookup(&device("d1")), Lookup::Unknown);
        assert_eq!(Scope::load(&path, edge()).1, Loaded::Nothing);
    }
}

#[test]
fn a_file_that_cannot_be_read_stays_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scope.json");
    // A folder in its place stands for a disk that refuses (a test may run as root, whom no mode stops).
    std::fs::create_dir(&path).unwrap();
    let (scope, loaded) = Scope::load(&path, edge());
    assert!(matches!(loaded, Loaded::SetAside { to: None, .. }), "{loaded:?}");
    assert!(path.is_dir() && !scope.is_known());
}

#[test]
fn a_kill_while_writing_leaves_the_old_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scope.json");
    let (scope, _) = Scope::load(&path, edge());
    scope.replace(vec![leaf("d1")], NOW).stored.unwrap();
    std::fs::write(folder.path().join("scope.json.new"), "{\"version\":1,\"ed").unwrap();
    let (again, loaded) = Scope::load(&path, edge());
    assert_eq!(loaded, Loaded::Snapshot { entries: 1, saved: NOW });
    again.replace(vec![leaf("d1"), leaf("d2")], NOW).stored.unwrap();
    assert_eq!(Scope::load(&path, edge()).0.len(), 2);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
}

#[test]
fn a_full_disk_leaves_the_new_scope_in_force_and_the_old_file_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scope.json");
    let (scope, _) = Scope::load(&path, edge());
    scope.replace(vec![leaf("d1")], NOW).stored.unwrap();
    // A folder in the place of the new file stands for a disk that refuses.
    std::fs::create_dir(folder.path().join("scope.json.new")).unwrap();
    assert!(scope.replace(vec![leaf("d2")], NOW).stored.is_err());
    assert!(matches!(scope.lookup(&device("d2")), Lookup::Entry(_)));
    let (again, _) = Scope::load(&path, edge());
    assert!(matches!(again.lookup(&device("d1")), Lookup::Entry(_)));
}

#[test]
fn sphere_ids_are_found_without_case_and_others_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let (scope, _) = Scope::load(folder.path().join("scope.json"), edge());
    let lower = "0123456789abcdef".repeat(8);
    let upper = lower.to_ascii_uppercase();
    let mixed = format!("{}{}", &lower[..64], &upper[64..]);
    let found = |id: &str| match scope.lookup(&device(id)) {
        Lookup::Entry(entry) => Some(entry.name.to_string()),
        _ => None,
    };
    scope.replace(vec![leaf(&lower), leaf("Dev1"), leaf("abcdef")], NOW);
    assert_eq!(found(&upper), Some(lower.clone()));
    assert_eq!(found(&mixed), Some(lower.clone()));
    assert_eq!((found("dev1"), found("ABCDEF")), (None, None));
    assert_eq!(found("Dev1").as_deref(), Some("Dev1"));

    // Two registered spellings: each is itself, a third is nobody.
    scope.replace(vec![leaf(&lower), leaf(&upper)], NOW);
    assert_eq!(found(&upper), Some(upper.clone()));
    assert_eq!(found(&lower), Some(lower.clone()));
    assert_eq!(found(&mixed), None);
}

#[test]
fn auth_chains_lead_to_our_edge_device() {
    let folder = tempfile::tempdir().unwrap();
    let (scope, _) = Scope::load(folder.path().join("scope.json"), edge());
    let mut off = entry(device("off"), "ms-azure-iot-edge://off-7", &[OURS], true);
    off.status = Status::Disabled;
    let entries = vec![
        leaf("leaf"),
        entry(device("bare"), OURS, &[], false),
        entry(
            device("stale"),
            "ms-azure-iot-edge://edge1-1",
            &["ms-azure-iot-edge://edge1-1"],
            false,
        ),
        entry(
            device("foreign"),
            "ms-azure-iot-edge://other-5",
            &["ms-azure-iot-edge://other-5"],
            false,
        ),
        entry(device("orphan"), "", &[], false),
        entry(device("odd"), "edge1", &["edge1"], false),
        entry(device("child-1"), CHILDS, &[OURS], true),
        entry(device("grandchild"), CHILDS, &[CHILDS], false),
        off,
        entry(
            device("below-off"),
            "ms-azure-iot-edge://off-7",
            &["ms-azure-iot-edge://off-7"],
            false,
        ),
        // A ring.
        entry(device("r1"), "ms-azure-iot-edge://r1-1", &["ms-azure-iot-edge://r2-1"], true),
        entry(device("r2"), "ms-azure-iot-edge://r2-1", &["ms-azure-iot-edge://r1-1"], true),
        entry(module("edge1", "mod"), "", &[], false),
        entry(module("leaf", "m"), "", &[], false),
    ];
    let own = entry(device("edge1"), OURS, &[], true);
    let cases = [
        (device("edge1"), Some("edge1")),
        (device("leaf"), Some("leaf;edge1")),
        (device("bare"), Some("bare;edge1")),
        (device("foreign"), None),
        (device("orphan"), None),
        (device("odd"), None),
        (device("nobody"), None),
        (device("child-1"), Some("child-1;edge1")),
        (device("grandchild"), Some("grandchild;child-1;edge1")),
        (device("off"), None),
        (device("below-off"), None),
        (device("r1"), None),
        (module("edge1", "mod"), Some("edge1/mod;edge1")),
        (module("edge1", "nope"), None),
        (module("leaf", "m"), Some("leaf/m;leaf;edge1")),
    ];
    // Without our own entry the edge device's id decides, with it its generation does, too.
    scope.replace(entries.clone(), NOW);
    for (name, expected) in &cases {
        assert_eq!(scope.auth_chain(name).as_deref(), *expected, "{name}, own entry not there");
    }
    assert_eq!(scope.auth_chain(&device("stale")).as_deref(), Some("stale;edge1"));
    scope.replace([entries, vec![own]].concat(), NOW);
    for (name, expected) in &cases {
        assert_eq!(scope.auth_chain(name).as_deref(), *expected, "{name}");
    }
    assert_eq!(scope.auth_chain(&device("stale")), None);
}

#[test]
fn keys_are_on_disk_sealed_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scope.json");
    let data_key = DataKey::random();
    let (scope, _) = Scope::load(&path, edge());
    let (opened, stored) = scope.open(data_key.clone());
    assert!(matches!(opened, Opened::Nothing) && stored.is_ok());
    scope.replace(vec![sas("s"), leaf("x")], NOW).stored.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for plain in [PRIMARY.as_bytes(), SECONDARY.as_bytes(), b"key of a device"] {
        assert!(!bytes.windows(plain.len()).any(|w| w == plain));
    }
    assert!(!format!("{:?}", found(&scope, "s")).contains("cHJp"));

    let (again, loaded) = Scope::load(&path, edge());
    assert_eq!(loaded, Loaded::Snapshot { entries: 2, saved: NOW });
    assert_eq!(found(&again, "x"), leaf("x"), "who needs no key is served at once");
    assert_eq!(found(&again, "s"), keyless("s"));
    let (opened, stored) = again.open(data_key);
    assert!(matches!(opened, Opened::Keys { entries: 1 }) && stored.is_ok());
    assert_eq!(found(&again, "s"), sas("s"));
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "what has not changed is not written");
}

#[test]
fn while_the_seal_is_not_opened_the_hub_s_word_counts_and_the_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scope.json");
    let data_key = DataKey::random();
    let (scope, _) = Scope::load(&path, edge());
    let _ = scope.open(data_key.clone());
    scope.replace(["a", "b", "c"].map(sas).into(), NOW).stored.unwrap();
    let bytes = std::fs::read(&path).unwrap();

    // One was re-keyed meanwhile, one is gone; of the third nothing new was said.
    let (scope, _) = Scope::load(&path, edge());
    let rekeyed = ScopeEntry {
        auth: AuthKind::Sas {
            keys: SymmetricKeys { primary: key("bmV3"), secondary: None, is_told: true },
        },
        ..leaf("a")
    };
    let replaced = scope.merge_one(answer(device("a"), vec![rekeyed.clone()]), NOW);
    assert_eq!(replaced.changed, [device("a")]);
    replaced.stored.unwrap();
    assert_eq!(scope.merge_one(answer(device("b"), vec![]), NOW).removed, [device("b")]);
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing is overwritten with less");
    let (opened, stored) = scope.open(data_key.clone());
    assert!(matches!(opened, Opened::Keys { entries: 1 }) && stored.is_ok());
    let expected = [(rekeyed, "a"), (sas("c"), "c")];
    for (entry, id) in &expected {
        assert_eq!(&found(&scope, id), entry);
    }
    assert_eq!(scope.lookup(&device("b")), Lookup::NotInScope);

    let (scope, _) = Scope::load(&path, edge());
    let _ = scope.open(data_key.clone());
    for (entry, id) in &expected {
        assert_eq!(&found(&scope, id), entry, "what was put off is on disk");
    }

    // A whole refresh before the seal is opened: nothing of the old keys comes back.
    let (scope, _) = Scope::load(&path, edge());
    scope.replace(vec![keyless("c")], NOW).stored.unwrap();
    let (_, stored) = scope.open(data_key);
    stored.unwrap();
    assert_eq!(found(&scope, "c"), keyless("c"));
}

#[test]
fn keys_that_cannot_be_opened_are_set_aside_and_the_rest_serves() {
    let data_key = DataKey::random();
    let damage = |text: &str| {
        let at = text.find("\"text\":\"").unwrap() + 8;
        format!("{}AAAA{}", &text[..at], &text[at + 4..])
    };
    type Harm<'a> = &'a dyn Fn(&str) -> String;
    let cases: [(&str, Harm<'_>, DataKey); 4] = [
        ("another key", &str::to_owned, DataKey::random()),
        ("damaged", &damage, data_key.clone()),
        ("of another time", &|t| t.replace(&NOW.0.to_string(), "1600000000000"), data_key.clone()),
        ("no base64", &|t| t.replace("\"nonce\":\"", "\"nonce\":\"!"), data_key.clone()),
    ];
    for (what, harm, opener) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scope.json");
        let (scope, _) = Scope::load(&path, edge());
        let _ = scope.open(data_key.clone());
        scope.replace(vec![sas("s"), leaf("x")], NOW).stored.unwrap();
        let harmed = harm(&without_sum(&std::fs::read_to_string(&path).unwrap()));
        std::fs::write(&path, &harmed).unwrap();

        let (scope, _) = Scope::load(&path, edge());
        let (opened, stored) = scope.open(opener);
        stored.unwrap();
        let Opened::SetAside { to: Some(to) } = opened else { panic!("{what}: {opened:?}") };
        assert_eq!(std::fs::read_to_string(to).unwrap(), harmed, "{what}");
        assert_eq!((found(&scope, "x"), found(&scope, "s")), (leaf("x"), keyless("s")), "{what}");
        let (again, _) = Scope::load(&path, edge());
        assert_eq!(found(&again, "x"), leaf("x"), "{what}: the rest is there again");
    }
}

#[test]
fn a_file_of_version_1_is_read_and_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scope.json");
    let v1 = r#"{"version":1,"edge":"edge1","saved_ms":1700000000000,"entries":[{"device":"d1","module":null,
        "generation":"1","enabled":true,"auth":{"type":"certificate_authority"},"scope":"","parents":[],"is_edge":false},
        {"device":"s1","module":null,"generation":"1","enabled":true,"auth":{"type":"sas"},"scope":"","parents":[],
        "is_edge":false}]}"#;
    std::fs::write(&path, v1).unwrap();
    let (scope, loaded) = Scope::load(&path, edge());
    let expected = Loaded::Snapshot { entries: 2, saved: UnixMillis(1_700_000_000_000) };
    assert_eq!(loaded, expected);
    let (opened, stored) = scope.open(DataKey::random());
    assert!(matches!(opened, Opened::Nothing) && stored.is_ok());
    assert!(std::fs::read_to_string(&path).unwrap().contains("\"version\":2"));
    assert_eq!(Scope::load(&path, edge()).1, expected, "with its old date");
}

#[test]
fn without_a_data_key_all_but_the_keys_is_kept_and_they_follow() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scope.json");
    let (scope, _) = Scope::load(&path, edge());
    scope.replace(vec![sas("s"), leaf("x")], NOW).stored.unwrap();
    assert_eq!(found(&Scope::load(&path, edge()).0, "s"), keyless("s"));
    let data_key = DataKey::random();
    scope.open(data_key.clone()).1.unwrap();
    let (again, _) = Scope::load(&path, edge());
    let _ = again.open(data_key);
    assert_eq!(found(&again, "s"), sas("s"));
}

#[test]
fn an_answer_about_one_counts_for_it_and_what_came_along() {
    let other_life = |id: &str| ScopeEntry { generation: "2".into(), ..leaf(id) };
    let with_module =
        |id: &str| vec![leaf(id), entry(module(id, "m"), "", &[], false), leaf("other")];
    let sphere = "0123456789abcdef".repeat(8);
    let upper = sphere.to_ascii_uppercase();
    let d = || device("d");
    // Before, asked, answered: added, removed, changed.
    type Names = Vec<ClientName>;
    let cases: Vec<(&str, Vec<ScopeEntry>, Answer, [Names; 3])> = vec![
        ("new", vec![leaf("other")], answer(d(), vec![leaf("d")]), [vec![d()], vec![], vec![]]),
        ("same", with_module("d"), answer(d(), vec![leaf("d")]), [vec![], vec![], vec![]]),
        (
            "gone with its modules",
            with_module("d"),
            answer(d(), vec![]),
            [vec![], vec![d(), module("d", "m")], vec![]],
        ),
        (
            "a module alone is gone",
            with_module("d"),
            answer(module("d", "m"), vec![leaf("d")]),
            [vec![], vec![module("d", "m")], vec![]],
        ),
        (
            "made anew: the modules of its former life are gone",
            with_module("d"),
            answer(d(), vec![other_life("d")]),
            [vec![], vec![module("d", "m")], vec![d()]],
        ),
        (
            "a device and its new module",
            vec![leaf("d")],
            answer(module("d", "m"), with_module("d")[..2].to_vec()),
            [vec![module("d", "m")], vec![], vec![]],
        ),
        ("nobody", vec![leaf("other")], answer(d(), vec![]), [vec![], vec![], vec![]]),
        (
            "a Sphere id in the other case",
            vec![leaf(&sphere)],
            answer(device(&upper), vec![leaf(&sphere)]),
            [vec![], vec![], vec![]],
        ),
        (
            "a Sphere id in the other case, gone",
            vec![leaf(&sphere)],
            answer(device(&upper), vec![]),
            [vec![], vec![device(&sphere)], vec![]],
        ),
    ];
    for (what, before, answer, [added, removed, changed]) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (scope, _) = Scope::load(folder.path().join("scope.json"), edge());
        scope.replace(before, NOW).stored.unwrap();
        let replaced = scope.merge_one(answer, NOW);
        let got = (replaced.added, replaced.removed, replaced.changed);
        assert_eq!(got, (added, removed, changed), "{what}");
    }
    // One entry is no scope: the others are not refused because of it.
    let (scope, _) = Scope::load(tempfile::tempdir().unwrap().path().join("s"), edge());
    assert!(scope.merge_one(answer(d(), vec![leaf("d")]), NOW).is_nothing());
    assert_eq!(scope.lookup(&d()), Lookup::Unknown);
}

#[test]
fn a_refresh_that_began_before_an_answer_does_not_undo_it() {
    let folder = tempfile::tempdir().unwrap();
    let (scope, _) = Scope::load(folder.path().join("scope.json"), edge());
    scope.replace(vec![leaf("gone")], NOW);
    let answers = vec![answer(device("new"), vec![leaf("new")]), answer(device("gone"), vec![])];
    let replaced = scope.replace_with(vec![leaf("gone"), leaf("old")], answers, NOW);
    assert_eq!(replaced.added, [device("new"), device("old")]);
    assert_eq!(replaced.removed, [device("gone")]);
}
