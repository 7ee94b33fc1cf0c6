//! What is said to the hub about its calls and its messages.
//!
//! Owns: the bounds on calls, the credit for messages. Must not know: when links are open.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fe2o3_amqp::link::delivery::DeliveryInfo;

use super::{Served, State};
use crate::upstream::downlinks::links::{Kind, MESSAGES_MAX, lost};
use crate::upstream::downlinks::{MethodCall, Settlement};
use crate::upstream::pairs::{self, Call};

/// Longest wait for a method: more than the hub's callers (5 min) and whoever answers (5.5 min) take.
const CALL_TIMEOUT: Duration = Duration::from_secs(360);

impl Served {
    pub(super) async fn call(&mut self, call: Call, now: Instant) {
        let place = match self.calls.len() >= self.inner.config.calls_max {
            true => Err("identity"),
            false => self.inner.calls.clone().try_acquire_owned().map_err(|_| "total"),
        };
        let place = match place {
            Ok(place) => place,
            Err(reason) => {
                self.inner.metrics().counted("method_call_refused", reason);
                let busy = br#"{"message":"too many calls are under way"}"#.to_vec();
                let answer = pairs::call_answer(call.id, 429, busy);
                return self.send(Kind::Methods, answer, now).await;
            }
        };
        let id = call.id;
        let call = MethodCall { name: call.name, payload: call.payload.into() };
        let answer = self.listener.method(&self.who, call);
        self.calls.push(Box::pin(async move {
            let _place = place;
            let late = || (504, Bytes::from_static(br#"{"message":"no answer in time"}"#));
            let answer = tokio::time::timeout(CALL_TIMEOUT, answer).await;
            let (status, payload) = answer.unwrap_or_else(|_| late());
            (id, status, payload)
        }));
    }

    pub(super) async fn settle(
        &mut self,
        info: DeliveryInfo,
        settlement: Settlement,
        now: Instant,
    ) {
        let State::Open(link) = &mut self.standing[Kind::CloudToDevice as usize].state else {
            return;
        };
        let receiver = link.receiver();
        let (word, told) = match settlement {
            Settlement::Complete => ("complete", receiver.accept(info).await),
            Settlement::Release => ("release", receiver.release(info).await),
            Settlement::Reject => ("reject", receiver.reject(info, None).await),
            Settlement::Leave => ("leave", Ok(())),
        };
        self.inner.metrics().counted("cloud_to_device", word);
        match told {
            Ok(()) => self.give_credit(now).await,
            Err(error) => self.fail(Kind::CloudToDevice, lost(&error), now),
        }
    }

    /// Lets the hub send as many messages as there is room for.
    pub(super) async fn give_credit(&mut self, now: Instant) {
        let under_way = u32::try_from(self.messages.len()).unwrap_or(MESSAGES_MAX);
        let standing = &mut self.standing[Kind::CloudToDevice as usize];
        let State::Open(link) = &mut standing.state else { return };
        let credit = match standing.draining_until {
            Some(_) => 0,
            None => MESSAGES_MAX.saturating_sub(under_way),
        };
        if let Err(error) = link.receiver().set_credit(credit).await {
            self.fail(Kind::CloudToDevice, lost(&error), now);
        }
    }
}
