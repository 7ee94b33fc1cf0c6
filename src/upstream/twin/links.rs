//! The links of our own twin and of our methods: two pairs on a session of their own.
//!
//! Owns: that session. Invariants: nothing is attached outside this session, so that a hub that does not answer an attach
//! holds up nobody else; dropping the links detaches them. Must not know: what an answer means, how it looks on the wire
//! ([`pairs`]).

use std::time::Duration;

use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Receiver, Sender};
use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::primitives::{Uuid, Value};
use tokio::time::timeout;

use crate::upstream::live::Live;
use crate::upstream::pairs::{self, Answer, Call, Kind, Operation};

/// The open links.
pub(super) struct Links {
    twin: (Sender, Receiver),
    methods: (Sender, Receiver),
    limit: Duration,
    /// Last, so that it outlives its links.
    _session: SessionHandle<()>,
}

/// What comes in.
pub(super) enum Heard {
    /// An answer to the operation of this id.
    Answer(u64, Answer),
    /// A change of desired properties.
    Changed(Vec<u8>),
    /// Somebody calls a method.
    Call(Call),
    /// Nothing that we understand.
    Nothing,
}

impl Links {
    /// Attaches both pairs; the error says what the hub said.
    pub(super) async fn open(live: &Live, limit: Duration) -> Result<Self, String> {
        let mut session = live.session().await.ok_or("the connection is ending")?;
        let attach = async {
            let twin = pair(live, &mut session, Kind::Twin).await?;
            let methods = pair(live, &mut session, Kind::Methods).await?;
            Ok::<_, String>((twin, methods))
        };
        let attached = timeout(limit, attach).await;
        let (twin, methods) = attached.map_err(|_| format!("no attach within {limit:?}"))??;
        Ok(Self { twin, methods, limit, _session: session })
    }

    /// Sends an operation; its answer comes with the same id.
    pub(super) async fn ask(
        &mut self,
        id: u64,
        operation: Operation,
        body: String,
    ) -> Result<(), String> {
        let message = pairs::operation(id, operation, body.into_bytes());
        pairs::send(&mut self.twin.0, message, self.limit).await
    }

    /// Answers a call.
    pub(super) async fn answer(
        &mut self,
        id: Uuid,
        status: i32,
        payload: Vec<u8>,
    ) -> Result<(), String> {
        let message = pairs::call_answer(id, status, payload);
        pairs::send(&mut self.methods.0, message, self.limit).await
    }

    /// What comes in next; the error says why nothing can. Dropping the wait loses nothing.
    pub(super) async fn next(&mut self) -> Result<Heard, String> {
        tokio::select! {
            twin = self.twin.1.recv::<Body<Value>>() => {
                Ok(match pairs::heard(twin.map_err(ended)?.into_message()) {
                    pairs::Heard::Answer(id, answer) => Heard::Answer(id, answer),
                    pairs::Heard::Changed(body) => Heard::Changed(body),
                    pairs::Heard::Nothing => Heard::Nothing,
                })
            }
            call = self.methods.1.recv::<Body<Value>>() => {
                let call = pairs::called(call.map_err(ended)?.into_message());
                Ok(call.map_or(Heard::Nothing, Heard::Call))
            }
        }
    }
}

fn ended(error: RecvError) -> String {
    error.to_string()
}

async fn pair(
    live: &Live,
    session: &mut SessionHandle<()>,
    kind: Kind,
) -> Result<(Sender, Receiver), String> {
    let own = live.own();
    let properties = live.link_properties(own, None, None);
    pairs::attach(session, own, kind, properties)
        .await
        .map_err(|error| format!("{}: {error}", kind.word()))
}
