//! A process under test: started, killed, stopped, and never left behind.
//!
//! Invariant: when a [`Process`] is dropped, its process is dead and reaped. Must not know: what it runs.

use std::fs::OpenOptions;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;

/// A process that does not listen by then will never.
const START: Duration = Duration::from_secs(120);

/// A process that does not end by then after SIGTERM is a failure of the run.
const STOP: Duration = Duration::from_secs(120);

/// Between two looks.
const POLL: Duration = Duration::from_micros(500);

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `process.log` of `folder`; returns when a TCP connect to `address` works,
    /// with the seconds from spawn until then.
    pub(crate) async fn start(
        mut command: Command,
        folder: &Path,
        address: SocketAddr,
    ) -> anyhow::Result<(Self, f64)> {
        let log = folder.join("process.log");
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let program = command.get_program().to_owned();
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let start = Instant::now();
        let child =
            command.spawn().with_context(|| format!("{} does not start", program.display()))?;
        let mut process = Self { child, log };
        loop {
            if TcpStream::connect(address).await.is_ok() {
                return Ok((process, start.elapsed().as_secs_f64()));
            }
            if let Some(status) = process.child.try_wait()? {
                bail!("{} ended ({status}):\n{}", program.display(), process.log_tail());
            }
            if start.elapsed() > START {
                bail!(
                    "{} does not listen on {address} after {} s:\n{}",
                    program.display(),
                    START.as_secs(),
                    process.log_tail()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9, and wait.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().context("cannot kill the process under test")?;
        self.ended(STOP).await.map(drop)
    }

    /// SIGTERM, and wait.
    pub(crate) async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("the process under test has no pid")?;
        kill_process(pid, Signal::TERM).context("cannot stop the process under test")?;
        self.ended(STOP).await
    }

    async fn ended(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > patience {
                bail!(
                    "the process under test does not end within {} s:\n{}",
                    patience.as_secs(),
                    self.log_tail()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The last lines of what it wrote.
    fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of loopback that nobody uses now. Somebody else may take it before the process does; then its start fails
/// and says so.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// `program` as a path, or found in PATH and where Debian puts daemons.
pub(crate) fn find(program: &Path, hint: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let places: Vec<PathBuf> = if program.components().count() > 1 {
        vec![program.to_owned()]
    } else {
        folders.map(|folder| folder.join(program)).collect()
    };
    let found = places.into_iter().find(|place| place.is_file());
    found.with_context(|| format!("{} is not on this machine: {hint}", program.display()))
}
