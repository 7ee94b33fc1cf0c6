//! A small volume of the gateway's own, in a private mount namespace: full, failing or read-only for it alone, and gone
//! with the process that holds it. What is mounted where the test runs stays as it is.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::BINARY;

/// Where the system's own tools are.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A mount namespace with a volume over one folder.
pub(crate) struct Volume {
    /// Holds the namespace until its standard input is closed, which the kernel does even if the test is killed.
    holder: Child,
    /// Of a user namespace, too.
    as_user: bool,
    folder: PathBuf,
}

impl Volume {
    /// A tmpfs of `size` (as mount takes it) over `folder`; `None` where that is not permitted.
    pub(crate) fn tmpfs(folder: &Path, size: &str) -> Option<Self> {
        let script = format!("mount -t tmpfs -o size={size} none \"$1\"");
        Self::hold(folder, &script, &[&["--mount"], &["--map-root-user", "--mount"]])
    }

    /// An ext4 of 24 MiB over `folder`, on a new file `image`; it turns read-only when it meets an error. Needs root.
    pub(crate) fn ext4(folder: &Path, image: &Path) -> Option<Self> {
        let image = image.display();
        let make = format!("truncate -s 24M {image} && mkfs.ext4 -q -m 0 {image}");
        Self::hold(folder, &format!("{make} && {}", mount_ext4(&image)), &[&["--mount"]])
    }

    fn hold(folder: &Path, script: &str, ways: &[&[&str]]) -> Option<Self> {
        let mut words = String::new();
        for way in ways {
            let script = format!("{script} && echo ready && exec cat");
            let mut holder = Command::new("unshare")
                .args(*way)
                .args(["sh", "-c", &script, "sh"])
                .arg(folder)
                .env("PATH", PATH)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("util-linux is installed");
            let ready = is_ready(&mut holder);
            let folder = folder.to_owned();
            let volume = Self { holder, as_user: way.len() > 1, folder };
            if ready {
                return Some(volume);
            }
            words = format!("unshare {way:?} or a mount in it is refused");
        }
        let must = std::env::var("SPHERE_REQUIRE_NAMESPACES").is_ok_and(|v| v == "1");
        assert!(!must, "SPHERE_REQUIRE_NAMESPACES=1, but {words}");
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        // Not captured by the test harness: it must be seen that nothing was tested.
        let _ = writeln!(std::io::stderr(), "{test}: not run: {words}");
        None
    }

    /// Runs `program` where the volume is seen; it keeps the process id.
    pub(crate) fn run(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount"]);
        if self.as_user {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }

    /// The gateway where the volume is seen.
    pub(crate) fn gateway(&self) -> Command {
        self.run(BINARY)
    }

    /// Runs a script in which `$1` is the volume's folder.
    pub(crate) fn sh(&self, script: &str) {
        let mut command = self.run("sh");
        command.args(["-c", script, "sh"]).arg(&self.folder);
        command.env("PATH", PATH);
        let output = command.output().expect("sh");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Takes all that is free, as others do who share a volume.
    pub(crate) fn take_the_rest(&self) {
        self.sh("cat /dev/zero >\"$1/others\" 2>/dev/null; test -s \"$1/others\"");
    }

    /// Has the ext4 meet an error: it takes no writes until it is mounted anew.
    pub(crate) fn turn_read_only(&self) {
        // By its own name: the machine's other file systems are in the same folder.
        self.sh("device=$(findmnt -n -o SOURCE --mountpoint \"$1\") && case $device in /dev/loop*) ;; *) exit 1 ;; esac && \
                 echo fault >\"/sys/fs/ext4/${device#/dev/}/trigger_fs_error\" && ! touch \"$1/x\" 2>/dev/null");
    }

    /// Mounts `image` again, when nobody uses the volume any more.
    pub(crate) fn mount_anew(&self, image: &Path) {
        self.sh(&format!("umount \"$1\" && {}", mount_ext4(&image.display())));
    }

    /// Has every writer of the ext4 wait, until the returned value is dropped. (Until then they cannot even be killed.)
    pub(crate) fn freeze(&self) -> Frozen {
        // At the end of its standard input, which comes also when the test is killed, the volume thaws.
        let script = "mountpoint -q \"$1\" && fsfreeze --freeze \"$1\" && echo ready; cat; fsfreeze --unfreeze \"$1\"";
        let mut command = self.run("sh");
        command.args(["-c", script, "sh"]).arg(&self.folder).env("PATH", PATH);
        let mut ice = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh");
        assert!(is_ready(&mut ice), "fsfreeze is refused");
        Frozen(ice)
    }
}

/// Whether a script came to its `echo ready`.
fn is_ready(script: &mut Child) -> bool {
    let mut line = String::new();
    let out = script.stdout.as_mut().expect("piped");
    BufReader::new(out).read_line(&mut line).expect("a line or the end");
    line.trim() == "ready"
}

fn mount_ext4(image: &std::path::Display<'_>) -> String {
    format!("mount -o loop,errors=remount-ro {image} \"$1\"")
}

/// An ext4 that takes no writes for the time being.
pub(crate) struct Frozen(Child);

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Looks at how much the files of a folder take, again and again, until it is asked.
pub(crate) struct Watch {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches `folder`, which need not be there yet.
    pub(crate) fn over(folder: PathBuf) -> Self {
        let (most, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (seen, stopped) = (Arc::clone(&most), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                seen.fetch_max(bytes_in(&folder), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { most, stop, thread: Some(thread) }
    }

    /// The most that was seen.
    pub(crate) fn most(mut self) -> u64 {
        self.end();
        self.most.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it only looks");
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the files below `folder` take on their volume. What goes away meanwhile is left out.
pub(crate) fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_in(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}
