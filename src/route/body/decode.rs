//! What a body says it is, and its bytes as text.
//!
//! Owns: content type, content encoding, decoding. Invariant: decoding cannot fail, what is no character becomes U+FFFD.
//! Must not know: JSON but its escapes, paths.

use std::borrow::Cow;

use super::{Unreadable, short};

/// How the characters of a body are written. UTF-16 and UTF-32 are little endian (`edgehub.md` 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    Utf16,
    Utf32,
}

/// Whether this content type is read: `application/json`, with any parameters.
pub(super) fn content_type(text: Option<&str>) -> Result<(), Unreadable> {
    let text = text.unwrap_or_default().trim();
    if text.is_empty() {
        return Err(Unreadable::NoContentType);
    }
    let kind = text.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(Unreadable::ContentType(short(text)))
    }
}

/// The encoding of this name. A `charset` of the content type stands for none: the reference does not look there.
pub(super) fn content_encoding(text: Option<&str>) -> Result<Encoding, Unreadable> {
    let text = text.unwrap_or_default().trim();
    let known =
        [("utf-8", Encoding::Utf8), ("utf-16", Encoding::Utf16), ("utf-32", Encoding::Utf32)];
    if text.is_empty() {
        return Err(Unreadable::NoContentEncoding);
    }
    let named = known.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    named.map(|(_, encoding)| encoding).ok_or_else(|| Unreadable::ContentEncoding(short(text)))
}

impl Encoding {
    /// `bytes` as text, without a byte order mark in front. Well-formed UTF-8 is not copied.
    pub(super) fn text(self, bytes: &[u8]) -> Cow<'_, str> {
        let text = match self {
            Self::Utf8 => String::from_utf8_lossy(bytes),
            Self::Utf16 => Cow::Owned(utf16(bytes)),
            Self::Utf32 => Cow::Owned(utf32(bytes)),
        };
        match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text)),
            Cow::Owned(mut text) => {
                if text.starts_with('\u{feff}') {
                    text.remove(0);
                }
                Cow::Owned(text)
            }
        }
    }
}

fn utf16(bytes: &[u8]) -> String {
    let (units, rest) = bytes.as_chunks::<2>();
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    let chars = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER));
    chars.chain(cut_short(rest)).collect()
}

fn utf32(bytes: &[u8]) -> String {
    let (units, rest) = bytes.as_chunks::<4>();
    let chars = units.iter().map(|unit| {
        char::from_u32(u32::from_le_bytes(*unit)).unwrap_or(char::REPLACEMENT_CHARACTER)
    });
    chars.chain(cut_short(rest)).collect()
}

/// The last character, of which only some bytes are there.
fn cut_short(rest: &[u8]) -> Option<char> {
    (!rest.is_empty()).then_some(char::REPLACEMENT_CHARACTER)
}

/// JSON text in which no `\u` escape is half of a surrogate pair: what was one is U+FFFD. `None` = there was none.
pub(super) fn whole_pairs(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let unit = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let digits = digits.iter().all(u8::is_ascii_hexdigit).then_some(digits)?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut at, mut halves) = (0, Vec::new());
    while let Some(next) = bytes.get(at..).and_then(|rest| rest.iter().position(|b| *b == b'\\')) {
        at += next;
        at += match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                halves.push(at + 2);
                6
            }
            _ => 2,
        };
    }
    if halves.is_empty() {
        return None;
    }
    let mut text = text.to_owned();
    for half in halves {
        text.replace_range(half..half + 4, "fffd");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        let read = [
            "application/json",
            "APPLICATION/Json",
            " application/json\t",
            "application/json;charset=utf-8",
            "application/json ; charset=utf-8; x",
            "application/json;",
        ];
        for text in read {
            assert_eq!(content_type(Some(text)), Ok(()), "{text}");
        }
        for text in [None, Some(""), Some("  ")] {
            assert_eq!(content_type(text), Err(Unreadable::NoContentType), "{text:?}");
        }
        let other = [
            "text/plain",
            "application/jsonx",
            "application/json, x",
            "json",
            ";application/json",
            "application/vnd.x+json",
            "application/ json",
        ];
        for text in other {
            assert_eq!(content_type(Some(text)), Err(Unreadable::ContentType(text.into())));
        }
    }

    #[test]
    fn content_encodings() {
        let read = [
            ("utf-8", Encoding::Utf8),
            ("UTF-8", Encoding::Utf8),
            (" Utf-16 ", Encoding::Utf16),
            ("utf-32", Encoding::Utf32),
        ];
        for (text, encoding) in read {
            assert_eq!(content_encoding(Some(text)), Ok(encoding), "{text}");
        }
        for text in [None, Some(""), Some(" ")] {
            assert_eq!(content_encoding(text), Err(Unreadable::NoContentEncoding), "{text:?}");
        }
        for text in ["utf8", "utf-16be", "utf-7", "ascii", "gzip", "utf-8, utf-16"] {
            assert_eq!(content_encoding(Some(text)), Err(Unreadable::ContentEncoding(text.into())));
        }
    }

    #[test]
    fn a_reason_quotes_eighty_characters_on_one_line() {
        let long = format!("a\nb{}", "é".repeat(500));
        let expected = format!("a\u{fffd}b{}…", "é".repeat(77));
        assert_eq!(content_type(Some(&long)), Err(Unreadable::ContentType(expected.into())));
    }

    #[test]
    fn halves_of_surrogate_pairs_in_escapes() {
        let table = [
            (r"\ud83d", r"\ufffd"),
            (r"a\uDE00b", r"a\ufffdb"),
            (r"\ud83d\ud83d\ude00", r"\ufffd\ud83d\ude00"),
            (r"\ud83d\ude00\ude00", r"\ud83d\ude00\ufffd"),
            (r"\ud83dx\ude00", r"\ufffdx\ufffd"),
            (r"\\\ud83d", r"\\\ufffd"),
            (r"é\é\ud83d\", r"é\é\ufffd\"),
        ];
        for (text, expected) in table {
            assert_eq!(whole_pairs(text).as_deref(), Some(expected), "{text}");
        }
        for text in
            ["", "\\", r"\\ud83d", r"\ud83d\ude00", r"\ud8", r"\ud83", r"\u+83d", r"\n", "\\é"]
        {
            assert_eq!(whole_pairs(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_as_text() {
        use Encoding::{Utf8, Utf16, Utf32};
        let table: [(Encoding, &[u8], &str); 26] = [
            (Utf8, b"", ""),
            (Utf8, b"a\xc3\xa9", "aé"),
            (Utf8, b"\xef\xbb\xbfa", "a"),
            (Utf8, b"\xef\xbb\xbf", ""),
            (Utf8, b"\xef\xbb\xbf\xef\xbb\xbfa", "\u{feff}a"),
            (Utf8, b"\xef\xbb\xbfa\xff", "a\u{fffd}"),
            (Utf8, b"a\xffb\xc3", "a\u{fffd}b\u{fffd}"),
            (Utf8, b"\xed\xa0\x80", "\u{fffd}\u{fffd}\u{fffd}"),
            (Utf8, b"\0", "\0"),
            (Utf16, b"", ""),
            (Utf16, b"a\0\xe9\0", "aé"),
            (Utf16, b"\x3d\xd8\x00\xde", "😀"),
            (Utf16, b"\xff\xfea\0", "a"),
            (Utf16, b"\xfe\xff\0a", "\u{fffe}\u{6100}"),
            (Utf16, b"\x3d\xd8a\0", "\u{fffd}a"),
            (Utf16, b"\x00\xdea\0", "\u{fffd}a"),
            (Utf16, b"a\0\x3d\xd8", "a\u{fffd}"),
            (Utf16, b"a\0b", "a\u{fffd}"),
            (Utf16, b"a", "\u{fffd}"),
            (Utf32, b"", ""),
            (Utf32, b"a\0\0\0\x00\xf6\x01\x00", "a😀"),
            (Utf32, b"\xff\xfe\0\0a\0\0\0", "a"),
            (Utf32, b"\x00\xd8\0\0", "\u{fffd}"),
            (Utf32, b"\0\0\x11\0a\0\0\0", "\u{fffd}a"),
            (Utf32, b"a\0\0\0b\0\0", "a\u{fffd}"),
            (Utf32, b"\0\0\0a", "\u{fffd}"),
        ];
        for (encoding, bytes, expected) in table {
            assert_eq!(encoding.text(bytes), expected, "{encoding:?} {bytes:?}");
        }
        assert!(matches!(Utf8.text(b"\xef\xbb\xbfa"), Cow::Borrowed("a")), "not copied");
    }
}
