//! What the kernel says about a process (CPU time, memory, bytes written, system calls) and about the machine.
//!
//! Must not know: what is measured.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use bench_common::machine::{commit, number, processors};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User and system time of all its threads, also of those that ended, by the scheduler's clock: nanoseconds, where
    /// `/proc/PID/stat` rounds the same count to 10 ms.
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_kb: f64,
    pub(crate) peak_kb: f64,
    /// Bytes of the pages that it made dirty: what the disk has to write, in 4 KiB blocks.
    pub(crate) block_bytes: f64,
}

/// Reads `/proc/PID`, and the process's CPU clock.
pub(crate) fn usage(pid: u32) -> Result<Usage> {
    let (status, io) = (format!("/proc/{pid}/status"), format!("/proc/{pid}/io"));
    Ok(Usage {
        cpu_seconds: cpu_seconds(pid)
            .with_context(|| format!("no CPU time of {pid}: is it alive?"))?,
        rss_kb: number(&status, "VmRSS:")? as f64,
        peak_kb: number(&status, "VmHWM:")? as f64,
        block_bytes: number(&io, "write_bytes:")? as f64,
    })
}

fn cpu_seconds(pid: u32) -> Result<f64> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    let time = nix::time::clock_getcpuclockid(pid)?.now()?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// An independent count of the `fdatasync` and `fsync` calls of a process: perf, or else strace.
pub(crate) struct Syncs {
    child: Child,
    file: PathBuf,
    read: fn(&str) -> Option<f64>,
}

impl Syncs {
    /// Begins to count; `None` if neither instrument works here.
    pub(crate) async fn start(pid: u32, folder: &Path) -> Option<Self> {
        let pid = pid.to_string();
        let events = "syscalls:sys_enter_fdatasync,syscalls:sys_enter_fsync";
        let perf = ["perf", "stat", "-x,", "-e", events, "-p", &pid, "-o"];
        let strace = ["strace", "-f", "-c", "-e", "trace=fdatasync,fsync", "-p", &pid, "-o"];
        match Self::attach(&perf, folder, of_perf).await {
            Some(counting) => Some(counting),
            None => Self::attach(&strace, folder, of_strace).await,
        }
    }

    async fn attach(words: &[&str], folder: &Path, read: fn(&str) -> Option<f64>) -> Option<Self> {
        let file = folder.join(words[0]);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(&file).stdin(Stdio::null()).kill_on_drop(true);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        // It attaches, or says no and ends.
        tokio::time::sleep(Duration::from_millis(500)).await;
        child.try_wait().ok()?.is_none().then_some(Self { child, file, read })
    }

    /// Calls since the start.
    pub(crate) async fn end(mut self) -> Option<f64> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()?).ok()?)?;
        kill_process(pid, Signal::INT).ok()?;
        tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await.ok()?.ok()?;
        (self.read)(&std::fs::read_to_string(&self.file).ok()?)
    }
}

/// `123,,syscalls:sys_enter_fdatasync,...`; "<not counted>" is no number.
fn of_perf(text: &str) -> Option<f64> {
    let lines = text.lines().filter(|line| line.contains("syscalls:"));
    let counts: Option<Vec<f64>> =
        lines.map(|line| line.split(',').next()?.parse::<f64>().ok()).collect();
    counts.filter(|counts| !counts.is_empty()).map(|counts| counts.iter().sum())
}

/// `% time  seconds  usecs/call  calls  [errors]  syscall`.
fn of_strace(text: &str) -> Option<f64> {
    let lines = text.lines().filter(|line| line.ends_with("fdatasync") || line.ends_with("fsync"));
    let counts: Option<Vec<f64>> =
        lines.map(|line| line.split_whitespace().nth(3)?.parse::<f64>().ok()).collect();
    counts.map(|counts| counts.iter().sum())
}

/// Thousands of connections need as many handles, here and in the processes under test, which inherit the limit.
pub(crate) fn raise_handles() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("the limit of open files")
}

/// The machine, the kernel, the commit, the date, and how busy the machine was.
pub(crate) fn about() -> Value {
    let (cpu, cores) = processors();
    let load = load_average();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!({
        "commit": commit(), "unix_seconds": now.as_secs(), "date": date(now.as_secs()),
        "cpu": cpu, "cores": cores, "kernel": text("/proc/sys/kernel/osrelease"),
        "memory_mb": number("/proc/meminfo", "MemTotal:").unwrap_or(0) / 1024,
        "load_average": load, "quiet": load < 0.5,
    })
}

/// The file system below `folder`. Memory is none: fdatasync would cost nothing there.
pub(crate) fn disk(folder: &Path) -> Result<&'static str> {
    let found = rustix::fs::statfs(folder).with_context(|| folder.display().to_string())?;
    let name = match found.f_type {
        0x0102_1994 => bail!(
            "{} is in memory (tmpfs), where fdatasync costs nothing: name a folder on a disk with --dir",
            folder.display()
        ),
        0xEF53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683E => "btrfs",
        0xF2F5_2010 => "f2fs",
        0x794C_7630 => "overlayfs",
        _ => "another file system",
    };
    Ok(name)
}

fn load_average() -> f64 {
    let text = text("/proc/loadavg");
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The day (UTC) in the Gregorian calendar; by the era of 400 years, as H. Hinnant's `civil_from_days`.
fn date(unix_seconds: u64) -> String {
    let days = unix_seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_finer_than_a_tick() {
        let burn = |least: Duration| {
            let until = bench_common::machine::cpu() + least;
            while bench_common::machine::cpu() < until {
                std::hint::black_box(0);
            }
        };
        let before = cpu_seconds(std::process::id()).expect("we live");
        burn(Duration::from_millis(3));
        let spent = cpu_seconds(std::process::id()).expect("we live") - before;
        assert!(spent >= 0.003, "{spent}");
        let ticks = spent * 100.0;
        assert!((ticks - ticks.round()).abs() > 1e-9, "{spent} s are whole ticks");
        cpu_seconds(u32::MAX).expect_err("no such process");
    }

    #[test]
    fn counts_of_both_instruments_are_read() {
        let perf = "# started\n\n12,,syscalls:sys_enter_fdatasync,1,100.00,,\n3,,syscalls:sys_enter_fsync,1,100.00,,\n";
        assert_eq!(of_perf(perf), Some(15.0));
        assert_eq!(of_perf("<not counted>,,syscalls:sys_enter_fsync,0,0,,"), None);
        assert_eq!(of_perf(""), None);
        let strace = " 90.0 0.1 10 40 fdatasync\n 10.0 0.1 10 2 1 fsync\n100.0 0.2 10 42 1 total\n";
        assert_eq!(of_strace(strace), Some(42.0));
    }

    #[test]
    fn days_have_their_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(1_709_164_800), "2024-02-29");
        assert_eq!(date(1_767_225_599), "2025-12-31");
    }
}
