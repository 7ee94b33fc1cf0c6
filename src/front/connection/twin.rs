//! What becomes of twin requests.
//!
//! Must not know: twins: there are none yet.

use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use crate::iothub::topics;
use crate::mqtt::packet::{Delivery, Packet, Publish, Utf8Bytes};
use crate::session::TwinRequest;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// There is no twin yet, and 2xx would be a lie: the client gets a status that its SDK takes for "try later".
    pub(super) fn refuse_twin(&mut self, request: &TwinRequest) {
        self.front.metrics.counted("twin_request", "not_available");
        let rid = match request {
            TwinRequest::Get { rid } => rid,
            TwinRequest::Patch { rid: Some(rid), .. } => rid,
            TwinRequest::Patch { rid: None, .. } => return,
        };
        let topic = topics::twin_response(503, rid, None);
        let publish = Publish {
            topic: Utf8Bytes::copy_from(&topic).expect("a part of a topic is a topic"),
            payload: bytes::Bytes::new(),
            delivery: Delivery::AtMostOnce,
            retain: false,
        };
        self.send(&Packet::Publish(publish));
    }
}
