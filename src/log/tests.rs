//! Both forms: what they read like, and that nothing that is logged can pass for another event.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tracing::{debug, error, info, warn};
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// Keeps what is written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Kept {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// What `event` writes in both forms: text, JSON.
fn written(event: impl Fn()) -> (String, String) {
    let (text, json) = (Kept::default(), Kept::default());
    let lines = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_ansi(false)
        .with_writer(text.clone())
        .event_format(LogLine { detailed: false })
        .finish();
    tracing::subscriber::with_default(lines, &event);
    let objects = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_ansi(false)
        .with_writer(json.clone())
        .event_format(JsonLine)
        .finish();
    tracing::subscriber::with_default(objects, &event);
    (text.text(), json.text())
}

#[test]
fn the_head_is_edge_hub_s() {
    let time = UnixMillis(1_767_323_045_678);
    let cases = [
        (Level::INFO, None, "<6> 2026-01-02 03:04:05.678 +00:00 [INF] - "),
        (Level::ERROR, None, "<3> 2026-01-02 03:04:05.678 +00:00 [ERR] - "),
        (Level::DEBUG, Some("front"), "<7> 2026-01-02 03:04:05.678 +00:00 [DBG] [front] - "),
    ];
    for (level, source, wanted) in cases {
        assert_eq!(head(level, time, source), wanted);
    }
}

#[test]
fn an_event_is_one_object_with_its_fields_as_members() {
    let (_, json) = written(|| {
        let (who, peer) = ("d1", "10.0.0.1:5".to_owned());
        warn!(%who, ?peer, count = 3, gain = -1, late = true, ratio = 0.5, none = f64::NAN, "closed: {}", "x");
    });
    let object: Value = serde_json::from_str(&json).unwrap();
    let ts = object["ts"].as_str().unwrap();
    // 2026-01-02T03:04:05.678Z
    assert!(ts.len() == 24 && ts.ends_with('Z') && &ts[19..20] == ".", "{ts}");
    assert!(ts.parse::<Timestamp>().is_ok(), "{ts}");
    let mut rest = object.clone();
    rest.as_object_mut().unwrap().remove("ts");
    let wanted = json!({
        "level": "warning", "target": "sphere_gateway::log::tests", "message": "closed: x", "who": "d1",
        "peer": "\"10.0.0.1:5\"", "count": 3, "gain": -1, "late": true, "ratio": 0.5, "none": "NaN",
    });
    assert_eq!(rest, wanted);
}

#[test]
fn a_field_cannot_take_the_place_of_what_is_the_event_s_own() {
    let (_, json) = written(|| error!(level = "info", ts = "never", target = "x", "bad"));
    let object: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&object["level"], &object["message"]), (&json!("error"), &json!("bad")));
    assert_eq!((&object["level_"], &object["ts_"]), (&json!("info"), &json!("never")));
    assert_eq!(object["target_"], "x");
}

#[test]
fn levels_have_the_words_of_the_setting() {
    for (event, wanted) in [
        ((|| tracing::trace!("t")) as fn(), "verbose"),
        (|| debug!("t"), "debug"),
        (|| info!("t"), "info"),
        (|| warn!("t"), "warning"),
        (|| error!("t"), "error"),
    ] {
        let (_, json) = written(event);
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["level"], wanted);
    }
}

/// Values that a device, a hub or a file might hold.
const HOSTILE: [&str; 9] = [
    "a\n<3> 2026-01-02 03:04:05.678 +00:00 [ERR] - forged",
    "a\r\n<3> 2026-01-02 03:04:05.678 +00:00 [ERR] - forged",
    "a\r<3> 2026-01-02 03:04:05.678 +00:00 [ERR] - forged",
    "a\u{85}<3> 2026-01-02 03:04:05.678 +00:00 [ERR] - forged",
    "a\u{2028}<3> forged\u{2029}<3> forged\u{b}<3> forged\u{c}<3> forged",
    "a\n   <3> 2026-01-02 03:04:05.678 +00:00 [ERR] - forged behind spaces",
    "\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}2J\u{7f}\u{8}\0",
    "\",\"level\":\"fatal\"}\n{\"ts\":\"x\"}",
    "\\u000a \\n \u{202e} ü \u{1f980}",
];

#[test]
fn nothing_that_is_logged_passes_for_another_event() {
    // edgeAgent (LogMessageParser.cs) takes white space before a head for nothing.
    let is_head = |line: &str| line.trim_start().starts_with('<');
    for value in HOSTILE {
        let text = value.to_owned();
        let (lines, json) = written(|| {
            info!("interpolated: {text}");
            info!(value = %text, debug = ?text, text, "as a field");
            info!("{text}");
        });
        // Everything that anybody takes for the end of a line.
        let ends = ['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}'];
        let heads = lines.split(ends).filter(|line| is_head(line)).count();
        assert_eq!(heads, 3, "{lines:?}");
        let obeyed = |c: char| c.is_control() && c != '\n';
        assert!(!lines.chars().any(obeyed), "{lines:?}");

        assert!(!json.chars().any(obeyed), "{json:?}");
        let objects: Vec<&str> = json.trim_end_matches('\n').split(ends).collect();
        assert_eq!(objects.len(), 3, "{json:?}");
        let read = |at: usize| serde_json::from_str::<Value>(objects[at]).unwrap();
        assert_eq!(read(0)["message"], format!("interpolated: {value}"));
        assert_eq!(read(1)["text"], value, "nothing is lost");
        assert_eq!(read(1)["value"], value);
        assert_eq!(read(2)["level"], "info");
    }
}

#[test]
fn a_text_of_several_lines_stays_readable() {
    let (lines, _) = written(|| info!("2 problems:\n- one\n\t- two"));
    assert!(lines.ends_with("[INF] - 2 problems:\n  | - one\n  | \t- two\n"), "{lines:?}");
}
