//! What the system knows of a volume: its file system, its room, its device's counter.
//!
//! Owns: the reading of `/proc/self/mountinfo` and `/sys/dev/block`. Where these are not there, less is known.
//! Must not know: what it means.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::store::{Disk, RealDisk};

/// A volume.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::command) struct Volume {
    pub(in crate::command) file_system: Option<String>,
    /// The options of the mount and of the file system.
    pub(in crate::command) options: Option<String>,
    pub(in crate::command) free_bytes: u64,
    pub(in crate::command) total_bytes: u64,
    /// Where the device's own counter of written bytes is.
    #[serde(skip)]
    pub(in crate::command) counter: Option<PathBuf>,
}

/// Sectors in `/sys/dev/block/*/stat` are of this size, whatever the device's are.
const SECTOR_BYTES: u64 = 512;
/// Field of `stat`, from 0: sectors written.
const SECTORS_WRITTEN: usize = 6;

impl Volume {
    /// The volume that holds `folder`.
    pub(in crate::command) fn of(folder: &Path) -> io::Result<Self> {
        let space = RealDisk.space(folder)?;
        let folder = folder.canonicalize()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (file_system, options) = mount_of(&mounts, &folder).unzip();
        let (free_bytes, total_bytes) = (space.free, space.total);
        Ok(Self { file_system, options, free_bytes, total_bytes, counter: counter_of(&folder) })
    }

    /// Bytes that the device has written since it was there, everybody's. `None`: it does not tell.
    pub(in crate::command) fn device_bytes(&self) -> Option<u64> {
        sectors_written(&std::fs::read_to_string(self.counter.as_ref()?).ok()?)?
            .checked_mul(SECTOR_BYTES)
    }
}

fn counter_of(folder: &Path) -> Option<PathBuf> {
    let device = std::fs::metadata(folder).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
    path.exists().then_some(path)
}

fn sectors_written(stat: &str) -> Option<u64> {
    stat.split_ascii_whitespace().nth(SECTORS_WRITTEN)?.parse().ok()
}

/// File system and options of the mount that `folder` lies in: the longest mount point above it, of these the last.
fn mount_of(mountinfo: &str, folder: &Path) -> Option<(String, String)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        // id parent major:minor root mount-point options optional... - type source super-options
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(4);
        let (point, options) = (unescape(left.next()?), left.next()?);
        let mut right = right.split(' ');
        let (kind, own) = (right.next()?, right.nth(1).unwrap_or_default());
        folder.starts_with(&point).then(|| (point.len(), kind.to_owned(), joined(options, own)))
    });
    let best = mounts.max_by_key(|(length, ..)| *length)?;
    Some((best.1, best.2))
}

/// Both lists, without what is twice in them.
fn joined(options: &str, own: &str) -> String {
    let mut all: Vec<&str> = Vec::new();
    for option in options.split(',').chain(own.split(',')) {
        if !option.is_empty() && !all.contains(&option) {
            all.push(option);
        }
    }
    all.join(",")
}

/// Spaces and the like are `\040` there.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &after[3..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_a_folder_is_the_nearest_one() {
        let mounts = "22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw,errors=remount-ro\n\
                      30 22 0:25 / /run rw,nosuid - tmpfs tmpfs rw,size=1k\n\
                      31 22 8:3 / /data\\040x rw - f2fs /dev/sda3 rw,background_gc=on\n\
                      not a line\n";
        let check = |folder: &str, kind: &str, options: &str| {
            let expected = (kind.to_owned(), options.to_owned());
            assert_eq!(mount_of(mounts, Path::new(folder)), Some(expected), "{folder}");
        };
        check("/var/lib", "ext4", "rw,relatime,errors=remount-ro");
        check("/runner", "ext4", "rw,relatime,errors=remount-ro");
        check("/run/x", "tmpfs", "rw,nosuid,size=1k");
        check("/data x/s", "f2fs", "rw,background_gc=on");
        assert_eq!(mount_of("", Path::new("/")), None);
    }

    #[test]
    fn the_device_counts_sectors() {
        assert_eq!(sectors_written("  1 2 3 4 5 6 77 8 9 10 11\n"), Some(77));
        assert_eq!(sectors_written(""), None);
    }
}
