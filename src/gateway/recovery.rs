//! What recovery found on the disk, told.
//!
//! Owns: the words and the counters. Must not know: the disk format.

use tracing::{error, info, warn};

use crate::metrics::Metrics;
use crate::store;

/// Loss is an error, what was never acknowledged is not.
pub(super) fn report_recovery(report: &store::RecoveryReport, metrics: &Metrics) {
    let took = report.took.as_millis();
    info!("store open in {took} ms: {} queues, {} messages wait", report.queues, report.records);
    if report.torn_bytes > 0 {
        info!(
            "{} torn bytes at the end of segments, never acknowledged, were cut off",
            report.torn_bytes
        );
    }
    if report.proven_lost > 0 || !report.quarantined.is_empty() {
        metrics.counted("store_recovery", "records_lost");
        error!(
            "damage on disk: {} acknowledged messages cannot be read; the damaged files are kept as {:?}: check the disk",
            report.proven_lost, report.quarantined
        );
        for store::LostRange { queue, offsets } in &report.lost {
            error!("lost: {queue}, messages {} to {}", offsets.start.0, offsets.end.0 - 1);
        }
    }
    if report.nameless > 0 {
        metrics.counted("store_recovery", "name_lost");
        error!(
            "the names of {} queues are damaged: their messages wait until a message for the same queue comes; check the disk",
            report.nameless
        );
    }
    if report.clock_lost {
        // The store has told what that means.
        metrics.counted("store_recovery", "clock_lost");
    }
    if report.checkpoints_lost > 0 {
        metrics.counted("store_recovery", "checkpoint_lost");
        warn!(
            "{} checkpoints were unreadable: messages that are still on disk are sent again",
            report.checkpoints_lost
        );
    }
}
