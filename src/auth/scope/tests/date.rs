//! When the file is written again.

use super::*;

/// Promise: flash is not worn by a scope that stays the same.
#[test]
fn the_same_scope_is_written_once_an_hour_for_its_date() {
    for key in [Some(DataKey::random()), None] {
        let with_key = key.is_some();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scope.json");
        let (scope, _) = Scope::load(&path, edge());
        if let Some(key) = key {
            scope.open(key).1.unwrap();
        }
        // A new nonce each time: an equal file is one that was not written.
        let file = || std::fs::read(&path).unwrap();
        let whole = || vec![leaf("d1"), sas("d2")];
        let after = |secs: u64| UnixMillis(NOW.0 + secs * 1000);
        scope.replace(whole(), NOW).stored.unwrap();
        let first = file();
        scope.replace(whole(), after(3599)).stored.unwrap();
        assert!(file() == first, "written though nothing differs; with a key: {with_key}");

        scope.replace(whole(), after(3600)).stored.unwrap();
        let dated = file();
        assert!(dated != first, "its date is old");
        scope.replace(vec![leaf("d1")], after(3601)).stored.unwrap();
        assert!(file() != dated, "news is written at once");
        let news = file();
        scope.replace(vec![leaf("d1")], NOW).stored.unwrap();
        assert!(file() != news, "a date of the future does not stay");

        // What could not be written is tried again.
        std::fs::create_dir(folder.path().join("scope.json.new")).unwrap();
        assert!(scope.replace(whole(), NOW).stored.is_err());
        std::fs::remove_dir(folder.path().join("scope.json.new")).unwrap();
        scope.replace(whole(), NOW).stored.unwrap();
        assert_eq!(Scope::load(&path, edge()).1, Loaded::Snapshot { entries: 2, saved: NOW });
    }
}
