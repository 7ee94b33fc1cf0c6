//! What is found in a manifest: levels, the list, and how both are shown.
//!
//! Owns: the names in the JSON object, which stay. Must not know: what is looked for.

use std::io::{self, Write};

use serde::Serialize;

use crate::command::text::{count, plain, plural};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It runs, but is likely not what is wanted.
    Warning,
    /// It is refused, does not start, or loses messages.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    pub(super) level: Level,
    /// The part of the manifest.
    pub(super) subject: String,
    pub(super) what: String,
    /// What to do; `None` = nothing.
    pub(super) todo: Option<String>,
}

/// All of them, in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, subject: &str, what: String, todo: Option<String>) {
        self.0.push(Finding { level, subject: subject.to_owned(), what, todo });
    }

    pub(super) fn ok(&mut self, subject: &str, what: impl Into<String>) {
        self.add(Level::Ok, subject, what.into(), None);
    }

    /// As it should be, if that is done where no manifest reaches.
    pub(super) fn ok_if(
        &mut self,
        subject: &str,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) {
        self.add(Level::Ok, subject, what.into(), Some(todo.into()));
    }

    pub(super) fn warning(
        &mut self,
        subject: &str,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) {
        self.add(Level::Warning, subject, what.into(), Some(todo.into()));
    }

    pub(super) fn error(
        &mut self,
        subject: &str,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) {
        self.add(Level::Error, subject, what.into(), Some(todo.into()));
    }

    /// Text that says both what is wrong and what to do, as the reader of documents writes it.
    pub(super) fn told(&mut self, level: Level, subject: &str, what: impl Into<String>) {
        self.add(level, subject, what.into(), None);
    }
}

/// The whole answer. Its names are promised by the command's help.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) file: String,
    pub(super) kind: &'static str,
    pub(super) findings: Vec<Finding>,
    pub(super) errors: usize,
    pub(super) warnings: usize,
    pub(super) is_fine: bool,
}

impl Report {
    pub(super) fn new(file: String, kind: &'static str, findings: Findings) -> Self {
        let of = |level| findings.0.iter().filter(|f| f.level == level).count();
        let (errors, warnings) = (of(Level::Error), of(Level::Warning));
        Self { file, kind, errors, warnings, is_fine: errors == 0, findings: findings.0 }
    }

    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let file = if self.file == "-" { "standard input" } else { &self.file };
        writeln!(out, "{}: {}", plain(file), words(self.kind))?;
        for Finding { level, subject, what, todo } in &self.findings {
            let level = match level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Error => "error",
            };
            let mut lines = what.lines();
            writeln!(out, "{level:<8} {subject}: {}", plain(lines.next().unwrap_or_default()))?;
            lines.try_for_each(|line| writeln!(out, "         {}", plain(line)))?;
            if let Some(todo) = todo {
                writeln!(out, "         -> {}", plain(todo))?;
            }
        }
        let (errors, warnings) = (self.errors as u64, self.warnings as u64);
        match errors + warnings {
            0 => writeln!(out, "nothing is wrong: {} ok", count(self.findings.len() as u64)),
            _ => writeln!(out, "{}, {}", plural(errors, "error"), plural(warnings, "warning")),
        }
    }
}

fn words(kind: &str) -> &str {
    match kind {
        "deploymentManifest" => "deployment manifest",
        "deploymentTemplate" => "deployment template",
        "layeredDeployment" => "layered deployment",
        _ => "no deployment manifest",
    }
}
