//! The processes under test: the gateway, Mosquitto (bridge; plain and TLS upstream; autosave), rumqttd, each with its
//! sink, from committed configurations (`peers/`).
//!
//! ```text
//!  Site = process (a child, never left behind) + config (what it is started with) + the sink's end
//! ```
//! Must not know: loads, figures.

mod config;
mod process;
#[cfg(test)]
mod smoke;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hub_double::{DeviceSpec, FaultKind, HubDouble};

use self::config::{EDGE, HubAccess, Place};
use self::process::Process;
use crate::pki::Pki;
use crate::sink::Tally;
use crate::sink::broker::MqttBroker;
use crate::sink::subscriber::{self, MqttSubscriber};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// The gateway's binary; sink: the hub double over AMQP and TLS.
    Gateway,
    /// The same with `storeSettings__commitWindowMs=5`: fewer `fdatasync`, later PUBACKs.
    GatewayWindow,
    /// Mosquitto at its best for throughput: persistence on, saved at exit and every 30 minutes as packaged, queue unbounded,
    /// QoS 1 bridge over plain TCP.
    Mosquitto,
    /// The same with TLS towards the sink, as the gateway has to.
    MosquittoTls,
    /// As safe as it can be made: `autosave_on_changes`, `autosave_interval 1`.
    MosquittoSafe,
    /// rumqttd; sink: a durable subscriber over TLS.
    Rumqttd,
}

/// Programs.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) gateway: PathBuf,
    /// A path, or a name to be found in PATH and `/usr/sbin`.
    pub(crate) mosquitto: PathBuf,
    pub(crate) rumqttd: PathBuf,
}

/// A site: one peer, its folder, its sink. The process is started and killed by calls; the sink lives as long as the site.
#[derive(Debug)]
pub(crate) struct Site {
    peer: Peer,
    programs: Programs,
    pki: Arc<Pki>,
    folder: PathBuf,
    listen: SocketAddr,
    tally: Arc<Tally>,
    // Before the sink, so that it goes first when the site is dropped.
    process: Option<Process>,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Hub { hub: Box<HubDouble>, access: HubAccess },
    Broker(MqttBroker),
    Subscriber(MqttSubscriber),
}

impl Site {
    /// Makes folder, configuration and sink below `folder`; starts the sink, not the process. Devices of `pki` are registered.
    pub(crate) async fn new(
        peer: Peer,
        programs: &Programs,
        pki: Arc<Pki>,
        folder: PathBuf,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let tally = Arc::new(Tally::new(pki.devices.len()));
        let listen = process::free_address().context("no free port")?;
        let sink = match peer {
            Peer::Gateway | Peer::GatewayWindow => start_hub(&pki, Arc::clone(&tally)).await?,
            Peer::Mosquitto | Peer::MosquittoSafe => {
                Sink::Broker(MqttBroker::start(&pki, false, Arc::clone(&tally))?)
            }
            Peer::MosquittoTls => Sink::Broker(MqttBroker::start(&pki, true, Arc::clone(&tally))?),
            Peer::Rumqttd => {
                Sink::Subscriber(MqttSubscriber::start(&pki, listen, Arc::clone(&tally)))
            }
        };
        let programs = programs.clone();
        Ok(Self { peer, programs, pki, folder, listen, tally, process: None, sink })
    }

    fn command(&self) -> anyhow::Result<Command> {
        let place = Place { pki: &self.pki, folder: &self.folder, listen: self.listen };
        match &self.sink {
            Sink::Hub { access, .. } => config::gateway(&self.programs, place, self.peer, access),
            Sink::Broker(sink) => {
                config::mosquitto(&self.programs, place, self.peer, sink.address())
            }
            Sink::Subscriber(_) => config::rumqttd(&self.programs, place),
        }
    }

    /// Starts the process; returns when a TCP connect to its MQTT port works, with the seconds from spawn until then.
    pub(crate) async fn start(&mut self) -> anyhow::Result<f64> {
        ensure!(self.process.is_none(), "{:?} runs already: kill or stop it first", self.peer);
        let (process, seconds) = Process::start(self.command()?, &self.folder, self.listen).await?;
        self.process = Some(process);
        Ok(seconds)
    }

    /// Where devices connect: the same over restarts.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// The process's id; 0 while none runs.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::pid)
    }

    /// Where the process tells its own metrics, if it does.
    pub(crate) fn metrics(&self) -> Option<SocketAddr> {
        match &self.sink {
            Sink::Hub { access, .. } => Some(access.metrics),
            Sink::Broker(_) | Sink::Subscriber(_) => None,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits until the way to the sink stands (bridge connected, subscriber subscribed).
    pub(crate) async fn linked(&self, patience: Duration) -> anyhow::Result<()> {
        let linked = async {
            match &self.sink {
                Sink::Hub { hub, .. } => {
                    while hub.connections().is_empty() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    self.takes_devices().await;
                }
                Sink::Broker(sink) => sink.linked().await,
                Sink::Subscriber(sink) => sink.linked().await,
            }
        };
        tokio::time::timeout(patience, linked).await.with_context(|| {
            format!("{:?} has no way to its sink after {} s", self.peer, patience.as_secs())
        })
    }

    /// Until the gateway knows its devices it refuses all, as a hub that is down would. The probe is no device of the
    /// load, so nobody's session is taken over.
    async fn takes_devices(&self) {
        let probe = &self.pki.subscriber;
        let user = format!("localhost/{}/?api-version=2020-09-30", probe.id);
        while subscriber::open(self.listen, &probe.tls, &probe.id, Some(&user)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// The sink goes away (connections drop, port refuses) and comes back.
    pub(crate) async fn sink_away(&mut self) -> anyhow::Result<()> {
        match &mut self.sink {
            Sink::Hub { hub, .. } => hub.go_away().await,
            Sink::Broker(sink) => sink.go_away().await,
            Sink::Subscriber(sink) => sink.go_away().await,
        }
        Ok(())
    }

    pub(crate) async fn sink_back(&mut self) -> anyhow::Result<()> {
        match &mut self.sink {
            Sink::Hub { hub, .. } => hub.come_back().await.context("the hub cannot listen again"),
            Sink::Broker(sink) => sink.come_back(),
            Sink::Subscriber(sink) => {
                sink.come_back();
                Ok(())
            }
        }
    }

    /// The sink acknowledges this much later.
    pub(crate) fn sink_delay(&self, by: Duration) {
        match &self.sink {
            Sink::Hub { hub, .. } => {
                hub.clear_faults();
                let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
                if ms > 0 {
                    hub.fault(FaultKind::DelayDispositions { ms });
                }
            }
            Sink::Broker(sink) => sink.delay().set(by),
            Sink::Subscriber(sink) => sink.delay().set(by),
        }
    }

    /// kill -9 and wait.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("nothing runs that could be killed")?.kill().await
    }

    /// SIGTERM and wait.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        // Not every peer ends with 0 on SIGTERM, and none has to.
        self.process.take().context("nothing runs that could be stopped")?.stop().await.map(drop)
    }
}

async fn start_hub(pki: &Pki, tally: Arc<Tally>) -> anyhow::Result<Sink> {
    let (chain, server_key) = pki.hub_pem()?;
    let key = HubAccess::key();
    let mut hub = hub_double::Config::new("localhost", EDGE, &*key, chain, server_key);
    hub.lean = Some(Arc::new(move |_, bodies| {
        for body in bodies {
            tally.take(body);
        }
    }));
    let hub = HubDouble::start(hub).await.context("the hub double does not start")?;
    for device in pki.devices.iter().chain([&pki.subscriber]) {
        hub.put_device(DeviceSpec::certificate(&device.id).child_of(EDGE));
    }
    let metrics = process::free_address().context("no free port")?;
    let access = HubAccess { key, ports: hub.ports(), metrics };
    Ok(Sink::Hub { hub: Box::new(hub), access })
}
