//! The `$edgeHub` twin: its desired properties become the configuration, what came of them and who is connected is
//! reported, and its direct methods are answered.
//!
//! Owns: the task that hears the twin, and [`EdgeHubMethods`]. Invariants: a document changes nothing but through
//! [`Configuration::offer`]; the last good one stays in force and on disk apart from what the twin says, so that a bad twin
//! does no harm, not even at the next start. Must not know: AMQP, how a document is judged.
//!
//! Decision: a document of which some routes are set aside is reported as 400 with their names, although the others run. Who
//! looks at the twin is to see that something is wrong; the reference would refuse the whole.

mod methods;
mod reported;
mod reporter;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::methods::EdgeHubMethods;
use self::reported::{Reported, Status};
use self::reporter::Reporter;
use super::Gateway;
use super::configuration::{Configuration, FileWatch, Occasion, Offered, Origin};
use super::hub::ToHub;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::front::roster::Roster;
use crate::upstream::twin::{DesiredDocument, TwinClient, TwinConfig, TwinEvent, TwinHandle};

/// How often it is seen whether a document in force is still to be kept.
const KEEP_LOOK_EVERY: Duration = Duration::from_secs(2);

impl Gateway {
    /// Where documents come from: the twin, or a file. Each message of `asked` is a wish to look again at once.
    pub(super) fn run_source(
        &self,
        asked: mpsc::Receiver<()>,
        config: &Config,
        clock: &SharedClock,
        hub: &ToHub,
        configuration: &Arc<Configuration>,
        roster: &Arc<Roster>,
    ) {
        let stop = self.stops.upstream.clone();
        let configuration = Arc::clone(configuration);
        let Some(set) = config.twin else {
            self.tasks.upstream.spawn(FileWatch::new(configuration, asked).run(stop));
            return;
        };
        let methods = Arc::new(EdgeHubMethods::new(Arc::clone(&hub.refresher)));
        let kept = TwinConfig { refresh_every: set.refresh_every };
        let (client, twin) = TwinClient::new(Arc::clone(&hub.upstream), kept, methods);
        self.tasks.upstream.spawn(client.run(stop.clone()));
        let status = watch::Sender::new(None);
        let reporter = Reporter {
            reported: Reported::new(),
            every: set.report_every,
            reports: twin.reports.clone(),
            connected: hub.upstream.connected(),
            roster: Arc::clone(roster),
            status: status.subscribe(),
            metrics: Arc::clone(&self.metrics),
            clock: Arc::clone(clock),
        };
        self.tasks.upstream.spawn(reporter.run(stop.clone()));
        self.tasks.upstream.spawn(hear(twin, configuration, asked, status, stop));
    }
}

/// Hears the twin until `stop`.
async fn hear(
    mut twin: TwinHandle,
    configuration: Arc<Configuration>,
    mut asked: mpsc::Receiver<()>,
    status: watch::Sender<Option<Status>>,
    stop: CancellationToken,
) {
    let mut answers_asker = false;
    let mut ticks = interval(KEEP_LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {
                let configuration = Arc::clone(&configuration);
                let keeping = tokio::task::spawn_blocking(move || configuration.keep_again());
                if let Err(e) = keeping.await {
                    warn!("the document in force was not kept: {e}; report this as a defect");
                }
                continue;
            }
            Some(()) = asked.recv() => {
                info!("the $edgeHub twin is asked for again");
                answers_asker = true;
                twin.refresh.notify_one();
                continue;
            }
            event = twin.events.recv() => event,
        };
        match event {
            None => return,
            Some(TwinEvent::Opened) => {}
            Some(TwinEvent::Desired(document)) => {
                let (configuration, asked) = (Arc::clone(&configuration), answers_asker);
                answers_asker = false;
                // The disk may be slow, and the others must not wait for it.
                let judging =
                    tokio::task::spawn_blocking(move || take(&configuration, document, asked));
                match judging.await {
                    Ok(judged) => drop(status.send_replace(Some(judged))),
                    Err(e) => {
                        warn!("the $edgeHub twin was not judged: {e}; report this as a defect")
                    }
                }
            }
        }
    }
}

/// Has the document judged; gives what is to be reported of it. Blocks on the disk.
fn take(configuration: &Configuration, document: DesiredDocument, asked: bool) -> Status {
    let version = document.version;
    if document.empty && configuration.has_none() {
        let what = "nothing is deployed yet: the twin has no desired properties, and the built-in default serves; \
                    deploy routes by Set Modules";
        info!("the $edgeHub twin: {what}");
        return Status::refused(version, &[what.to_owned()]);
    }
    let occasion = if asked { Occasion::Asked } else { Occasion::Quiet };
    match configuration.offer(Origin::Twin, Ok(document.text.into()), occasion) {
        Offered::InForce(set_aside) if set_aside.is_empty() => Status::good(version),
        Offered::InForce(problems) | Offered::Refused(problems) => {
            Status::refused(version, &problems)
        }
    }
}
