//! `check manifest` and `manifest generate`: a deployment before it is deployed.
//!
//! Owns: their arguments, what they print, and how they end.
//! Invariants: the `$edgeHub` part is read by the code that the gateway reads it with, variables by its reader of settings
//! ([`Settings`]); nothing is asked of a network, and no host is looked at. No secret is repeated.
//! Must not know: the environment, a store.

mod container;
mod create_options;
mod deployment;
mod finding;
mod generate;
mod placeholder;
mod ports;
mod routing;
mod storage;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use self::finding::Report;
use super::export::write_line;
use super::{CommandError, End};

/// What the gateway knows about variables; `main` puts it together.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What the gateway makes of each variable that a manifest gives edgeHub.
    pub judge: fn(&[(String, String)]) -> Vec<EnvVerdict>,
    /// Whether a variable, by its name and value, lays a secret open.
    pub is_secret: fn(&str, &str) -> bool,
}

/// How bad a variable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvLevel {
    /// It does what it says, or harms nobody.
    Fine,
    /// It does not do what it says.
    Warning,
    /// The gateway does not start with it.
    Error,
}

/// What the gateway makes of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVerdict {
    /// As the manifest has it.
    pub name: String,
    /// How bad it is.
    pub level: EnvLevel,
    /// What becomes of it.
    pub what: String,
    /// What to do; empty if it is fine.
    pub todo: String,
}

/// `check`, and what it looks at.
#[derive(Debug, Clone, Subcommand)]
pub enum CheckAction {
    /// Look at a deployment manifest before it is deployed: shape, edgeHub's container, ports, storage, routes.
    Manifest(ManifestArgs),
}

/// Arguments of `check manifest`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = HELP)]
pub struct ManifestArgs {
    /// A deployment manifest, or a template of one; - reads the standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Exit code: 0 = no error, there may be warnings; 1 = errors; 64 = the file cannot be read.

--json writes one object:
  file, kind    what was read: deploymentManifest, deploymentTemplate, layeredDeployment, none
  findings      in the order of the document:
    level       ok, warning, error
    subject     the part of the manifest
    what, todo  what was found, and what to do about it; todo null = nothing, or what says it
  errors, warnings
                how many
  isFine        whether the exit code is 0";

/// `manifest`, and what it does.
#[derive(Debug, Clone, Subcommand)]
pub enum ManifestAction {
    /// Make a deployment manifest of a template: fill in the variables, cut createOptions, check the outcome.
    Generate(generate::GenerateArgs),
}

/// Runs `check manifest`.
///
/// # Errors
/// See [`CommandError`].
pub fn check_manifest(
    action: &CheckAction,
    settings: &Settings,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let CheckAction::Manifest(args) = action;
    let bytes = super::read(&args.file)?;
    let (kind, found) = deployment::examine(&bytes, settings);
    let report = Report::new(args.file.display().to_string(), kind, found);
    if args.json {
        write_line(out, &report)?;
    } else {
        report.print(out)?;
    }
    out.flush()?;
    Ok(if report.is_fine { End::Fine } else { End::Found })
}

/// Runs `manifest`; `variable` gives the process's variables.
///
/// # Errors
/// See [`CommandError`].
pub fn manifest(
    action: &ManifestAction,
    settings: &Settings,
    variable: &dyn Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let ManifestAction::Generate(args) = action;
    let end = generate::run(args, settings, variable, out)?;
    out.flush()?;
    Ok(end)
}
