//! `routes eval`: conditions and messages in, results out, a JSON line each.
//!
//! Owns: the lines and the order of reading and writing. Invariants: each line that is not blank gets one line, in order,
//! whatever is in it; who waits for an answer before the next question gets it; memory is bounded.
//! Must not know: tables, documents.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read, Write};

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::explain::{cut, cut_value, device, shown};
use super::sample::{Fields, JSON_BYTES_MAX, Sample, Unknown, kind};
use crate::command::text::plain;
use crate::command::{CommandError, End};
use crate::identity::DeviceId;
use crate::route::{Explained, StandaloneCondition, Tri, Value as Found};

/// How much is read at once.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// The source of a line that names none.
const SOURCE_DEFAULT: &str = "/messages/*";

/// What a line says beside the content of its message.
const MORE_KEYS: [&str; 3] = ["id", "condition", "message_source"];

/// Most compiled conditions that are kept, and most bytes of their texts: compiling takes longer than evaluating.
const KEPT_MAX: usize = 512;
const KEPT_BYTES_MAX: usize = 1024 * 1024;

const HELP: &str = "\
A line of standard input is a JSON object:
  condition                    what stands behind WHERE
  id                           anything, given back
  message_source               the source of the route [default: /messages/*]
  properties                   application properties: texts, or null for one without a value
  system_properties            texts, for instance contentType, connectionDeviceId
  body_text or body_base64     the body
  content_type, content_encoding
Each gets a line at once: {\"id\", \"result\": \"true\", \"false\", \"undefined\" or \"error\", \"detail\"}.
A line that cannot be read gets \"error\"; blank lines are passed over. The exit code is 0.";

/// Arguments of `routes eval`.
#[derive(Debug, Clone, Args)]
#[command(after_help = HELP)]
pub struct EvalArgs {
    /// The id of this edge device.
    #[arg(long, value_name = "ID", default_value = "edge", value_parser = device)]
    edge_device: DeviceId,
}

/// An answer.
#[derive(Debug, Serialize)]
struct Answer {
    id: Value,
    result: &'static str,
    detail: Option<String>,
}

/// The next line of the input.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// It is in the buffer, without its end.
    Read,
    /// It is longer than [`JSON_BYTES_MAX`]; its rest was passed over.
    TooLong,
    /// There is none.
    End,
}

pub(super) fn run<R: Read>(
    args: &EvalArgs,
    mut input: BufReader<R>,
    out: &mut dyn Write,
) -> Result<End, CommandError> {
    let mut compiled = Compiled::new(&args.edge_device);
    let mut line = Vec::new();
    for number in 1_u64.. {
        let answer = match next_line(&mut input, &mut line).map_err(unreadable)? {
            Line::End => break,
            Line::Read => {
                let text = trimmed(&line, number);
                if text.is_empty() {
                    continue;
                }
                compiled.answer(text, number)
            }
            Line::TooLong => {
                let what = format!(
                    "line {number}: longer than {JSON_BYTES_MAX} bytes: leave out what the condition does not ask"
                );
                Answer { id: Value::Null, result: "error", detail: Some(what) }
            }
        };
        serde_json::to_writer(&mut *out, &answer).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
        // Nobody waits for an answer while more questions are here.
        if !input.buffer().contains(&b'\n') {
            out.flush()?;
        }
    }
    Ok(End::Fine)
}

fn unreadable(source: io::Error) -> CommandError {
    CommandError::Io { what: "cannot read standard input".to_owned(), source }
}

/// Reads up to the next newline, which is passed over.
fn next_line<R: Read>(input: &mut BufReader<R>, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let mut too_long = false;
    loop {
        let bytes = match input.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        let is_last = bytes.is_empty();
        if line.len() + part.len() > JSON_BYTES_MAX {
            too_long = true;
            line.clear();
        }
        if !too_long {
            line.extend_from_slice(part);
        }
        let used = part.len() + usize::from(end.is_some());
        input.consume(used);
        match (end, is_last) {
            (Some(_), _) | (None, true) if too_long => return Ok(Line::TooLong),
            (Some(_), _) => return Ok(Line::Read),
            (None, true) => return Ok(if line.is_empty() { Line::End } else { Line::Read }),
            (None, false) => {}
        }
    }
}

/// Without white space around it, and without the mark that some editors put at the start of a file.
fn trimmed(line: &[u8], number: u64) -> &[u8] {
    let line = match number {
        1 => line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line),
        _ => line,
    };
    line.trim_ascii()
}

/// Conditions that were compiled before.
struct Compiled<'e> {
    edge: &'e DeviceId,
    /// By source and condition. The error is rendered.
    kept: HashMap<(String, String), Result<StandaloneCondition, String>>,
    bytes: usize,
}

impl<'e> Compiled<'e> {
    fn new(edge: &'e DeviceId) -> Self {
        Self { edge, kept: HashMap::new(), bytes: 0 }
    }

    fn answer(&mut self, text: &[u8], number: u64) -> Answer {
        let mut id = Value::Null;
        match self.result(text, number, &mut id) {
            Ok((Tri::True, _)) => Answer { id, result: "true", detail: None },
            Ok((Tri::False, _)) => Answer { id, result: "false", detail: None },
            Ok((Tri::Undefined, why)) => Answer { id, result: "undefined", detail: Some(why) },
            Err(what) => Answer { id, result: "error", detail: Some(what) },
        }
    }

    /// What the condition comes to, and why if that is undefined.
    fn result(
        &mut self,
        text: &[u8],
        number: u64,
        id: &mut Value,
    ) -> Result<(Tri, String), String> {
        let mut object: Map<String, Value> = match serde_json::from_slice(text) {
            Ok(Value::Object(object)) => object,
            Ok(other) => {
                return Err(format!("line {number}: {}: write an object", kind(&other)));
            }
            Err(error) => {
                return Err(format!("line {number}: not JSON ({error}): write one object a line"));
            }
        };
        *id = object.remove("id").unwrap_or_default();
        // Lines may carry what only their writer wants to see, for instance the result that is expected.
        let mut fields = Fields::new(object, &MORE_KEYS, Unknown::PassedOver)?;
        let text = fields.text("condition")?;
        let text = text.ok_or_else(|| "there is no condition: add \"condition\"".to_owned())?;
        let source = fields.text("message_source")?;
        let message = Sample::content(&mut fields)?;
        let source = source.unwrap_or_else(|| SOURCE_DEFAULT.to_owned());
        let key = (source, text);
        let condition = match self.condition(&key) {
            Ok(condition) => condition,
            Err(what) => return Err(what.clone()),
        };
        let result = condition.evaluate(&message);
        let why = match result {
            Tri::Undefined => why_undefined(&condition.explain(&message), &key.1),
            Tri::True | Tri::False => String::new(),
        };
        Ok((result, why))
    }

    fn condition(&mut self, key: &(String, String)) -> &Result<StandaloneCondition, String> {
        if !self.kept.contains_key(key) {
            let bytes = key.0.len() + key.1.len();
            if self.kept.len() >= KEPT_MAX || self.bytes + bytes > KEPT_BYTES_MAX {
                self.kept.clear();
                self.bytes = 0;
            }
            self.bytes += bytes;
        }
        let edge = self.edge;
        self.kept
            .entry(key.clone())
            .or_insert_with_key(|(source, text)| compile(text, source, edge))
    }
}

fn compile(text: &str, source: &str, edge: &DeviceId) -> Result<StandaloneCondition, String> {
    StandaloneCondition::compile(text, source, edge).map_err(|error| {
        // An error of the source has its place there.
        match StandaloneCondition::compile("true", source, edge) {
            Ok(_) => error.render(text),
            Err(error) => format!("message_source:\n{}", error.render(source)),
        }
    })
}

/// The innermost thing without a value that has a reason.
fn why_undefined(explained: &Explained, text: &str) -> String {
    fn innermost(explained: &Explained) -> Option<&Explained> {
        let undefined = |part: &&Explained| part.value == Found::Undefined;
        let within = explained.parts.iter().filter(undefined).find_map(innermost);
        within.or_else(|| explained.note.as_ref().map(|_| explained))
    }
    let named = |part: &Explained| {
        let place = part.span.clone();
        let cut = |part: &str| cut(&plain(part));
        text.get(place).map(str::trim).filter(|part| !part.is_empty()).map(cut)
    };
    if let Some(part) = innermost(explained) {
        let note = part.note.clone().unwrap_or_default();
        return named(part).map_or(note.clone(), |name| format!("{name}: {note}"));
    }
    match &explained.value {
        Found::Undefined if text.trim().is_empty() => "the condition is empty".to_owned(),
        Found::Undefined => "the condition has no value".to_owned(),
        value => format!("the condition is {}, neither true nor false", cut_value(&shown(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(input: impl Read) -> Vec<Value> {
        let args = EvalArgs { edge_device: DeviceId::parse("edge").unwrap() };
        let mut out = Vec::new();
        // A small buffer: lines lie across its ends.
        run(&args, BufReader::with_capacity(16, input), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    fn check_error(line: &str, id: Value, part: &str) {
        let got = answers(line.as_bytes());
        let [answer] = &got[..] else { panic!("{line}: {got:?}") };
        assert_eq!((&answer["id"], &answer["result"]), (&id, &Value::from("error")), "{line}");
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.contains(part), "{line}: {detail}");
    }

    #[test]
    fn a_line_that_cannot_be_asked_gets_an_error_that_says_what_to_write() {
        let none = Value::Null;
        for (line, id, part) in [
            ("nonsense", none.clone(), "line 1: not JSON"),
            ("{\"id\":1,", none.clone(), "line 1: not JSON"),
            ("[1]", none.clone(), "line 1: an array: write an object"),
            ("\"x\"", none.clone(), "line 1: a text"),
            ("{}", none.clone(), "there is no condition"),
            (r#"{"id":"a"}"#, "a".into(), "there is no condition"),
            (r#"{"id":[1],"condition":null}"#, serde_json::json!([1]), "there is no condition"),
            (r#"{"id":true,"condition":1}"#, true.into(), "condition is a number"),
            (r#"{"id":1.5,"conditon":"x"}"#, 1.5.into(), "did you mean \"condition\"?"),
            (r#"{"id":7,"condition":"a","propertis":{}}"#, 7.into(), "mean \"properties\"?"),
            (r#"{"id":7,"condition":"a","properties":{"a":1}}"#, 7.into(), "quote it, \"1\""),
            (r#"{"id":7,"condition":"a","properties":[]}"#, 7.into(), "write an object"),
            (r#"{"id":7,"condition":"a","body_base64":"é"}"#, 7.into(), "standard alphabet"),
            (r#"{"id":7,"condition":"a","body_text":"","body_base64":""}"#, 7.into(), "twice"),
            (r#"{"id":7,"condition":"a","message_source":2}"#, 7.into(), "is a number"),
            ("{\"condition\":\"\u{7}\"}", none.clone(), "line 1: not JSON"),
            (r#"{"condition":"\ud800"}"#, none, "line 1: not JSON"),
        ] {
            check_error(line, id, part);
        }
        let not_utf8 = answers(&b"{\"condition\":\"\xff\"}"[..]);
        assert_eq!(not_utf8[0]["result"], "error");
    }

    #[test]
    fn bad_lines_do_not_stop_those_behind_them() {
        let long = "x".repeat(JSON_BYTES_MAX + 1);
        let input = format!("\u{feff}\r\nno\n\n  \t\n{long}\n{{\"id\":3}}\r\n{{\"id\":4}}");
        let got = answers(input.as_bytes());
        let ids: Vec<&Value> = got.iter().map(|answer| &answer["id"]).collect();
        assert_eq!(ids, [&Value::Null, &Value::Null, &3.into(), &4.into()]);
        let details: Vec<&str> = got.iter().map(|a| a["detail"].as_str().unwrap()).collect();
        assert!(details[0].starts_with("line 2: not JSON"), "{details:?}");
        assert!(details[1].starts_with("line 5: longer than"), "{details:?}");
        // As long as may be; and the last line may end without a newline, however long.
        let fits = format!("{{\"id\":1}}{}", " ".repeat(JSON_BYTES_MAX - 8));
        assert_eq!(answers(fits.as_bytes())[0]["id"], 1);
        assert!(
            answers(long.as_bytes())[0]["detail"].as_str().unwrap().starts_with("line 1: longer")
        );
        assert!(answers(&b""[..]).is_empty() && answers(&b"\n\n"[..]).is_empty());
    }

    /// Gives a line at a time, and only when the one before was answered.
    struct Coprocess<'t> {
        lines: Vec<&'t str>,
        flushed: &'t std::cell::Cell<usize>,
        asked: usize,
    }

    impl Read for Coprocess<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert_eq!(self.flushed.get(), self.asked, "what was asked is answered");
            let Some(line) = self.lines.pop() else { return Ok(0) };
            self.asked += line.matches('\n').count();
            buffer[..line.len()].copy_from_slice(line.as_bytes());
            Ok(line.len())
        }
    }

    struct Counting<'t> {
        written: usize,
        flushed: &'t std::cell::Cell<usize>,
    }

    impl Write for Counting<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.written += bytes.iter().filter(|byte| **byte == b'\n').count();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.flushed.set(self.written);
            Ok(())
        }
    }

    #[test]
    fn who_waits_for_an_answer_gets_it() {
        let flushed = std::cell::Cell::new(0);
        let lines = vec!["\"c\"}\n", "{\"id\":", "{\"id\":1}\n{\"id\":2}\n", "{}\n"];
        let input = Coprocess { lines, flushed: &flushed, asked: 0 };
        let mut out = Counting { written: 0, flushed: &flushed };
        let args = EvalArgs { edge_device: DeviceId::parse("edge").unwrap() };
        run(&args, BufReader::with_capacity(READ_BYTES, input), &mut out).unwrap();
        assert_eq!((out.written, flushed.get()), (4, 4));
    }

    #[test]
    fn an_undefined_condition_tells_the_innermost_reason() {
        let part = |span, value, note: Option<&str>, parts| Explained {
            span,
            value,
            note: note.map(str::to_owned),
            parts,
        };
        let text = "temp > '3' AND is_defined(gone)";
        let check = |explained: &Explained, text: &str, expected: &str| {
            assert_eq!(why_undefined(explained, text), expected);
        };
        let temp = part(0..4, Found::Undefined, Some("no such property"), vec![]);
        let compared = part(0..10, Found::Undefined, Some("an operand is undefined"), vec![temp]);
        let gone = part(26..30, Found::Undefined, Some("no such property, too"), vec![]);
        let defined = part(15..31, Found::Bool(false), None, vec![gone]);
        let both = part(0..31, Found::Undefined, None, vec![defined, compared]);
        check(&both, text, "temp: no such property");
        check(&part(0..0, Found::Undefined, None, vec![]), " ", "the condition is empty");
        check(&part(0..1, Found::Undefined, None, vec![]), "a", "the condition has no value");
        let number = part(0..1, Found::Number(3.0), None, vec![]);
        check(&number, "3", "the condition is 3, neither true nor false");
        let outside = part(0..9, Found::Undefined, Some("it is not there"), vec![]);
        check(&outside, "a", "it is not there");
    }
}
