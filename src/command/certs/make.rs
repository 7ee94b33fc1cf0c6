//! `certs root`, `edge-ca`, `server`, `device`, `prove`, and the whole site.
//!
//! Owns: the checks of what is asked, the names of files, and what is said of them. Invariant: all files of one call are
//! written, or none. Must not know: how a certificate is made.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::{DeviceArgs, EdgeCaArgs, Place, ProveArgs, RootArgs, ServerArgs, SiteArgs};
use crate::auth::x509;
use crate::certs::{Authority, Issued, SiteSpec, Window, mint_site};
use crate::clock::UnixMillis;
use crate::command::{CommandError, End};
use crate::identity::DeviceId;

/// Longest host name of a gateway: IoT Edge takes no longer one, as it becomes a common name (X.520).
const HOST_CHARS_MAX: usize = 64;

/// Longest common name of a CA (X.520).
const NAME_CHARS_MAX: usize = 64;

/// How long a proof is of use: it is uploaded at once.
const PROOF_DAYS: u64 = 30;

fn usage(text: impl Into<String>) -> CommandError {
    CommandError::Usage(text.into())
}

fn tell(out: &mut dyn Write, files: &[PathBuf]) -> Result<End, CommandError> {
    for file in files {
        writeln!(out, "{}", file.display())?;
    }
    Ok(End::Fine)
}

/// Beside the output, which programs read.
fn note(text: &str) {
    eprintln!("sphere-gateway: {text}");
}

pub(super) fn site(
    args: &SiteArgs,
    now: UnixMillis,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let mut spec = SiteSpec::local(&[], args.devices);
    (spec.gateway_names, spec.days) = (args.gateway_names.clone(), args.days);
    spec.hub_names.extend(args.hub_names.iter().cloned());
    let files = mint_site(&spec, now)?.write_to_folder(&args.out, args.force)?;
    tell(out, &files)
}

pub(super) fn root(
    args: &RootArgs,
    now: UnixMillis,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let name = ca_name(args.name.as_deref(), &args.stem)?;
    let ca = Authority::root(name, args.curve.into(), Window::days(now, args.days))?;
    tell(out, &ca.write_to_folder(&args.place.out, &args.stem, args.place.force)?)
}

pub(super) fn edge_ca(
    args: &EdgeCaArgs,
    now: UnixMillis,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let name = ca_name(args.name.as_deref(), &args.stem)?;
    let root = load(&args.place, &args.ca, now)?;
    if !root.may_sign_ca() {
        let text = format!(
            "{} may not sign a CA (its path length is 0): name a root with --ca",
            root.name()
        );
        return Err(usage(text));
    }
    if root.name() == name {
        return Err(usage(format!("{name} is the name of its root: give another with --name")));
    }
    let ca = root.edge_ca(name, args.curve.into(), window(&root, now, args.days))?;
    tell(out, &ca.write_to_folder(&args.place.out, &args.stem, args.place.force)?)
}

pub(super) fn server(
    args: &ServerArgs,
    now: UnixMillis,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    stem(&args.stem)?;
    let all: Vec<&String> = args.names.iter().chain(&args.gateway_names).collect();
    for name in &all {
        host(name)?;
    }
    let ca = load(&args.place, &args.ca, now)?;
    let is_ip = |name: &&String| name.parse::<IpAddr>().is_ok();
    let ips: Vec<IpAddr> = all.iter().filter_map(|name| name.parse().ok()).collect();
    let names: Vec<&str> = all.into_iter().filter(|n| !is_ip(n)).map(String::as_str).collect();
    let server = ca.issue_server(&names, &ips, window(&ca, now, args.days))?;
    let files = server.write_to_folder(&args.place.out, &args.stem, args.place.force)?;
    if !names.iter().any(|name| name.contains('.')) {
        note(
            "no name has a dot: the SDK of an Azure Sphere application splits its host name at the first one and fails",
        );
    }
    tell(out, &files)
}

/// A name that can be dialled and certified.
fn host(name: &str) -> Result<(), CommandError> {
    if name.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    if name.len() > HOST_CHARS_MAX {
        let n = name.len();
        let text =
            format!("{name} has {n} characters: IoT Edge takes host names of {HOST_CHARS_MAX}");
        return Err(usage(text));
    }
    let is_fine = |label: &str| {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len()) && label.chars().all(is_allowed)
    };
    if !name.split('.').all(is_fine) {
        let text = format!(
            "{name:?} is no host name: write letters, digits and - with dots between, without port or scheme"
        );
        return Err(usage(text));
    }
    Ok(())
}

pub(super) fn devices(
    args: &DeviceArgs,
    now: UnixMillis,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    for (at, id) in args.ids.iter().enumerate() {
        DeviceId::parse(id).map_err(|e| usage(format!("{id:?}: {e}")))?;
        if args.ids[..at].contains(id) {
            return Err(usage(format!("{id} is named twice")));
        }
    }
    let ca = load(&args.place, &args.ca, now)?;
    let window = window(&ca, now, args.days);
    let make = |id: &String| Ok((format!("devices/{id}"), ca.issue_client(id, window)?));
    let all: Vec<(String, Issued)> =
        args.ids.iter().map(make).collect::<Result<_, CommandError>>()?;
    tell(out, &Issued::write_all(&args.place.out, &all, args.place.force)?)
}

pub(super) fn proof(
    args: &ProveArgs,
    now: UnixMillis,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let code = args.code.trim();
    if code.is_empty() || code.len() > 128 || !code.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(usage(format!(
            "{code:?} is no verification code: copy it from the hub's page"
        )));
    }
    let ca = load(&args.place, &args.ca, now)?;
    let proof = ca.issue_client(code, window(&ca, now, PROOF_DAYS))?;
    let name = args.ca.rsplit('/').next().unwrap_or(&args.ca);
    let files = proof.write_proof(&args.place.out, &format!("{name}.proof"), args.place.force)?;
    let ca = ca.name();
    note(&format!(
        "upload it in the Azure portal: IoT Hub (or DPS) -> Certificates -> {ca} -> Verify"
    ));
    tell(out, &files)
}

/// A CA of the folder, or of a path.
fn load(place: &Place, ca: &str, now: UnixMillis) -> Result<Authority, CommandError> {
    let path = if ca.contains('/') { PathBuf::from(ca) } else { place.out.join(ca) };
    Ok(Authority::load(&path, now)?)
}

/// No leaf outlives its CA, and who asked for more is told.
fn window(ca: &Authority, now: UnixMillis, days: u64) -> Window {
    let asked = Window::days(now, days);
    let window = asked.within(ca.window());
    if window.not_after < asked.not_after {
        let end = x509::utc(window.not_after);
        note(&format!("valid until {end} only, when its CA {} ends", ca.name()));
    }
    window
}

fn ca_name<'a>(name: Option<&'a str>, of_files: &'a str) -> Result<&'a str, CommandError> {
    stem(of_files)?;
    let name = name.unwrap_or(of_files);
    if name.trim().is_empty() || name.chars().count() > NAME_CHARS_MAX {
        return Err(usage(format!("a CA's name has 1 to {NAME_CHARS_MAX} characters")));
    }
    Ok(name)
}

/// The name of files in the folder: no way out of it.
fn stem(name: &str) -> Result<(), CommandError> {
    let is_plain = Path::new(name).file_name().is_some_and(|file| file == name);
    if is_plain && !name.starts_with('.') {
        return Ok(());
    }
    Err(usage(format!("--as {name:?} is no name of a file: the folder is given by --out")))
}
