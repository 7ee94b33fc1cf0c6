//! What the machine and the container give: memory, and what they are.
//!
//! Owns: the reading of cgroups (both versions), of the kernel's command line and of its release. All paths are below a given
//! root, `/` for a real machine. Where a file is not there, less is known.
//! Must not know: the configuration.

use std::path::{Path, PathBuf};

use super::{Finding, Group};
use crate::command::text::{bytes, count};

/// An idle gateway takes about 12 MB, and the kernel counts its page cache and sockets, too.
const MEMORY_BASE_BYTES: u64 = 24 << 20;

/// About 20 KB of TLS and session for a device, and as much of the kernel's for its socket.
const MEMORY_A_CLIENT_BYTES: u64 = 40 << 10;

/// A limit of this size is none: cgroup v1 writes 2^63 rounded down to pages.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// How much memory there is for `clients_max` clients.
pub fn memory(root: &Path, clients_max: Option<u64>) -> Vec<Finding> {
    let mut findings = vec![limit(root, clients_max)];
    if is_memory_cgroup_off(&read(root, "proc/cmdline").unwrap_or_default()) {
        findings.push(Group::Limits.warning(
            "memory-cgroup",
            "the kernel was started with cgroup_disable=memory (Raspberry Pi OS does that): memory limits of containers are \
             ignored without a word",
            "append cgroup_enable=memory cgroup_memory=1 to /boot/firmware/cmdline.txt of the host and start it again",
        ));
    }
    findings
}

fn limit(root: &Path, clients_max: Option<u64>) -> Finding {
    const ID: &str = "memory-limit";
    let limit = memory_limit(root);
    let total = read(root, "proc/meminfo").and_then(|text| mem_total(&text));
    let (size, of) = match (limit, total) {
        (Some(limit), total) if total.is_none_or(|total| limit < total) => {
            (limit, "the limit of this container")
        }
        (_, Some(total)) => (total, "the memory of this machine (this container has no limit)"),
        (_, None) => return Group::Limits.skipped(ID, "the system does not tell its memory"),
    };
    let Some(clients) = clients_max else {
        return Group::Limits.ok(ID, format!("{} is {of}", bytes(size)));
    };
    let need = MEMORY_BASE_BYTES.saturating_add(clients.saturating_mul(MEMORY_A_CLIENT_BYTES));
    let text = format!(
        "{} is {of}; {} clients (MaxConnectedClients) take about {}",
        bytes(size),
        count(clients),
        bytes(need)
    );
    if size < need {
        let todo = "raise HostConfig.Memory of the container, or lower MaxConnectedClients to what the site has";
        return Group::Limits.warning(ID, text, todo);
    }
    Group::Limits.ok(ID, text)
}

fn read(root: &Path, path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(root.join(path)).ok()
}

/// A later `cgroup_enable` takes a `cgroup_disable` back; the firmware's comes first.
fn is_memory_cgroup_off(cmdline: &str) -> bool {
    let mut said = cmdline.split_ascii_whitespace().filter_map(|word| {
        let (name, controllers) = word.split_once('=')?;
        let names_memory = controllers.split(',').any(|controller| controller == "memory");
        match name {
            "cgroup_disable" if names_memory => Some(true),
            "cgroup_enable" if names_memory => Some(false),
            _ => None,
        }
    });
    said.next_back().unwrap_or(false)
}

/// The least limit of this process's cgroup and those above it. In a container the own one often shows as `/`.
fn memory_limit(root: &Path) -> Option<u64> {
    let own = read(root, "proc/self/cgroup").unwrap_or_default();
    let mut least: Option<u64> = None;
    for line in own.lines() {
        // number:controllers:path; version 2 has the number 0 and no controllers.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            v1 if v1.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mount = PathBuf::from(mount);
        let below = Path::new(path.trim_start_matches('/'));
        for folder in below.ancestors() {
            let limit = read(root, mount.join(folder).join(file));
            let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
            least = least.into_iter().chain(limit.filter(|l| *l < NO_LIMIT_BYTES)).min();
        }
    }
    least
}

/// `MemTotal:  3884328 kB`.
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What program this is, for what machine, on which kernel.
pub fn versions(root: &Path) -> Finding {
    let libc = match () {
        () if cfg!(target_env = "gnu") => "gnu",
        () if cfg!(target_env = "musl") => "musl",
        () => "other",
    };
    let kernel = read(root, "proc/sys/kernel/osrelease");
    let text = format!(
        "sphere-gateway {} for {}-{}-{libc}, kernel {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS,
        kernel.as_deref().map_or("unknown", str::trim),
    );
    Group::Versions.ok("program", text)
}

/// How many heaps the C library keeps.
pub fn arenas(set: Option<&str>) -> Finding {
    const ID: &str = "memory-arenas";
    match set {
        _ if !cfg!(target_env = "gnu") => {
            Group::Limits.skipped(ID, "this program is not built with glibc")
        }
        Some(n) => Group::Limits.ok(ID, format!("MALLOC_ARENA_MAX is {n}")),
        None => Group::Limits
            .ok(ID, "MALLOC_ARENA_MAX is not set: 2, as the image has it, saves a little memory"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:        1048576 kB\nMemFree: 5 kB\n");

    #[test]
    fn the_least_memory_limit_counts() {
        let check = |files: &[(&str, &str)], status: Status, part: &str| {
            let root = machine(files);
            let found = memory(root.path(), Some(1000));
            assert_eq!(found[0].status, status, "{found:?}");
            assert!(found[0].what.contains(part), "{part} in {found:?}");
        };
        let v2 = ("proc/self/cgroup", "0::/a/b\n");
        check(&[], Status::Skipped, "does not tell");
        check(&[MEMINFO], Status::Ok, "1.0 GiB is the memory of this machine");
        check(&[MEMINFO, v2], Status::Ok, "no limit");
        check(&[MEMINFO, v2, ("sys/fs/cgroup/a/memory.max", "max\n")], Status::Ok, "no limit");
        check(
            &[
                MEMINFO,
                v2,
                ("sys/fs/cgroup/a/b/memory.max", "max\n"),
                ("sys/fs/cgroup/a/memory.max", "33554432\n"),
            ],
            Status::Warning,
            "32.0 MiB is the limit of this container; 1,000 clients",
        );
        let own = ("proc/self/cgroup", "0::/\n");
        check(
            &[MEMINFO, own, ("sys/fs/cgroup/memory.max", "134217728\n")],
            Status::Ok,
            "128.0 MiB is the limit",
        );
        let v1 = ("proc/self/cgroup", "9:cpu,cpuacct:/x\n4:memory:/docker/1\n");
        let none = "9223372036854771712\n";
        let limit = "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes";
        check(&[MEMINFO, v1, (limit, none)], Status::Ok, "no limit");
        check(&[MEMINFO, v1, (limit, "33554432\n")], Status::Warning, "32.0 MiB");
        // In a container the own group is the root of what is mounted.
        let seen = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "33554432\n");
        check(&[MEMINFO, v1, seen], Status::Warning, "32.0 MiB");
    }

    #[test]
    fn a_raspberry_pi_without_the_memory_cgroup_is_told() {
        for (cmdline, warned) in [
            ("console=tty1 root=PARTUUID=x", false),
            ("coherent_pool=1M cgroup_disable=memory console=tty1", true),
            ("cgroup_disable=memory cgroup_enable=memory cgroup_memory=1", false),
            ("cgroup_disable=cpuset,memory", true),
            ("cgroup_disable=cpuset", false),
        ] {
            let root = machine(&[MEMINFO, ("proc/cmdline", cmdline)]);
            let found = memory(root.path(), None);
            let warning = found.iter().find(|f| f.id == "memory-cgroup");
            assert_eq!(warning.map(|f| f.status), warned.then_some(Status::Warning), "{cmdline}");
            if let Some(Finding { todo: Some(todo), .. }) = warning {
                assert!(todo.contains("cmdline.txt"), "{todo}");
            }
        }
    }

    #[test]
    fn the_program_says_what_it_is() {
        let root = machine(&[("proc/sys/kernel/osrelease", "6.12.1-rpi\n")]);
        let what = versions(root.path()).what;
        assert!(what.contains(env!("CARGO_PKG_VERSION")), "{what}");
        assert!(what.ends_with("kernel 6.12.1-rpi"), "{what}");
    }
}
