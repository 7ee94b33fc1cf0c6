//! The configured document as a file: its text, and when to look at it again.
//!
//! Owns: what counts as a change of the file. Invariants: a file that is being written is left alone until it has been
//! the same at two looks, or was never so for [`UNQUIET_LOOKS_MAX`]; a read takes at most [`desired::DOCUMENT_BYTES_MAX`] bytes, and never waits for a writer (no pipes).
//! Must not know: what is in the document.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Occasion, Refusal};
use crate::desired;

/// The text of the document.
pub(super) fn read(path: &Path) -> Result<String, Refusal> {
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
enum Stamp {
    Facts {
        /// Another file may be at the path now, also behind a link.
        file: (u64, u64),
        bytes: u64,
        modified: (i64, i64),
        /// Also permissions.
        changed: (i64, i64),
    },
    Unreadable(io::ErrorKind),
}

impl Stamp {
    fn of(path: &Path) -> Self {
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

/// Looks at one file again and again.
#[derive(Debug)]
pub(super) struct Looks {
    path: PathBuf,
    /// At the last look.
    last: Option<Stamp>,
    /// When it was read; `None` = it is to be read at the next quiet look.
    read: Option<Stamp>,
    /// Looks that found a changed file since it was quiet or read.
    unquiet: u32,
}

impl Looks {
    /// The first quiet look counts as a change: the file may have changed since it was read at the start.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, last: None, read: None, unquiet: 0 }
    }

    /// The document, if it has changed and is quiet (or never is), or if somebody `asked`.
    pub(super) fn look(&mut self, asked: bool) -> Option<(Result<String, Refusal>, Occasion)> {
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
        let text = read(&self.path);
        // A file that is there and cannot be read may be readable later without any sign of it.
        let failed = matches!(&text, Err(refusal) if refusal.reason == "unreadable");
        // Nor does one that was still written to count as read.
        self.read = (quiet && !failed).then_some(now);
        Some((text, occasion))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(looked: Option<(Result<String, Refusal>, Occasion)>) -> String {
        match looked {
            None => "-".to_owned(),
            Some((Ok(text), Occasion::Unquiet)) => format!("unquiet {text}"),
            Some((Ok(text), _)) => text,
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
        let mut looks = Looks::new(path.clone());
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
        let mut looks = Looks::new(path.clone());
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
        let mut looks = Looks::new(path.clone());
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
            let shown = shown(Some((read(&path), Occasion::Quiet)));
            assert!(shown.starts_with("unreadable: ") && shown.contains(words), "{shown}");
        };
        check("No such file");
        std::fs::write(&path, [b'{', 0xff, b'}']).unwrap();
        check("save the file as UTF-8");
        std::fs::write(&path, vec![b' '; desired::DOCUMENT_BYTES_MAX + 1]).unwrap();
        check("more than 1048576 bytes");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        check("it is not a file");
    }
}
