//! `queue list`: what waits, how fast it comes and goes, and how long that will do.
//!
//! Owns: the question to a running gateway, the fallback to its folder, the table and the forecast's sentence.
//! Must not know: how rates and forecasts are made (the gateway tells).

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::text::{self, bytes, count, plain, rate, span};
use super::{CommandError, End, StorageArg, Surroundings, ask, tell_missing};
use crate::store::inspect::{Inspector, QueueView};

/// How much of a name the table shows; `--json` has it whole.
const NAME_CHARS_MAX: usize = 60;

/// Arguments of `queue list`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct ListArgs {
    /// The running gateway's metrics listener [default: this machine, where the environment has it].
    #[arg(long, value_name = "HOST:PORT", value_parser = ask::host_port)]
    admin: Option<String>,
    /// One row for each side queue, instead of adding them to the queue that they belong to; then what moves into a side
    /// queue counts in both rows.
    #[arg(long)]
    side_queues: bool,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// A queue, as a gateway tells of it. Unknown is `None`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    endpoint: String,
    priority: u8,
    #[serde(default)]
    live: bool,
    #[serde(default)]
    lane: Option<String>,
    #[serde(default)]
    messages: u64,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    oldest_age_secs: Option<f64>,
    #[serde(default)]
    in_per_sec: Option<f64>,
    #[serde(default)]
    out_per_sec: Option<f64>,
    #[serde(default)]
    bytes_in_per_sec: Option<f64>,
    #[serde(default)]
    bytes_out_per_sec: Option<f64>,
    /// How many side queues are in these numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    side_queues: Option<u64>,
}

/// The store as a whole.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Whole {
    used_bytes: u64,
    limit_bytes: Option<u64>,
    when_full: Option<String>,
    budget_lasts_secs: Option<f64>,
    first_drop_secs: Option<f64>,
    first_drop_why: Option<String>,
}

/// An input for which messages wait although nobody listens, as a gateway tells of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Unheard {
    /// All of it in words.
    text: String,
    /// The same one by one, for `--json`.
    #[serde(flatten)]
    facts: serde_json::Map<String, serde_json::Value>,
}

/// What `/queues` answers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Answer {
    queues: Vec<Row>,
    store: Whole,
    /// Inputs for which messages wait although nobody listens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unheard: Vec<Unheard>,
}

#[derive(Serialize)]
struct Report<'a> {
    /// `gateway` or `folder`.
    source: &'static str,
    /// Why not the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
    #[serde(flatten)]
    answer: &'a Answer,
}

pub(super) fn run(
    args: &ListArgs,
    storage: &StorageArg,
    here: &Surroundings,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let mut end = End::Fine;
    let (mut answer, note) = match ask(args, storage, here) {
        Ok(answer) => (answer, None),
        // Whoever names a gateway wants that one, not a folder on this machine.
        Err(why) if args.admin.is_some() => {
            return Err(CommandError::Io {
                what: "no answer from the gateway".to_owned(),
                source: std::io::Error::other(why),
            });
        }
        Err(why) => {
            let inspector = storage.inspector(here)?;
            end = tell_missing(&inspector, 0, "message")?;
            (of_folder(&inspector)?, Some(why))
        }
    };
    if !args.side_queues {
        answer.queues = summed(answer.queues);
    }
    if args.json {
        let source = if note.is_none() { "gateway" } else { "folder" };
        let report = Report { source, note: note.as_deref(), answer: &answer };
        super::export::write_line(out, &report)?;
    } else {
        print(&answer, note.as_deref(), out)?;
    }
    Ok(end)
}

/// Asks the gateway; the error says why there is no answer.
fn ask(args: &ListArgs, storage: &StorageArg, here: &Surroundings) -> Result<Answer, String> {
    let address = match (&args.admin, here.admin) {
        (Some(address), _) => address.clone(),
        // A folder that was given by hand need not be that of the gateway that runs here.
        (None, _) if storage.storage.is_some() => {
            return Err("--storage was given; --admin HOST:PORT asks a running gateway".to_owned());
        }
        (None, Some(address)) => address.to_string(),
        (None, None) => return Err("the gateway has no fixed metrics port here".to_owned()),
    };
    let (status, body) = ask::get(&address, "/queues")?;
    let why = match status {
        StatusCode::OK => match serde_json::from_slice(&body) {
            Ok(answer) => return Ok(answer),
            Err(error) => format!("its answer cannot be read: {error}"),
        },
        StatusCode::SERVICE_UNAVAILABLE => {
            "it has just started; ask again in some seconds".to_owned()
        }
        status => format!("{status} to /queues: no gateway of this version"),
    };
    Err(format!("{address}: {why}"))
}

fn of_folder(inspector: &Inspector) -> Result<Answer, CommandError> {
    let views = inspector.list()?;
    let now = inspector.now_at_least()?;
    let row = |view: &QueueView| {
        let age = now.zip(view.oldest).map(|(now, oldest)| now.0.saturating_sub(oldest.0) / 1000);
        #[allow(clippy::cast_precision_loss, reason = "seconds of an age")]
        let oldest_age_secs = age.map(|secs| secs as f64);
        Row {
            endpoint: view.id.endpoint.to_string(),
            priority: view.id.priority,
            live: view.id.live,
            lane: view.id.lane.as_ref().map(ToString::to_string),
            messages: view.records,
            bytes: view.payload_bytes,
            oldest_age_secs,
            ..Row::default()
        }
    };
    let used_bytes = views.iter().map(|view| view.disk_bytes).sum();
    Ok(Answer {
        queues: views.iter().map(row).collect(),
        store: Whole { used_bytes, ..Whole::default() },
        unheard: Vec::new(),
    })
}

/// Side queues added to the queue that they belong to. What moves from a queue into a side queue of its own is no traffic
/// of the two together: what comes is what comes to the queue, what goes is what goes from both but for that.
fn summed(rows: Vec<Row>) -> Vec<Row> {
    let mut sums: BTreeMap<(String, u8, bool), Row> = BTreeMap::new();
    for mut row in rows {
        let key = (row.endpoint.clone(), row.priority, !row.live);
        let is_side = row.lane.take().is_some();
        if is_side {
            row.side_queues = Some(1);
            row.without_moves();
        }
        match sums.get_mut(&key) {
            Some(sum) => sum.add(&row),
            None => drop(sums.insert(key, row)),
        }
    }
    for sum in sums.values_mut() {
        for rate in sum.rates().into_iter().flatten() {
            // Means of different samples: a little below nothing is nothing.
            *rate = rate.max(0.0);
        }
    }
    sums.into_values().collect()
}

impl Row {
    fn rates(&mut self) -> [&mut Option<f64>; 4] {
        let Self { in_per_sec, out_per_sec, bytes_in_per_sec, bytes_out_per_sec, .. } = self;
        [in_per_sec, out_per_sec, bytes_in_per_sec, bytes_out_per_sec]
    }

    /// Of a side queue: all that comes in left its queue as that much.
    fn without_moves(&mut self) {
        let net = |came: &mut Option<f64>, went: &mut Option<f64>| {
            let moved = came.as_mut().map_or(0.0, std::mem::take);
            *went = went.map(|went| went - moved);
        };
        let [came, went, bytes_came, bytes_went] = self.rates();
        net(came, went);
        net(bytes_came, bytes_went);
    }

    fn add(&mut self, other: &Self) {
        let sum = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a + b),
            (one, other) => one.or(other),
        };
        self.messages += other.messages;
        self.bytes += other.bytes;
        let sides = self.side_queues.unwrap_or(0) + other.side_queues.unwrap_or(0);
        self.side_queues = Some(sides).filter(|sides| *sides > 0);
        self.oldest_age_secs = match (self.oldest_age_secs, other.oldest_age_secs) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (one, other) => one.or(other),
        };
        self.in_per_sec = sum(self.in_per_sec, other.in_per_sec);
        self.out_per_sec = sum(self.out_per_sec, other.out_per_sec);
        self.bytes_in_per_sec = sum(self.bytes_in_per_sec, other.bytes_in_per_sec);
        self.bytes_out_per_sec = sum(self.bytes_out_per_sec, other.bytes_out_per_sec);
    }

    fn name(&self) -> String {
        let live = if self.live { "-live" } else { "" };
        let lane = self.lane.as_ref().map(|lane| format!("/{lane}")).unwrap_or_default();
        let name = plain(&format!("{}/{}{live}{lane}", self.endpoint, self.priority));
        match name.char_indices().nth(NAME_CHARS_MAX) {
            Some((end, _)) => format!("{}...", &name[..end]),
            None => name,
        }
    }

    fn cells(&self) -> Vec<String> {
        let or_dash =
            |value: Option<f64>, show: fn(f64) -> String| value.map_or("-".to_owned(), show);
        let kind = match (&self.lane, self.side_queues) {
            (Some(_), _) => "side queue".to_owned(),
            (None, Some(1)) => "with 1 side queue".to_owned(),
            (None, Some(n)) => format!("with {} side queues", count(n)),
            (None, None) => String::new(),
        };
        vec![
            self.name(),
            kind,
            count(self.messages),
            bytes(self.bytes),
            or_dash(self.oldest_age_secs, span),
            or_dash(self.in_per_sec, rate),
            or_dash(self.out_per_sec, rate),
        ]
    }
}

fn print(answer: &Answer, note: Option<&str>, out: &mut dyn Write) -> Result<(), CommandError> {
    let head = ["queue", "", "messages", "bytes", "oldest", "in/s", "out/s"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(answer.queues.iter().map(Row::cells));
    text::table(out, 2, &rows)?;
    writeln!(out, "{}", forecast(&answer.store, note.is_none()))?;
    for input in &answer.unheard {
        writeln!(out, "waits in vain: {}", plain(&input.text))?;
    }
    if let Some(why) = note {
        writeln!(
            out,
            "read from the folder; rates and forecast need a running gateway ({})",
            plain(why)
        )?;
    }
    Ok(())
}

/// `store: 1.2 GiB of 4.0 GiB; at this rate the budget lasts 11 d 4 h; first drop expected in 1 h 52 min (time-to-live)`.
fn forecast(store: &Whole, is_running: bool) -> String {
    let mut text = format!("store: {}", bytes(store.used_bytes));
    if let Some(limit) = store.limit_bytes {
        text.push_str(&format!(" of {}", bytes(limit)));
    }
    if !is_running {
        return text;
    }
    match store.budget_lasts_secs {
        Some(secs) if secs <= 0.0 => text.push_str("; the budget is used up"),
        Some(secs) => text.push_str(&format!("; at this rate the budget lasts {}", span(secs))),
        None => text.push_str("; at this rate the budget does not run out"),
    }
    if store.budget_lasts_secs.is_some() {
        match store.when_full.as_deref() {
            Some("drop_oldest") => text.push_str(", the oldest messages are dropped then"),
            Some("reject") => text.push_str(", devices are refused then and keep their messages"),
            _ => {}
        }
    }
    match (store.first_drop_secs, store.first_drop_why.as_deref()) {
        (Some(secs), Some(why)) => {
            let why = match why {
                "ttl" => "time-to-live".to_owned(),
                "budget" => "the budget is used up".to_owned(),
                other => plain(other),
            };
            text.push_str(&format!("; first drop expected in {} ({why})", span(secs)));
        }
        (Some(secs), None) => text.push_str(&format!("; first drop expected in {}", span(secs))),
        (None, _) => text.push_str("; no drop expected"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forecast_is_a_sentence() {
        let check = |store: serde_json::Value, is_running: bool, expected: &str| {
            let store: Whole = serde_json::from_value(store).unwrap();
            assert_eq!(forecast(&store, is_running), expected);
        };
        let json = |text: &str| serde_json::from_str(text).unwrap();
        check(
            json(
                r#"{"usedBytes":1288490189,"limitBytes":4294967296,"whenFull":null,"budgetLastsSecs":964800,
                    "firstDropSecs":6720.5,"firstDropWhy":"ttl"}"#,
            ),
            true,
            "store: 1.2 GiB of 4.0 GiB; at this rate the budget lasts 11 d 4 h; first drop expected in 1 h 52 min \
             (time-to-live)",
        );
        check(
            json(
                r#"{"usedBytes":1024,"limitBytes":2048,"whenFull":"reject","budgetLastsSecs":60}"#,
            ),
            true,
            "store: 1.0 KiB of 2.0 KiB; at this rate the budget lasts 1 min, devices are refused then and keep their \
             messages; no drop expected",
        );
        check(
            json(r#"{"usedBytes":1024,"budgetLastsSecs":null,"firstDropSecs":null}"#),
            true,
            "store: 1.0 KiB; at this rate the budget does not run out; no drop expected",
        );
        check(json(r#"{"usedBytes":1024}"#), false, "store: 1.0 KiB");
        let full = json(
            r#"{"usedBytes":9,"whenFull":"drop_oldest","budgetLastsSecs":0,"firstDropSecs":0}"#,
        );
        let expected = "store: 9 B; the budget is used up, the oldest messages are dropped then; first drop expected in 0 s";
        check(full, true, expected);
    }

    #[test]
    fn side_queues_are_added_to_their_queue_and_live_comes_first() {
        let row =
            |live: bool, lane: Option<&str>, age: Option<f64>, rates: Option<(f64, f64)>| Row {
                endpoint: "iothub".to_owned(),
                priority: 1,
                live,
                lane: lane.map(str::to_owned),
                messages: 2,
                bytes: 10,
                oldest_age_secs: age,
                in_per_sec: rates.map(|rates| rates.0),
                out_per_sec: rates.map(|rates| rates.1),
                ..Row::default()
            };
        // 10 a second come; 4 of them move aside, 6 are sent, and 1 of those aside.
        let rows = vec![
            row(false, None, Some(5.0), Some((10.0, 10.0))),
            row(false, Some("d"), Some(9.0), None),
            row(false, Some("e"), None, Some((4.0, 1.0))),
            row(true, None, None, None),
        ];
        let sums = summed(rows);
        assert_eq!(sums.iter().map(Row::name).collect::<Vec<_>>(), ["iothub/1-live", "iothub/1"]);
        let sum = &sums[1];
        assert_eq!((sum.messages, sum.bytes, sum.side_queues), (6, 30, Some(2)));
        assert_eq!(
            (sum.oldest_age_secs, sum.in_per_sec, sum.out_per_sec),
            (Some(9.0), Some(10.0), Some(7.0))
        );
        // A backlog that only moves aside is no traffic.
        let rows = vec![
            row(false, None, None, Some((0.0, 3.3))),
            row(false, Some("e"), None, Some((3.4, 0.0))),
        ];
        let sum = &summed(rows)[0];
        assert_eq!((sum.in_per_sec, sum.out_per_sec), (Some(0.0), Some(0.0)));
    }

    #[test]
    fn the_table_shows_what_is_unknown_as_such() {
        let row =
            Row { endpoint: "iothub".to_owned(), priority: 10, messages: 1234, ..Row::default() };
        let answer = Answer { queues: vec![row], ..Answer::default() };
        let facts = serde_json::json!({"text": "5 messages\u{1b}wait", "bytes": 7});
        let unheard = vec![serde_json::from_value::<Unheard>(facts.clone()).unwrap()];
        assert_eq!(serde_json::to_value(&unheard[0]).unwrap(), facts);
        let answer = Answer { unheard, ..answer };
        let mut out = Vec::new();
        print(&answer, Some("nobody there"), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>()[..3],
            ["queue", "messages", "bytes"]
        );
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["iothub/10", "1,234", "0", "B", "-", "-", "-"]
        );
        assert!(
            lines[3].starts_with("waits in vain: 5 messages") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert!(lines[4].contains("need a running gateway (nobody there)"), "{text}");
    }
}
