//! `refusals`: whom the running gateway refused lately, why, and what to do.
//!
//! Owns: the question and how the answer is told. Must not know: how refusals come about (the gateway tells).

use std::io::Write;

use clap::Args;

use super::text::count;
use super::{CommandError, End, Surroundings, ask};
use crate::auth::decision::{CertificateRecord, RefusalRecord, RefusalsReport};

/// Arguments of `refusals`.
#[derive(Debug, Clone, Args)]
pub struct RefusalsArgs {
    /// The running gateway's metrics listener [default: this machine, where the environment has it].
    #[arg(long, value_name = "HOST:PORT", value_parser = ask::host_port)]
    admin: Option<String>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs `refusals`: [`End::Fine`] whether there are some or none, [`End::Found`] if no gateway tells.
///
/// # Errors
/// See [`CommandError`].
pub fn refusals(
    args: &RefusalsArgs,
    here: &Surroundings,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let address = ask::address(args.admin.as_ref(), here)?;
    let told = ask::told::<RefusalsReport>(&address, "/refusals");
    let end = match told {
        Ok(report) if args.json => {
            let text = serde_json::to_string_pretty(&report).expect("texts and numbers are JSON");
            writeln!(out, "{text}")?;
            End::Fine
        }
        Ok(report) => tell(&report, out)?,
        Err(why) => {
            eprintln!("sphere-gateway: {why}");
            End::Found
        }
    };
    out.flush()?;
    Ok(end)
}

fn tell(report: &RefusalsReport, out: &mut dyn Write) -> Result<End, CommandError> {
    if report.refusals.is_empty() {
        writeln!(out, "nobody was refused since the gateway started")?;
        return Ok(End::Fine);
    }
    for refusal in &report.refusals {
        one(refusal, out)?;
    }
    let (total, shown) = (count(report.total), count(report.refusals.len() as u64));
    writeln!(
        out,
        "{total} refused since the start; the last {shown} that differ are shown, oldest first"
    )?;
    Ok(End::Fine)
}

fn one(refusal: &RefusalRecord, out: &mut dyn Write) -> Result<(), CommandError> {
    let RefusalRecord { first, last, times, stage, reason, peer, claim, detail, todo, certificate } =
        refusal;
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    match times {
        1 => writeln!(out, "{last}  {reason} ({stage})")?,
        _ => writeln!(out, "{last}  {reason} ({stage}), {} times since {first}", count(*times))?,
    }
    writeln!(out, "  peer         {}", or_none(peer))?;
    writeln!(out, "  claim        {}", or_none(claim))?;
    if let Some(CertificateRecord { subject, issuer, sha1, sha256, not_before, not_after }) =
        certificate
    {
        writeln!(out, "  certificate  {subject}, {not_before} to {not_after}")?;
        writeln!(out, "  issuer       {issuer}")?;
        writeln!(out, "  SHA-1        {sha1}")?;
        writeln!(out, "  SHA-256      {sha256}")?;
    } else {
        writeln!(out, "  certificate  none came")?;
    }
    writeln!(out, "  why          {detail}")?;
    writeln!(out, "  to do        {todo}")?;
    writeln!(out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(report: &RefusalsReport) -> String {
        let mut out = Vec::new();
        assert_eq!(tell(report, &mut out).unwrap(), End::Fine);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn refusals_are_told_one_below_the_other() {
        assert_eq!(
            told(&RefusalsReport::default()),
            "nobody was refused since the gateway started\n"
        );
        let text = |text: &str| text.to_owned();
        let plain = RefusalRecord {
            first: text("2026-01-01T00:00:00Z"),
            last: text("2026-01-01T00:00:00Z"),
            times: 1,
            stage: text("tls"),
            reason: text("timeout"),
            peer: Some(text("192.0.2.1:1")),
            claim: None,
            detail: text("too slow"),
            todo: text("look"),
            certificate: None,
        };
        let certificate = CertificateRecord {
            subject: text("CN=a"),
            issuer: text("CN=ca"),
            sha1: text("aa"),
            sha256: text("bb"),
            not_before: text("2026-01-01T00:00:00Z"),
            not_after: text("2026-01-02T00:00:00Z"),
        };
        let again = RefusalRecord {
            last: text("2026-01-01T00:10:00Z"),
            times: 12_345,
            claim: Some(text("a")),
            certificate: Some(certificate),
            ..plain.clone()
        };
        let report = RefusalsReport { total: 12_346, refusals: vec![plain, again] };
        let expected = "\
2026-01-01T00:00:00Z  timeout (tls)
  peer         192.0.2.1:1
  claim        -
  certificate  none came
  why          too slow
  to do        look

2026-01-01T00:10:00Z  timeout (tls), 12,345 times since 2026-01-01T00:00:00Z
  peer         192.0.2.1:1
  claim        a
  certificate  CN=a, 2026-01-01T00:00:00Z to 2026-01-02T00:00:00Z
  issuer       CN=ca
  SHA-1        aa
  SHA-256      bb
  why          too slow
  to do        look

12,346 refused since the start; the last 2 that differ are shown, oldest first
";
        assert_eq!(told(&report), expected);
    }
}
