//! `health`: whether the gateway of this environment does its job, for a container's HEALTHCHECK.
//!
//! Owns: the question and the exit status. Must not know: what healthy means (the gateway tells, `/healthz`).

use std::io::Write;

use clap::Args;
use hyper::StatusCode;
use serde::Deserialize;

use super::{CommandError, End, Surroundings, ask};

/// Arguments of `health`.
#[derive(Debug, Clone, Args)]
pub struct HealthArgs {
    /// The running gateway's metrics listener [default: this machine, where the environment has it].
    #[arg(long, value_name = "HOST:PORT", value_parser = ask::host_port)]
    admin: Option<String>,
}

/// What `/healthz` answers.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    reasons: Vec<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

/// Runs `health`: [`End::Fine`] if the gateway is healthy, also with warnings.
///
/// # Errors
/// See [`CommandError`].
pub fn health(
    args: &HealthArgs,
    here: &Surroundings,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let address = ask::address(args.admin.as_ref(), here)?;
    let end = match ask::get(&address, "/healthz") {
        Ok((status, body)) => told(status, &body, out)?,
        Err(why) => {
            writeln!(out, "no answer: {why}; is the gateway running?")?;
            End::Found
        }
    };
    out.flush()?;
    Ok(end)
}

fn told(status: StatusCode, body: &[u8], out: &mut dyn Write) -> Result<End, CommandError> {
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        writeln!(out, "{status}, but no answer of a gateway: is another program on its port?")?;
        return Ok(End::Found);
    };
    let healthy = status == StatusCode::OK;
    writeln!(out, "{}", if healthy { "healthy" } else { "failing" })?;
    for reason in &answer.reasons {
        writeln!(out, "reason: {reason}")?;
    }
    for warning in &answer.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(if healthy { End::Fine } else { End::Found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_told_line_by_line() {
        let table = [
            (200, r#"{"reasons":[],"status":"ok"}"#, "healthy\n", End::Fine),
            (
                200,
                r#"{"reasons":[],"status":"ok","warnings":["w"]}"#,
                "healthy\nwarning: w\n",
                End::Fine,
            ),
            (503, r#"{"reasons":["a","b"]}"#, "failing\nreason: a\nreason: b\n", End::Found),
            (
                200,
                "<html>",
                "200 OK, but no answer of a gateway: is another program on its port?\n",
                End::Found,
            ),
        ];
        for (status, body, expected, end) in table {
            let mut out = Vec::new();
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(told(status, body.as_bytes(), &mut out).unwrap(), end, "{body}");
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn without_a_listener_or_an_answer_it_is_not_healthy() {
        let here = |admin: Option<&str>| Surroundings {
            storage: None,
            queues_in: |dir| dir.to_owned(),
            admin: admin.map(|address| address.parse().unwrap()),
        };
        let args = HealthArgs { admin: None };
        let mut out = Vec::new();
        assert!(matches!(health(&args, &here(None), &mut out), Err(CommandError::Usage(_))));
        // Port 1 of this machine: nobody listens there.
        assert_eq!(health(&args, &here(Some("127.0.0.2:1")), &mut out).unwrap(), End::Found);
        assert!(String::from_utf8(out).unwrap().starts_with("no answer: 127.0.0.2:1: "));
    }
}
