//! The scope's states, its file, and auth chains.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::auth::testing::NOW;
use crate::identity::ModuleId;

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
    let good = std::fs::read_to_string(&path).unwrap();

    let cases = [
        (good[..good.len() / 2].to_owned(), "not a scope snapshot"),
        (String::new(), "not a scope snapshot"),
        ("\0".repeat(100), "not a scope snapshot"),
        (good.replace("\"version\":1", "\"version\":2"), "version 2"),
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
