//! Starts the tasks of identities that have something to do by themselves: what is pending from before the start or an
//! outage, what failed and is tried again, reads that nobody asked for.
//!
//! Owns: that order (who is due first), and the pace: no more at a time than there are permits. Must not know: what they do.

use std::sync::Arc;

use super::entries::Shared;
use super::kept::says_pending;

/// Runs until the stop.
pub(super) async fn run(shared: Arc<Shared>) {
    let stop = shared.stop.clone();
    stop.run_until_cancelled(conduct(shared)).await;
}

async fn conduct(shared: Arc<Shared>) {
    find_pending(&shared).await;
    let mut connected = shared.cloud.connected();
    loop {
        if connected.wait_for(|connected| *connected).await.is_err() {
            return;
        }
        shared.reached();
        tokio::select! {
            () = start_due(&shared) => return,
            lost = connected.wait_for(|connected| !*connected) => {
                if lost.is_err() {
                    return;
                }
            }
        }
    }
}

/// Returns only when nobody can be let in any more.
async fn start_due(shared: &Arc<Shared>) {
    loop {
        let Ok(permit) = Arc::clone(&shared.quiet).acquire_owned().await else { return };
        let now = shared.clock.monotonic();
        let Err(next) = shared.start_due(now, permit) else { continue };
        let wait = next.map(|at| at.saturating_duration_since(now));
        tokio::select! {
            () = shared.sooner.notified() => {}
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}

/// Who has something pending from before.
async fn find_pending(shared: &Arc<Shared>) {
    let cabinet = Arc::clone(&shared.cabinet);
    let finding = tokio::task::spawn_blocking(move || cabinet.find(says_pending));
    match finding.await {
        Ok(Ok(pending)) => {
            if !pending.is_empty() {
                tracing::info!(count = pending.len(), "twins have patches that the hub lacks");
            }
            pending.iter().for_each(|who| shared.remember_pending(who));
        }
        Ok(Err(error)) => {
            shared.metrics.counted("twin_kept", "unreadable");
            tracing::error!(%error, "patches of twins that wait for the hub cannot be found");
        }
        Err(error) => tracing::error!(%error, "the search for pending patches has ended"),
    }
    shared.count_set_aside();
}
