//! The configured document as a file, or as a folder of a base and layers ([`layers`]): its text, and when to look at it again.
//!
//! Owns: what counts as a change of the file, or of any in the folder. Invariants: a file that is being written is left alone until it has been
//! the same at two looks, or was never so for [`UNQUIET_LOOKS_MAX`]; a read takes at most [`desired::DOCUMENT_BYTES_MAX`] bytes, and never waits for a writer (no pipes).
//! Must not know: what is in the document.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Came, Occasion, Refusal};
use crate::desired::layers::{Layered, LayersError};
use crate::desired::{self, layers};
use crate::identity::DeviceId;

/// The document at `path` for the edge device `edge`.
pub(super) fn read(path: &Path, edge: &DeviceId) -> Result<Came, Refusal> {
    if !path.is_dir() {
        return read_one(path).map(Came::from);
    }
    match layers::read(path, edge) {
        Ok(Layered { text, apart, warnings, .. }) => Ok(Came { text, apart, warnings }),
        Err(LayersError::Unreadable(problem)) => Err(Refusal::unreadable(problem)),
        Err(LayersError::Bad(error)) => Err(Refusal::bad(&error.problems.join("\n"), error)),
    }
}

/// The text of one file.
fn read_one(path: &Path) -> Result<String, Refusal> {
    let unreadable = |e: io::Error| {
        Refusal::unreadable(format!(
            "{} cannot be read ({e}): correct the path or permissions",
            path.display()
        ))
    };
    let facts = std::fs::metadata(path).map_err(unreadable)?;
    if !facts.is_file() {
        return Err(unreadable(io::Error::other("it is not a file")));
    }
    let bytes = desired::read_file(path).map_err(unreadable)?;
    match desired::text(&bytes) {
        Ok(text) => Ok(text.into_owned()),
        Err(why) => Err(Refusal::unreadable(format!("{}: {why}", path.display()))),
    }
}

/// What a look at a file tells of its content without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) enum Stamp {
    Facts {
        /// Another file may be at the path now, also behind a link.
        file: (u64, u64),
        bytes: u64,
        modified: (i64, i64),
        /// Also permissions.
        changed: (i64, i64),
    },
    Unreadable(io::ErrorKind),
    /// A folder: each file that may count. A change of others is none.
    Folder(Vec<(PathBuf, Stamp)>),
}

impl Stamp {
    pub(in crate::gateway) fn of(path: &Path) -> Self {
        match std::fs::metadata(path) {
            Ok(facts) if facts.is_dir() => match layers::files(path) {
                Ok(files) => Self::Folder(
                    files.into_iter().map(|path| (path.clone(), Self::of_file(&path))).collect(),
                ),
                Err(e) => Self::Unreadable(e.kind()),
            },
            _ => Self::of_file(path),
        }
    }

    fn of_file(path: &Path) -> Self {
        match std::fs::metadata(path) {
            Ok(facts) => Self::Facts {
                file: (facts.dev(), facts.ino()),
                bytes: facts.len(),
                modified: (facts.mtime(), facts.mtime_nsec()),
                changed: (facts.ctime(), facts.ctime_nsec()),
            },
            Err(e) => Self::Unreadable(e.kind()),
        }
    }
}

/// How many looks in a row may find another file each before it is read all the same: 10 seconds. Some tool writes it over
/// and over, and may never stop.
const UNQUIET_LOOKS_MAX: u32 = 5;

/// Looks at one file, or one folder, again and again.
#[derive(Debug)]
pub(super) struct Looks {
    path: PathBuf,
    edge: DeviceId,
    /// At the last look.
    last: Option<Stamp>,
    /// When it was read; `None` = it is to be read at the next quiet look.
    read: Option<Stamp>,
    /// Looks that found a changed file since it was quiet or read.
    unquiet: u32,
}

impl Looks {
    /// The first quiet look counts as a change: the file may have changed since it was read at the start.
    pub(super) fn new(path: PathBuf, edge: DeviceId) -> Self {
        Self { path, edge, last: None, read: None, unquiet: 0 }
    }

    /// The document, if it has changed and is quiet (or never is), or if somebody `asked`.
    pub(super) fn look(&mut self, asked: bool) -> Option<(Result<Came, Refusal>, Occasion)> {
        let now = Stamp::of(&self.path);
        let quiet = self.last.as_ref() == Some(&now);
        self.last = Some(now.clone());
        let is_read = self.read.as_ref() == Some(&now);
        self.unquiet = if quiet || is_read { 0 } else { self.unquiet + 1 };
        let occasion = if asked {
            Occasion::Asked
        } else if is_read {
            return None;
        } else if quiet {
            Occasion::Quiet
        } else if self.unquiet >= UNQUIET_LOOKS_MAX {
            Occasion::Unquiet
        } else {
            return None;
        };
        self.unquiet = 0;
        let came = read(&self.path, &self.edge);
        // A file that is there and cannot be read may be readable later without any sign of it.
        let failed = match &came {
            Ok(came) => came.apart.iter().any(|layer| layer.reason == "unreadable"),
            Err(refusal) => refusal.reason == "unreadable",
        };
        // Nor does one that was still written to count as read.
        self.read = (quiet && !failed).then_some(now);
        Some((came, occasion))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge() -> DeviceId {
        DeviceId::parse("edge").unwrap()
    }

    fn shown(looked: Option<(Result<Came, Refusal>, Occasion)>) -> String {
        match looked {
            None => "-".to_owned(),
            Some((Ok(came), Occasion::Unquiet)) => format!("unquiet {}", came.text),
            Some((Ok(came), _)) => came.text,
            Some((Err(refusal), _)) => format!("{}: {}", refusal.reason, refusal.error.problems[0]),
        }
    }

    /// Long enough for the next change to have another time: a tick of the kernel's clock.
    fn a_tick() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    #[test]
    fn a_file_is_read_when_it_changed_and_is_quiet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("twin.json");
        let mut looks = Looks::new(path.clone(), edge());
        let mut look = |asked| shown(looks.look(asked));
        std::fs::write(&path, "one").unwrap();
        assert_eq!([look(false), look(false), look(false)], ["-", "one", "-"]);
        // Written in two steps, with a look between them.
        std::fs::write(&path, "tw").unwrap();
        assert_eq!(look(false), "-");
        std::fs::write(&path, "two!").unwrap();
        assert_eq!([look(false), look(false), look(false)], ["-", "two!", "-"]);
        // Another file in its place, of the same size.
        let other = folder.path().join("other");
        std::fs::write(&other, "four").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!([look(false), look(false), look(false)], ["-", "four", "-"]);
        // Who asks does not wait.
        assert_eq!(look(true), "four");
        std::fs::write(&path, "five!").unwrap();
        assert_eq!([look(true), look(false), look(false)], ["five!", "five!", "-"]);
        // Gone, and there again; while it is gone it is tried again.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look(false), "-");
        assert!(
            look(false).starts_with("unreadable: ") && look(false).contains("correct the path")
        );
        std::fs::write(&path, "six").unwrap();
        assert_eq!([look(false), look(false), look(false)], ["-", "six", "-"]);
    }

    #[test]
    fn a_file_that_is_never_quiet_is_read_now_and_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("twin.json");
        let mut looks = Looks::new(path.clone(), edge());
        let mut written = 0;
        let mut look = |writes: bool, asked| {
            if writes {
                written += 1;
                std::fs::write(&path, "x".repeat(written)).unwrap();
            }
            shown(looks.look(asked))
        };
        let mut looks_of = |pattern: &[bool]| -> Vec<usize> {
            let shown = pattern.iter().map(|writes| look(*writes, false));
            shown.map(|shown| shown.len() * usize::from(shown.starts_with("unquiet"))).collect()
        };
        // The fifth and the tenth; what was read so is read again when it is quiet.
        let prefix = "unquiet ".len();
        let always = looks_of(&[true; 10]);
        assert_eq!(always, [0, 0, 0, 0, prefix + 5, 0, 0, 0, 0, prefix + 10]);
        assert_eq!(look(false, false), "x".repeat(10));
        assert_eq!(look(false, false), "-");
        // A quiet look in between, or a question, and it begins anew.
        for asked in [false, true] {
            for _ in 0..4 {
                assert_eq!(look(true, false), "-");
            }
            assert!(look(asked, asked).starts_with("xxx"));
        }
        for _ in 0..4 {
            assert_eq!(look(true, false), "-");
        }
        assert!(look(true, false).starts_with("unquiet"));
    }

    #[test]
    fn each_fact_of_a_file_counts_as_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("twin.json");
        let time = |secs| std::time::UNIX_EPOCH + std::time::Duration::new(secs, 5);
        let set_modified = |secs| {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_modified(time(secs)).unwrap();
        };
        std::fs::write(&path, "one").unwrap();
        set_modified(1000);
        let mut looks = Looks::new(path.clone(), edge());
        let mut look = || shown(looks.look(false));
        assert_eq!([look(), look(), look()], ["-", "one", "-"]);

        let facts = || {
            let Stamp::Facts { file, bytes, modified, changed } = Stamp::of(&path) else {
                panic!("it is there");
            };
            (file, bytes, modified, changed)
        };
        let before = facts();
        assert_eq!((before.1, before.2), (3, (1000, 5)));
        // Permissions alone: a file that could not be read may be readable.
        a_tick();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        std::fs::set_permissions(&path, mode).unwrap();
        let after = facts();
        assert_eq!((after.0, after.1, after.2), (before.0, before.1, before.2));
        assert!(after.3 > before.3);
        assert_eq!([look(), look(), look()], ["-", "one", "-"]);
        // A tool that puts the old time on new content of the same size.
        a_tick();
        std::fs::write(&path, "two").unwrap();
        set_modified(1000);
        assert_eq!(facts().2, (1000, 5));
        assert_eq!([look(), look(), look()], ["-", "two", "-"]);
        // Where the time of change says nothing, that of the content does.
        a_tick();
        set_modified(2000);
        assert_eq!(facts().2, (2000, 5));
        assert_eq!([look(), look(), look()], ["-", "two", "-"]);
    }

    #[test]
    fn what_is_no_text_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("twin.json");
        let check = |words: &str| {
            let shown = shown(Some((read(&path, &edge()), Occasion::Quiet)));
            assert!(shown.starts_with("unreadable: ") && shown.contains(words), "{shown}");
        };
        check("No such file");
        std::fs::write(&path, [b'{', 0xff, b'}']).unwrap();
        check("save the file as UTF-8");
        std::fs::write(&path, vec![b' '; desired::DOCUMENT_BYTES_MAX + 1]).unwrap();
        check("more than 1048576 bytes");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        check("has no file *.json");
        std::fs::remove_dir(&path).unwrap();
        let _pipe = std::os::unix::net::UnixListener::bind(&path).unwrap();
        check("it is not a file");
    }

    #[test]
    fn each_file_of_a_folder_counts_as_a_change_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let mut looks = Looks::new(folder.path().to_owned(), edge());
        let mut look = || {
            let looked = [looks.look(false), looks.look(false), looks.look(false)];
            looked.map(|looked| match looked {
                None => "-".to_owned(),
                Some((Ok(came), _)) => {
                    let text: serde_json::Value = serde_json::from_str(&came.text).unwrap();
                    let routes = text["routes"].as_object().unwrap().keys().cloned();
                    let apart = came.apart.iter().map(|layer| format!("!{}", layer.file));
                    routes.chain(apart).collect::<Vec<_>>().join(" ")
                }
                Some((Err(refusal), _)) => refusal.reason.to_owned(),
            })
        };
        let layer = |name: &str| format!(r#"{{"routes":{{"{name}":"FROM /* INTO $upstream"}}}}"#);
        // An empty folder may get a file at any time.
        assert_eq!(look(), ["-", "unreadable", "unreadable"]);
        write(
            "0.json",
            r#"{"schemaVersion":"1.1","routes":{"a":"FROM /* INTO $upstream"},"storeAndForwardConfiguration":{"timeToLiveSecs":60}}"#,
        );
        assert_eq!(look(), ["-", "a", "-"]);
        write("1.json", &layer("b"));
        assert_eq!(look(), ["-", "a b", "-"]);
        write("2.json", "{");
        assert_eq!(look(), ["-", "a b !2.json", "-"]);
        write("README", "x");
        write(".3.json.swp", "x");
        assert_eq!(look(), ["-", "-", "-"]);
        write("2.json", &layer("c"));
        assert_eq!(look(), ["-", "a b c", "-"]);
        std::fs::remove_file(folder.path().join("1.json")).unwrap();
        assert_eq!(look(), ["-", "a c", "-"]);
        // What cannot be read is tried again.
        std::fs::create_dir(folder.path().join("4.json")).unwrap();
        assert_eq!(look(), ["-", "a c !4.json", "a c !4.json"]);
        std::fs::remove_dir(folder.path().join("4.json")).unwrap();
        std::fs::remove_file(folder.path().join("0.json")).unwrap();
        write("1.json", r#"{"properties.desired.routes.b":"FROM /* INTO $upstream"}"#);
        assert_eq!(look(), ["-", "bad", "-"]);
    }
}
