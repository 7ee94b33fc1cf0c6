//! `manifest generate`: a template and a file of variables -> a deployment manifest.
//!
//! Does what `iotedgedev genconfig` does with a template that names its images by variables (a test compares the two), so
//! that nobody needs Python. What that tool builds from folders (`${MODULES.name}`) is its own.
//! Owns: the file of variables, the manifest's form. Must not know: what a good manifest is ([`super::deployment`]).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value};

use super::finding::{Level, Report};
use super::{Settings, create_options, deployment, placeholder};
use crate::command::{CommandError, End};
use crate::desired;

/// The variable that names the platform: the same for `iotedgedev`.
const PLATFORM: &str = "DEFAULT_PLATFORM";

/// Arguments of `manifest generate`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = HELP)]
pub struct GenerateArgs {
    /// The template.
    #[arg(value_name = "TEMPLATE", default_value = "deployment.template.json")]
    template: PathBuf,
    /// What DEFAULT_PLATFORM stands for in the template [default: its variable, else amd64].
    #[arg(long, value_name = "NAME", value_parser = ["amd64", "arm64v8", "arm32v7"])]
    platform: Option<String>,
    /// A file of variables, NAME=value a line; what the process's environment has comes first [default: .env, if it is
    /// there].
    #[arg(long, value_name = "FILE")]
    env: Option<PathBuf>,
    /// The file to write, replaced if it is there; - writes to the standard output [default:
    /// config/deployment.<platform>.json].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

const HELP: &str = "\
${NAME} in the template is filled in, createOptions become strings of 512 characters at most, and credentials of a registry
without user name and password are left out. The outcome is checked as `check manifest` does.

Exit code: 0 = the manifest is written; 1 = it is written, and `check manifest` finds errors in it, or it cannot be written;
64 = nothing is written: a file cannot be read, or a variable is not set.";

pub(super) fn run(
    args: &GenerateArgs,
    settings: &Settings,
    variable: &dyn Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let from_file = variables(args)?;
    let of = |name: &str| variable(name).or_else(|| from_file.get(name).cloned());
    let platform = args.platform.clone().or_else(|| of(PLATFORM)).filter(|name| !name.is_empty());
    let platform = platform.unwrap_or_else(|| "amd64".to_owned());
    let value_of = |name: &str| if name == PLATFORM { Some(platform.clone()) } else { of(name) };
    let template = crate::command::read(&args.template)?;
    let manifest = manifest(&template, &value_of).map_err(|problem| {
        CommandError::Usage(format!("{}: {problem}", args.template.display()))
    })?;
    let mut text = serde_json::to_string_pretty(&manifest).map_err(io::Error::from)?;
    text.push('\n');
    let (kind, mut found) = deployment::examine(text.as_bytes(), settings);
    found.0.retain(|finding| finding.level == Level::Error);
    let default = || PathBuf::from(format!("config/deployment.{platform}.json"));
    let file = args.out.clone().unwrap_or_else(default);
    let name = file.display().to_string();
    // The standard output is the manifest's, or says where it is.
    if name == "-" {
        out.write_all(text.as_bytes())?;
    } else {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let written = folder.map_or(Ok(()), std::fs::create_dir_all);
        written
            .and_then(|()| write(&file, &text))
            .map_err(|source| CommandError::Io { what: format!("cannot write {name}"), source })?;
        writeln!(out, "{name}")?;
    }
    let report = Report::new(name, kind, found);
    if report.is_fine {
        return Ok(End::Fine);
    }
    report.print(&mut io::stderr().lock())?;
    Ok(End::Found)
}

/// Replaces what the file has. A new one is this user's alone: the manifest may have a password in it.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(file)?;
    file.write_all(text.as_bytes())
}

/// The manifest of a template, or what is wrong and what to do.
fn manifest(template: &[u8], value_of: &dyn Fn(&str) -> Option<String>) -> Result<Value, String> {
    let text = desired::text(template)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut manifest: Value = serde_json::from_str(text)
        .map_err(|error| format!("it is not JSON ({error}): correct the place named"))?;
    let mut open = Vec::new();
    placeholder::fill(&mut manifest, value_of, &mut open);
    if !open.is_empty() {
        let names = open.join(", ");
        return Err(format!(
            "no value for {names}: set each in .env (.env.template says what they are) or in the environment"
        ));
    }
    let Some(outer) = manifest.as_object_mut() else {
        return Err("it is no object: give a template of a deployment".to_owned());
    };
    outer.remove("$schema-template");
    let outer = match outer.get_mut("content") {
        Some(Value::Object(content)) => content,
        _ => manifest.as_object_mut().expect("it was an object"),
    };
    let Some(agent) = outer
        .get_mut("modulesContent")
        .and_then(|modules| modules.get_mut("$edgeAgent"))
        .and_then(|agent| agent.get_mut("properties.desired"))
        .and_then(Value::as_object_mut)
    else {
        return Err(
            "there is no modulesContent.$edgeAgent.\"properties.desired\": add it".to_owned()
        );
    };
    without_blank_credentials(agent);
    for group in ["systemModules", "modules"] {
        for (name, module) in
            agent.get_mut(group).and_then(Value::as_object_mut).into_iter().flatten()
        {
            if let Some(settings) = module.get_mut("settings").and_then(Value::as_object_mut) {
                cut_options(settings).map_err(|what| format!("{name}: {what}"))?;
            }
        }
    }
    Ok(manifest)
}

/// A registry that asks for no name has no credentials: blank ones would be sent to it.
fn without_blank_credentials(agent: &mut Map<String, Value>) {
    let registries = agent
        .get_mut("runtime")
        .and_then(|runtime| runtime.get_mut("settings"))
        .and_then(|settings| settings.get_mut("registryCredentials"))
        .and_then(Value::as_object_mut);
    if let Some(registries) = registries {
        let has = |entry: &Value, key: &str| {
            entry.get(key).and_then(Value::as_str).is_some_and(|text| !text.is_empty())
        };
        registries.retain(|_, entry| has(entry, "username") || has(entry, "password"));
    }
}

/// createOptions as chunks of text. Chunks that are there stay.
fn cut_options(settings: &mut Map<String, Value>) -> Result<(), String> {
    let text = match settings.get("createOptions") {
        None => return Ok(()),
        Some(Value::String(text)) => text.clone(),
        Some(options) => options.to_string(),
    };
    let chunks = create_options::cut(&text).map_err(|chars| {
        format!("createOptions has {chars} characters, and 4096 is the most: leave out defaults")
    })?;
    settings.extend(chunks.into_iter().map(|(key, chunk)| (key, chunk.into())));
    Ok(())
}

/// What the file of variables says.
fn variables(args: &GenerateArgs) -> Result<BTreeMap<String, String>, CommandError> {
    let file = args.env.clone().unwrap_or_else(|| PathBuf::from(".env"));
    if args.env.is_none() && !file.exists() {
        return Ok(BTreeMap::new());
    }
    let bytes = crate::command::read(&file)?;
    let name = file.display();
    let text = desired::text(&bytes).map_err(|e| CommandError::Usage(format!("{name}: {e}")))?;
    let mut all = BTreeMap::new();
    for (line, at) in text.lines().zip(1..) {
        let line = line.trim_start_matches('\u{feff}').trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((key, value)) = line.split_once('=') else {
            // The line is not repeated: it may be a password.
            let what =
                format!("{name}, line {at}: it is no NAME=value; correct it, or begin it with #");
            return Err(CommandError::Usage(what));
        };
        all.insert(key.trim().to_owned(), unquoted(value.trim()).to_owned());
    }
    Ok(all)
}

/// Without the quotes around a value, or a comment behind one that has none.
fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some((inner, _)) = value.strip_prefix(quote).and_then(|rest| rest.split_once(quote))
        {
            return inner;
        }
    }
    if value.starts_with('#') {
        return "";
    }
    value.split(" #").next().unwrap_or_default().trim_end()
}
