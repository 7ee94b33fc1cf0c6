//! Certificates, as `certs inspect` and `certs import` show them.
//!
//! ```text
//! {"version": "0.1.0", "exitStatus": 1, "summary": {..}, "findings": [..] (as of `check --json`),
//!  "certificates": [{"source": "server.chain.pem #1", "role": "server", "subject": "..", "issuer": "..", "isCa": false,
//!    "names": [".."], "notBefore": "..", "notAfter": "..", "daysLeft": 29, "key": "P-256", "signature": "..",
//!    "sha1": "..", "sha256": "..", "pemBytes": 640, "signed": [".."],
//!    "dependents": {"sha256": "..", "byGrace": 0, "clients": 2, "names": [".."]}}]}
//! ```
//! `dependents` are the clients that are connected by it; `null` where no gateway was asked, or it is no CA that lets clients in.
//!
//! Owns: the words and the JSON. Must not know: what is wrong with them.

use std::io::Write;

use serde::Serialize;

use crate::auth::dependents::OfAuthority;
use crate::auth::x509::{self, Validity};
use crate::certs::facts::Facts;
use crate::clock::UnixMillis;
use crate::command::check::Report;
use crate::command::text::{plain, plural};
use crate::command::{CommandError, export};

/// Most certificates named that one has signed.
const SIGNED_MAX: usize = 5;

/// A certificate, and where it is.
#[derive(Debug, Clone)]
pub struct Shown {
    /// File and place in it.
    pub source: String,
    /// What it is there for: `server`, `bundle`, `root`, `file`.
    pub role: &'static str,
    /// What is known of it.
    pub facts: Facts,
    /// Which of the others name it as their issuer.
    pub signed: Vec<String>,
    /// Which clients are connected by it; `None` = not known, or not a matter for it.
    pub dependents: Option<OfAuthority>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    source: &'a str,
    role: &'static str,
    subject: &'a str,
    issuer: &'a str,
    is_ca: bool,
    names: &'a [String],
    not_before: String,
    not_after: String,
    days_left: i64,
    key: &'a str,
    signature: &'a str,
    sha1: &'a str,
    sha256: &'a str,
    pem_bytes: usize,
    signed: &'a [String],
    dependents: Option<&'a OfAuthority>,
}

/// Whole days, negative after the end.
fn days_left(shown: &Shown, now: UnixMillis) -> i64 {
    let seconds = |at: UnixMillis| i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    (seconds(shown.facts.info.not_after) - seconds(now)).div_euclid(86_400)
}

fn line(shown: &Shown, now: UnixMillis) -> Line<'_> {
    let Shown { source, role, facts, signed, dependents } = shown;
    Line {
        source,
        role,
        subject: &facts.info.subject,
        issuer: &facts.info.issuer,
        is_ca: facts.is_ca,
        names: &facts.names,
        not_before: x509::utc(facts.info.not_before),
        not_after: x509::utc(facts.info.not_after),
        days_left: days_left(shown, now),
        key: &facts.key,
        signature: &facts.signature,
        sha1: &facts.info.sha1,
        sha256: &facts.info.sha256,
        pem_bytes: facts.pem_bytes,
        signed,
        dependents: dependents.as_ref(),
    }
}

/// `2 connected: d1, d2`
fn connected(of: &OfAuthority) -> String {
    let (clients, names) = (of.group.clients, &of.group.names);
    let named = names.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", ");
    let more = clients.saturating_sub(names.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let grace = match of.by_grace {
        0 => String::new(),
        n => format!(" ({n} by grace: the certificate has ended)"),
    };
    match clients {
        0 => "nobody is connected by it".to_owned(),
        n => format!("{n} connected by it{grace}: {named}{more}"),
    }
}

/// One certificate in words.
///
/// # Errors
/// See [`CommandError`].
pub fn words(shown: &Shown, now: UnixMillis, out: &mut dyn Write) -> Result<(), CommandError> {
    let Shown { source, role, facts, signed, dependents } = shown;
    let info = &facts.info;
    let kind = if facts.is_ca { "CA" } else { "no CA" };
    let issuer = match info.self_issued {
        true => "itself".to_owned(),
        false => info.issuer.clone(),
    };
    let left = match info.validity(now) {
        Validity::Valid => {
            let days = u64::try_from(days_left(shown, now)).unwrap_or_default();
            format!("{} left", plural(days, "day"))
        }
        Validity::Expired => "EXPIRED".to_owned(),
        Validity::NotYet => "NOT YET VALID".to_owned(),
    };
    let (from, until) = (x509::utc(info.not_before), x509::utc(info.not_after));
    writeln!(out, "{}, {role}: {}", plain(source), info.subject)?;
    let mut row = |label: &str, text: &str| writeln!(out, "  {label:<10}{text}");
    row("issuer", &issuer)?;
    row("valid", &format!("{from} to {until}, {left}"))?;
    row("key", &format!("{}, {kind}; signed {}", facts.key, facts.signature))?;
    if !facts.names.is_empty() {
        row("names", &facts.names.join(", "))?;
    }
    row("SHA-1", &info.sha1)?;
    row("SHA-256", &info.sha256)?;
    row("PEM", &plural(facts.pem_bytes as u64, "byte"))?;
    if !signed.is_empty() {
        let more = signed.len().saturating_sub(SIGNED_MAX);
        let named = signed.iter().take(SIGNED_MAX).map(|s| plain(s)).collect::<Vec<_>>().join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        row("signed", &format!("{named}{more}"))?;
    }
    if let Some(of) = dependents {
        row("clients", &connected(of))?;
    }
    Ok(writeln!(out)?)
}

/// All of them, and what was found.
///
/// # Errors
/// See [`CommandError`].
pub fn print(
    all: &[Shown],
    report: &Report,
    now: UnixMillis,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    if json {
        let mut object = report.json();
        let lines: Vec<Line<'_>> = all.iter().map(|shown| line(shown, now)).collect();
        object["certificates"] = serde_json::to_value(lines).map_err(std::io::Error::from)?;
        export::write_line(out, &object)?;
    } else {
        for shown in all {
            words(shown, now, out)?;
        }
        report.print(false, out)?;
    }
    Ok(out.flush()?)
}
