//! The last document that was accepted as a whole, kept on disk: the gateway starts with it when the configured one
//! cannot be used.
//!
//! Owns: its file. Invariants:
//! - It holds what was accepted, letter for letter, and never what was refused; it is no copy of what came last.
//! - It is written only when the text is another one (flash wears), whole or not at all.
//! - A file that is not a document of ours is set aside under another name and reported, never deleted, never fatal.
//!
//! Must not know: where documents come from, who runs them.
//!
//! # The file, version 1
//!
//! JSON: `{"version":1,"edge":"EDGE","accepted_ms":1700000000000,"twin_version":7,"crc32c":"0a1b2c3d","document":".."}`.
//! `document` is the text as it came; `crc32c` is of its UTF-8 bytes. The document of another edge device is set aside like a
//! corrupt one: its routes would be other people's.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{DOCUMENT_BYTES_MAX, Desired};
use crate::clock::UnixMillis;
use crate::identity::DeviceId;
use crate::kept_file::{self, Form, Unusable};

const VERSION: u32 = 1;

const FORM: Form = Form {
    // Each byte of the text can take six as a JSON string.
    bytes_max: 6 * DOCUMENT_BYTES_MAX as u64 + 4096,
    versions: &[VERSION],
    not_ours: "it is not of our form",
    noun: "document",
};

/// The place of the last good document, and what is in it.
#[derive(Debug)]
pub struct LastGood {
    path: PathBuf,
    edge: DeviceId,
    /// The text on disk.
    kept: Option<String>,
}

/// A document that was accepted in an earlier life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// As it was read.
    pub text: String,
    /// What it asks for.
    pub desired: Desired,
    /// When it was accepted (wall time).
    pub accepted: UnixMillis,
}

/// What [`LastGood::load`] found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// Nothing: no document was ever accepted.
    Nothing,
    /// A document.
    Kept(Kept),
    /// The file is no document of ours.
    SetAside {
        /// Where the file is now; `None` when it could not be moved.
        to: Option<PathBuf>,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be read and stays where it is: it may be good.
    Unreadable(String),
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("no document was accepted yet"),
            Self::Kept(_) => f.write_str("the last good document is there"),
            Self::SetAside { to: Some(to), reason } => write!(
                f,
                "the last good document on disk is damaged ({reason}) and was set aside as {}: look at it and delete it",
                to.display()
            ),
            Self::SetAside { to: None, reason } => write!(
                f,
                "the last good document on disk is damaged ({reason}) and could not be set aside: check the storage folder"
            ),
            Self::Unreadable(problem) => {
                write!(f, "the last good document on disk cannot be read {problem}")
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    edge: String,
    accepted_ms: u64,
    twin_version: Option<u64>,
    crc32c: String,
    document: String,
}

impl LastGood {
    /// Reads the file at `path` for the edge device `edge`. Never fails: see [`Loaded`]. Blocks on the disk.
    pub fn load(path: impl Into<PathBuf>, edge: DeviceId) -> (Self, Loaded) {
        let path = path.into();
        let loaded = match read(&path, &edge) {
            Ok(None) => Loaded::Nothing,
            Ok(Some(kept)) => Loaded::Kept(kept),
            Err(Unusable::Io(e)) => Loaded::Unreadable(unreadable(&path, &e)),
            Err(e) => Loaded::SetAside { to: e.set_aside(&path), reason: e.to_string() },
        };
        let kept = match &loaded {
            Loaded::Kept(kept) => Some(kept.text.clone()),
            _ => None,
        };
        (Self { path, edge, kept }, loaded)
    }

    /// As [`LastGood::load`], for one who only looks: nothing on disk is touched, and a damaged file stays where it is.
    ///
    /// # Errors
    /// Why what is there is of no use, in words.
    pub fn look(path: &Path, edge: &DeviceId) -> Result<Option<Kept>, String> {
        read(path, edge).map_err(|error| match error {
            Unusable::Io(e) => format!("it cannot be read {}", unreadable(path, &e)),
            Unusable::Content(words) => words,
        })
    }

    /// Keeps `text`, which was accepted at `now` as `desired`. Says whether that took a write. Blocks on the disk.
    ///
    /// # Errors
    /// The file is as it was; the next call tries again.
    pub fn keep(&mut self, text: &str, desired: &Desired, now: UnixMillis) -> io::Result<bool> {
        if self.kept.as_deref() == Some(text) {
            return Ok(false);
        }
        let stored = Stored {
            version: VERSION,
            edge: self.edge.to_string(),
            accepted_ms: now.0,
            twin_version: desired.version,
            crc32c: checksum(text),
            document: text.to_owned(),
        };
        kept_file::replace_json(&self.path, &stored)?;
        self.kept = Some(stored.document);
        Ok(true)
    }
}

/// Why the file cannot be read, and what to do.
fn unreadable(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("(permission denied): let the gateway's user read {path}")
        }
        _ => format!("({error}): check {path} and the disk"),
    }
}

fn checksum(text: &str) -> String {
    format!("{:08x}", crc32c::crc32c(text.as_bytes()))
}

fn read(path: &Path, edge: &DeviceId) -> Result<Option<Kept>, Unusable> {
    let read = FORM.read(path, edge.as_str(), |stored: &Stored| &stored.edge)?;
    let Some(stored) = read else { return Ok(None) };
    if stored.crc32c != checksum(&stored.document) {
        return Err("its checksum does not fit its text".to_owned().into());
    }
    let desired = Desired::parse(&stored.document)
        .map_err(|e| format!("this program does not accept it: {e}"))?;
    let accepted = UnixMillis(stored.accepted_ms);
    Ok(Some(Kept { text: stored.document, desired, accepted }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    const TEXT: &str = "\u{feff}{\"schemaVersion\": \"1.1\",\n \"$version\": 7, \"routes\": {\"ü\": \"FROM /* INTO $upstream\"},\n \
                        \"storeAndForwardConfiguration\": {\"timeToLiveSecs\": 60}}\n";

    fn edge() -> DeviceId {
        DeviceId::parse("edge1").unwrap()
    }

    fn keep(last_good: &mut LastGood, text: &str) -> io::Result<bool> {
        last_good.keep(text, &Desired::parse(text).unwrap(), NOW)
    }

    /// A folder with a document in it, and the file.
    fn kept() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgeHub/desired.json");
        let (mut last_good, loaded) = LastGood::load(&path, edge());
        assert_eq!(loaded, Loaded::Nothing);
        assert!(keep(&mut last_good, TEXT).unwrap());
        (folder, path)
    }

    #[test]
    fn what_was_accepted_is_there_again_letter_for_letter() {
        let (_folder, path) = kept();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (_, loaded) = LastGood::load(&path, edge());
        let desired = Desired::parse(TEXT).unwrap();
        assert_eq!(loaded, Loaded::Kept(Kept { text: TEXT.to_owned(), desired, accepted: NOW }));
        let stored = std::fs::read_to_string(&path).unwrap();
        assert!(
            stored.starts_with("{\"version\":1,\"edge\":\"edge1\",\"accepted_ms\":1700000000000,")
        );
        assert!(stored.contains("\"twin_version\":7,\"crc32c\":\""), "{stored}");
    }

    /// Letter for letter: a gateway that is updated starts with what the older one accepted.
    #[test]
    fn the_file_is_read_and_written_as_ever() {
        let stored = concat!(
            r#"{"version":1,"edge":"edge1","accepted_ms":1700000000000,"twin_version":7,"crc32c":"9958f43c","document":""#,
            "\u{feff}",
            r#"{\"schemaVersion\": \"1.1\",\n \"$version\": 7, \"routes\": {\"ü\": \"FROM /* INTO $upstream\"},\n "#,
            r#"\"storeAndForwardConfiguration\": {\"timeToLiveSecs\": 60}}\n"}"#,
        );
        let (_folder, path) = kept();
        let summed = stored.replace("\\n\"}", r#"\n","file_crc32c":"ba784dbf"}"#);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), summed);
        std::fs::write(&path, stored).unwrap();
        assert!(matches!(LastGood::load(&path, edge()).1, Loaded::Kept(k) if k.text == TEXT));
        let without = stored.replace("\"twin_version\":7", "\"twin_version\":null");
        std::fs::write(&path, without).unwrap();
        assert!(matches!(LastGood::load(&path, edge()).1, Loaded::Kept(k) if k.text == TEXT));
        for (damaged, words) in [
            ("{}", "it is not of our form: missing field `version` at line 1 column 2"),
            (r#"{"version":1}"#, "it is not of our form: missing field `edge` at line 1 column 13"),
            (r#"{"version":2}"#, "it has version 2; this program reads version 1"),
            (&stored.replace("edge1", "other"), r#"it is the document of edge device "other""#),
            (&stored.replace("60", "61"), "its checksum does not fit its text"),
        ] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(LastGood::look(&path, &edge()).unwrap_err(), words);
        }
    }

    #[test]
    fn who_only_looks_touches_nothing() {
        let (_folder, path) = kept();
        let looked = LastGood::look(&path, &edge()).unwrap().unwrap();
        assert_eq!((looked.text.as_str(), looked.accepted), (TEXT, NOW));
        std::fs::write(&path, "{\"version\":1").unwrap();
        let why = LastGood::look(&path, &edge()).unwrap_err();
        assert!(why.contains("not of our form"), "{why}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"version\":1");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(LastGood::look(&path.with_extension("gone"), &edge()), Ok(None));
    }

    #[test]
    fn the_same_text_is_not_written_again() {
        let (_folder, path) = kept();
        let inode = || std::fs::metadata(&path).unwrap().ino();
        let first = inode();
        let (mut last_good, _) = LastGood::load(&path, edge());
        assert!(!keep(&mut last_good, TEXT).unwrap() && inode() == first);
        let other = TEXT.replace("60", "61");
        assert!(keep(&mut last_good, &other).unwrap());
        let second = inode();
        assert!(!keep(&mut last_good, &other).unwrap() && inode() == second);
        assert!(matches!(LastGood::load(&path, edge()).1, Loaded::Kept(k) if k.text == other));
        let folder = path.parent().unwrap();
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn files_that_are_no_document_of_ours_are_set_aside_and_reported() {
        let (_folder, path) = kept();
        let good = kept_file::without_sum(&std::fs::read_to_string(&path).unwrap());
        let refused = r#"{"schemaVersion":"2.0"}"#;
        let table = [
            (good[..good.len() / 2].to_owned(), "not of our form"),
            (String::new(), "not of our form"),
            ("\0".repeat(100), "not of our form"),
            ("{}".to_owned(), "not of our form"),
            (TEXT.to_owned(), "not of our form"),
            (good.replace("\"version\":1,", "\"version\":2,\"more\":{},"), "version 2"),
            (good.replace("edge1", "edge2"), "edge device \"edge2\""),
            (good.replace("$upstream", "$upstreaM"), "checksum"),
            (good.replace("\"crc32c\":\"", "\"crc32c\":\"0"), "checksum"),
            (
                serde_json::json!({"version": 1, "edge": "edge1", "accepted_ms": 1, "twin_version": null,
                    "crc32c": checksum(refused), "document": refused})
                .to_string(),
                "this program does not accept it",
            ),
        ];
        for (index, (text, words)) in table.iter().enumerate() {
            std::fs::write(&path, text).unwrap();
            let (mut last_good, loaded) = LastGood::load(&path, edge());
            let Loaded::SetAside { to, reason } = &loaded else { panic!("{words}: {loaded:?}") };
            assert!(reason.contains(words), "{reason}");
            assert!(loaded.to_string().contains("set aside as"), "{loaded}");
            let to = to.as_ref().unwrap();
            assert_eq!(to, &path.with_file_name(format!("desired.json.bad{index}")));
            assert_eq!(&std::fs::read_to_string(to).unwrap(), text);
            assert_eq!(LastGood::load(&path, edge()).1, Loaded::Nothing);
            assert!(keep(&mut last_good, TEXT).unwrap(), "the place is free again");
        }
        // The ten names are used up: what is next stays, and a good document takes its place.
        std::fs::write(&path, "x").unwrap();
        let (mut last_good, loaded) = LastGood::load(&path, edge());
        assert!(matches!(loaded, Loaded::SetAside { to: None, .. }), "{loaded:?}");
        assert!(path.exists() && keep(&mut last_good, TEXT).unwrap());
        assert!(matches!(LastGood::load(&path, edge()).1, Loaded::Kept(_)));
    }

    #[test]
    fn a_file_that_cannot_be_read_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("desired.json");
        // A folder in its place stands for a disk that refuses (a test may run as root, whom no mode stops).
        std::fs::create_dir(&path).unwrap();
        let (mut last_good, loaded) = LastGood::load(&path, edge());
        let told = loaded.to_string();
        assert!(matches!(loaded, Loaded::Unreadable(_)) && told.contains("check /"), "{told}");
        assert!(path.is_dir() && keep(&mut last_good, TEXT).is_err());
        let denied = unreadable(Path::new("/f"), &io::ErrorKind::PermissionDenied.into());
        assert_eq!(
            Loaded::Unreadable(denied).to_string(),
            "the last good document on disk cannot be read (permission denied): let the gateway's user read /f"
        );
    }

    #[test]
    fn a_file_above_the_limit_is_set_aside() {
        let (_folder, path) = kept();
        let mut text = std::fs::read(&path).unwrap();
        text.resize(FORM.bytes_max as usize, b' ');
        std::fs::write(&path, &text).unwrap();
        assert!(matches!(LastGood::load(&path, edge()).1, Loaded::Kept(k) if k.text == TEXT));
        text.push(b' ');
        std::fs::write(&path, &text).unwrap();
        match LastGood::load(&path, edge()).1 {
            Loaded::SetAside { to: Some(_), reason } => assert_eq!(
                reason,
                format!("it has {} bytes; {} are allowed", FORM.bytes_max + 1, FORM.bytes_max)
            ),
            loaded => panic!("{loaded:?}"),
        }
        assert!(!path.exists());
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_document_and_is_tried_again() {
        let (_folder, path) = kept();
        let (mut last_good, _) = LastGood::load(&path, edge());
        // A folder in the place of the new file stands for a disk that refuses.
        let in_the_way = path.with_file_name("desired.json.new");
        std::fs::create_dir(&in_the_way).unwrap();
        let other = TEXT.replace("60", "61");
        assert!(keep(&mut last_good, &other).is_err());
        assert!(matches!(LastGood::load(&path, edge()).1, Loaded::Kept(k) if k.text == TEXT));
        std::fs::remove_dir(&in_the_way).unwrap();
        assert!(keep(&mut last_good, &other).unwrap());
        assert!(matches!(LastGood::load(&path, edge()).1, Loaded::Kept(k) if k.text == other));
    }

    #[test]
    fn a_kill_while_writing_leaves_the_old_document() {
        let (_folder, path) = kept();
        std::fs::write(path.with_file_name("desired.json.new"), "{\"version\":1,\"ed").unwrap();
        let (mut last_good, loaded) = LastGood::load(&path, edge());
        assert!(matches!(loaded, Loaded::Kept(k) if k.text == TEXT));
        assert!(keep(&mut last_good, &TEXT.replace("60", "61")).unwrap());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
