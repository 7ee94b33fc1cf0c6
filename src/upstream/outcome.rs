//! What an AMQP outcome or error means for the sender's lane.
//!
//! Owns: the reading of error conditions (`iothub-protocol.md` B4, table K) into [`Outcome`]s.
//! Invariant: a condition that is not known is retried, never dropped; every label is a fixed word (it becomes a
//! metric label).
//! Must not know: sockets, links' life.

use std::time::Duration;

use fe2o3_amqp::link::{
    LinkStateError, ReceiverAttachError, RecvError, SendError, SenderAttachError,
};
use fe2o3_amqp_types::definitions::{self, ErrorCondition};
use fe2o3_amqp_types::messaging;
use fe2o3_amqp_types::primitives::{Symbol, Value};

use crate::deliver::Outcome;

/// Least wait after a throttled send (F: 10 s .. 60 s after throttling).
const THROTTLED_AFTER: Duration = Duration::from_secs(10);

/// What came of one attempt on one link.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// For the caller.
    Outcome(Outcome),
    /// The link is unusable and nothing says that the batch is at fault: worth one attempt on a new link.
    LinkLost(Outcome),
    /// The hub does not accept the identity: worth one attempt with a fresh token.
    Unauthorized(String),
    /// The whole connection is gone.
    ConnectionLost,
}

impl Verdict {
    /// The outcome when no further attempt is made.
    pub(super) fn last(self) -> Outcome {
        match self {
            Self::Outcome(outcome) | Self::LinkLost(outcome) => outcome,
            Self::Unauthorized(detail) => Outcome::Unauthenticated { detail },
            Self::ConnectionLost => Outcome::Offline,
        }
    }
}

/// A lane-local retry without a wait of its own.
pub(super) fn retry(reason: &'static str) -> Outcome {
    Outcome::Retry { after: None, reason }
}

/// The hub's disposition.
pub(super) fn of_disposition(outcome: messaging::Outcome) -> Verdict {
    Verdict::Outcome(match outcome {
        messaging::Outcome::Accepted(_) => Outcome::Delivered,
        messaging::Outcome::Released(_) => retry("released"),
        messaging::Outcome::Modified(_) => retry("modified"),
        messaging::Outcome::Rejected(rejected) => match rejected.error {
            Some(error) => return of_error(&error),
            None => Outcome::Rejected {
                reason: "rejected",
                detail: "the hub rejected it without a reason".to_owned(),
            },
        },
    })
}

/// A failed send.
pub(super) fn of_send_error(error: SendError) -> Verdict {
    match error {
        SendError::LinkStateError(error) => of_link_state(&error),
        SendError::Detached(error) => of_link_state(&LinkStateError::from(error)),
        SendError::MessageSizeExceeded(size) => Verdict::Outcome(Outcome::Rejected {
            reason: "message-size-exceeded",
            detail: size.to_string(),
        }),
        SendError::NonTerminalDeliveryState
        | SendError::IllegalDeliveryState
        | SendError::MessageEncodeError => Verdict::LinkLost(retry("protocol")),
    }
}

/// A failed attach.
pub(super) fn of_attach_error(error: SenderAttachError) -> Verdict {
    match error {
        SenderAttachError::RemoteClosedWithError(error) => on_attach(of_error(&error)),
        SenderAttachError::SessionStopped(reason) => {
            of_link_state(&LinkStateError::SessionStopped(reason))
        }
        _ => Verdict::LinkLost(retry("attach_refused")),
    }
}

/// A failed attach of a receiving link.
pub(super) fn of_receiver_attach_error(error: ReceiverAttachError) -> Verdict {
    match error {
        ReceiverAttachError::RemoteClosedWithError(error) => on_attach(of_error(&error)),
        ReceiverAttachError::SessionStopped(reason) => {
            of_link_state(&LinkStateError::SessionStopped(reason))
        }
        _ => Verdict::LinkLost(retry("attach_refused")),
    }
}

/// The end of a receiving link.
pub(super) fn of_recv_error(error: &RecvError) -> Verdict {
    match error {
        RecvError::LinkStateError(error) => of_link_state(error),
        _ => Verdict::LinkLost(retry("protocol")),
    }
}

fn of_link_state(error: &LinkStateError) -> Verdict {
    use fe2o3_amqp::link::SessionStopReason as Stop;
    match error {
        LinkStateError::RemoteDetachedWithError(error)
        | LinkStateError::RemoteClosedWithError(error) => on_link(of_error(error)),
        LinkStateError::SessionStopped(Stop::ConnectionStopped(_)) => Verdict::ConnectionLost,
        LinkStateError::SessionStopped(Stop::RemoteEndedWithError(error)) => {
            on_link(of_error(error))
        }
        LinkStateError::SessionStopped(_) => Verdict::LinkLost(retry("session_ended")),
        LinkStateError::RemoteDetached
        | LinkStateError::RemoteClosed
        | LinkStateError::IllegalState
        | LinkStateError::ExpectImmediateDetach => Verdict::LinkLost(retry("link_detached")),
    }
}

/// An error that ended a link. Whether the batch is at fault shows on a new link (an old one may have been ended for any
/// reason before the batch came near it); only conditions that speak of a message can reject one then.
fn on_link(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Outcome(Outcome::Rejected { reason, .. }) if !OF_MESSAGES.contains(&reason) => {
            Verdict::LinkLost(retry(reason))
        }
        // The hub asked for a pause: no second attempt now.
        Verdict::Outcome(paused @ Outcome::Retry { after: Some(_), .. }) => {
            Verdict::Outcome(paused)
        }
        Verdict::Outcome(outcome) => Verdict::LinkLost(outcome),
        other => other,
    }
}

/// What can be wrong with a message, as against a link.
const OF_MESSAGES: [&str; 5] = [
    "message-size-exceeded",
    "argument-error",
    "argument-out-of-range",
    "decode-error",
    "invalid-field",
];

/// A refused attach never saw a message: it cannot reject one.
fn on_attach(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Outcome(Outcome::Rejected { reason, .. }) => Verdict::LinkLost(retry(reason)),
        other => on_link(other),
    }
}

/// What an error condition means (B4, K).
pub(super) fn of_error(error: &definitions::Error) -> Verdict {
    let condition = condition_text(&error.condition);
    let rejected = |reason| Verdict::Outcome(Outcome::Rejected { reason, detail: detail(error) });
    let throttled =
        |reason| Verdict::Outcome(Outcome::Retry { after: Some(THROTTLED_AFTER), reason });
    let retried = |reason| Verdict::Outcome(retry(reason));
    match condition.as_str() {
        "com.microsoft:device-container-throttled" => throttled("throttled"),
        "amqp:resource-limit-exceeded" | "com.microsoft:quota-exceeded" => throttled("quota"),
        "com.microsoft:iot-hub-suspended" => throttled("hub_suspended"),
        "amqp:unauthorized-access" | "amqp:not-found" | "com.microsoft:iot-hub-not-found-error" => {
            Verdict::Unauthorized(detail(error))
        }
        "amqp:link:message-size-exceeded" => rejected("message-size-exceeded"),
        "com.microsoft:argument-error" => rejected("argument-error"),
        "com.microsoft:argument-out-of-range" => rejected("argument-out-of-range"),
        "amqp:decode-error" => rejected("decode-error"),
        "amqp:invalid-field" => rejected("invalid-field"),
        "amqp:not-allowed" => rejected("not-allowed"),
        "amqp:not-implemented" => rejected("not-implemented"),
        "com.microsoft:precondition-failed" => rejected("precondition-failed"),
        "com.microsoft:timeout" => retried("hub_timeout"),
        "amqp:internal-error" => retried("internal-error"),
        "amqp:link:detach-forced" | "amqp:connection:forced" => retried("detached"),
        "amqp:link:stolen" => retried("stolen"),
        _ => retried("unknown_condition"),
    }
}

/// The hub's words: condition, description and tracking id (for a support request), if given.
pub(super) fn detail(error: &definitions::Error) -> String {
    let mut text = condition_text(&error.condition);
    if let Some(description) = &error.description {
        text.push_str(": ");
        text.push_str(description);
    }
    let tracking = error.info.as_ref().and_then(|info| {
        let (_, value) =
            info.iter().find(|(key, _)| key.as_str() == "com.microsoft:tracking-id")?;
        match value {
            Value::String(id) => Some(id.clone()),
            Value::Symbol(id) => Some(id.to_string()),
            _ => None,
        }
    });
    if let Some(tracking) = tracking {
        text.push_str(" (tracking id ");
        text.push_str(&tracking);
        text.push(')');
    }
    text
}

fn condition_text(condition: &ErrorCondition) -> String {
    let symbol = match condition {
        ErrorCondition::AmqpError(e) => Symbol::from(e),
        ErrorCondition::ConnectionError(e) => Symbol::from(e),
        ErrorCondition::SessionError(e) => Symbol::from(e),
        ErrorCondition::LinkError(e) => Symbol::from(e),
        ErrorCondition::Custom(symbol) => symbol.clone(),
    };
    symbol.as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp_types::definitions::Fields;
    use fe2o3_amqp_types::messaging::{Accepted, Modified, Rejected, Released};

    use super::*;

    fn error(condition: &str) -> definitions::Error {
        let text = serde_amqp::to_vec(&Symbol::from(condition)).unwrap();
        let condition: ErrorCondition = serde_amqp::from_slice(&text).unwrap();
        definitions::Error::new(condition, Some("because".to_owned()), None)
    }

    fn rejected(condition: &str) -> Outcome {
        of_disposition(messaging::Outcome::Rejected(Rejected { error: Some(error(condition)) }))
            .last()
    }

    #[test]
    fn terminal_states_without_an_error() {
        let check = |got: messaging::Outcome, want: Outcome| {
            assert_eq!(of_disposition(got), Verdict::Outcome(want));
        };
        check(messaging::Outcome::Accepted(Accepted {}), Outcome::Delivered);
        check(messaging::Outcome::Released(Released {}), retry("released"));
        let modified =
            Modified { delivery_failed: None, undeliverable_here: None, message_annotations: None };
        check(messaging::Outcome::Modified(modified), retry("modified"));
    }

    #[test]
    fn conditions_fall_into_their_kinds() {
        for condition in
            ["com.microsoft:device-container-throttled", "amqp:resource-limit-exceeded"]
        {
            assert!(
                matches!(rejected(condition), Outcome::Retry { after: Some(a), .. } if a >= THROTTLED_AFTER),
                "{condition}"
            );
        }
        for condition in [
            "com.microsoft:timeout",
            "amqp:internal-error",
            "amqp:link:detach-forced",
            "amqp:connection:forced",
            "amqp:link:stolen",
            "something:nobody-knows",
        ] {
            assert!(matches!(rejected(condition), Outcome::Retry { .. }), "{condition}");
        }
        for condition in [
            "amqp:link:message-size-exceeded",
            "com.microsoft:argument-error",
            "com.microsoft:argument-out-of-range",
            "amqp:decode-error",
            "amqp:invalid-field",
        ] {
            let Outcome::Rejected { reason, .. } = rejected(condition) else {
                panic!("{condition}")
            };
            assert!(condition.ends_with(reason), "{condition} {reason}");
        }
        for condition in ["amqp:unauthorized-access", "amqp:not-found"] {
            assert!(matches!(rejected(condition), Outcome::Unauthenticated { .. }), "{condition}");
        }
    }

    #[test]
    fn a_link_that_ended_rejects_only_for_what_is_wrong_with_a_message() {
        let on_send = |condition: &str| {
            of_link_state(&LinkStateError::RemoteClosedWithError(error(condition)))
        };
        assert!(matches!(
            on_send("amqp:decode-error"),
            Verdict::LinkLost(Outcome::Rejected { .. })
        ));
        for condition in ["amqp:not-allowed", "amqp:link:detach-forced", "amqp:link:stolen"] {
            let got = on_send(condition);
            assert!(matches!(got, Verdict::LinkLost(Outcome::Retry { .. })), "{got:?}");
        }
        let attach = SenderAttachError::RemoteClosedWithError(error("amqp:decode-error"));
        assert!(matches!(of_attach_error(attach), Verdict::LinkLost(Outcome::Retry { .. })));
    }

    #[test]
    fn the_detail_names_the_tracking_id() {
        let mut info = Fields::new();
        info.insert(Symbol::from("com.microsoft:tracking-id"), Value::String("abc-1".to_owned()));
        let mut error = error("amqp:decode-error");
        error.info = Some(Box::new(info));
        assert_eq!(detail(&error), "amqp:decode-error: because (tracking id abc-1)");
    }
}
