//! One reader of the environment that notes every problem and goes on.
//!
//! Owns: forms of values (numbers, flags, time spans, addresses, files), rows of the table, what is ignored or unknown.
//! Must not know: which settings there are ([`super::settings`]).

use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::known::{IGNORED, PREFIXES};
use super::table::{Row, Standing, masked};
use super::{Env, Problem};

/// Most files and folders of one setting.
const PATHS_MAX: usize = 16;

/// A variable that is set.
struct Var {
    /// Lower case, `__` as separator.
    key: String,
    /// As written.
    name: String,
    value: String,
    /// Whether the value is what was written: it is UTF-8.
    is_text: bool,
    read: bool,
}

pub(super) struct Reader {
    vars: Vec<Var>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    pub(super) rows: Vec<Row>,
    /// The settings of ours that were read, to suggest the nearest for an unknown name.
    names: Vec<&'static str>,
}

fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace(':', "__")
}

impl Reader {
    pub(super) fn new(env: &dyn Env) -> Self {
        let mut r = Self {
            vars: Vec::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            rows: Vec::new(),
            names: Vec::new(),
        };
        let not_utf8 = env.not_utf8();
        for (name, value) in env.vars() {
            let is_text = !not_utf8.contains(&name);
            let key = normal(&name);
            if let Some(other) = r.vars.iter().find(|v| v.key == key) {
                // Differently spelled twins matter only when it is a setting; `take` never sees the second one.
                if other.value != value && is_ours(&key) {
                    let what = format!("it is also given as {}, with another value", other.name);
                    r.problems.push(Problem { name, what, todo: "Keep one of them".to_owned() });
                }
                continue;
            }
            r.vars.push(Var { key, name, value, is_text, read: false });
        }
        r
    }

    pub(super) fn problem(&mut self, name: &str, what: impl Display, todo: impl Display) {
        if self.is_no_text(name) && self.problems.iter().any(|p| p.name == name) {
            // That is the problem; what follows from it is none.
            return;
        }
        let (what, todo) = (what.to_string(), todo.to_string());
        self.problems.push(Problem { name: name.to_owned(), what, todo });
    }

    /// Whether it is set to something that is not UTF-8.
    fn is_no_text(&self, name: &str) -> bool {
        let key = normal(name);
        self.vars.iter().any(|v| v.key == key && !v.is_text)
    }

    /// The value of a setting, trimmed; blank, and one that is not UTF-8 (a problem), counts as not set. Notes its row, `default` standing in for no value.
    pub(super) fn take(&mut self, name: &'static str, default: &str) -> Option<String> {
        self.names.push(name);
        let key = normal(name);
        let value = self.vars.iter_mut().find(|v| v.key == key).map(|v| {
            v.read = true;
            v.value.trim().to_owned()
        });
        let value = value.filter(|v| !v.is_empty());
        let row = match &value {
            Some(value) => Row::new(name, value, Standing::Honoured),
            None => Row::new(name, default, Standing::Default),
        };
        self.rows.push(row);
        if self.is_no_text(name) {
            self.problem(name, "its value is not UTF-8", "Write it again, in UTF-8");
            return None;
        }
        value
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        let key = normal(name);
        self.vars.iter().any(|v| v.key == key && !v.value.trim().is_empty())
    }

    /// Whether `name` has this value, in any case.
    pub(super) fn is_value(&self, name: &str, value: &str) -> bool {
        let key = normal(name);
        self.vars.iter().any(|v| v.key == key && v.value.trim().eq_ignore_ascii_case(value))
    }

    /// A whole number in `min..=max`. In a case of doubt the default, and a problem.
    pub(super) fn number<N>(&mut self, name: &'static str, default: N, min: N, max: N) -> N
    where
        N: FromStr + PartialOrd + Display + Copy,
    {
        let Some(text) = self.take(name, &default.to_string()) else {
            return default;
        };
        match text.parse::<N>() {
            Ok(n) if n >= min && n <= max => n,
            _ => {
                let shown = masked(name, &text);
                self.problem(
                    name,
                    format!("{shown:?} is out of range or no whole number"),
                    format!("Write {min} to {max}"),
                );
                default
            }
        }
    }

    /// As [`Self::number`], without a default: `none` says in the table what serves then.
    pub(super) fn optional_number<N>(
        &mut self,
        name: &'static str,
        none: &str,
        min: N,
        max: N,
    ) -> Option<N>
    where
        N: FromStr + PartialOrd + Display + Copy,
    {
        if self.is_set(name) {
            return Some(self.number(name, min, min, max));
        }
        self.take(name, none);
        None
    }

    pub(super) fn seconds(
        &mut self,
        name: &'static str,
        default: u64,
        min: u64,
        max: u64,
    ) -> Duration {
        Duration::from_secs(self.number(name, default, min, max))
    }

    /// .NET style: `true` and `false` in any case.
    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> bool {
        let Some(text) = self.take(name, if default { "true" } else { "false" }) else {
            return default;
        };
        if text.eq_ignore_ascii_case("true") {
            true
        } else if text.eq_ignore_ascii_case("false") {
            false
        } else {
            self.problem(name, format!("{text:?} is no truth value"), "Write true or false");
            default
        }
    }

    /// .NET's `[d.]hh:mm:ss`.
    pub(super) fn span(
        &mut self,
        name: &'static str,
        default_secs: u64,
        max_secs: u64,
    ) -> Duration {
        let default = Duration::from_secs(default_secs);
        let Some(text) = self.take(name, &hh_mm_ss(default_secs)) else {
            return default;
        };
        match time_span(&text) {
            Some(d) if d >= Duration::from_secs(1) && d <= Duration::from_secs(max_secs) => d,
            _ => {
                let todo = format!("Write hh:mm:ss, 00:00:01 to {}", hh_mm_ss(max_secs));
                self.problem(name, format!("{text:?} is no time span, or out of range"), todo);
                default
            }
        }
    }

    /// As [`Self::span`], off by default; zero is off too.
    pub(super) fn span_or_none(&mut self, name: &'static str, max: Duration) -> Duration {
        let Some(text) = self.take(name, "off") else {
            return Duration::ZERO;
        };
        match time_span(&text) {
            Some(d) if d <= max => d,
            _ => {
                let what = format!("{text:?} is no time span, or out of range");
                let most = hh_mm_ss(max.as_secs());
                self.problem(name, what, format!("Write [d.]hh:mm:ss, at most {most}"));
                Duration::ZERO
            }
        }
    }

    /// An address to bind; `*` is every one.
    pub(super) fn host(&mut self, name: &'static str) -> Option<IpAddr> {
        let text = self.take(name, "*")?;
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if matches!(bare, "*" | "+") {
            return None;
        }
        if bare.eq_ignore_ascii_case("localhost") {
            return Some(IpAddr::from([127, 0, 0, 1]));
        }
        match bare.parse() {
            Ok(host) => Some(host),
            Err(_) => {
                self.problem(
                    name,
                    format!("{text:?} is no IP address"),
                    "Write an address such as 127.0.0.1, or * for all",
                );
                None
            }
        }
    }

    /// A file that must be there.
    pub(super) fn file(&mut self, name: &'static str, holds: &str) -> Option<PathBuf> {
        let Some(text) = self.take(name, "") else {
            self.problem(name, "it is not set", format!("Give the path of {holds}"));
            return None;
        };
        self.readable(name, &text)
    }

    pub(super) fn optional_file(&mut self, name: &'static str) -> Option<PathBuf> {
        let text = self.take(name, "")?;
        self.readable(name, &text)
    }

    /// Files and folders that must be there, `;` between them.
    pub(super) fn files_or_folders(
        &mut self,
        name: &'static str,
        holds: &str,
    ) -> Option<Vec<PathBuf>> {
        let Some(text) = self.take(name, "") else {
            let todo = format!("Give the path of {holds}");
            self.problem(name, "it is not set", todo);
            return None;
        };
        let parts: Vec<&str> =
            text.split(';').map(str::trim).filter(|part| !part.is_empty()).collect();
        if parts.is_empty() || parts.len() > PATHS_MAX {
            let todo = format!("Write 1 to {PATHS_MAX} paths with ; between them");
            self.problem(name, format!("it has {} paths", parts.len()), todo);
            return None;
        }
        for part in &parts {
            if Path::new(part).is_dir() {
                if let Err(e) = std::fs::read_dir(part) {
                    let what = format!("{part} cannot be read ({e})");
                    self.problem(name, what, "Correct the path or the folder's permissions");
                }
            } else {
                self.readable(name, part);
            }
        }
        Some(parts.into_iter().map(PathBuf::from).collect())
    }

    pub(super) fn readable(&mut self, name: &str, text: &str) -> Option<PathBuf> {
        let path = PathBuf::from(text);
        let checked = std::fs::metadata(&path).and_then(|meta| {
            if !meta.is_file() {
                return Err(std::io::Error::other("it is not a file"));
            }
            std::fs::OpenOptions::new().read(true).open(&path).map(drop)
        });
        if let Err(e) = checked {
            let what = format!("{} cannot be read ({e})", path.display());
            self.problem(name, what, "Correct the path or the file's permissions");
        }
        Some(path)
    }

    /// Rows for what is set but was not read: ignored with why, or unknown.
    pub(super) fn rest(&mut self) {
        let mut ignored = Vec::new();
        let mut unknown = Vec::new();
        for var in self.vars.iter().filter(|v| !v.read) {
            if let Some((_, why)) =
                IGNORED.iter().find(|(name, _)| name.eq_ignore_ascii_case(&var.key))
            {
                ignored.push(Row::new(&var.name, &var.value, Standing::Ignored(why)));
            } else if let Some(near) = nearest(&var.key, &self.names) {
                let hint = format!(": did you mean {near}?");
                unknown.push(Row::new(&var.name, &var.value, Standing::Unknown(hint)));
            } else if PREFIXES.iter().any(|prefix| var.key.starts_with(prefix)) {
                unknown.push(Row::new(&var.name, &var.value, Standing::Unknown(String::new())));
            }
        }
        for row in &unknown {
            if let Standing::Unknown(hint) = &row.standing {
                self.warnings.push(format!("{}: unknown setting, without effect{hint}", row.name));
            }
        }
        self.rows.extend(ignored);
        self.rows.extend(unknown);
    }
}

/// Whether a name can only be a setting of ours or of the reference.
fn is_ours(key: &str) -> bool {
    const SINGLE: [&str; 7] = [
        "iothubconnectionstring",
        "storagefolder",
        "maxconnectedclients",
        "runtimeloglevel",
        "runtimelogformat",
        "upstreamprotocol",
        "cloudoperationtimeoutsecs",
    ];
    SINGLE.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// The setting that `key` is a slip of: at most two letters wrong, and not a short name.
fn nearest<'n>(key: &str, names: &[&'n str]) -> Option<&'n str> {
    let near = |name: &&&str| key.len() >= 8 && distance(key, &normal(name)) <= 2;
    names.iter().find(near).copied()
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// `[d.]hh:mm:ss` or `hh:mm`. A bare number is days in .NET, which nobody means: refused.
fn time_span(text: &str) -> Option<Duration> {
    let (days, clock) = match text.split_once('.') {
        Some((days, clock)) if clock.contains(':') => (days.parse().ok()?, clock),
        _ => (0u64, text),
    };
    let parts: Vec<u64> = clock
        .split(':')
        .map(|part| {
            let plain =
                !part.is_empty() && part.len() <= 2 && part.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| part.parse().ok())?
        })
        .collect::<Option<_>>()?;
    let (h, m, s) = match parts[..] {
        [h, m, s] => (h, m, s),
        [h, m] => (h, m, 0),
        _ => return None,
    };
    let fits = h < 24 && m < 60 && s < 60 && days <= 3650;
    fits.then(|| Duration::from_secs(((days * 24 + h) * 60 + m) * 60 + s))
}

fn hh_mm_ss(secs: u64) -> String {
    let (days, secs) = (secs / 86_400, secs % 86_400);
    let clock = format!("{:02}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60);
    if days == 0 { clock } else { format!("{days}.{clock}") }
}
