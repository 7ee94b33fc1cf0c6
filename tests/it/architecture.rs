//! The rules of ARCHITECTURE.md that a program can check: who may import whom, that every module says what it is,
//! that files stay readable, and that only `auth` vouches for an identity.

use std::fs;
use std::path::{Path, PathBuf};

/// Layers from the words up. A module may import from lower layers only (and from itself).
const LAYERS: &[&[&str]] = &[
    &["cabinet", "clock", "identity", "message", "deliver", "metrics", "kept_file"],
    &["mqtt", "iothub"],
    &["session", "auth", "route", "store"],
    &["front", "pump", "upstream"],
    &["admin", "certs", "command", "desired", "edged", "log", "relay"],
    &["config"],
    &["gateway"],
];

/// Imports between neighbours that the design wants, each with its reason.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("session", "store", "Session::on_durable takes store::Durable: the promise is a type"),
    ("cabinet", "identity", "a document an identity"),
    ("cabinet", "kept_file", "a folder of them"),
    ("message", "clock", "a word made of words"),
    ("message", "identity", "a word made of words"),
    ("deliver", "identity", "a word made of words"),
    ("deliver", "message", "a word made of words"),
    ("metrics", "identity", "labels"),
    ("metrics", "clock", "the window of a summary"),
    (
        "command",
        "desired",
        "`routes` reads the documents that the gateway reads, with the same code",
    ),
    (
        "command",
        "certs",
        "`certs` makes what the quickstart and the tests make, with the same code",
    ),
];

/// The size above which a file is split, in lines before its unit tests.
const LINES_MAX: usize = 520;

pub(crate) fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("src is readable") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.sort();
    assert!(found.len() > 20, "the scan must see the source tree, saw {}", found.len());
    found.retain(|p| !is_test(p));
    found.into_iter().map(|p| (p.clone(), fs::read_to_string(&p).expect("UTF-8"))).collect()
}

/// Files that exist for tests alone (`#[cfg(test)] mod ..;`): unit tests, and the doubles and simulators that they use.
fn is_test(path: &Path) -> bool {
    const TEST_FILES: &[&str] = &["tests.rs", "testing.rs", "double.rs", "property.rs"];
    let named = |name: &std::ffi::OsStr| TEST_FILES.iter().any(|t| name == *t) || name == "tests";
    path.strip_prefix(root()).is_ok_and(|p| p.components().any(|c| named(c.as_os_str())))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The top-level module that a file belongs to; `None` for the crate's roots.
fn module(path: &Path) -> Option<String> {
    let first = path.strip_prefix(root()).ok()?.components().next()?;
    let name = first.as_os_str().to_str()?.trim_end_matches(".rs").to_owned();
    (!["lib", "main"].contains(&name.as_str())).then_some(name)
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|l| l.contains(&module))
}

/// The code before the unit tests (`mod tests { .. }` at the end of a file): they may use anything.
pub(crate) fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// Every `crate::<module>` in the code, comments left out.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in code(text).lines().filter(|l| !l.trim_start().starts_with("//")) {
        for part in line.split("crate::").skip(1) {
            let name: String =
                part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            found.push(name);
        }
    }
    found
}

#[test]
fn the_scan_sees_what_it_must() {
    let planted = "//! x\n#[cfg(test)]\nmod tests;\nuse crate::front::x; // use crate::a\n// use crate::b\n\
                   #[cfg(test)]\nmod tests {\n use crate::gateway;\n}\n";
    assert_eq!(
        imports(planted),
        ["front", "a"],
        "a declaration of tests ends nothing, an inline module does"
    );
    assert_eq!(module(&root().join("front/roster.rs")).as_deref(), Some("front"));
    assert!(
        is_test(&root().join("session/tests/model.rs")) && !is_test(&root().join("session/mod.rs"))
    );
}

#[test]
fn modules_import_downward_only() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in sources() {
        let Some(from) = module(&path) else { continue };
        let from_layer = layer(&from).unwrap_or_else(|| {
            panic!("{}: give the new module {from} a layer in this test", path.display())
        });
        for to in imports(&text) {
            let Some(to_layer) = layer(&to) else { continue };
            seen += 1;
            let named = ALLOWED.iter().any(|(a, b, _)| *a == from && *b == to);
            if to != from && to_layer >= from_layer && !named {
                wrong.push(format!(
                    "{}: {from} (layer {from_layer}) imports {to} (layer {to_layer})",
                    path.display()
                ));
            }
        }
    }
    assert!(seen > 30, "the scan must see imports, saw {seen}");
    assert!(wrong.is_empty(), "imports against the data path:\n{}", wrong.join("\n"));
}

#[test]
fn protocol_code_knows_no_runtime() {
    for (path, text) in sources() {
        let pure =
            matches!(module(&path).as_deref(), Some("mqtt" | "iothub" | "session" | "route"));
        assert!(!pure || !code(&text).contains("tokio::"), "{} uses tokio", path.display());
    }
}

#[test]
fn only_gateway_and_main_read_the_configuration() {
    for (path, text) in sources() {
        let owner = matches!(module(&path).as_deref(), None | Some("gateway" | "config"));
        assert!(
            owner || !imports(&text).contains(&"config".to_owned()),
            "{} reads crate::config: give the module its own Config",
            path.display()
        );
    }
}

#[test]
fn only_auth_vouches_for_an_identity() {
    for (path, text) in sources() {
        let may =
            matches!(module(&path).as_deref(), Some("auth" | "cabinet" | "identity" | "message"));
        assert!(
            may || !code(&text).contains("Identity::vouched"),
            "{} vouches for an identity",
            path.display()
        );
    }
}

#[test]
fn every_file_opens_with_its_purpose_and_stays_readable() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} does not open with //!", path.display());
        let lines = code(&text).lines().count();
        assert!(
            lines <= LINES_MAX,
            "{} has {lines} lines before its tests: split it by idea",
            path.display()
        );
    }
}
