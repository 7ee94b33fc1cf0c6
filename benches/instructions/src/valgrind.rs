//! Runs this program under valgrind and reads what it counted.
//!
//! Owns: valgrind's command line and the two numbers' places in its output. Must not know: which steps there are to
//! compare, what was committed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, io};

use anyhow::{Context, Result, bail, ensure};

use crate::figures::Figure;
use crate::shape::Shape;
use crate::steps::{MESSAGES_MAX, Step};

/// The two runs whose difference is taken, so that what happens once (start, first use, the last messages) drops out.
pub(crate) const COUNTS: (usize, usize) = (1_000, MESSAGES_MAX);

/// Counts with callgrind and DHAT.
pub(crate) struct Valgrind {
    /// For the files that it writes.
    dir: PathBuf,
    exe: PathBuf,
}

impl Valgrind {
    /// Writes its files to `dir`.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let exe = env::current_exe()?;
        match Command::new("valgrind").arg("--version").stdout(Stdio::null()).status() {
            Ok(status) if status.success() => Ok(Self { dir: dir.to_owned(), exe }),
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).context("valgrind does not start")
            }
            _ => bail!("this needs valgrind, which is not installed: apt-get install valgrind"),
        }
    }

    /// What one message costs in `step`.
    pub(crate) fn count(&self, step: Step, shape: Shape) -> Result<Figure> {
        let few = self.instructions(step, shape, COUNTS.0)?;
        let many = self.instructions(step, shape, COUNTS.1)?;
        let (few_bytes, few_blocks) = self.allocations(step, shape, COUNTS.0)?;
        let (many_bytes, many_blocks) = self.allocations(step, shape, COUNTS.1)?;
        Ok(Figure {
            instructions: per_message(few, many),
            allocations: per_message(few_blocks, many_blocks),
            allocated_bytes: per_message(few_bytes, many_bytes),
        })
    }

    fn instructions(&self, step: Step, shape: Shape, count: usize) -> Result<u64> {
        let name = format!("callgrind.{}.{}.{count}", step.name(), shape.name());
        let file = self.dir.join(name);
        let mut command = Command::new("valgrind");
        command.args(["--quiet", "--tool=callgrind", "--dump-line=no"]);
        command.arg(format!("--callgrind-out-file={}", file.display()));
        if !step.is_threaded() {
            command.arg("--toggle-collect=*counted_part*");
        }
        self.run(command, step, shape, count)?;
        let out = read(&file)?;
        let total = out.lines().find_map(|line| line.strip_prefix("totals: "));
        number(total.with_context(|| format!("no totals in {}", file.display()))?)
    }

    /// Bytes and blocks of all allocations.
    fn allocations(&self, step: Step, shape: Shape, count: usize) -> Result<(u64, u64)> {
        let name = |what| format!("dhat.{}.{}.{count}.{what}", step.name(), shape.name());
        let (log, file) = (self.dir.join(name("log")), self.dir.join(name("json")));
        let mut command = Command::new("valgrind");
        command.arg("--tool=dhat");
        command.arg(format!("--log-file={}", log.display()));
        command.arg(format!("--dhat-out-file={}", file.display()));
        self.run(command, step, shape, count)?;
        // ==1== Total:     1,234 bytes in 56 blocks
        let out = read(&log)?;
        let total = out.lines().find_map(|line| line.split_once("Total:")).map(|(_, rest)| rest);
        let total = total.with_context(|| format!("no total in {}", log.display()))?;
        let (bytes, blocks) =
            total.split_once(" bytes in ").context("DHAT's total is of another form")?;
        Ok((number(bytes)?, number(blocks.trim_end_matches(" blocks"))?))
    }

    fn run(&self, mut command: Command, step: Step, shape: Shape, count: usize) -> Result<()> {
        command.arg(&self.exe).args(["--step", step.name(), "--shape", shape.name()]);
        command.arg("--serve").arg(count.to_string());
        let output = command.stdin(Stdio::null()).output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        let status = output.status;
        ensure!(status.success(), "{} {} ended with {status}:\n{told}", step.name(), shape.name());
        Ok(())
    }
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("valgrind left no {}", file.display()))
}

fn number(text: &str) -> Result<u64> {
    let digits = text.trim().replace(',', "");
    digits.parse().with_context(|| format!("valgrind counted {text:?}, which is no number"))
}

fn per_message(few: u64, many: u64) -> f64 {
    (many as f64 - few as f64) / (COUNTS.1 - COUNTS.0) as f64
}
