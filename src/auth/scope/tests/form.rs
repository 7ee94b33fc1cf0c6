//! The files as releases have written them, letter for letter: a gateway that is updated while the hub is away lets in whom
//! the older one did.

use super::*;

/// A data key, 32 times the number 7, under the mode of its file.
const KEY_FILE: &str = concat!(
    r#"{"version":1,"by":"file","vector":"AAECAwQFBgcICQoLDA0ODw==","#,
    r#""key":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=","check":"23G3N31j32Q="}"#,
);

/// A scope of version 2 without what is sealed.
const ENTRIES: &str = concat!(
    r#"{"version":2,"edge":"edge1","saved_ms":1700000000000,"entries":[{"device":"d1","module":null,"generation":"1","#,
    r#""enabled":true,"auth":{"type":"certificate_authority"},"scope":"ms-azure-iot-edge://edge1-637000000000000000","#,
    r#""parents":["ms-azure-iot-edge://edge1-637000000000000000"],"is_edge":false},{"device":"d2","module":"m","#,
    r#""generation":"1","enabled":false,"auth":{"type":"self_signed","thumbprints":["AB"]},"#,
    r#""scope":"ms-azure-iot-edge://edge1-637000000000000000","#,
    r#""parents":["ms-azure-iot-edge://edge1-637000000000000000"],"is_edge":false},{"device":"s","module":null,"#,
    r#""generation":"1","enabled":true,"auth":{"type":"sas"},"scope":"ms-azure-iot-edge://edge1-637000000000000000","#,
    r#""parents":["ms-azure-iot-edge://edge1-637000000000000000"],"is_edge":false}],"sealed":"#,
);

/// [`PRIMARY`] and [`SECONDARY`] of `s`, under that key.
const SEALED: &str = concat!(
    r#"{"nonce":"oFrZf7qElTuNj5Ah","text":"9DgLg7gKZz2HnOX0L2fEOG9yVnpZQGL0Bkdqti5tb1eX19g5Wl0w132o7qW91HO+I6X9sclohfN3h"#,
    r#"40sg1+dROtEdi75LLo1itDtNf8IONwiqe5bdbmtI+wCz8N7OpoJO/pjOotqNMlfAls78uyryttBb0HLVQvL6YntWQHK+RQ56wpVs4Yrqo/zILfe5A=="}}"#,
);

const SAVED: UnixMillis = UnixMillis(1_700_000_000_000);

fn entries() -> Vec<ScopeEntry> {
    let mut disabled = entry(module("d2", "m"), OURS, &[OURS], false);
    disabled.status = Status::Disabled;
    disabled.auth = AuthKind::SelfSigned { thumbprints: vec!["AB".into()] };
    vec![leaf("d1"), disabled, sas("s")]
}

#[tokio::test]
async fn scope_and_data_key_are_read_and_written_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let (path, key_path) = (folder.path().join("scope.json"), folder.path().join("scope.key"));
    std::fs::write(&key_path, KEY_FILE).unwrap();
    std::fs::set_permissions(&key_path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let obtained = vault::obtain(&key_path, &vault::FileMode).await.unwrap();
    assert_eq!((obtained.origin, obtained.was_exposed), (vault::Origin::Kept, false));
    assert_eq!(std::fs::read_to_string(&key_path).unwrap(), KEY_FILE);

    let stored = format!("{ENTRIES}{SEALED}");
    std::fs::write(&path, &stored).unwrap();
    let (scope, loaded) = Scope::load(&path, edge());
    assert_eq!(loaded, Loaded::Snapshot { entries: 3, saved: SAVED });
    let (opened, written) = scope.open(obtained.key.clone());
    assert!(matches!(opened, Opened::Keys { entries: 1 }) && written.is_ok());
    for entry in entries() {
        assert_eq!(scope.lookup(&entry.name.clone()), Lookup::Entry(Arc::new(entry)));
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), stored, "it is of the form of today");

    std::fs::remove_file(&path).unwrap();
    let (anew, _) = Scope::load(&path, edge());
    anew.open(obtained.key).1.unwrap();
    anew.replace(entries(), SAVED).stored.unwrap();
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written.starts_with(&format!("{ENTRIES}{{\"nonce\":\"")), "{written}");
    let (before, sum) = written.split_once(r#","file_crc32c":""#).unwrap();
    assert_eq!(before.len(), stored.len() - 1);
    assert_eq!(sum, format!("{:08x}\"}}", crc32c::crc32c(before.as_bytes())));
}

#[test]
fn what_is_no_scope_is_refused_in_these_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scope.json");
    let stored = format!("{ENTRIES}null}}");
    for (damaged, words) in [
        ("{}", "it is not a scope snapshot: missing field `version` at line 1 column 2"),
        (
            r#"{"version":2}"#,
            "it is not a scope snapshot: missing field `edge` at line 1 column 13",
        ),
        (r#"{"version":3}"#, "it has version 3; this program reads versions 1 and 2"),
        (&stored.replace("null}", r#"null,"file_crc32c":"00000000"}"#), "its checksum is wrong"),
        (&stored.replace("edge1", "other"), r#"it is the scope of edge device "other""#),
        (
            &stored.replace(r#""d1""#, r#""d/1""#),
            "it has an entry whose the id contains '/'; IoT Hub allows ASCII letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ '",
        ),
    ] {
        std::fs::write(&path, damaged).unwrap();
        let (_, loaded) = Scope::load(&path, edge());
        let Loaded::SetAside { reason, to: Some(_) } = loaded else {
            panic!("{words}: {loaded:?}")
        };
        assert_eq!(reason, words);
    }
    std::fs::write(&path, "").unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(64 * 1024 * 1024 + 1).unwrap();
    let Loaded::SetAside { reason, to } = Scope::load(&path, edge()).1 else { panic!("too big") };
    assert_eq!(reason, "it has 67108865 bytes; 67108864 are allowed");
    assert!(to.is_some());
    // What cannot be read at all may be good.
    std::fs::create_dir(&path).unwrap();
    let reason = "it cannot be read: Is a directory (os error 21)".to_owned();
    assert_eq!(Scope::load(&path, edge()).1, Loaded::SetAside { to: None, reason });
    assert!(path.is_dir());
}
