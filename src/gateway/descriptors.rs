//! Enough file descriptors for the connections, or else fewer connections: without one left the store could not begin a
//! file and the way to the hub could not be opened again, for want of what one device more has taken.
//!
//! Owns: the process's limit of open files. Must not know: who uses them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::metrics::Metrics;

/// What is kept from devices: queues and their readers, the way to the hub, the administrator, logs.
pub(super) const OTHERS: u64 = 64;

/// What is to be done for a number of connections.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// The limit to ask for, if it has to be raised.
    raise_to: Option<u64>,
    /// Connections that there are descriptors for.
    connections: u64,
}

/// `None` = no limit.
fn plan(wanted: u64, soft: Option<u64>, hard: Option<u64>) -> Plan {
    let need = wanted + OTHERS;
    let limit = need.min(hard.unwrap_or(u64::MAX));
    let raise_to = soft.is_some_and(|soft| soft < limit).then_some(limit);
    Plan { raise_to, connections: fitting(wanted, raise_to.or(soft)) }
}

/// A limit below twice [`OTHERS`] is shared by halves.
fn fitting(wanted: u64, limit: Option<u64>) -> u64 {
    let fits = |limit: u64| limit.saturating_sub(OTHERS).max(limit / 2).max(1);
    limit.map_or(wanted, |limit| wanted.min(fits(limit)))
}

/// How many connections there would be descriptors for if `wanted` were; nothing is changed.
pub(super) fn look(wanted: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    plan(wanted, current, maximum).connections
}

/// Sees to it that there are descriptors for `wanted` connections; returns how many there can be.
pub(super) fn connections(wanted: u64, metrics: &Metrics) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Plan { raise_to, mut connections } = plan(wanted, current, maximum);
    if let Some(limit) = raise_to {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum }) {
            Ok(()) => info!("the limit of open files is raised to {limit}"),
            Err(e) => {
                warn!("the limit of open files cannot be raised to {limit}: {e}");
                connections = fitting(wanted, current);
            }
        }
    }
    if connections < wanted {
        metrics.counted("connections_limited", "open_files");
        warn!(
            "{connections} connections are let in, not {wanted}: there are not more file descriptors; raise the hard limit \
             of open files (ulimit -Hn, --ulimit nofile=) to {} or more",
            wanted + OTHERS
        );
    }
    connections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_as_far_as_needed_and_connections_fit_it() {
        let check = |wanted, soft, hard, raise_to, connections| {
            let expected = Plan { raise_to, connections };
            assert_eq!(plan(wanted, soft, hard), expected, "{wanted} {soft:?} {hard:?}");
        };
        check(612, None, None, None, 612);
        check(612, Some(1024), Some(1024), None, 612);
        check(612, Some(676), Some(4096), None, 612);
        check(10_000, Some(1024), Some(65_536), Some(10_064), 10_000);
        check(10_000, Some(1024), None, Some(10_064), 10_000);
        check(10_000, Some(1024), Some(4096), Some(4096), 4032);
        check(10_000, Some(4096), Some(4096), None, 4032);
        check(612, Some(100), Some(100), None, 50);
        check(612, Some(1), Some(1), None, 1);
        check(4, Some(40), Some(40), None, 4);
    }
}
