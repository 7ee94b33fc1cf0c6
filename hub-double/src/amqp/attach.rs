//! Attaching links: where an address points, who may hold it, and what the hub says back.
//!
//! Invariant: a refused attach is answered with an attach without our terminus and a detach with the reason (part 2,
//! section 2.6.3). Must not know: deliveries.

use std::collections::BTreeMap;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use super::connection::{Conn, Fatal};
use super::frame::{Fields, Performative, code, error};
use super::link::{Link, Purpose, detach, unattached};
use super::outgoing::Outgoing;
use super::value::Value;
use crate::registry::{AuthType, Entry};

/// Where a link's address points.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    device: String,
    module: Option<String>,
    /// `messages/events` ..., in lower case.
    resource: String,
}

impl Address {
    /// `/devices/{d}[/modules/{m}]/{resource}`, relative or after `amqps://{host}`; keywords in any case (B3).
    fn parse(text: &str) -> Option<Self> {
        let path = match text.split_once("://") {
            Some((_, rest)) => rest.split_once('/')?.1,
            None => text.trim_start_matches('/'),
        };
        let mut parts = path.split('/');
        let word =
            |part: Option<&str>, word: &str| part.is_some_and(|p| p.eq_ignore_ascii_case(word));
        if !word(parts.next(), "devices") {
            return None;
        }
        let id = |raw: &str| percent_decode_str(raw).decode_utf8().ok().map(String::from);
        let device = id(parts.next()?)?;
        let mut rest: Vec<&str> = parts.collect();
        let mut module = None;
        if word(rest.first().copied(), "modules") {
            module = Some(id(rest.get(1)?)?);
            rest.drain(..2);
        }
        Some(Self { device, module, resource: rest.join("/").to_ascii_lowercase() })
    }
}

impl Conn {
    /// Part 2, section 2.7.3. Field 2 is the peer's role: false when it sends.
    pub(crate) fn on_attach(
        &mut self,
        channel: u16,
        mut attach: Performative,
    ) -> Result<(), Fatal> {
        let handle = attach.fields.get(1).as_u32().unwrap_or(0);
        let links = &self.sessions.get(&channel).ok_or_else(unattached)?.links;
        if links.contains_key(&handle) {
            return Err(Fatal("amqp:session:handle-in-use", format!("handle {handle}")));
        }
        let peer_sends = attach.fields.get(2).as_bool() == Some(false);
        let terminus = attach.fields.get(if peer_sends { 6 } else { 5 }).clone();
        let address = terminus.into_described().ok().and_then(|(_, list)| Fields::of(list).ok());
        let address = address.and_then(|mut f| f.take(0).into_text()).unwrap_or_default();
        let whose = Address::parse(&address);
        if whose.is_some_and(|target| self.hub.faults.ignores_link(&target.device)) {
            return Ok(());
        }
        match self.admit(&address, peer_sends, &attach.fields) {
            Ok(link) => self.attach_link(channel, handle, link, &mut attach.fields),
            Err((condition, words)) => {
                self.hub.log.count(|counts| {
                    counts.links_refused += 1;
                    *counts.link_refusals.entry(condition.clone()).or_default() += 1;
                });
                tracing::debug!(connection = self.handle.no, address, condition, words, "refused");
                self.refuse_link(channel, handle, &mut attach.fields, &condition, &words);
            }
        }
        Ok(())
    }

    /// Judges an attach; the error is condition and words.
    fn admit(
        &self,
        address: &str,
        peer_sends: bool,
        fields: &Fields,
    ) -> Result<Link, (String, String)> {
        if address.eq_ignore_ascii_case("$cbs") {
            return Ok(Link::new(match peer_sends {
                true => Purpose::CbsRequests,
                false => Purpose::CbsAnswers,
            }));
        }
        let not_found = || ("amqp:not-found".to_owned(), "no such address".to_owned());
        let target = Address::parse(address).ok_or_else(not_found)?;
        let known = ["messages/events", "messages/devicebound", "methods/devicebound", "twin"];
        if !known.contains(&target.resource.as_str()) {
            return Err(not_found());
        }
        let device = &target.device;
        if let Some(condition) = self.hub.faults.refuses_link(device) {
            return Err((condition, "refused by the fault script".into()));
        }
        let chain = property(fields, "com.microsoft:auth-chain");
        let entry = self
            .authorize(device, target.module.as_deref(), chain.as_deref())
            .map_err(|denied| (denied.condition().to_owned(), denied.reason().to_owned()))?;
        let mut link = Link::new(match (target.resource.as_str(), peer_sends) {
            ("messages/events", true) => {
                let model = property(fields, "com.microsoft:model-id");
                Purpose::Telemetry { annotations: Arc::new(stamps(&entry, model)) }
            }
            ("twin", true) => Purpose::TwinRequests,
            ("twin", false) => Purpose::TwinAnswers { subscribed: false },
            ("methods/devicebound", true) => Purpose::MethodAnswers,
            ("methods/devicebound", false) => Purpose::MethodRequests,
            // Modules have inputs instead.
            ("messages/devicebound", false) if target.module.is_none() => Purpose::CloudToDevice,
            _ => Purpose::Idle,
        });
        link.pair = property(fields, "com.microsoft:channel-correlation-id");
        link.principal = Some(entry.principal);
        link.chain = chain;
        Ok(link)
    }

    fn attach_link(&mut self, channel: u16, handle: u32, mut link: Link, fields: &mut Fields) {
        let peer_sends = fields.get(2).as_bool() == Some(false);
        let what = link.purpose.name();
        if let Some(principal) = link.principal.clone() {
            let stolen = self.hub.roster.take_over(&principal, self.handle.no);
            self.handle.info(|info| info.links.insert((channel, handle), (principal, what)));
            let telemetry = matches!(link.purpose, Purpose::Telemetry { .. });
            self.hub.log.count(|counts| {
                counts.links_attached += u64::from(telemetry);
                counts.links_stolen += u64::from(stolen);
            });
        }
        let settles_second =
            matches!(link.purpose, Purpose::CloudToDevice) && fields.get(4).as_u64() == Some(1);
        let body = self.attach_answer(handle, fields, true, settles_second);
        self.send(channel, &body);
        if peer_sends {
            link.delivery_count = fields.get(9).as_u32().unwrap_or(0);
            link.credit = self.hub.limits.credit;
        } else {
            let mode = fields.get(3).as_u64();
            link.outgoing = Some(Outgoing::new(match link.purpose {
                // Unless the peer insists on having it without an outcome (snd-settle-mode settled).
                Purpose::CloudToDevice => mode == Some(1),
                // Unless the peer insists on settling itself (snd-settle-mode unsettled).
                _ => mode != Some(0),
            }));
        }
        if let Some(session) = self.sessions.get_mut(&channel) {
            session.links.insert(handle, link);
        }
        if peer_sends {
            self.send_flow(channel, Some(handle));
        }
    }

    /// The mirrored attach. A refused link has no terminus of ours (part 2, section 2.6.3).
    fn attach_answer(
        &self,
        handle: u32,
        fields: &mut Fields,
        admitted: bool,
        settles_second: bool,
    ) -> Value {
        let peer_sends = fields.get(2).as_bool() == Some(false);
        let (mut source, mut target) = (fields.take(5), fields.take(6));
        if !admitted {
            *(if peer_sends { &mut target } else { &mut source }) = Value::Null;
        }
        let initial_count = if peer_sends { Value::Null } else { Value::UInt(0) };
        let body = vec![
            fields.take(0),
            Value::UInt(handle),
            Value::Bool(peer_sends),
            fields.take(3),
            // Settling first is all that IoT Hub needs but for cloud-to-device messages (fact sheet B3).
            Value::UByte(u8::from(settles_second)),
            source,
            target,
            Value::Null,
            Value::Null,
            initial_count,
            // The C SDK logs an error when this is absent.
            Value::ULong(self.hub.limits.message_bytes_max),
            Value::Null,
            Value::Null,
            fields.take(13),
        ];
        Value::described_list(code::ATTACH, body)
    }

    fn refuse_link(
        &mut self,
        channel: u16,
        handle: u32,
        fields: &mut Fields,
        condition: &str,
        words: &str,
    ) {
        let body = self.attach_answer(handle, fields, false, false);
        self.send(channel, &body);
        let mut link = Link::new(Purpose::Idle);
        link.detached = true;
        if let Some(session) = self.sessions.get_mut(&channel) {
            session.links.insert(handle, link);
        }
        self.send(channel, &detach(handle, Some(error(condition, words))));
    }
}

/// What the hub stamps on each message of a client (fact sheet A5, K); the time is added later.
pub(crate) fn stamps(entry: &Entry, model: Option<String>) -> BTreeMap<String, String> {
    let kind = match entry.auth_type {
        AuthType::Sas | AuthType::None => "sas",
        AuthType::SelfSigned | AuthType::CertificateAuthority => "x509",
    };
    let scope = if entry.principal.module.is_some() { "module" } else { "device" };
    let method = format!(
        r#"{{"scope":"{scope}","type":"{kind}","issuer":"iothub","acceptingIpFilterRule":null}}"#
    );
    let mut out = BTreeMap::from([
        ("iothub-connection-device-id".to_owned(), entry.principal.device.to_string()),
        ("iothub-connection-auth-method".to_owned(), method),
        ("iothub-connection-auth-generation-id".to_owned(), entry.generation.to_string()),
        ("iothub-message-source".to_owned(), "Telemetry".to_owned()),
    ]);
    if let Some(module) = &entry.principal.module {
        out.insert("iothub-connection-module-id".to_owned(), module.to_string());
    }
    if let Some(model) = model {
        out.insert("dt-dataschema".to_owned(), model);
    }
    out
}

/// A property of an attach by its symbol.
fn property(fields: &Fields, name: &str) -> Option<String> {
    let Value::Map(entries) = fields.get(13) else {
        return None;
    };
    let found = entries.iter().find(|(key, _)| key.as_text() == Some(name));
    found.and_then(|(_, value)| value.as_text()).map(str::to_owned)
}
