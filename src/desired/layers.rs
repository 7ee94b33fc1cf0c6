//! A folder of documents: a base and layers over it, as IoT Edge lays layered deployments over a deployment.
//!
//! Owns: which files of a folder count ([`files`]), and what they come to ([`read`]).
//! Invariants:
//! - `*.json` in the order of their names; the first is the base and must be a whole document of any [`Kind`] but a layer.
//! - Each other file is laid over what is below it, path by path, and the later wins: `routes.<name>` and
//!   `storeAndForwardConfiguration.<key>` (also of `storeLimits`) one by one, what else there is as a whole; null takes out.
//!   It may be a layer, or a document of any other kind, of which parts may be missing.
//! - A layer that cannot be read, or with which the whole would be refused, is set apart as a whole, by its name and with its
//!   reason; the others count. A route of it that is bad by itself is set aside like any other route.
//! - Without a base there is nothing: what is above it was never meant to serve alone.
//!
//! Must not know: when files change, what becomes of the outcome.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::reader::Reader;
use super::{DOCUMENT_BYTES_MAX, DesiredError, Document, Kind, line, read_file, text};
use crate::identity::DeviceId;

/// Most files that count: the base, and more layers than anybody keeps apart by their names. One more is looked at, so that
/// it is told.
const FILES_MAX: usize = 64;

/// Longest reason, in characters.
const WHY_CHARS_MAX: usize = 500;

/// What the files of a folder come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layered {
    /// The desired properties, JSON.
    pub text: String,
    /// The files that count, the base first.
    pub files: Vec<String>,
    /// The others.
    pub apart: Vec<SetApart>,
    /// What is to be said of those that count, each with the file's name.
    pub warnings: Vec<String>,
}

/// A layer that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetApart {
    /// The file's name.
    pub file: String,
    /// What is wrong, and what to do: one line.
    pub why: String,
    /// As metrics label it: `unreadable` or `bad`.
    pub reason: &'static str,
}

impl fmt::Display for SetApart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {}: {}", line(&self.file, WHY_CHARS_MAX), self.why)
    }
}

/// Why nothing can be made of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayersError {
    /// It, or its base, cannot be read.
    Unreadable(String),
    /// Its base is refused.
    Bad(DesiredError),
}

/// The files of `folder` that may count, in order: `*.json`, not hidden; no more than one above the most.
///
/// # Errors
/// What the system says.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|extension| extension == "json") {
            found.push(path);
        }
        if found.len() >= 4 * FILES_MAX {
            first(&mut found);
        }
    }
    first(&mut found);
    Ok(found)
}

fn first(found: &mut Vec<PathBuf>) {
    found.sort_unstable();
    found.truncate(FILES_MAX + 1);
}

/// What the files of `folder` come to on the edge device `edge`. Blocks on the disk.
///
/// # Errors
/// It has no base that can be used.
pub fn read(folder: &Path, edge: &DeviceId) -> Result<Layered, LayersError> {
    let paths = files(folder).map_err(|e| {
        let folder = folder.display();
        LayersError::Unreadable(format!(
            "{folder} cannot be read ({e}): correct the path or permissions"
        ))
    })?;
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (name, read_one(&path))
    };
    // One at a time: no more than one is in memory beside what they come to.
    merge(edge, paths.into_iter().map(read)).ok_or_else(|| {
        let what = format!(
            "{} has no file *.json: put the base document there, for instance 00-base.json",
            folder.display()
        );
        LayersError::Unreadable(what)
    })?
}

fn read_one(path: &Path) -> Result<Vec<u8>, String> {
    let failed =
        |e: io::Error| format!("it cannot be read ({e}): correct its permissions, or take it out");
    // No pipe: it would wait for a writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err("it is not a file: take it out".to_owned());
    }
    read_file(path).map_err(failed)
}

/// `None` without any file.
fn merge(
    edge: &DeviceId,
    mut files: impl Iterator<Item = (String, Result<Vec<u8>, String>)>,
) -> Option<Result<Layered, LayersError>> {
    let (file, bytes) = files.next()?;
    let (whole, warnings) = match base(&file, bytes) {
        Ok(base) => base,
        Err(error) => return Some(Err(error)),
    };
    let mut merged = Merged { whole, files: vec![file], apart: Vec::new(), warnings };
    for (file, bytes) in files {
        if let Err((reason, why)) = merged.add(edge, &file, bytes) {
            merged.apart.push(SetApart { file, why: line(&why, WHY_CHARS_MAX), reason });
        }
    }
    let Merged { whole, files, apart, warnings } = merged;
    Some(Ok(Layered { text: Value::Object(whole).to_string(), files, apart, warnings }))
}

fn base(
    file: &str,
    bytes: Result<Vec<u8>, String>,
) -> Result<(Map<String, Value>, Vec<String>), LayersError> {
    let of_base = |what: &str| format!("{file}, the base of all files in its folder: {what}");
    let bytes = bytes.map_err(|why| LayersError::Unreadable(of_base(&why)))?;
    let refused = |DesiredError { problems, warnings }: DesiredError| {
        let problems = problems.iter().map(|problem| of_base(problem)).collect();
        LayersError::Bad(DesiredError { problems, warnings })
    };
    let document = Document::from_bytes(&bytes).map_err(refused)?;
    if document.kind() == Kind::Layer {
        return Err(refused(DesiredError::one(
            "this is a layered deployment, and the first file in the order of the names must be the whole that the others \
             are laid over: add one with a name that comes first",
        )));
    }
    // Also what is wrong with the whole is told by the file's name.
    document.desired().map_err(refused)?;
    let (properties, warnings) = document.into_parts();
    Ok((properties, named(file, warnings)))
}

fn named(file: &str, warnings: Vec<String>) -> Vec<String> {
    warnings.into_iter().map(|warning| format!("{file}: {warning}")).collect()
}

/// What the files so far come to.
struct Merged {
    whole: Map<String, Value>,
    files: Vec<String>,
    apart: Vec<SetApart>,
    warnings: Vec<String>,
}

impl Merged {
    /// Lays a file over it; else nothing is changed, and the reason is told.
    fn add(
        &mut self,
        edge: &DeviceId,
        file: &str,
        bytes: Result<Vec<u8>, String>,
    ) -> Result<(), (&'static str, String)> {
        let bytes = bytes.map_err(|why| ("unreadable", why))?;
        let bad = |what: String| ("bad", what);
        if self.files.len() + self.apart.len() >= FILES_MAX {
            return Err(bad(format!(
                "only the first {FILES_MAX} files count, neither this one nor those behind it: merge some"
            )));
        }
        // What is no text is as good as half-written: the words say it either way.
        let text = text(&bytes).map_err(bad)?;
        let document = Document::parse(&text).map_err(|e| bad(e.problems.join("; ")))?;
        let (layer, warnings) = document.into_parts();
        let mut whole = self.whole.clone();
        for (key, value) in layer {
            // What the hub says of a document is not said of all of them together.
            if !key.starts_with('$') {
                let depth = match key.as_str() {
                    "routes" => 1,
                    "storeAndForwardConfiguration" => 2,
                    _ => 0,
                };
                set(&mut whole, key, value, depth);
            }
        }
        let (desired, problems) = Reader::new(false).document(&whole);
        if !problems.is_empty() {
            return Err(bad(problems.join("; ")));
        }
        let judged = desired.judge(edge, false);
        if let Some(problems) = judged.problems() {
            return Err(bad(format!(
                "with it no route of all files can run: {}",
                problems.join("; ")
            )));
        }
        if Value::Object(whole.clone()).to_string().len() > DOCUMENT_BYTES_MAX {
            return Err(bad(format!(
                "with it the document has more than {DOCUMENT_BYTES_MAX} bytes: take something out"
            )));
        }
        self.whole = whole;
        self.warnings.extend(named(file, warnings));
        self.files.push(file.to_owned());
        Ok(())
    }
}

/// Sets a key; down to `depth`, objects are laid over each other.
fn set(below: &mut Map<String, Value>, key: String, value: Value, depth: u8) {
    match (value, below.get_mut(&key)) {
        (Value::Object(above), Some(Value::Object(below))) if depth > 0 => {
            above.into_iter().for_each(|(key, value)| set(below, key, value, depth - 1));
        }
        (Value::Null, _) => drop(below.remove(&key)),
        (value, _) => drop(below.insert(key, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Desired;

    const BASE: &str = r#"{"schemaVersion":"1.1","routes":{"a":"FROM /messages/* INTO $upstream",
        "b":{"route":"FROM /messages/modules/* INTO $upstream","priority":2}},
        "storeAndForwardConfiguration":{"timeToLiveSecs":60,"storeLimits":{"maxSizeBytes":8388608}},"$version":7}"#;

    fn edge() -> DeviceId {
        DeviceId::parse("edge").unwrap()
    }

    fn merged(files: &[(&str, &str)]) -> Option<Result<Layered, LayersError>> {
        let files = files.iter().map(|(name, text)| {
            let bytes = match *text {
                "(unreadable)" => Err("it cannot be read (x)".to_owned()),
                text => Ok(text.as_bytes().to_vec()),
            };
            ((*name).to_owned(), bytes)
        });
        merge(&edge(), files)
    }

    /// `a#9 b#2 60 8388608`: routes that run with their priority, time to live, size.
    fn shown(layered: &Layered) -> String {
        let desired = Desired::parse(&layered.text).unwrap();
        let judged = desired.judge(&edge(), false);
        let mut routes: Vec<String> = judged
            .compiled
            .routes()
            .iter()
            .map(|route| format!("{}#{}", route.name(), route.target().priority))
            .collect();
        routes.sort();
        let bytes = desired.store_bytes_max.unwrap_or(0);
        format!("{} {} {bytes}", routes.join(" "), desired.ttl_secs.unwrap())
    }

    #[test]
    fn layers_are_laid_over_the_base_and_the_later_wins() {
        let hub = |keys: &str| format!(r#"{{"modulesContent":{{"$edgeHub":{{{keys}}}}}}}"#);
        let layer = |path: &str, value: &str| format!(r#"{{"properties.desired.{path}":{value}}}"#);
        let all = r#"{"route":"FROM /messages/* INTO $upstream","priority":5}"#;
        for (layers, expected) in [
            (vec![], "a#10 b#2 60 8388608"),
            // The forms of a layered deployment, from the whole to a part.
            (
                vec![format!(
                    r#"{{"content":{}}}"#,
                    hub(&format!(r#""properties.desired.routes.c":{all}"#))
                )],
                "a#10 b#2 c#5 60 8388608",
            ),
            (
                vec![format!(r#"{{"$edgeHub":{}}}"#, layer("routes.c", all))],
                "a#10 b#2 c#5 60 8388608",
            ),
            (vec![layer("routes.c", all)], "a#10 b#2 c#5 60 8388608"),
            // A route is replaced as a whole, and null takes it out.
            (vec![layer("routes.b", r#""FROM /* INTO $upstream""#)], "a#10 b#10 60 8388608"),
            (vec![layer("routes.b", "null")], "a#10 60 8388608"),
            (vec![layer("routes.c", all), layer("routes.c", "null")], "a#10 b#2 60 8388608"),
            (vec![layer("routes", &format!(r#"{{"b":{all},"a":null}}"#))], "b#5 60 8388608"),
            // Parts of the others are kept.
            (
                vec![layer("storeAndForwardConfiguration.timeToLiveSecs", "90")],
                "a#10 b#2 90 8388608",
            ),
            (
                vec![layer("storeAndForwardConfiguration.storeLimits.maxSizeBytes", "9000000")],
                "a#10 b#2 60 9000000",
            ),
            (vec![layer("storeAndForwardConfiguration.storeLimits", "null")], "a#10 b#2 60 0"),
            // The bare properties, a twin, a whole manifest: path by path just the same.
            (vec![format!(r#"{{"routes":{{"c":{all}}}}}"#)], "a#10 b#2 c#5 60 8388608"),
            (
                vec![format!(
                    r#"{{"properties":{{"desired":{{"routes":{{"c":{all}}},"$version":9}}}}}}"#
                )],
                "a#10 b#2 c#5 60 8388608",
            ),
            (
                vec![hub(&format!(
                    r#""properties.desired":{{"schemaVersion":"1.2","routes":{{"b":{all}}},"storeAndForwardConfiguration":{{"timeToLiveSecs":70}}}}"#
                ))],
                "a#10 b#5 70 8388608",
            ),
        ] {
            let names: Vec<String> = (1..=layers.len()).map(|n| format!("{n}.json")).collect();
            let rest = names.iter().map(String::as_str).zip(layers.iter().map(String::as_str));
            let files: Vec<_> = std::iter::once(("0.json", BASE)).chain(rest).collect();
            let layered = merged(&files).unwrap().unwrap();
            assert_eq!(
                (shown(&layered).as_str(), layered.apart.as_slice()),
                (expected, &[][..]),
                "{layers:?}"
            );
            assert_eq!(layered.files.len(), files.len());
        }
    }

    #[test]
    fn a_bad_layer_is_named_and_set_apart_and_a_half_bad_one_counts() {
        let good = r#"{"properties.desired.routes.c":"FROM /messages/modules/* INTO $upstream"}"#;
        let ttl = r#"{"properties.desired.storeAndForwardConfiguration.timeToLiveSecs":"x"}"#;
        let twice = r#"{"routes":{"d":"FROM /* INTO $upstream","d":"FROM /* INTO $upstream"}}"#;
        let half = r#"{"routes":{"bad":"FROM nowhere","d":"FROM /* INTO $upstream"}}"#;
        for (layer, routes, reason, words) in [
            ("{", "a#10 b#2 c#10", "bad", "not JSON"),
            ("", "a#10 b#2 c#10", "bad", "not JSON"),
            ("[]", "a#10 b#2 c#10", "bad", "object"),
            (r#"{"modulesContent":{}}"#, "a#10 b#2 c#10", "bad", "no $edgeHub"),
            (r#"{"routes":[]}"#, "a#10 b#2 c#10", "bad", "routes is an array"),
            (r#"{"routes":null}"#, "a#10 b#2 c#10", "bad", "routes is missing"),
            (r#"{"schemaVersion":"2.0"}"#, "a#10 b#2 c#10", "bad", "2.0 is not supported"),
            (ttl, "a#10 b#2 c#10", "bad", "whole seconds"),
            ("(unreadable)", "a#10 b#2 c#10", "unreadable", "(x)"),
            // Its good routes run; the bad ones are set aside by name, also in the place of one that was good.
            (half, "a#10 b#2 c#10 d#10", "", ""),
            (r#"{"routes":{"b":7}}"#, "a#10 c#10", "", ""),
            (r#"{"unknown":1}"#, "a#10 b#2 c#10", "", ""),
            (twice, "a#10 b#2 c#10 d#10", "", "5.json: routes.d is there twice"),
        ] {
            // Whether it comes before or after a good one.
            for (name, better) in [("5.json", "7.json"), ("5.json", "3.json")] {
                let mut files = [("0.json", BASE), (name, layer), (better, good)];
                files.sort_unstable();
                let layered = merged(&files).unwrap().unwrap();
                assert_eq!(shown(&layered), format!("{routes} 60 8388608"), "{layer}");
                let told: Vec<String> =
                    layered.apart.iter().map(SetApart::to_string).chain(layered.warnings).collect();
                assert_eq!(told.len(), usize::from(!words.is_empty()), "{told:?}");
                assert!(told.iter().all(|t| t.contains(name) && t.contains(words)), "{told:?}");
                let reasons: Vec<&str> = layered.apart.iter().map(|apart| apart.reason).collect();
                assert_eq!(reasons.concat(), reason, "{layer}");
            }
        }
    }

    #[test]
    fn a_layer_that_would_spoil_the_whole_is_set_apart_where_it_stands() {
        let spoils = r#"{"routes":{"a":"FROM","b":null}}"#;
        let good = r#"{"routes":{"c":"FROM /* INTO $upstream"}}"#;
        let long = "x".repeat(DOCUMENT_BYTES_MAX - 200);
        let long = format!(r#"{{"routes":{{"x":"{long}"}}}}"#);
        for (layers, apart, routes) in [
            // It is judged with what is below it.
            ([spoils, good], &["1.json"][..], "a#10 b#2 c#10"),
            ([good, spoils], &[], "c#10"),
            ([&long, good], &["1.json"], "a#10 b#2 c#10"),
            ([good, &long], &["2.json"], "a#10 b#2 c#10"),
        ] {
            let files = [("0.json", BASE), ("1.json", layers[0]), ("2.json", layers[1])];
            let layered = merged(&files).unwrap().unwrap();
            let names: Vec<&str> = layered.apart.iter().map(|apart| apart.file.as_str()).collect();
            assert_eq!(names, apart);
            assert_eq!(shown(&layered), format!("{routes} 60 8388608"));
        }
    }

    #[test]
    fn without_a_good_base_there_is_nothing() {
        assert_eq!(merged(&[]), None);
        let layer = r#"{"properties.desired.routes.c":"FROM /* INTO $upstream"}"#;
        for (base, words) in [
            ("(unreadable)", "0.json, the base of all files in its folder: it cannot be read"),
            ("{", "0.json, the base of all files in its folder: not JSON"),
            (layer, "with a name that comes first"),
            (r#"{"routes":{}}"#, "schemaVersion is missing"),
        ] {
            // What comes later is whole, and was still meant for above.
            match merged(&[("0.json", base), ("1.json", BASE)]).unwrap().unwrap_err() {
                LayersError::Unreadable(what) => assert!(what.contains(words), "{what}"),
                LayersError::Bad(error) => {
                    assert!(error.problems.join("; ").contains(words), "{error}")
                }
            }
        }
    }

    #[test]
    fn files_count_by_their_names_and_not_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let none = read(folder.path(), &edge()).unwrap_err();
        assert!(
            matches!(&none, LayersError::Unreadable(what) if what.contains("no file *.json")),
            "{none:?}"
        );
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("10.json", r#"{"routes":{"c":"FROM /* INTO $upstream"}}"#);
        write("00.json", BASE);
        for other in [".hidden.json", "x.json.bak", "README", "20.JSON", "20.json~"] {
            write(other, "{");
        }
        std::fs::create_dir(folder.path().join("30.json")).unwrap();
        let layered = read(folder.path(), &edge()).unwrap();
        assert_eq!(
            (shown(&layered).as_str(), layered.files.as_slice()),
            ("a#10 b#2 c#10 60 8388608", &["00.json".to_owned(), "10.json".to_owned()][..])
        );
        assert_eq!(layered.apart[0].to_string(), "layer 30.json: it is not a file: take it out");
        for n in (0..9 * FILES_MAX).rev() {
            write(&format!("4{n:03}.json"), r#"{"routes":{}}"#);
        }
        let layered = read(folder.path(), &edge()).unwrap();
        assert_eq!((layered.files.len(), layered.apart.len()), (FILES_MAX - 1, 2));
        assert_eq!(layered.files.last().map(String::as_str), Some("4060.json"));
        assert!(layered.apart[1].why.contains("first 64 files"), "{:?}", layered.apart[1]);
        let gone = read(&folder.path().join("gone"), &edge()).unwrap_err();
        assert!(
            matches!(&gone, LayersError::Unreadable(what) if what.contains("correct the path")),
            "{gone:?}"
        );
    }
}
