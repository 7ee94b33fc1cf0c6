//! The real binary as a process: what it answers, how it ends. Killed when it is dropped.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{eventually, series};

/// A running gateway.
pub(crate) struct Process {
    child: Child,
    admin: SocketAddr,
}

impl Process {
    /// `child` listens: for devices on `mqtt`, and on one more port.
    pub(crate) fn new(child: Child, mqtt: u16) -> Self {
        let ports = listening(child.id());
        let admin = ports.iter().find(|p| **p != mqtt);
        let admin = *admin.unwrap_or_else(|| panic!("no port for metrics among {ports:?}"));
        Self { child, admin: ([127, 0, 0, 1], admin).into() }
    }

    /// Where its administrative listener is.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The text of `/metrics`.
    pub(crate) async fn metrics(&self) -> String {
        scrape(self.admin, "/metrics").await
    }

    /// The sum of the series of `name` that carry all `labels`.
    pub(crate) async fn counter(&self, name: &str, labels: &[&str]) -> u64 {
        series(&self.metrics().await, name, labels) as u64
    }

    /// Whether `/healthz` answers 200.
    pub(crate) async fn is_healthy(&self) -> bool {
        scrape(self.admin, "/healthz").await.starts_with("HTTP/1.1 200")
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// Sets its limit of open files, as an administrator may at any time.
    pub(crate) fn limit_open_files(&self, limit: usize) {
        let process = self.child.id().to_string();
        let limit = format!("--nofile={limit}:{limit}");
        let set = Command::new("prlimit").args(["--pid", &process, &limit]).status();
        assert!(set.expect("util-linux is installed").success());
    }

    /// Its limit of open files.
    pub(crate) fn open_files_max(&self) -> u64 {
        let text =
            fs::read_to_string(format!("/proc/{}/limits", self.child.id())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().next());
        soft.expect("a line about open files").parse().expect("a number")
    }

    /// Its end, waited for.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the process ends", async || {
            status = self.child.try_wait().expect("our child");
            status.is_some()
        })
        .await;
        status.expect("waited for")
    }

    /// SIGTERM, as a container's runtime sends it; it ends well.
    pub(crate) async fn stop(mut self) {
        let kill = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(kill.expect("kill").success());
        let status = self.end().await;
        assert!(status.success(), "{status}");
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("SIGKILL");
        let status = self.child.wait().expect("it is dead");
        assert_eq!(status.signal(), Some(9), "it ran until it was killed");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `address` answers to a GET of `path`, head included.
pub(crate) async fn scrape(address: SocketAddr, path: &str) -> String {
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("the endpoint listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("request");
    let mut text = String::new();
    socket.read_to_string(&mut text).await.expect("answer");
    text
}

/// The TCP ports that a process listens on. (It was told to take any; only the one for devices is in its log.)
fn listening(process: u32) -> Vec<u16> {
    let sockets: Vec<String> = fs::read_dir(format!("/proc/{process}/fd"))
        .expect("it runs")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').into()))
        .collect();
    // Of a line: local address 1, state 3 (0A: listens), inode 9.
    let is_ours = |parts: &Vec<&str>| parts[3] == "0A" && sockets.iter().any(|s| s == parts[9]);
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp")).expect("the table of TCP");
    let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect());
    lines
        .filter(is_ours)
        .filter_map(|parts: Vec<&str>| u16::from_str_radix(parts[1].split(':').nth(1)?, 16).ok())
        .collect()
}
