//! Transfers under way: the AMQP library's futures, in memory that is used again.
//!
//! A transfer's future is about 4 KB. Made anew for every delivery that is an allocation of the slow kind, and with many
//! senders of one message each there is one for every message.
//!
//! Owns: [`Sendings`]. Invariant: at most [`SPARE_MAX`] of them are kept for later; dropping the wait for an answer drops the
//! transfer and its link with it.
//! Must not know: what is sent, what an answer means.

use std::sync::Mutex;

use fe2o3_amqp::Sender;
use fe2o3_amqp::link::SendError;
use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp_types::messaging::{Batch, Data, Outcome};
use tokio_util::sync::ReusableBoxFuture;

/// So many are kept for the next transfers: 1 MB.
const SPARE_MAX: usize = 256;

/// The link comes back with the hub's answer.
type Answer = (Sender, Result<Outcome, SendError>);

/// Makes transfers, and keeps their memory.
#[derive(Default)]
pub(super) struct Sendings {
    spare: Mutex<Vec<ReusableBoxFuture<'static, Answer>>>,
}

impl Sendings {
    /// Sends `batch` over `link`, and waits until the hub has judged it.
    pub(super) fn send(
        &self,
        link: Sender,
        batch: Sendable<Batch<Data>>,
    ) -> impl Future<Output = Answer> {
        // Before the wait, which would else have room for the link and the batch as well.
        let mut sending = self.start(link, batch);
        async move {
            let answer = sending.get_pin().await;
            let mut spare = self.spare();
            if spare.len() < SPARE_MAX {
                spare.push(sending);
            }
            answer
        }
    }

    fn start(
        &self,
        link: Sender,
        batch: Sendable<Batch<Data>>,
    ) -> ReusableBoxFuture<'static, Answer> {
        let spare = self.spare().pop();
        match spare {
            Some(mut sending) => {
                sending.set(transfer(link, batch));
                sending
            }
            None => ReusableBoxFuture::new(transfer(link, batch)),
        }
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<ReusableBoxFuture<'static, Answer>>> {
        self.spare.lock().expect("nothing panics under this lock")
    }
}

async fn transfer(mut link: Sender, batch: Sendable<Batch<Data>>) -> Answer {
    let outcome = link.send(batch).await;
    (link, outcome)
}
