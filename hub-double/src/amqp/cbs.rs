//! Claims-based security: put-token, and what its tokens allow a link to do (fact sheet B2).
//!
//! Owns: the tokens put on one connection. Invariant: a link is allowed by a token put under its own identity, which
//! is either the identity's own token or the `$edgeHub` token of the edge whose scope the identity is in. Must not
//! know: frames.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::connection::Conn;
use super::message::{Message, cbs_answer};
use super::value::Value;
use crate::registry::{AuthType, Denied, Entry, Principal};
use crate::sas::{Audience, Token};

/// A token that was put.
#[derive(Debug, Clone)]
struct Held {
    /// Whose token it is: the identity itself or an edge's `$edgeHub`.
    actor: Principal,
    /// `se`, seconds since 1970.
    expires: i64,
    put_at: Instant,
}

/// The tokens of one connection, by the identity that they were put for.
#[derive(Debug, Default)]
pub(crate) struct Tokens(HashMap<Principal, Held>);

impl Tokens {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a put-token came to.
struct Answer {
    status: u16,
    words: String,
}

impl Conn {
    /// Answers a put-token request; gives the encoded answer, or none if a fault says so.
    pub(crate) fn on_cbs_request(&mut self, payload: Bytes, now: Instant) -> Option<Vec<u8>> {
        let Ok(mut message) = Message::decode(payload) else {
            return Some(cbs_answer(Value::Null, 400, "the request is not a message"));
        };
        let name = message.application_text("name").and_then(Audience::parse);
        if name.is_some_and(|name| self.hub.faults.ignores_token(&name.device)) {
            return None;
        }
        // The correlation-id is the request's message-id in its own type: the C SDK counts ulongs (fact sheet B2).
        let correlation = message.properties.as_mut().map_or(Value::Null, |p| p.take(0));
        let answer = match self.put_token(&message, now) {
            Ok(()) => Answer { status: 200, words: "OK".into() },
            Err(answer) => answer,
        };
        self.hub.log.count(|counts| match answer.status {
            200 => counts.tokens_accepted += 1,
            _ => counts.tokens_refused += 1,
        });
        let (connection, status) = (self.handle.no, answer.status);
        tracing::debug!(connection, status, words = answer.words, "put-token");
        Some(cbs_answer(correlation, answer.status, &answer.words))
    }

    fn put_token(&mut self, message: &Message, now: Instant) -> Result<(), Answer> {
        let bad = |words: &str| Denied::Bad(words.into()).into();
        if message.application_text("operation") != Some("put-token") {
            return Err(bad("the operation is not put-token"));
        }
        if message.application_text("type") != Some("servicebus.windows.net:sastoken") {
            return Err(bad("the token type is not servicebus.windows.net:sastoken"));
        }
        let name = message.application_text("name").and_then(Audience::parse);
        let name = name.ok_or_else(|| bad("the name is not an audience"))?;
        if let Some(status) = self.hub.faults.refuses_token(&name.device) {
            return Err(Answer { status, words: "refused by the fault script".into() });
        }
        let text = message.value.as_ref().and_then(Value::as_text);
        let text = text.ok_or_else(|| bad("the body is not a string"))?;
        let token = Token::parse(text).map_err(bad)?;
        let actor = self.hub.registry.check_token(&token, self.hub.clock.wall_ms())?;
        let target = self.hub.registry.resolve(&name)?;
        if actor.principal != target.principal && !is_edge_hub(&actor.principal) {
            let words = "the token does not speak for the named identity";
            return Err(Denied::Unauthorized(words.into()).into());
        }
        let held = Held { actor: actor.principal, expires: token.expires, put_at: now };
        self.handle.info(|info| info.tokens.insert(target.principal.clone()));
        self.tokens.0.insert(target.principal, held);
        Ok(())
    }

    /// Whether a link of `device[/module]` with this auth chain may be attached now.
    pub(crate) fn authorize(
        &self,
        device: &str,
        module: Option<&str>,
        chain: Option<&str>,
    ) -> Result<Entry, Denied> {
        let unauthorized = |words: &str| Err(Denied::Unauthorized(words.into()));
        let Some(entry) = self.hub.registry.find(device, module) else {
            return Err(Denied::NotFound("no such identity".into()));
        };
        let Some(held) = self.tokens.0.get(&entry.principal) else {
            return unauthorized("no token was put for this identity on this connection");
        };
        if self.hub.registry.expired(held.expires, self.hub.clock.wall_ms()) {
            return unauthorized("the token has expired");
        }
        if !entry.enabled {
            return unauthorized("the identity is disabled");
        }
        if held.actor == entry.principal {
            // The key may have been taken away since.
            let by_key = entry.auth_type == AuthType::Sas;
            return if by_key { Ok(entry) } else { unauthorized("not an identity with a key") };
        }
        let Some(chain) = chain else {
            return unauthorized("on behalf of a child without com.microsoft:auth-chain");
        };
        self.hub.registry.check_chain(chain, &entry.principal, &held.actor.device)?;
        Ok(entry)
    }

    /// Drops tokens that are over (or older than `older_than`, or than a fault allows) and detaches their links.
    pub(crate) fn expire_tokens(&mut self, older_than: Option<Duration>, now: Instant) {
        let allowed = self.hub.faults.flags().borrow().token_age_max;
        let age_max = [older_than, allowed].into_iter().flatten().min();
        let wall = self.hub.clock.wall_ms();
        let over = |held: &Held| {
            self.hub.registry.expired(held.expires, wall)
                || age_max.is_some_and(|max| now.duration_since(held.put_at) >= max)
        };
        let ended: Vec<Principal> =
            self.tokens.0.iter().filter(|(_, h)| over(h)).map(|(p, _)| p.clone()).collect();
        for principal in ended {
            self.tokens.0.remove(&principal);
            self.handle.info(|info| info.tokens.remove(&principal));
            self.detach_where("amqp:unauthorized-access", "the token has expired", |who| {
                *who == principal
            });
        }
    }
}

impl From<Denied> for Answer {
    fn from(denied: Denied) -> Self {
        Self { status: denied.status(), words: denied.reason().to_owned() }
    }
}

fn is_edge_hub(principal: &Principal) -> bool {
    principal.module.as_deref().is_some_and(|m| m.eq_ignore_ascii_case("$edgeHub"))
}
