//! Clients of the relay's tests.

use crate::clock::UnixMillis;
use crate::front::mailbox::{Client, Handed, Letter, Letters, mailbox};
use crate::identity::{ClientName, DeviceId, Identity, ModuleId};
use crate::iothub::subscriptions::Subscription;
use crate::message::{Message, Properties, Source, SystemProperties};
use crate::mqtt::packet::QoS;
use crate::session::{Outbound, Subscriptions};

/// `device` or `device/module`.
pub(super) fn identity(text: &str) -> Identity {
    let (device, module) = text.split_once('/').unwrap_or((text, ""));
    let device = DeviceId::parse(device).unwrap();
    Identity::vouched(match ModuleId::parse(module) {
        Ok(module) => ClientName::Module(device, module),
        Err(_) => ClientName::Device(device),
    })
}

/// A connection, and what is put into its mailbox.
pub(super) fn client(text: &str, serial: u64) -> (Client, Letters) {
    let (mailbox, letters) = mailbox();
    let identity = identity(text);
    (Client { identity, serial, mailbox, model_id: None, product_info: None }, letters)
}

pub(super) fn subscriptions(of: &[Subscription]) -> Subscriptions {
    let mut all = Subscriptions::default();
    of.iter().for_each(|of| all.set(*of, Some(QoS::AtLeastOnce)));
    all
}

/// The next letter.
pub(super) async fn next(letters: &mut Letters) -> Letter {
    std::future::poll_fn(|cx| letters.poll_ready(cx)).await;
    letters.try_recv().expect("it is ready")
}

/// The next letter's content; what came of it is said by the function that comes with it.
pub(super) async fn letter(letters: &mut Letters) -> (Outbound, Box<dyn FnOnce(Handed) + Send>) {
    match next(letters).await {
        Letter::Send { content, handed } => {
            let say = move |what| {
                if let Some(handed) = handed {
                    let _ = handed.send(what);
                }
            };
            (content, Box::new(say))
        }
        other => panic!("no letter but {other:?}"),
    }
}

pub(super) fn message(sender: &str, body: &str) -> Message {
    Message {
        source: Source { sender: identity(sender) },
        system: SystemProperties::default(),
        properties: Properties::default(),
        body: body.to_owned().into(),
        received: UnixMillis(0),
    }
}
