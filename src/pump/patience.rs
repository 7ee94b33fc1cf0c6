//! Reads and opens that go on in spite of a failure that may pass.
//!
//! Owns: [`READ_PAUSE`]. Invariant: only what cannot pass is given back as an error.
//! Must not know: lanes, the window.

use std::sync::Arc;
use std::time::Duration;

use super::log::{Log, LogError, Logs};
use super::precedence::Standing;
use crate::store::{Chunk, Offset, QueueId};

/// Pause before a read that failed is repeated.
pub(super) const READ_PAUSE: Duration = Duration::from_secs(1);

/// Reads; a failure that may pass is repeated after a pause.
pub(super) async fn read_patiently(
    log: &dyn Log,
    from: Offset,
    records_max: usize,
    bytes_max: usize,
) -> Result<Chunk, LogError> {
    loop {
        match log.read(from, records_max, bytes_max).await {
            Err(LogError::Full(why)) => {
                tracing::warn!(%why, "cannot read the queue now: trying again");
                tokio::time::sleep(READ_PAUSE).await;
            }
            other => return other,
        }
    }
}

pub(super) async fn open_patiently(
    logs: &dyn Logs,
    id: &QueueId,
    standing: &mut Standing,
) -> Result<Arc<dyn Log>, LogError> {
    loop {
        match logs.open(id).await {
            Err(LogError::Full(why)) => {
                standing.hold(false);
                tracing::warn!(queue = %id, %why, "cannot open the queue now: trying again");
                tokio::time::sleep(READ_PAUSE).await;
            }
            other => return other,
        }
    }
}
