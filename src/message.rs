//! A telemetry message: who sent it, its properties, its body. Immutable after parse.
//!
//! Owns: the words [`Message`], [`Source`], [`SystemProperties`], [`Properties`], and the bytes in which a message is
//! kept by the store (which treats them as opaque).
//! Must not know: topics, AMQP, files.
//!
//! # Stored form, version 1 (little-endian)
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version = 1 |
//! | 1 | flags: bit 0 = the sender is a module |
//! | 8 | received, milliseconds since 1970 |
//! | text | device id (`text` = 2-byte length + UTF-8) |
//! | text | module id, only with flag bit 0 |
//! | 1 | number of system properties, each: 1 byte [`SystemKey`] code, then `long` (4-byte length + UTF-8) |
//! | 2 | number of application properties, each: `long` name, 1 byte (1 = has a value), then `long` value if so |
//! | rest | body |

use std::borrow::Cow;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::clock::UnixMillis;
use crate::identity::{ClientName, DeviceId, IdError, Identity, ModuleId};

/// Property text.
pub type Text = Box<str>;

/// System properties by the meaning they have in IoT Hub (`iothub-protocol.md`, table K). The numbers are the stored
/// form's codes: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum SystemKey {
    /// `$.mid`
    MessageId = 1,
    /// `$.cid`
    CorrelationId = 2,
    /// `$.uid`
    UserId = 3,
    /// `$.to`
    To = 4,
    /// `$.ct`
    ContentType = 5,
    /// `$.ce`
    ContentEncoding = 6,
    /// `$.exp`
    AbsoluteExpiryTime = 7,
    /// `$.ctime` or `iothub-creation-time-utc`
    CreationTime = 8,
    /// `$.on`
    OutputName = 9,
    /// `$.ifid`
    InterfaceId = 10,
    /// `$.sub`
    Component = 11,
    /// `$.schema`
    MessageSchema = 12,
    /// `iothub-ack` or `ack`
    Ack = 13,
    /// `iothub-operation`
    Operation = 14,
    /// `model-id` of the CONNECT user name (IoT Plug and Play)
    ModelId = 15,
    /// `twinChangeNotification` for a notification that reported properties have changed; no other message has one.
    MessageType = 16,
    /// Whose twin a notification tells of: the device.
    ReportedDevice = 17,
    /// Whose twin a notification tells of: the module, if it is one.
    ReportedModule = 18,
}

/// [`SystemKey::MessageType`] and [`SystemKey::MessageSchema`] of a notification that reported properties have changed
/// (`edgehub.md` 4.2).
pub const TWIN_CHANGE: &str = "twinChangeNotification";

impl SystemKey {
    /// All keys, in the order of their codes.
    pub const ALL: [Self; 18] = [
        Self::MessageId,
        Self::CorrelationId,
        Self::UserId,
        Self::To,
        Self::ContentType,
        Self::ContentEncoding,
        Self::AbsoluteExpiryTime,
        Self::CreationTime,
        Self::OutputName,
        Self::InterfaceId,
        Self::Component,
        Self::MessageSchema,
        Self::Ack,
        Self::Operation,
        Self::ModelId,
        Self::MessageType,
        Self::ReportedDevice,
        Self::ReportedModule,
    ];

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

/// System properties: at most one value a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SystemProperties(Vec<(SystemKey, Text)>);

impl SystemProperties {
    /// The value of `key`.
    pub fn get(&self, key: SystemKey) -> Option<&str> {
        self.0.iter().find(|(k, _)| *k == key).map(|(_, v)| &**v)
    }

    /// Sets `key`; a later value replaces an earlier one.
    pub fn set(&mut self, key: SystemKey, value: impl Into<Text>) {
        let value = value.into();
        match self.0.iter_mut().find(|(k, _)| *k == key) {
            Some(slot) => slot.1 = value,
            None => self.0.push((key, value)),
        }
    }

    /// The properties that are set, in the order in which they were first set.
    pub fn iter(&self) -> impl Iterator<Item = (SystemKey, &str)> {
        self.0.iter().map(|(k, v)| (*k, &**v))
    }
}

/// Application properties. Names are unique by exact spelling (the last value wins) and keep their order; a value may
/// be absent (`key` without `=` in a property bag).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties(Vec<(Text, Option<Text>)>);

impl Properties {
    /// The value of `name`: `None` = not there, `Some(None)` = there without a value. Exact spelling.
    pub fn get(&self, name: &str) -> Option<Option<&str>> {
        self.0.iter().find(|(k, _)| &**k == name).map(|(_, v)| v.as_deref())
    }

    /// The first property whose name equals `name` without regard to case, as routes look them up: character by
    /// character, by the upper case of each.
    pub fn get_ignore_case(&self, name: &str) -> Option<Option<&str>> {
        let found = if name.is_ascii() {
            // No other letter has an ASCII upper case here, so nothing else can equal it.
            self.0.iter().find(|(k, _)| k.eq_ignore_ascii_case(name))
        } else {
            let same = |k: &str| k.chars().map(upper).eq(name.chars().map(upper));
            self.0.iter().find(|(k, _)| same(k))
        };
        found.map(|(_, v)| v.as_deref())
    }

    /// Sets `name`; a later value replaces an earlier one.
    pub fn set(&mut self, name: impl Into<Text>, value: Option<Text>) {
        let name = name.into();
        match self.0.iter_mut().find(|(k, _)| *k == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// All properties in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|(k, v)| (&**k, v.as_deref()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Where a message came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The authenticated sender.
    pub sender: Identity,
}

/// A telemetry message as the routes, the store and the upstream see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who sent it.
    pub source: Source,
    /// What IoT Hub knows by name.
    pub system: SystemProperties,
    /// What the application added.
    pub properties: Properties,
    /// The payload, untouched.
    pub body: Bytes,
    /// When this gateway received it (wall time).
    pub received: UnixMillis,
}

/// Why stored bytes are not a message. The store's CRC has passed by then, so this means another version or a defect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer program.
    #[error("stored message has form {0}; this program reads form 1: upgrade it")]
    Version(u8),
    /// Ends too early.
    #[error("stored message ends inside {0}")]
    Short(&'static str),
    /// Not UTF-8.
    #[error("stored message has bytes that are not UTF-8 in {0}")]
    Utf8(&'static str),
    /// An id that the registry would not take.
    #[error("stored message names a sender that is no valid id: {0}")]
    Id(#[from] IdError),
    /// A system property code that this program does not know.
    #[error("stored message has the unknown system property code {0}: upgrade this program")]
    Key(u8),
}

const VERSION: u8 = 1;
const FLAG_MODULE: u8 = 1;

impl Message {
    /// Whether it tells that reported properties have changed: the gateway's own, under its own name.
    pub fn is_twin_change(&self) -> bool {
        self.system.get(SystemKey::MessageType) == Some(TWIN_CHANGE)
    }

    /// Who is named to a receiver as the sender: of a notification it is whose twin it tells of.
    pub fn told_sender(&self) -> Cow<'_, ClientName> {
        let own = Cow::Borrowed(self.source.sender.name());
        let Some(Ok(device)) = self.system.get(SystemKey::ReportedDevice).map(DeviceId::parse)
        else {
            return own;
        };
        match self.system.get(SystemKey::ReportedModule).map(ModuleId::parse) {
            None => Cow::Owned(ClientName::Device(device)),
            Some(Ok(module)) => Cow::Owned(ClientName::Module(device, module)),
            Some(Err(_)) => own,
        }
    }

    /// The stored form.
    pub fn encode(&self) -> Bytes {
        self.encode_and_add(None)
    }

    /// The stored form as it is after `id` was set as message id; there is none yet.
    pub fn encode_with_id(&self, id: &str) -> Bytes {
        debug_assert!(self.system.get(SystemKey::MessageId).is_none(), "one value a key");
        self.encode_and_add(Some((SystemKey::MessageId, id)))
    }

    fn encode_and_add(&self, added: Option<(SystemKey, &str)>) -> Bytes {
        let more = added.map_or(0, |(_, value)| 5 + value.len());
        let mut out = BytesMut::with_capacity(self.encoded_len() + more);
        out.put_u8(VERSION);
        out.put_u8(if self.source.sender.module().is_some() { FLAG_MODULE } else { 0 });
        out.put_u64_le(self.received.0);
        put_text(&mut out, self.source.sender.device().as_str());
        if let Some(module) = self.source.sender.module() {
            put_text(&mut out, module.as_str());
        }
        let count = self.system.0.len() + usize::from(added.is_some());
        out.put_u8(u8::try_from(count).expect("keys are unique and fewer than 256"));
        for (key, value) in self.system.iter().chain(added) {
            out.put_u8(key as u8);
            put_long(&mut out, value);
        }
        // A packet of 256 KiB cannot hold 65,536 properties: each takes at least two bytes ("a&") of a topic, and a
        // topic is at most 65,535 bytes [MQTT-1.5.3].
        out.put_u16_le(
            u16::try_from(self.properties.0.len()).expect("a topic holds < 65536 pairs"),
        );
        for (name, value) in &self.properties.0 {
            put_long(&mut out, name);
            out.put_u8(u8::from(value.is_some()));
            if let Some(value) = value {
                put_long(&mut out, value);
            }
        }
        out.put_slice(&self.body);
        debug_assert_eq!(out.len(), self.encoded_len() + more, "the length is exact");
        out.freeze()
    }

    /// Reads the stored form; the body shares `stored`'s memory.
    pub fn decode(stored: Bytes) -> Result<Self, DecodeError> {
        Self::decode_after(stored, None)
    }

    /// The same, when the sender of the record before is known: a device's records mostly follow one another, and share its
    /// name then.
    pub fn decode_after(mut stored: Bytes, before: Option<&Identity>) -> Result<Self, DecodeError> {
        let mut b: &[u8] = &stored;
        let b = &mut b;
        let version = take_u8(b, "version")?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let flags = take_u8(b, "flags")?;
        if b.remaining() < 8 {
            return Err(DecodeError::Short("received"));
        }
        let received = UnixMillis(b.get_u64_le());
        let device = take_text(b, "device id")?;
        let module = if flags & FLAG_MODULE == 0 { None } else { Some(take_text(b, "module id")?) };
        let same = |known: &&Identity| {
            known.device().as_str() == device && known.module().map(ModuleId::as_str) == module
        };
        let sender = match (before.filter(same), module) {
            (Some(known), _) => known.clone(),
            (None, None) => Identity::vouched(ClientName::Device(DeviceId::parse(device)?)),
            (None, Some(module)) => Identity::vouched(ClientName::Module(
                DeviceId::parse(device)?,
                ModuleId::parse(module)?,
            )),
        };
        let count = take_u8(b, "system properties")?;
        let mut system = Vec::with_capacity(usize::from(count).min(SystemKey::ALL.len()));
        for _ in 0..count {
            let code = take_u8(b, "system properties")?;
            let key = SystemKey::from_code(code).ok_or(DecodeError::Key(code))?;
            system.push((key, take_long(b, "system properties")?.into()));
        }
        if b.remaining() < 2 {
            return Err(DecodeError::Short("properties"));
        }
        let count = usize::from(b.get_u16_le());
        // Each takes five bytes or more: a damaged number reserves no more than there can be.
        let mut properties = Vec::with_capacity(count.min(b.len() / 5));
        for _ in 0..count {
            let name = take_long(b, "properties")?.into();
            let value = match take_u8(b, "properties")? {
                0 => None,
                _ => Some(take_long(b, "properties")?.into()),
            };
            properties.push((name, value));
        }
        let body = stored.len() - b.len();
        stored.advance(body);
        Ok(Self {
            source: Source { sender },
            system: SystemProperties(system),
            properties: Properties(properties),
            body: stored,
            received,
        })
    }

    /// How long the stored form is: a buffer of exactly that size needs no second allocation to be shared.
    fn encoded_len(&self) -> usize {
        let sender = &self.source.sender;
        let module = sender.module().map_or(0, |module| 2 + module.as_str().len());
        let system: usize = self.system.0.iter().map(|(_, v)| 5 + v.len()).sum();
        let properties = self.properties.0.iter();
        let properties: usize =
            properties.map(|(k, v)| 5 + k.len() + v.as_ref().map_or(0, |v| 4 + v.len())).sum();
        // 15 = version, flags, received, the device id's length, two counts.
        15 + sender.device().as_str().len() + module + system + properties + self.body.len()
    }
}

/// The upper case of `c` if that is one character, and not an ASCII one of another letter (dotless i, long s).
pub(crate) fn upper(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_uppercase();
    }
    // Greek with a iota below: the full mapping is two letters, the simple one is the capital with the iota beside.
    let shift = match c {
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => 8,
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => 9,
        _ => 0,
    };
    if shift > 0 {
        return char::from_u32(u32::from(c) + shift).unwrap_or(c);
    }
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(only), None) if !only.is_ascii() => only,
        _ => c,
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16_le(u16::try_from(text.len()).expect("ids are at most 128 bytes"));
    out.put_slice(text.as_bytes());
}

fn put_long(out: &mut BytesMut, text: &str) {
    out.put_u32_le(
        u32::try_from(text.len()).expect("a property is part of a packet of at most 256 MiB"),
    );
    out.put_slice(text.as_bytes());
}

fn take_u8(b: &mut &[u8], what: &'static str) -> Result<u8, DecodeError> {
    if b.has_remaining() { Ok(b.get_u8()) } else { Err(DecodeError::Short(what)) }
}

fn take_text<'b>(b: &mut &'b [u8], what: &'static str) -> Result<&'b str, DecodeError> {
    if b.remaining() < 2 {
        return Err(DecodeError::Short(what));
    }
    let len = usize::from(b.get_u16_le());
    take_str(b, len, what)
}

fn take_long<'b>(b: &mut &'b [u8], what: &'static str) -> Result<&'b str, DecodeError> {
    if b.remaining() < 4 {
        return Err(DecodeError::Short(what));
    }
    let len = b.get_u32_le() as usize;
    take_str(b, len, what)
}

fn take_str<'b>(b: &mut &'b [u8], len: usize, what: &'static str) -> Result<&'b str, DecodeError> {
    let (text, rest) = b.split_at_checked(len).ok_or(DecodeError::Short(what))?;
    *b = rest;
    std::str::from_utf8(text).map_err(|_| DecodeError::Utf8(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Message {
        let name = ClientName::Module(DeviceId::parse("d").unwrap(), ModuleId::parse("m").unwrap());
        let mut system = SystemProperties::default();
        system.set(SystemKey::MessageId, "id-1");
        system.set(SystemKey::ContentType, "application/json");
        let mut properties = Properties::default();
        properties.set("alert level", Some("high&low=é".into()));
        properties.set("empty", Some("".into()));
        properties.set("null", None);
        Message {
            source: Source { sender: Identity::vouched(name) },
            system,
            properties,
            body: Bytes::from_static(b"{\"t\":21}"),
            received: UnixMillis(1_700_000_000_123),
        }
    }

    #[test]
    fn stored_form_round_trips() {
        let message = sample();
        assert_eq!(Message::decode(message.encode()), Ok(message));
    }

    #[test]
    fn the_sender_of_the_record_before_is_taken_only_if_it_is_the_same() {
        let message = sample();
        let device = DeviceId::parse("d").unwrap();
        for before in [
            message.source.sender.clone(),
            Identity::vouched(ClientName::Device(device.clone())),
            Identity::vouched(ClientName::Module(device, ModuleId::parse("n").unwrap())),
        ] {
            let got = Message::decode_after(message.encode(), Some(&before));
            assert_eq!(got, Ok(message.clone()));
        }
    }

    #[test]
    fn every_cut_is_an_error_or_a_shorter_body_and_never_a_panic() {
        let stored = sample().encode();
        let head = stored.len() - sample().body.len();
        for cut in 0..stored.len() {
            let got = Message::decode(stored.slice(..cut));
            assert_eq!(got.is_ok(), cut >= head, "cut at {cut}");
        }
    }

    #[test]
    fn a_newer_form_is_refused_by_name() {
        let mut stored = sample().encode().to_vec();
        stored[0] = 9;
        assert_eq!(Message::decode(stored.into()), Err(DecodeError::Version(9)));
    }

    #[test]
    fn key_codes_are_their_place_in_all() {
        for key in SystemKey::ALL {
            assert_eq!(SystemKey::from_code(key as u8), Some(key));
        }
    }

    #[test]
    fn the_last_value_of_a_name_wins_and_keeps_its_place() {
        let mut p = Properties::default();
        p.set("a", Some("1".into()));
        p.set("b", None);
        p.set("a", Some("2".into()));
        assert_eq!(p.iter().collect::<Vec<_>>(), [("a", Some("2")), ("b", None)]);
        assert_eq!(p.get_ignore_case("A"), Some(Some("2")));
    }

    #[test]
    fn names_of_properties_in_any_case() {
        let table = [
            ("alert", "ALERT", true),
            ("Alert Level-1", "aLERT lEVEL-1", true),
            ("", "", true),
            ("a", "", false),
            ("a", "ab", false),
            ("a-b", "a_b", false),
            ("[", "{", false),
            ("é", "É", true),
            ("ᾀ", "ᾈ", true),
            ("ῳ", "ῼ", true),
            ("ᾀ", "ἀ", false),
            ("Größe", "GRÖßE", true),
            ("größe", "GRÖSSE", false),
            ("ß", "ẞ", false),
            ("ТЕМПЕРАТУРА", "температура", true),
            ("σ", "ς", true),
            ("Σ", "ς", true),
            ("ɐ", "Ɐ", true),
            ("𐐨", "𐐀", true),
            ("é", "e", false),
            ("é", "e\u{301}", false),
            ("日本", "日本", true),
            ("日本", "日木", false),
            ("ı", "I", false),
            ("ı", "i", false),
            ("İ", "i", false),
            ("İ", "I", false),
            ("ſ", "s", false),
            ("\u{212a}", "k", false),
            ("ŉ", "ʼN", false),
            ("ﬁ", "FI", false),
            ("ǆ", "Ǆ", true),
            ("ǆ", "ǅ", true),
        ];
        for (ours, asked, same) in table {
            for (ours, asked) in [(ours, asked), (asked, ours)] {
                let mut p = Properties::default();
                p.set("other é", Some("0".into()));
                p.set(ours, Some("1".into()));
                let expected = same.then_some(Some("1"));
                assert_eq!(p.get_ignore_case(asked), expected, "{ours:?} {asked:?}");
            }
        }
    }

    #[test]
    fn of_names_that_differ_in_case_the_first_counts() {
        let mut p = Properties::default();
        p.set("É", Some("1".into()));
        p.set("é", None);
        p.set("a", None);
        p.set("A", Some("2".into()));
        assert_eq!(p.get_ignore_case("é"), Some(Some("1")));
        assert_eq!(p.get_ignore_case("A"), Some(None));
    }
}
