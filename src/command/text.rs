//! Numbers as people read them.
//!
//! Owns: units and their rounding, times, tables. Must not know: what is counted.

use std::io::{self, Write};

use crate::clock::UnixMillis;

/// `1,234,567`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 queue`, `1,234 queues`.
pub(crate) fn plural(n: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(n), if n == 1 { "" } else { "s" })
}

/// `812 B`, `1.2 MiB`: three digits at most before the point, one after.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    // Lossy only in digits that are not shown.
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit behind the point")]
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `11 d 4 h`, `1 h 52 min`, `3 min 10 s`, `45 s`: the two largest units.
pub(crate) fn span(secs: f64) -> String {
    if !secs.is_finite() || secs >= 100.0 * 365.25 * 86_400.0 {
        return "more than 100 years".to_owned();
    }
    const UNITS: [(u64, &str); 5] =
        [(31_557_600, "a"), (86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let total = secs.max(0.0).round() as u64;
    let largest = UNITS.iter().position(|(unit, _)| total >= *unit).unwrap_or(UNITS.len() - 1);
    let (unit, name) = UNITS[largest];
    let mut text = format!("{} {name}", total / unit);
    if let Some((next, name)) = UNITS.get(largest + 1) {
        let rest = total % unit / next;
        if rest > 0 {
            text.push_str(&format!(" {rest} {name}"));
        }
    }
    text
}

/// `850 us`, `1.3 ms`, `2.1 s`.
pub(super) fn micros(us: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit behind the point")]
    let value = us as f64;
    match us {
        0..1000 => format!("{us} us"),
        1000..1_000_000 => format!("{:.1} ms", value / 1000.0),
        _ => format!("{:.1} s", value / 1_000_000.0),
    }
}

/// `12.3`, `0.04`: events a second.
pub(super) fn rate(per_sec: f64) -> String {
    match per_sec {
        r if r == 0.0 || r >= 0.095 => format!("{r:.1}"),
        r if r >= 0.005 => format!("{r:.2}"),
        _ => "<0.01".to_owned(),
    }
}

/// `2026-11-20T10:00:00.123Z`; `None` for 0, which stands for "not known", and for what no calendar has.
pub(super) fn utc(time: UnixMillis) -> Option<String> {
    let millis = i64::try_from(time.0).ok().filter(|millis| *millis > 0)?;
    jiff::Timestamp::from_millisecond(millis).ok().map(|time| format!("{time:.3}"))
}

/// Prints rows below a head, columns aligned: the first `left` columns to the left, the others to the right.
pub(super) fn table(out: &mut dyn Write, left: usize, rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (cell, width))| match i < left {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            })
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// As much of a sender's name as a table has room for: ids of devices may be 128 digits long.
pub(super) fn name(name: &str) -> String {
    const CHARS_MAX: usize = 24;
    if name.chars().count() <= CHARS_MAX {
        return name.to_owned();
    }
    name.chars().take(CHARS_MAX - 3).chain("...".chars()).collect()
}

/// Text of others (names, reasons of an endpoint) on one line of ours: control characters cannot move the cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        for (n, expected) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(n), expected);
        }
        assert_eq!([0, 1, 2].map(|n| plural(n, "file")), ["0 files", "1 file", "2 files"]);
        for (n, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_288_490_189, "1.2 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(n), expected);
        }
        for (secs, expected) in [
            (-1.0, "0 s"),
            (0.4, "0 s"),
            (59.4, "59 s"),
            (59.6, "1 min"),
            (190.0, "3 min 10 s"),
            (6720.0, "1 h 52 min"),
            (964_800.0, "11 d 4 h"),
            (86_460.0, "1 d"),
            (40_000_000.0, "1 a 97 d"),
            (f64::INFINITY, "more than 100 years"),
            (f64::NAN, "more than 100 years"),
        ] {
            assert_eq!(span(secs), expected, "{secs}");
        }
        for (us, expected) in [(0, "0 us"), (999, "999 us"), (1300, "1.3 ms"), (2_100_000, "2.1 s")]
        {
            assert_eq!(micros(us), expected);
        }
        for (r, expected) in [(0.0, "0.0"), (12.34, "12.3"), (0.04, "0.04"), (0.001, "<0.01")] {
            assert_eq!(rate(r), expected);
        }
        assert_eq!(utc(UnixMillis(1_700_000_000_123)).as_deref(), Some("2023-11-14T22:13:20.123Z"));
        assert_eq!((utc(UnixMillis(0)), utc(UnixMillis(u64::MAX))), (None, None));
    }

    #[test]
    fn tables_are_aligned_and_keep_the_cursor() {
        let row = |cells: &[&str]| cells.iter().map(|cell| plain(cell)).collect();
        let mut out = Vec::new();
        table(&mut out, 1, &[row(&["queue", "n"]), row(&["ü", "12"]), row(&["a\x1b[2J", ""])])
            .unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "queue   n\nü      12\na\u{fffd}[2J\n");
    }
}
