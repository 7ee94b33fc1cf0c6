//! Labels in the code, the list of reasons, the table of rights, and their documents: one and the same.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use sphere_gateway::auth::decision::{Loudness, REASONS, Stage};
use sphere_gateway::iothub::authorisation::{Kind, RULES, Rule};

use crate::architecture::{code, sources};

const REFUSALS: &str = include_str!("../../docs/refusals.md");
const AUTHORISATION: &str = include_str!("../../docs/authorisation.md");

/// A label at a stage.
type Labels = BTreeSet<(&'static str, String)>;

/// The text literals among the arguments of a call, of which `args` is what follows the opening parenthesis.
fn literals(args: &str) -> Vec<String> {
    let (mut depth, mut found) = (0, Vec::new());
    let mut rest = args;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            '"' => {
                let end = rest.find('"').expect("a literal ends");
                if depth == 0 {
                    found.push(rest[..end].to_owned());
                }
                rest = &rest[end + 1..];
            }
            _ => {}
        }
    }
    found
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The first literal of each call of `name`, where it is a label.
fn called<'t>(text: &'t str, name: &'t str) -> impl Iterator<Item = String> + 't {
    let calls = text.match_indices(name).map(move |(at, _)| &text[at + name.len()..]);
    calls.filter_map(|args| literals(args).into_iter().next()).filter(|text| is_label(text))
}

/// Every literal of the functions whose head has `head`.
fn returned(text: &str, head: &str) -> Vec<String> {
    let bodies = text.match_indices(head).filter_map(|(at, _)| {
        let body = &text[at..];
        let open = body.find('{')?;
        Some(body[open + 1..].to_owned())
    });
    bodies.flat_map(|body| all_literals(&body)).collect()
}

/// Up to the brace that closes what is open.
fn all_literals(body: &str) -> Vec<String> {
    let (mut depth, mut found, mut rest) = (0, Vec::new(), body);
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            '"' => {
                let end = rest.find('"').expect("a literal ends");
                found.push(rest[..end].to_owned());
                rest = &rest[end + 1..];
            }
            _ => {}
        }
    }
    found
}

/// What the code can say at the stages of [`Stage`].
fn in_the_code() -> Labels {
    let mut found = Labels::new();
    for (path, text) in sources() {
        let path = path.to_string_lossy().into_owned();
        let is = |part: &str| path.contains(part);
        let text = code(&text);
        let mut add = |stage, labels: Vec<String>| {
            found.extend(labels.into_iter().map(|label| (stage, label)));
        };
        // Each call names its stage; where the label is a variable, it comes out of one of the functions below.
        // A session has the reasons of a CONNECT.
        for (name, stage) in [
            ("Stage::Accept,", "accept"),
            ("Stage::Tls,", "tls"),
            ("Stage::Connect,", "connect"),
            ("Stage::Session,", "connect"),
        ] {
            if is("src/front/") {
                add(stage, called(text, name).collect());
            }
        }
        if is("src/front/listener.rs") {
            add("tls", returned(text, "fn tls_label("));
        }
        if is("src/front/tls/presented.rs") {
            add("tls", returned(text, "fn label("));
        }
        if is("src/front/connection") || is("src/session/mod.rs") {
            for name in ["CloseReason::peer(", "CloseReason::environment(", "CloseReason::ours("] {
                add("connect", called(text, name).collect());
            }
            add("connect", called(text, " later(").collect());
        }
        if is("src/session/connect.rs") {
            add("connect", called(text, "unreadable(").chain(called(text, "denied(")).collect());
        }
        let kinds = [
            "src/iothub/sas.rs",
            "src/iothub/username.rs",
            "src/iothub/bag.rs",
            "src/mqtt/codec/error.rs",
        ];
        // How a client was let in is no reason, and a stage is none.
        let in_auth = is("src/auth/") && !is("auth/admission.rs") && !is("auth/decision");
        if kinds.iter().any(|kind| is(kind)) || in_auth {
            add("connect", returned(text, "fn label("));
        }
        if in_auth {
            add(
                "connect",
                called(text, "Refusal::no(").chain(called(text, "Refusal::later(")).collect(),
            );
        }
    }
    found
}

#[test]
fn the_scan_finds_labels() {
    let planted = "fn label(&self) -> &'static str { match self { A(_) => \"a_1\", B { .. } => { \"b\" } } }\n\
                   Refusal::no(\n \"c\", format!(\"x {}\", f(\"no\"))) Refusal::no(label, \"Not a label.\")\n\
                   front.refused(Stage::Tls, Refused::peer(p), \"timeout\", \"Detail\")";
    assert_eq!(returned(planted, "fn label("), ["a_1", "b"]);
    assert_eq!(called(planted, "Refusal::no(").collect::<Vec<_>>(), ["c"]);
    assert_eq!(called(planted, "Stage::Tls,").collect::<Vec<_>>(), ["timeout"]);
}

#[test]
fn every_label_of_the_code_is_a_reason_and_every_reason_is_in_the_code() {
    let listed: Labels =
        REASONS.iter().map(|reason| (reason.stage.label(), reason.label.to_owned())).collect();
    let found = in_the_code();
    let missing: Vec<_> = found.difference(&listed).collect();
    assert!(missing.is_empty(), "give these a row in auth/decision/reasons.rs: {missing:?}");
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(gone.is_empty(), "no code says these any more: {gone:?}");
    assert!(found.len() > 80, "the scan must see labels, saw {}", found.len());
}

fn told(loudness: Loudness) -> &'static str {
    match loudness {
        Loudness::Mend => "warning",
        Loudness::Noise => "debug",
        Loudness::Ours => "error",
    }
}

fn reasons_of(stage: Stage) -> String {
    let mut table =
        "| reason | CONNACK | log | meaning | what to do |\n|---|---|---|---|---|\n".to_owned();
    for r in REASONS.iter().filter(|r| r.stage == stage) {
        let code = r.connack.map_or_else(|| "-".to_owned(), |code| code.to_string());
        let (label, log, meaning, todo) = (r.label, told(r.loudness), r.meaning, r.todo);
        writeln!(table, "| `{label}` | {code} | {log} | {meaning} | {todo} |").expect("a String");
    }
    table
}

fn rights(subscriptions: bool) -> String {
    let head = if subscriptions { "filter" } else { "topic" };
    let mut table = format!("| {head} | device | module | what for |\n|---|---|---|---|\n");
    for rule in RULES.iter().filter(|rule| rule.is_subscription() == subscriptions) {
        let Rule { forms, kinds, meaning, .. } = rule;
        let forms: Vec<String> = forms.iter().map(|form| format!("`{form}`")).collect();
        let may = |kind| if kinds.contains(&kind) { "yes" } else { "no" };
        let (device, module) = (may(Kind::Device), may(Kind::Module));
        writeln!(table, "| {} | {device} | {module} | {meaning} |", forms.join(", "))
            .expect("a String");
    }
    table
}

#[track_caller]
fn check_quoted(document: &str, name: &str, table: &str) {
    assert!(document.contains(table), "{name} must have this table, to the letter:\n\n{table}");
    let rows = |text: &str| text.lines().filter(|line| line.starts_with("| `")).count();
    assert!(rows(document) >= rows(table));
}

#[test]
fn the_document_of_refusals_is_the_list() {
    for stage in [Stage::Accept, Stage::Tls, Stage::Connect] {
        check_quoted(REFUSALS, "docs/refusals.md", &reasons_of(stage));
    }
    assert!(REFUSALS.contains("## The session (`stage=\"session\"`)"));
    let rows = REFUSALS.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, REASONS.len(), "docs/refusals.md has rows that the list has not");
}

#[test]
fn the_document_of_rights_is_the_table() {
    check_quoted(AUTHORISATION, "docs/authorisation.md", &rights(false));
    check_quoted(AUTHORISATION, "docs/authorisation.md", &rights(true));
    let rows =
        AUTHORISATION.lines().filter(|l| l.starts_with("| `") && l.matches('|').count() == 5);
    assert_eq!(rows.count(), RULES.len(), "docs/authorisation.md has rows that the table has not");
}
