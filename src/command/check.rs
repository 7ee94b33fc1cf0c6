//! `check`: what an examination of this gateway's surroundings found, told to people and to programs.
//!
//! ```text
//! {"version": "0.1.0", "exitStatus": 1, "summary": {"ok": 23, "warnings": 1, "errors": 1, "skipped": 2},
//!  "findings": [{"id": "clock-hub", "group": "clock", "status": "ok|warning|error|skipped", "what": "...", "todo": "..."}]}
//! ```
//! An id names a matter and stays; several findings may have the same one (each entry of a bundle). `todo` is there for
//! warnings and errors, else `null`.
//!
//! Owns: [`Finding`], [`Report`], how they are printed and the exit status; and the checks that need neither the configuration
//! nor the hub ([`machine`], [`storage`], [`running`]). Invariants: a warning, an error and what is skipped say what to do, or
//! why; the examination leaves nothing behind.
//! Must not know: the environment, the gateway (which examines: `gateway::examine`).

pub mod machine;
pub mod running;
pub mod storage;

use std::io::Write;

use serde::Serialize;

use super::text::plain;
pub(crate) use super::text::plural;
use super::{CommandError, export};

/// `EX_USAGE` of sysexits.h: `run` would end with it, too.
const EXIT_USAGE: u8 = 64;

/// How it stands with one matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, with a drawback.
    Warning,
    /// It does not work.
    Error,
    /// Not looked at.
    Skipped,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warn",
            Self::Error => "error",
            Self::Skipped => "skip",
        }
    }
}

/// What belongs together, in the order in which it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Group {
    /// The environment.
    Configuration,
    /// The IoT Edge daemon.
    Daemon,
    /// What devices see.
    Certificate,
    /// The CAs that admit devices.
    Bundle,
    /// The time.
    Clock,
    /// The storage folder.
    Storage,
    /// The way to the hub.
    Upstream,
    /// Who may connect.
    Scope,
    /// The desired document.
    Routes,
    /// Memory, file descriptors, ports.
    Limits,
    /// Programs.
    Versions,
    /// A gateway that runs here.
    Running,
    /// Certificates that are looked at by themselves.
    Files,
}

impl Group {
    fn title(self) -> &'static str {
        match self {
            Self::Configuration => "Configuration",
            Self::Daemon => "IoT Edge daemon",
            Self::Certificate => "Server certificate",
            Self::Bundle => "Trust bundle",
            Self::Clock => "Clock",
            Self::Storage => "Storage",
            Self::Upstream => "Way to the hub",
            Self::Scope => "Scope",
            Self::Routes => "Routes",
            Self::Limits => "Limits",
            Self::Versions => "Versions",
            Self::Running => "Running gateway",
            Self::Files => "Files",
        }
    }

    /// As it should be.
    pub fn ok(self, id: &'static str, what: impl Into<String>) -> Finding {
        self.finding(id, Status::Ok, what, None)
    }

    /// It works, with a drawback.
    pub fn warning(
        self,
        id: &'static str,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) -> Finding {
        self.finding(id, Status::Warning, what, Some(todo.into()))
    }

    /// It does not work.
    pub fn error(
        self,
        id: &'static str,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) -> Finding {
        self.finding(id, Status::Error, what, Some(todo.into()))
    }

    /// Not looked at; `why`.
    pub fn skipped(self, id: &'static str, why: impl Into<String>) -> Finding {
        self.finding(id, Status::Skipped, why, None)
    }

    fn finding(
        self,
        id: &'static str,
        status: Status,
        what: impl Into<String>,
        todo: Option<String>,
    ) -> Finding {
        Finding { id, group: self, status, what: what.into(), todo }
    }
}

/// One matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which matter: stays the same from version to version.
    pub id: &'static str,
    /// Where it belongs.
    pub group: Group,
    /// How it stands.
    pub status: Status,
    /// In words.
    pub what: String,
    /// What to do.
    pub todo: Option<String>,
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// In the order in which they are told.
    pub findings: Vec<Finding>,
    /// Whether what is configured is refused.
    pub is_refused: bool,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Summary {
    ok: usize,
    warnings: usize,
    errors: usize,
    skipped: usize,
}

impl Report {
    /// Puts the findings in the order of their groups.
    pub fn new(mut findings: Vec<Finding>, is_refused: bool) -> Self {
        findings.sort_by_key(|finding| finding.group);
        Self { findings, is_refused }
    }

    /// 0: nothing is wrong, or there are warnings alone; 1: something does not work; 64: what is configured is refused, as by
    /// a start (which may fall back on the last good document).
    pub fn exit_status(&self) -> u8 {
        if self.is_refused { EXIT_USAGE } else { u8::from(self.summary().errors > 0) }
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for finding in &self.findings {
            *match finding.status {
                Status::Ok => &mut summary.ok,
                Status::Warning => &mut summary.warnings,
                Status::Error => &mut summary.errors,
                Status::Skipped => &mut summary.skipped,
            } += 1;
        }
        summary
    }

    /// In words, or as one JSON object.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn print(&self, json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
        if json {
            export::write_line(out, &self.json())?;
        } else {
            self.print_words(out)?;
        }
        Ok(out.flush()?)
    }

    /// The JSON object.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "findings": self.findings,
            "summary": self.summary(),
            "exitStatus": self.exit_status(),
        })
    }

    fn print_words(&self, out: &mut dyn Write) -> Result<(), CommandError> {
        let mut last = None;
        for finding in &self.findings {
            if last != Some(finding.group) {
                let lead = if last.is_some() { "\n" } else { "" };
                writeln!(out, "{lead}{}", finding.group.title())?;
                last = Some(finding.group);
            }
            let (word, what) = (finding.status.word(), plain(&finding.what));
            writeln!(out, "{word:<5}  {}: {what}", finding.id)?;
            if let Some(todo) = &finding.todo {
                writeln!(out, "       -> {}", plain(todo))?;
            }
        }
        let Summary { ok, warnings, errors, skipped } = self.summary();
        let (warnings, errors) =
            (plural(warnings as u64, "warning"), plural(errors as u64, "error"));
        writeln!(out, "\n{ok} ok, {warnings}, {errors}, {skipped} skipped")?;
        if self.is_refused {
            writeln!(out, "what is configured is refused: correct it")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(refuses: bool) -> Report {
        let findings = vec![
            Group::Storage.warning("b", "slow\u{1b}[2J", "buy"),
            Group::Configuration.ok("a", "read"),
            Group::Storage.skipped("c", "no folder"),
            Group::Clock.error("d", "1970", "set it"),
        ];
        Report::new(findings, refuses)
    }

    #[test]
    fn people_are_told_group_by_group_and_what_to_do() {
        let mut out = Vec::new();
        report(true).print(false, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Configuration\nok     a: read\n\nClock\nerror  d: 1970\n       -> set it\n\nStorage\nwarn   b: slow\u{fffd}[2J\n       \
             -> buy\nskip   c: no folder\n\n1 ok, 1 warning, 1 error, 1 skipped\nwhat is configured is refused: \
             correct it\n"
        );
    }

    #[test]
    fn programs_are_told_everything_in_one_object() {
        let mut out = Vec::new();
        report(false).print(true, &mut out).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let finding = serde_json::json!({
            "id": "d", "group": "clock", "status": "error", "what": "1970", "todo": "set it"
        });
        assert_eq!(told["findings"][1], finding);
        assert_eq!(told["exitStatus"], 1);
        let summary = serde_json::json!({ "ok": 1, "warnings": 1, "errors": 1, "skipped": 1 });
        assert_eq!(told["summary"], summary);
    }

    #[test]
    fn the_exit_status_tells_the_worst() {
        let check = |findings: Vec<Finding>, refuses, expected| {
            assert_eq!(Report::new(findings, refuses).exit_status(), expected);
        };
        let (warning, error) =
            (Group::Clock.warning("a", "b", "c"), Group::Clock.error("a", "b", "c"));
        check(vec![], false, 0);
        check(vec![warning.clone(), Group::Clock.skipped("a", "b")], false, 0);
        check(vec![warning, error.clone()], false, 1);
        check(vec![error], true, 64);
    }
}
