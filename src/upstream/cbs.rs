//! Claims-based security: tokens put on the live connection, one per identity.
//!
//! Owns: the `$cbs` link pair and the requests that wait for an answer (`iothub-protocol.md` B2). Invariants: an answer is
//! matched by its correlation id; at most [`WAITING_MAX`] requests wait; a token is never in an error or a log.
//! Must not know: what a token is good for.

use std::collections::HashMap;
use std::sync::Arc;

use fe2o3_amqp::link::delivery::{DeliveryFut, Sendable};
use fe2o3_amqp::link::{RecvError, SendError};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Delivery, Receiver, Sender};
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Message, MessageId, Outcome, Properties, Source, Target,
};
use fe2o3_amqp_types::primitives::{SimpleValue, Value};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::outcome;

/// Requests that may wait for their answers at a time.
const WAITING_MAX: usize = 512;

/// Why a token was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CbsError {
    /// The hub refuses this identity or this token: 400, 401, 403, 404.
    #[error("{0}")]
    Refused(String),
    /// The hub cannot do it now (5xx, 429 and whatever else).
    #[error("{0}")]
    Busy(String),
    /// The links are gone, and with them the connection is of no use.
    #[error("the $cbs links are gone")]
    Gone,
}

/// One put-token.
pub(super) struct PutToken {
    /// Name of the identity ([`crate::iothub::sas::audience`]).
    pub(super) audience: String,
    /// The token's text.
    pub(super) token: Arc<str>,
    /// Hears what came of it; dropped with [`CbsError::Gone`]'s meaning when the links end.
    pub(super) answer: oneshot::Sender<Result<(), CbsError>>,
}

/// The attached link pair.
pub(super) struct Cbs {
    sender: Sender,
    receiver: Receiver,
}

type Sent = DeliveryFut<Result<Outcome, SendError>>;

impl Cbs {
    /// Attaches both links, named and addressed as the C SDK does (B2).
    pub(super) async fn attach(session: &mut SessionHandle<()>) -> Result<Self, String> {
        let sender = Sender::builder()
            .name("$cbs-sender")
            .source(Source::builder().address("$cbs").build())
            .target("$cbs")
            .attach(session)
            .await
            .map_err(|error| error.to_string())?;
        let receiver = Receiver::builder()
            .name("$cbs-receiver")
            .source("$cbs")
            .target(Target::builder().address("$cbs").build())
            .attach(session)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Self { sender, receiver })
    }

    /// Serves requests until `severed`, or until a link ends: then severs the connection itself, because without `$cbs`
    /// no token can be renewed.
    pub(super) async fn serve(
        mut self,
        mut requests: mpsc::Receiver<PutToken>,
        severed: CancellationToken,
    ) {
        let ended = severed.clone();
        tokio::select! {
            () = ended.cancelled() => {}
            () = self.exchange(&mut requests) => severed.cancel(),
        }
    }

    async fn exchange(&mut self, requests: &mut mpsc::Receiver<PutToken>) {
        let mut waiting = HashMap::new();
        let mut sent = FuturesUnordered::new();
        let mut next_id = 0u64;
        loop {
            tokio::select! {
                request = requests.recv() => {
                    let Some(request) = request else { return };
                    next_id += 1;
                    match self.put(next_id, request, &mut waiting).await {
                        Ok(Some(delivery)) => sent.push(settled(next_id, delivery)),
                        Ok(None) => {}
                        Err(()) => return,
                    }
                }
                answer = self.receiver.recv::<Body<Value>>() => {
                    if self.answer(answer, &mut waiting).await.is_err() {
                        return;
                    }
                }
                Some((id, error)) = sent.next() => {
                    if let Some(error) = error
                        && let Some(answer) = waiting.remove(&id)
                    {
                        let _ = answer.send(Err(error));
                    }
                }
            }
        }
    }

    async fn put(
        &mut self,
        id: u64,
        request: PutToken,
        waiting: &mut HashMap<u64, oneshot::Sender<Result<(), CbsError>>>,
    ) -> Result<Option<Sent>, ()> {
        if waiting.len() >= WAITING_MAX {
            // Those whose askers gave up.
            waiting.retain(|_, answer| !answer.is_closed());
        }
        if waiting.len() >= WAITING_MAX {
            let _ = request.answer.send(Err(CbsError::Busy("too many token requests".to_owned())));
            return Ok(None);
        }
        let message = Message::builder()
            .properties(Properties::builder().message_id(MessageId::Ulong(id)).build())
            .application_properties(
                ApplicationProperties::builder()
                    .insert("operation", "put-token")
                    .insert("type", "servicebus.windows.net:sastoken")
                    .insert("name", request.audience)
                    .build(),
            )
            .value(request.token.to_string())
            .build();
        waiting.insert(id, request.answer);
        let sendable: Sendable<AmqpValue<String>> = Sendable::builder().message(message).build();
        self.sender
            .send_batchable(sendable)
            .await
            .map(Some)
            .map_err(|error| tracing::debug!(%error, "$cbs requests ended"))
    }

    async fn answer(
        &mut self,
        answer: Result<Delivery<Body<Value>>, RecvError>,
        waiting: &mut HashMap<u64, oneshot::Sender<Result<(), CbsError>>>,
    ) -> Result<(), ()> {
        let delivery = answer.map_err(|error| tracing::debug!(%error, "$cbs answers ended"))?;
        self.receiver
            .accept(&delivery)
            .await
            .map_err(|error| tracing::debug!(%error, "$cbs accept"))?;
        let message = delivery.message();
        let id = message.properties.as_ref().and_then(|p| correlation(p.correlation_id.as_ref()?));
        if let Some(asker) = id.and_then(|id| waiting.remove(&id)) {
            let _ = asker.send(status(message.application_properties.as_ref()));
        }
        Ok(())
    }
}

/// The hub's disposition of a request; only a refusal ends the wait for the answer.
async fn settled(id: u64, delivery: Sent) -> (u64, Option<CbsError>) {
    let error = match delivery.await {
        Ok(Outcome::Accepted(_)) => None,
        Ok(Outcome::Rejected(rejected)) => Some(CbsError::Busy(
            rejected.error.map_or_else(|| "put-token rejected".to_owned(), |e| outcome::detail(&e)),
        )),
        Ok(_) => Some(CbsError::Busy("put-token released".to_owned())),
        Err(error) => {
            tracing::debug!(%error, "put-token not settled");
            Some(CbsError::Gone)
        }
    };
    (id, error)
}

/// The id that we gave; some peers answer with its text.
fn correlation(id: &MessageId) -> Option<u64> {
    match id {
        MessageId::Ulong(id) => Some(*id),
        MessageId::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// `status-code` is an AMQP int at the real hub (B2); other widths are read too.
fn status(properties: Option<&ApplicationProperties>) -> Result<(), CbsError> {
    let get = |name: &str| properties.and_then(|p| p.0.get(name));
    let code = match get("status-code") {
        Some(SimpleValue::Int(code)) => i64::from(*code),
        Some(SimpleValue::Uint(code)) => i64::from(*code),
        Some(SimpleValue::Ubyte(code)) => i64::from(*code),
        Some(SimpleValue::Ushort(code)) => i64::from(*code),
        Some(SimpleValue::Short(code)) => i64::from(*code),
        Some(SimpleValue::Long(code)) => *code,
        _ => return Err(CbsError::Busy("answer without status-code".to_owned())),
    };
    let description = match get("status-description") {
        Some(SimpleValue::String(text)) => text.as_str(),
        _ => "no description",
    };
    match code {
        200..=299 => Ok(()),
        400 | 401 | 403 | 404 => Err(CbsError::Refused(format!("put-token {code}: {description}"))),
        _ => Err(CbsError::Busy(format!("put-token {code}: {description}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_of_any_width_fall_into_their_kinds() {
        let answer = |code: SimpleValue| {
            status(Some(&ApplicationProperties::builder().insert("status-code", code).build()))
        };
        assert_eq!(answer(SimpleValue::Int(200)), Ok(()));
        assert_eq!(answer(SimpleValue::Ushort(202)), Ok(()));
        for code in [400, 401, 403, 404] {
            assert!(matches!(answer(SimpleValue::Int(code)), Err(CbsError::Refused(_))), "{code}");
        }
        for code in [429, 500, 503] {
            assert!(matches!(answer(SimpleValue::Int(code)), Err(CbsError::Busy(_))), "{code}");
        }
        assert!(matches!(status(None), Err(CbsError::Busy(_))));
    }
}
