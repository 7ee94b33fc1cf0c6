//! What the kernel says about this process (time, CPU, memory, bytes written), a folder's page cache, and the machine.
//!
//! Must not know: what is measured.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::Advice;
use rustix::time::{ClockId, clock_gettime};

/// CPU time of all threads so far.
pub fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
}

/// Bytes of the pages that this process has made dirty, that is, data blocks that the disk has to write (4 KiB each,
/// again after each sync; without the file system's journal). The same measure for every contender.
pub fn block_bytes() -> Result<u64> {
    number("/proc/self/io", "write_bytes:")
}

/// Resident memory now and at its highest, in bytes.
pub fn memory() -> Result<(u64, u64)> {
    let kib = |field| number("/proc/self/status", field).map(|n| n * 1024);
    Ok((kib("VmRSS:")?, kib("VmHWM:")?))
}

/// The first number behind `field` in a file like those of /proc.
pub fn number(path: &str, field: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    word.and_then(|w| w.parse().ok()).with_context(|| format!("{path} has no number {field}"))
}

/// Makes the files below `dir` durable and asks the kernel to forget their pages. No privilege is needed for one's own
/// files; the dentries and inodes stay cached.
pub fn drop_cache(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            drop_cache(&path)?;
        } else {
            let file = OpenOptions::new().read(true).open(&path)?;
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// The commit that is measured, if git tells; `-dirty` when the checkout has changes that it does not have.
pub fn commit() -> String {
    let said = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let text = said.ok().and_then(|out| String::from_utf8(out.stdout).ok());
    let text = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    text.unwrap_or_else(|| "unknown".to_owned())
}

/// Model of the first processor, and how many there are.
pub fn processors() -> (String, usize) {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|l| l.strip_prefix("model name")?.split(':').nth(1));
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    (model.unwrap_or("unknown").trim().to_owned(), count)
}
