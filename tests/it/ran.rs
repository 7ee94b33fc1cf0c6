//! The program run as a person runs it, to its end: what it wrote, and with which code it ended.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::BINARY;

/// The program with `args` and without any environment.
pub(crate) fn program(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).env_clear();
    command
}

/// Runs it so, with `input` at its standard input.
pub(crate) fn run(args: &[&str], input: impl AsRef<[u8]>) -> Ran {
    Ran::of(&mut program(args), input.as_ref())
}

/// A run that has ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// That of `command`, with `input` at its standard input.
    pub(crate) fn of(command: &mut Command, input: &[u8]) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let mut stdin = child.stdin.take().expect("piped");
        // Both ends at once: the answers to many lines do not fit into a pipe. Who is not asked reads nothing.
        let output = std::thread::scope(|ends| {
            ends.spawn(move || stdin.write_all(input).is_ok());
            child.wait_with_output().expect("it ends")
        });
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// It ended with `code`.
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }

    /// What it wrote to its standard output; it ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> String {
        self.ended(code).out
    }

    /// The objects that it wrote, one a line.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect()
    }
}
