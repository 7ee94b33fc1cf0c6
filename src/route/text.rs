//! Text as the language counts, compares and cuts it: by UTF-16 code units, as .NET does (`edgehub.md` 4.4, 4.6).
//!
//! Invariant: what can be a slice of the input is one; ASCII text never takes the slow way.
//! Must not know: values, expressions.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::TEXT_BYTES_MADE_MAX;
use crate::message;

/// The number of UTF-16 code units.
pub(super) fn length(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.encode_utf16().count() }
}

/// Ordinal order by UTF-16 code units. It differs from the order of bytes: U+FF5E comes after the surrogates of U+10000.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let differs = a.bytes().zip(b.bytes()).position(|(a, b)| a != b);
    match differs {
        None => a.len().cmp(&b.len()),
        Some(at) if a.as_bytes()[at].is_ascii() && b.as_bytes()[at].is_ascii() => {
            a.as_bytes()[at].cmp(&b.as_bytes()[at])
        }
        Some(_) => a.encode_utf16().cmp(b.encode_utf16()),
    }
}

/// The UTF-16 index of `what` in `text`.
pub(super) fn index_of(text: &str, what: &str) -> Option<usize> {
    // Both are whole characters, so bytes match where code units do.
    text.find(what).map(|at| length(&text[..at]))
}

/// `count` code units from `start` on; both must lie within the text. Half of a surrogate pair becomes U+FFFD.
pub(super) fn substring(text: Cow<'_, str>, start: usize, count: usize) -> Cow<'_, str> {
    let (from, to) = (byte_of(&text, start), byte_of(&text, start + count));
    match (from, to) {
        (Some(from), Some(to)) => slice(text, from, to),
        _ => {
            let units: Vec<u16> = text.encode_utf16().skip(start).take(count).collect();
            Cow::Owned(String::from_utf16_lossy(&units))
        }
    }
}

fn slice(text: Cow<'_, str>, from: usize, to: usize) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[from..to]),
        Cow::Owned(text) => Cow::Owned(text[from..to].to_owned()),
    }
}

/// The byte at which the code unit `unit` begins; `None` = it is the second half of a pair.
fn byte_of(text: &str, unit: usize) -> Option<usize> {
    if text.is_ascii() {
        return Some(unit);
    }
    let mut units = 0;
    for (at, c) in text.char_indices() {
        if units >= unit {
            return (units == unit).then_some(at);
        }
        units += c.len_utf16();
    }
    (units == unit).then_some(text.len())
}

/// Lower case, character by character; `None` = it would be too long.
pub(super) fn lower(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    map(text, lower_char)
}

/// Upper case, character by character; `None` = it would be too long.
pub(super) fn upper(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    map(text, upper_char)
}

fn map(text: Cow<'_, str>, f: impl Fn(char) -> char) -> Option<Cow<'_, str>> {
    if text.chars().all(|c| f(c) == c) {
        return Some(text);
    }
    let len: usize = text.chars().map(|c| f(c).len_utf8()).sum();
    (len <= TEXT_BYTES_MADE_MAX).then(|| Cow::Owned(text.chars().map(f).collect()))
}

/// The simple mapping: one character for one. The Turkish İ stays, as it does in the invariant culture of .NET.
fn lower_char(c: char) -> char {
    only(c.to_lowercase()).unwrap_or(c)
}

/// That of names, but for the long s, which .NET takes for an ASCII letter here only. The Turkish ı stays in both.
fn upper_char(c: char) -> char {
    if c == 'ſ' { 'S' } else { message::upper(c) }
}

fn only(mut chars: impl Iterator<Item = char>) -> Option<char> {
    let first = chars.next();
    if chars.next().is_none() { first } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two code units: D83D DE00.
    const PAIR: &str = "\u{1f600}";

    #[test]
    fn length_counts_utf16_code_units() {
        let table =
            [("", 0), ("abc", 3), ("é", 1), ("e\u{301}", 2), ("日本", 2), (PAIR, 2), ("a😀b", 4)];
        for (text, expected) in table {
            assert_eq!(length(text), expected, "{text}");
        }
    }

    #[test]
    fn order_is_by_utf16_code_units() {
        let rising = [
            "",
            "\0",
            "A",
            "AB",
            "B",
            "a",
            "aa",
            "b",
            "z",
            "é",
            "éa",
            "日",
            "\u{d7ff}",
            "\u{10000}",
            PAIR,
            "\u{10ffff}",
            "\u{e000}",
            "\u{ff5e}",
            "\u{ffff}",
        ];
        for (i, a) in rising.iter().enumerate() {
            for (j, b) in rising.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a:?} {b:?}");
            }
        }
        assert_eq!(compare("x\u{ff5e}", "x\u{1f600}"), Ordering::Greater);
    }

    #[test]
    fn index_is_in_utf16_code_units() {
        let table = [
            ("abc", "c", Some(2)),
            ("abc", "", Some(0)),
            ("", "", Some(0)),
            ("", "a", None),
            ("abc", "C", None),
            ("😀b", "b", Some(2)),
            ("éb", "b", Some(1)),
            ("a😀😁", "😁", Some(3)),
            ("abab", "ab", Some(0)),
            ("a", "abc", None),
        ];
        for (text, what, expected) in table {
            assert_eq!(index_of(text, what), expected, "{text} {what}");
        }
    }

    #[test]
    fn substring_cuts_between_code_units() {
        let table = [
            ("abc", 0, 3, "abc"),
            ("abc", 1, 1, "b"),
            ("abc", 3, 0, ""),
            ("éab", 1, 2, "ab"),
            ("a😀b", 0, 1, "a"),
            ("a😀b", 1, 2, "😀"),
            ("a😀b", 1, 1, "\u{fffd}"),
            ("a😀b", 2, 1, "\u{fffd}"),
            ("a😀b", 2, 2, "\u{fffd}b"),
            ("a😀b", 0, 2, "a\u{fffd}"),
            ("a😀b", 3, 1, "b"),
            ("a😀b", 4, 0, ""),
            ("a😀b", 2, 0, ""),
        ];
        for (text, start, count, expected) in table {
            assert_eq!(substring(text.into(), start, count), expected, "{text} {start} {count}");
        }
        assert!(matches!(substring("a😀b".into(), 1, 2), Cow::Borrowed(_)));
        assert_eq!(substring(Cow::Owned("abc".into()), 1, 2), "bc");
    }

    #[test]
    fn case_is_mapped_one_character_for_one() {
        let table = [
            ("abc", "ABC"),
            ("é", "É"),
            ("я", "Я"),
            ("σ", "Σ"),
            ("ß", "ß"),
            ("ŉ", "ŉ"),
            ("\u{fb01}", "\u{fb01}"),
            ("ı", "ı"),
            ("ſ", "S"),
            ("\u{1f80}", "\u{1f88}"),
            ("\u{1f97}", "\u{1f9f}"),
            ("\u{1fa3}", "\u{1fab}"),
            ("\u{1fb3}", "\u{1fbc}"),
            ("\u{1fc3}", "\u{1fcc}"),
            ("\u{1ff3}", "\u{1ffc}"),
            ("\u{1f88}", "\u{1f88}"),
            ("\u{10428}", "\u{10400}"),
            ("日1-", "日1-"),
        ];
        for (low, high) in table {
            assert_eq!(upper(low.into()).unwrap(), high, "{low}");
        }
        let table = [
            ("ABC", "abc"),
            ("É", "é"),
            ("İ", "İ"),
            ("I", "i"),
            ("ẞ", "ß"),
            ("ΑΣ", "ασ"),
            ("\u{212a}", "k"),
        ];
        for (high, low) in table {
            assert_eq!(lower(high.into()).unwrap(), low, "{high}");
        }
        assert!(matches!(lower("abc".into()), Some(Cow::Borrowed("abc"))));
        assert!(matches!(upper("ABC1".into()), Some(Cow::Borrowed(_))));
    }

    #[test]
    fn what_would_be_too_long_is_not_made() {
        let bytes = TEXT_BYTES_MADE_MAX;
        // U+0250 has two bytes, its capital three.
        let table = [("a", bytes, true), ("a", bytes + 1, false), ("A", bytes + 1, true)];
        for (c, count, made) in table.into_iter().chain([("\u{250}", bytes / 2, false)]) {
            assert_eq!(upper(c.repeat(count).into()).is_some(), made, "{c} {count}");
        }
        assert!(lower("A".repeat(bytes).into()).is_some());
        assert!(lower("A".repeat(bytes + 1).into()).is_none());
    }

    proptest::proptest! {
        #[test]
        fn text_is_what_its_code_units_are(a in ".{0,12}", b in ".{0,12}", start in 0usize..14, count in 0usize..14) {
            let (ua, ub): (Vec<u16>, Vec<u16>) = (a.encode_utf16().collect(), b.encode_utf16().collect());
            proptest::prop_assert_eq!(length(&a), ua.len());
            proptest::prop_assert_eq!(compare(&a, &b), ua.cmp(&ub));
            let start = start.min(ua.len());
            let count = count.min(ua.len() - start);
            let cut = String::from_utf16_lossy(&ua[start..start + count]);
            proptest::prop_assert_eq!(substring(a.as_str().into(), start, count), cut);
            proptest::prop_assert_eq!(length(&upper(a.as_str().into()).unwrap()), ua.len());
        }
    }
}
