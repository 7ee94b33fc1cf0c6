//! The configured file is looked at again and again, and at once when somebody asks.
//!
//! Owns: when. Must not know: what a document means.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::file::Looks;
use super::{Configuration, Origin};

/// How often the file is looked at: a call of `stat`, of a folder one for each file. A change counts when two looks have seen the same.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The task.
pub(in crate::gateway) struct FileWatch {
    configuration: Arc<Configuration>,
    /// Not there without a configured document.
    looks: Option<Looks>,
    asked: mpsc::Receiver<()>,
}

impl FileWatch {
    /// Each message of `asked` is a question to answer at once.
    pub(in crate::gateway) fn new(
        configuration: Arc<Configuration>,
        asked: mpsc::Receiver<()>,
    ) -> Self {
        let config = &configuration.parts.config;
        let edge = &config.connection.device;
        let looks = config.desired_file.clone().map(|path| Looks::new(path, edge.clone()));
        Self { configuration, looks, asked }
    }

    /// Looks until `stop`.
    pub(in crate::gateway) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = self.asked.recv() => true,
                _ = ticks.tick(), if self.looks.is_some() => false,
            };
            let Some(mut looks) = self.looks.take() else {
                info!("no edgeHubTwinFile is configured: there is no document to read again");
                continue;
            };
            let configuration = Arc::clone(&self.configuration);
            // The disk may be slow, and devices must not wait for it.
            let looking = tokio::task::spawn_blocking(move || {
                if let Some((offered, occasion)) = looks.look(asked) {
                    configuration.offer(Origin::File, offered, occasion);
                }
                configuration.keep_again();
                looks
            });
            match looking.await {
                Ok(looks) => self.looks = Some(looks),
                Err(e) => {
                    error!("edgeHubTwinFile is not read any more: {e}; report this as a defect");
                    return;
                }
            }
        }
    }
}
