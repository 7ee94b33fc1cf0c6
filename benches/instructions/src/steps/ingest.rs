//! From bytes to an append: decode, session, routes and the stored form.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Result, ensure};
use arc_swap::ArcSwap;
use bytes::BytesMut;
use sphere_gateway::front::ingest::Ingest;
use sphere_gateway::front::live::LiveGate;
use sphere_gateway::identity::DeviceId;
use sphere_gateway::metrics::{KeptSeries, Metrics};
use sphere_gateway::mqtt::codec;
use sphere_gateway::route::{Global, RouteSpec, RouteTable};
use sphere_gateway::session::Output;
use sphere_gateway::store::{AppendChain, ReceiptTo};
use tokio::sync::mpsc;

use super::{MESSAGES_MAX, counted_part, stored};
use crate::shape::{self, DEVICE, Shape, WALL, WINDOW};

/// Size of a PUBACK.
const PUBACK_BYTES: usize = 4;

/// Bytes to packets, a window in one buffer as one TLS record brings it.
pub(super) fn decode(shape: Shape, count: usize) -> Result<()> {
    let mut windows = shape.windows(DEVICE, MESSAGES_MAX)?;
    let mut decoded = 0;
    counted_part(&mut || {
        for window in &mut windows[..count / WINDOW] {
            while let Ok(Some(packet)) = codec::decode(window, 262_144) {
                black_box(packet);
                decoded += 1;
            }
        }
    });
    ensure!(decoded == count, "{decoded} packets of {count}");
    Ok(())
}

/// Packets to messages, and the proofs that they are durable to the bytes of PUBACKs.
pub(super) fn session(shape: Shape, count: usize) -> Result<()> {
    let mut session = shape::connected(DEVICE)?;
    let windows = shape.packets(DEVICE, MESSAGES_MAX)?;
    let mut proofs = stored::proofs(MESSAGES_MAX)?.into_iter();
    let now = shape::now();
    let mut outbox = BytesMut::with_capacity(4096);
    let mut acked = 0;
    let mut windows = windows.into_iter();
    counted_part(&mut || {
        let mut outputs = Vec::new();
        for window in windows.by_ref().take(count / WINDOW) {
            for packet in window {
                session.on_packet(packet, now, WALL, &mut outputs);
            }
            for output in std::mem::take(&mut outputs) {
                black_box(output);
            }
            for proof in proofs.by_ref().take(WINDOW) {
                session.on_durable(proof, now, &mut outputs);
            }
            for output in std::mem::take(&mut outputs) {
                if let Output::Send(packet) = output {
                    codec::encode(&packet, &mut outbox).expect("a PUBACK can be encoded");
                }
            }
            acked += black_box(&outbox).len() / PUBACK_BYTES;
            outbox.clear();
        }
    });
    std::mem::forget(windows);
    ensure!(acked == count, "{acked} PUBACKs for {count} messages");
    Ok(())
}

/// Messages to appends: the default route, the counters, a message id, the stored form.
pub(super) fn prepare(shape: Shape, count: usize) -> Result<()> {
    let edge = DeviceId::parse("edge")?;
    let spec = RouteSpec {
        name: "all".into(),
        text: "FROM /messages/* INTO $upstream".into(),
        priority: None,
        ttl_secs: 0,
        live_first: None,
    };
    let (table, refused) = RouteTable::compile(&edge, &[spec], Global::default());
    ensure!(refused.is_empty(), "the route was refused: {refused:?}");
    let metrics = Metrics::new("hub.example", "edge");
    let routes = Arc::new(ArcSwap::from_pointee(table));
    let ingest = Ingest::new(routes, Arc::new(LiveGate::default()), metrics);
    let mut messages = shape.messages(DEVICE, MESSAGES_MAX)?.into_iter();
    let (to, chain) = (mpsc::channel(WINDOW).0, AppendChain::new());
    let (mut kept, mut appends) = (KeptSeries::default(), 0);
    counted_part(&mut || {
        for (tag, message) in messages.by_ref().take(count).enumerate() {
            let receipt = ReceiptTo::new(tag as u64, to.clone(), &chain);
            let append = ingest.prepare(&message, receipt, &mut kept);
            appends += usize::from(black_box(append).is_some());
        }
    });
    std::mem::forget(messages);
    ensure!(appends == count, "{appends} appends of {count} messages");
    Ok(())
}
