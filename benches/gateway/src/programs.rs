//! The programs under test: built here unless they are named, so that one command is enough.
//!
//! Owns: how they are built (the gateway as it ships). Must not know: what is done with them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;

use crate::peers::Programs;

const GATEWAY: [&str; 4] = ["--profile", "dist", "--bin", "sphere-gateway"];
const RUMQTTD: [&str; 3] = ["--release", "--package", "rumqttd-peer"];

/// Programs that the user named.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Named {
    /// The gateway's binary; default: built with `--profile dist`, as it ships.
    #[arg(long)]
    pub(crate) gateway: Option<PathBuf>,
    /// The rumqttd peer; default: built with `--release`.
    #[arg(long)]
    rumqttd: Option<PathBuf>,
    /// Mosquitto; default: the distribution's.
    #[arg(long)]
    mosquitto: Option<PathBuf>,
}

impl Named {
    /// Builds what is not named and is `wanted` (gateway, Mosquitto, rumqttd).
    pub(crate) async fn programs(self, wanted: [bool; 3]) -> Result<Programs> {
        let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let none = PathBuf::new;
        let programs = Programs {
            mosquitto: match self.mosquitto {
                Some(path) => path,
                None if wanted[1] => mosquitto()?,
                None => none(),
            },
            gateway: match self.gateway {
                Some(path) => path,
                None if wanted[0] => build(&benches.join(".."), &GATEWAY).await?,
                None => none(),
            },
            rumqttd: match self.rumqttd {
                Some(path) => path,
                None if wanted[2] => build(&benches, &RUMQTTD).await?,
                None => none(),
            },
        };
        for path in [&programs.gateway, &programs.mosquitto, &programs.rumqttd] {
            if !path.as_os_str().is_empty() && !path.is_file() {
                bail!("{} is no file", path.display());
            }
        }
        Ok(programs)
    }
}

fn mosquitto() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // The distribution's servers are not on everyone's path.
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.map(|folder| folder.join("mosquitto")).find(|path| path.is_file());
    found.context("no mosquitto: install the distribution's package, or name one with --mosquitto, or leave it out with --peers")
}

/// Builds below `folder`; gives the executable that cargo names. Cargo ends with us.
async fn build(folder: &Path, words: &[&str]) -> Result<PathBuf> {
    eprintln!("build: cargo build {}", words.join(" "));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .current_dir(folder)
        .args(["build", "--message-format=json-render-diagnostics"])
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("cargo")?;
    if !built.status.success() {
        bail!("cargo build {} failed", words.join(" "));
    }
    let said = String::from_utf8_lossy(&built.stdout);
    let messages = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut executable = messages.filter_map(|m| m["executable"].as_str().map(PathBuf::from));
    executable.next_back().context("cargo named no executable")
}

/// Which Mosquitto and which rumqttd these are.
pub(crate) fn versions(mosquitto: &Path) -> String {
    // It has no word for its version but the head of its help.
    let said = std::process::Command::new(mosquitto).arg("-h").output();
    let said =
        said.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    let version = |line: &str| line.strip_prefix("mosquitto version ").map(str::to_owned);
    let mosquitto =
        said.lines().find_map(version).unwrap_or_else(|| "of unknown version".to_owned());
    let rumqttd = locked("rumqttd").unwrap_or("of unknown version");
    format!("Mosquitto {mosquitto}, rumqttd {rumqttd}")
}

/// The version of a package that this workspace is built with.
fn locked(package: &str) -> Option<&'static str> {
    let mut lines = include_str!("../../Cargo.lock").lines();
    let name = format!("name = \"{package}\"");
    lines.find(|line| *line == name)?;
    lines.next()?.strip_prefix("version = \"")?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told() {
        assert!(locked("rumqttd").is_some_and(|version| version.starts_with("0.")));
        assert_eq!(locked("no-such-package"), None);
        assert!(
            versions(Path::new("/nowhere")).starts_with("Mosquitto of unknown version, rumqttd 0.")
        );
    }
}
