//! The data key's life with a fake daemon: made, kept, away, lost, taken over; and what it locks.

use std::sync::Mutex;

use super::*;

/// What a strict daemon looks for in front of a text.
const TAG: u8 = 0xaa;

/// A daemon: XOR with its key, and as ill as a test wants.
#[derive(Default)]
struct FakeDaemon {
    key: u8,
    is_away: bool,
    /// Fails with a text of another key, as the real one does.
    is_strict: bool,
    calls: Mutex<Vec<&'static str>>,
}

impl FakeDaemon {
    fn with_key(key: u8) -> Self {
        Self { key, ..Self::default() }
    }

    fn mixed(&self, what: &'static str, text: &[u8]) -> Result<Vec<u8>, SealError> {
        self.calls.lock().unwrap().push(what);
        if self.is_away {
            return Err(SealError("nobody listens".into()));
        }
        Ok(text.iter().map(|b| b ^ self.key).collect())
    }
}

impl Seal for FakeDaemon {
    fn by(&self) -> &'static str {
        "daemon"
    }

    fn seal<'a>(
        &'a self,
        plain: &'a [u8],
        vector: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, SealError>> {
        assert_eq!(vector.len(), VECTOR_BYTES);
        let tagged = [&[TAG], plain].concat();
        Box::pin(std::future::ready(self.mixed("seal", &tagged)))
    }

    fn unseal<'a>(
        &'a self,
        sealed: &'a [u8],
        _: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, SealError>> {
        let opened =
            self.mixed("unseal", sealed).and_then(|text| match self.is_strict && text[0] != TAG {
                true => Err(SealError("500".into())),
                false => Ok(text[1..].to_vec()),
            });
        Box::pin(std::future::ready(opened))
    }
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("edgeHub/scope.key")
    }

    async fn obtain(&self, seal: &dyn Seal) -> Result<Obtained, NoDataKey> {
        obtain(&self.path(), seal).await
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path().parent().unwrap()).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_data_key_is_made_once_and_kept_private_and_the_daemon_is_asked_once_a_start() {
    let daemon = FakeDaemon::with_key(7);
    for seal in [&daemon as &dyn Seal, &FileMode] {
        let place = Place::new();
        let made = place.obtain(seal).await.unwrap();
        assert_eq!((made.origin, made.was_exposed), (Origin::Made, false));
        assert_eq!(mode(&place.path()), 0o600, "{}", seal.by());
        let kept = place.obtain(seal).await.unwrap();
        assert_eq!(kept.origin, Origin::Kept);
        assert!(*kept.key.0 == *made.key.0);
        assert_eq!(place.names(), ["scope.key"]);
        let other = Place::new().obtain(seal).await.unwrap();
        assert!(*other.key.0 != *made.key.0, "each has its own");
        assert_eq!(format!("{:?}", made.key), "DataKey(***)");
    }
    assert_eq!(*daemon.calls.lock().unwrap(), ["seal", "unseal", "seal"]);
}

#[tokio::test]
async fn a_daemon_s_file_does_not_hold_the_key_and_a_file_without_daemon_does() {
    for (seal, holds) in [(&FakeDaemon::with_key(9) as &dyn Seal, false), (&FileMode, true)] {
        let place = Place::new();
        let key = place.obtain(seal).await.unwrap().key;
        let text = std::fs::read_to_string(place.path()).unwrap();
        assert_eq!(text.contains(&STANDARD.encode(*key.0)), holds, "{}", seal.by());
    }
}

#[tokio::test]
async fn a_daemon_that_is_away_changes_nothing() {
    let place = Place::new();
    let away = FakeDaemon { is_away: true, ..FakeDaemon::with_key(7) };
    assert!(matches!(place.obtain(&away).await, Err(NoDataKey::Away(_))));
    assert!(!place.path().exists());

    let daemon = FakeDaemon::with_key(7);
    let key = place.obtain(&daemon).await.unwrap().key;
    let before = std::fs::read(place.path()).unwrap();
    assert!(matches!(place.obtain(&away).await, Err(NoDataKey::Away(_))));
    assert_eq!(std::fs::read(place.path()).unwrap(), before);
    assert_eq!(place.names(), ["scope.key"]);
    assert!(*place.obtain(&daemon).await.unwrap().key.0 == *key.0, "it is back");
}

#[tokio::test]
async fn a_key_that_is_lost_is_set_aside_and_made_anew() {
    let good = Place::new();
    good.obtain(&FakeDaemon::with_key(7)).await.unwrap();
    let good = std::fs::read_to_string(good.path()).unwrap();
    let lenient = FakeDaemon::with_key(8);
    let strict = FakeDaemon { is_strict: true, ..FakeDaemon::with_key(8) };
    let same = FakeDaemon::with_key(7);
    let cases: [(&str, String, &dyn Seal, &str); 7] = [
        ("another key", good.clone(), &lenient, "no longer has the key"),
        ("another key, refused", good.clone(), &strict, "does not unseal it: 500"),
        ("no daemon any more", good.clone(), &FileMode, "which is not configured"),
        ("half", good[..good.len() / 2].into(), &same, "not a sealed key"),
        ("empty", String::new(), &same, "not a sealed key"),
        ("newer", good.replace("\"version\":1", "\"version\":9"), &same, "version 9"),
        ("huge", "x".repeat(70_000), &same, "70000 bytes"),
    ];
    for (what, text, seal, words) in cases {
        let place = Place::new();
        std::fs::create_dir(place.path().parent().unwrap()).unwrap();
        std::fs::write(place.path(), &text).unwrap();
        let remade = place.obtain(seal).await.unwrap();
        let Origin::Remade { set_aside: Some(aside), reason } = remade.origin else {
            panic!("{what}: {:?}", remade.origin)
        };
        assert!(reason.contains(words), "{what}: {reason}");
        assert_eq!(std::fs::read_to_string(aside).unwrap(), text, "{what}");
        let kept = place.obtain(seal).await.unwrap();
        assert!(kept.origin == Origin::Kept && *kept.key.0 == *remade.key.0, "{what}");
    }
}

#[tokio::test]
async fn a_daemon_takes_over_what_was_kept_without_one() {
    let place = Place::new();
    let key = place.obtain(&FileMode).await.unwrap().key;
    let daemon = FakeDaemon::with_key(7);
    let taken = place.obtain(&daemon).await.unwrap();
    assert!(taken.origin == Origin::TakenOver && *taken.key.0 == *key.0);
    let text = std::fs::read_to_string(place.path()).unwrap();
    assert!(!text.contains(&STANDARD.encode(*key.0)));
    assert_eq!(place.obtain(&daemon).await.unwrap().origin, Origin::Kept);
}

#[tokio::test]
async fn a_file_that_others_can_read_is_made_private_and_told() {
    let place = Place::new();
    place.obtain(&FileMode).await.unwrap();
    for open in [0o644, 0o640, 0o604] {
        let wide = std::fs::Permissions::from_mode(open);
        std::fs::set_permissions(place.path(), wide).unwrap();
        let kept = place.obtain(&FileMode).await.unwrap();
        assert_eq!((kept.origin, kept.was_exposed), (Origin::Kept, true), "{open:o}");
        assert_eq!(mode(&place.path()), 0o600);
    }
    assert!(!place.obtain(&FileMode).await.unwrap().was_exposed);
}

#[test]
fn what_is_locked_opens_with_its_key_for_its_purpose_and_unharmed_only() {
    let (key, other) = (DataKey::random(), DataKey::random());
    let locked = key.lock(b"about", b"secret text");
    assert_eq!(&**key.unlock(b"about", &locked).unwrap(), b"secret text");
    assert_eq!(key.unlock(b"", &key.lock(b"", b"")).unwrap().len(), 0);
    assert!(other.unlock(b"about", &locked).is_none());
    assert!(key.unlock(b"About", &locked).is_none());
    for at in 0..locked.text.len() {
        let mut harmed = locked.clone();
        harmed.text[at] ^= 1;
        assert!(key.unlock(b"about", &harmed).is_none(), "{at}");
        harmed.text.truncate(at);
        assert!(key.unlock(b"about", &harmed).is_none(), "{at}");
    }
    let again = key.lock(b"about", b"secret text");
    assert!(again.nonce != locked.nonce && again.text != locked.text, "a nonce of its own");
    assert!(!locked.text.windows(6).any(|w| w == b"secret"));
}
