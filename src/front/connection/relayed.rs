//! The other direction: letters for the client, and what the client asks of the relay.
//!
//! Owns: who waits for which PUBACK of the client. Invariants: the relay hears `arrived` once the client has its seat and its
//! session, and `left` before the seat is given up; nothing between the two comes out of order; no call waits for the relay.
//! Must not know: twins, methods, what is upstream.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::Connection;
use crate::front::kept_sessions::Kept;
use crate::front::mailbox::{
    Client, Handed, Letter, Letters, MAILBOX_MAX, MethodResponse, TooMany, mailbox,
};
use crate::identity::Identity;
use crate::session::{CloseReason, Outbound, Remembered, Sent, Subscriptions, TwinRequest};

/// Changes of its subscriptions that a connection has for nothing: each is a file on the disk. SDKs make five at most at the
/// start, one at a time.
const FREE_CHANGES: u32 = 16;

/// How long nothing is read from the client after each further one.
const CHANGE_REST: Duration = Duration::from_secs(1);

/// Of an end of a session, which is no decision about who may come in.
const TWIN_REQUESTS_MAX: &str = "twin_requests_max";

/// What a connection keeps for the way to its client.
pub(super) struct Downward {
    letters: Letters,
    /// By the session's tag, oldest first. As many as the session lets wait.
    awaiting: VecDeque<(u64, oneshot::Sender<Handed>)>,
    next_tag: u64,
    serial: u64,
    /// Whether its session outlives the connection (CleanSession 0).
    is_kept: bool,
    /// Changes of its subscriptions that were written to the disk.
    changes: u32,
}

impl Downward {
    /// Ready when there is a letter; never, before there can be any. The letter itself would make the future of each
    /// connection larger.
    pub(super) fn poll_ready(this: &mut Option<Box<Self>>, cx: &mut Context<'_>) -> Poll<()> {
        this.as_mut().map_or(Poll::Pending, |downward| downward.letters.poll_ready(cx))
    }
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// The session that the client left, if it asks for it; else that is forgotten [MQTT-3.1.2-6].
    pub(super) async fn earlier(
        &mut self,
        who: &Identity,
        clean_session: bool,
    ) -> Option<Remembered> {
        let sessions = &self.front.sessions;
        if clean_session {
            sessions.forget(who.name()).await;
            return None;
        }
        sessions.resume(who.name(), self.serial()).await
    }

    /// Of the seat; 0 = it has none.
    pub(super) fn serial(&self) -> u64 {
        self.seat.as_ref().map_or(0, |seat| seat.serial())
    }

    /// Tells the relay that the client is here.
    pub(super) fn arrive(
        &mut self,
        identity: Identity,
        clean_session: bool,
        product_info: Option<Box<str>>,
        subscriptions: Subscriptions,
    ) {
        let (mailbox, letters) = mailbox();
        let serial = self.serial();
        self.downward = Some(Box::new(Downward {
            letters,
            awaiting: VecDeque::new(),
            next_tag: 0,
            serial,
            is_kept: !clean_session,
            changes: 0,
        }));
        let model_id = self.model_id.clone();
        let client = Client { identity, serial, mailbox, model_id, product_info };
        self.front.relay.arrived(client, subscriptions);
    }

    /// Tells the relay that the client is gone. Whoever waits for a PUBACK of it learns that none will come.
    pub(super) fn depart(&mut self) {
        let (Some(downward), Some(seat)) = (self.downward.take(), &self.seat) else { return };
        let serial = downward.serial;
        drop(downward);
        self.front.relay.left(seat.identity(), serial);
        self.front.sessions.left(seat.identity().name(), serial);
    }

    /// Serves the letters that are there, as long as the client takes them.
    pub(super) async fn serve_letters(&mut self) {
        for _ in 0..MAILBOX_MAX {
            if self.ended.is_some() || !self.wire.has_room() {
                return;
            }
            let next = self.downward.as_mut().and_then(|downward| downward.letters.try_recv());
            let Some(letter) = next else { return };
            self.serve_letter(letter);
            self.perform().await;
        }
    }

    fn serve_letter(&mut self, letter: Letter) {
        match letter {
            Letter::Send { content, handed } => self.send_down(content, handed),
            Letter::Kept { tag } => {
                let now = self.front.clock.monotonic();
                self.session.on_kept(tag, now, &mut self.outputs);
            }
            Letter::Close { label, detail } => {
                self.close(CloseReason::environment(label, detail));
            }
        }
    }

    fn send_down(&mut self, content: Outbound, handed: Option<oneshot::Sender<Handed>>) {
        let Some(downward) = &mut self.downward else { return };
        let tag = downward.next_tag;
        downward.next_tag += 1;
        let handed_now = match self.session.send(tag, content, &mut self.outputs) {
            Sent::AwaitsAck => {
                downward.awaiting.extend(handed.map(|handed| (tag, handed)));
                return;
            }
            Sent::Written => Handed::Written,
            Sent::NotSubscribed => Handed::NotSubscribed,
            Sent::Full => Handed::Full,
            Sent::Unsendable => Handed::Unsendable,
        };
        let not_sent = match handed_now {
            Handed::Acknowledged | Handed::Written => None,
            Handed::NotSubscribed => Some("not_subscribed"),
            Handed::Full => Some("window_full"),
            Handed::Unsendable => Some("unsendable"),
        };
        if let Some(reason) = not_sent {
            self.front.metrics.counted("letter_not_sent", reason);
        }
        if let Some(handed) = handed {
            // Who no longer waits does not need to know.
            let _ = handed.send(handed_now);
        }
    }

    /// The client has acknowledged what was sent under `tag`.
    pub(super) fn acknowledged(&mut self, tag: u64) {
        let Some(downward) = &mut self.downward else { return };
        if let Some(at) = downward.awaiting.iter().position(|(other, _)| *other == tag)
            && let Some((_, handed)) = downward.awaiting.remove(at)
        {
            let _ = handed.send(Handed::Acknowledged);
        }
    }

    /// The client's subscriptions changed, or it said again what they are: kept before the SUBACK that follows.
    pub(super) async fn subscribed(&mut self, now: Remembered) {
        let (Some(downward), Some(seat)) = (&mut self.downward, &self.seat) else { return };
        let (identity, serial) = (seat.identity().clone(), downward.serial);
        if downward.is_kept {
            let kept = self.front.sessions.keep(identity.name(), serial, &now).await;
            downward.changes += u32::from(kept == Kept::Written);
            if kept == Kept::Written && downward.changes > FREE_CHANGES {
                self.pace.rest(CHANGE_REST, self.front.clock.monotonic());
                self.front.metrics.counted("subscriptions_slowed", "changes");
            }
        }
        self.front.relay.subscribed(&identity, serial, now.subscriptions);
    }

    /// The client asks for its twin, or patches it.
    pub(super) fn ask(&mut self, request: TwinRequest) {
        let (Some(downward), Some(seat)) = (&self.downward, &self.seat) else { return };
        let (rid, tag) = match &request {
            TwinRequest::Get { rid } => (Some(rid.clone()), None),
            TwinRequest::Patch { rid, tag, .. } => (rid.clone(), *tag),
        };
        let asked = self.front.relay.asked(seat.identity(), downward.serial, request);
        if asked == Err(TooMany) {
            self.too_many(rid, tag);
        }
    }

    /// The client is told, or loses its connection and so keeps the patch: PUBACKs leave in order, so that one which never
    /// comes would hold up all others.
    fn too_many(&mut self, rid: Option<Box<str>>, tag: Option<u64>) {
        self.front.metrics.counted("twin_request", "too_many");
        let sent = rid.map(|rid| {
            let answer = Outbound::TwinResponse {
                status: 429,
                rid,
                version: None,
                body: bytes::Bytes::new(),
            };
            self.session.send(u64::MAX, answer, &mut self.outputs)
        });
        let Some(tag) = tag else { return };
        if matches!(sent, Some(Sent::AwaitsAck | Sent::Written)) {
            let now = self.front.clock.monotonic();
            self.session.on_kept(tag, now, &mut self.outputs);
        } else {
            let detail = "too many twin requests wait, and this one cannot be answered";
            self.close(CloseReason::environment(TWIN_REQUESTS_MAX, detail));
        }
    }

    /// The client answers a direct method.
    pub(super) fn answer(&mut self, response: MethodResponse) {
        let (Some(downward), Some(seat)) = (&self.downward, &self.seat) else { return };
        if !self.front.relay.answered(seat.identity(), downward.serial, response) {
            self.front.metrics.counted("method_response", "not_asked_for");
        }
    }
}
