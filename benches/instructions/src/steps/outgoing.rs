//! From the queue to the hub: the pump, and messages as AMQP.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use sphere_gateway::metrics::Metrics;
use sphere_gateway::pump::{Config, Pump, Target};
use sphere_gateway::store::{Offset, QueueId, Record, StoreMillis};
use sphere_gateway::{clock, upstream};
use tokio_util::sync::CancellationToken;

use super::memory::{Endpoint, NoDeadLetters, OneQueue, Queue};
use super::{MESSAGES_MAX, counted_part, runtime};
use crate::shape::{DEVICE, Shape, WINDOW};

/// Devices whose messages are in the queue, a window after the other.
const DEVICES: usize = 50;
/// Bytes of a batch, as the gateway sends to the hub.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Records to deliveries: the window, the lanes, reading the stored form, counters; without the store and the hub.
pub(super) fn pump(shape: Shape, count: usize) -> Result<()> {
    let stop = CancellationToken::new();
    let endpoint = Arc::new(Endpoint {
        wanted: count,
        taken: 0.into(),
        deliveries: 0.into(),
        stop: stop.clone(),
    });
    let mut records = records(shape)?;
    records.truncate(count);
    let pump = Pump::new(
        Arc::new(OneQueue(Queue::new(records))),
        QueueId::new("iothub", QueueId::PRIORITY_DEFAULT),
        Target::new(endpoint.clone()),
        Arc::new(NoDeadLetters),
        Metrics::new("hub.example", "edge"),
        clock::system(),
        Config::default(),
    );
    let runtime = runtime()?;
    let mut run = Some(pump.run(stop));
    let mut ended = None;
    counted_part(&mut || ended = run.take().map(|run| runtime.block_on(run)));
    ended.context("it ran")??;
    let taken = endpoint.taken.load(Ordering::Relaxed);
    ensure!(taken == count, "{taken} messages of {count} were delivered");
    let deliveries = endpoint.deliveries.load(Ordering::Relaxed);
    eprintln!("{taken} messages in {deliveries} deliveries");
    Ok(())
}

fn records(shape: Shape) -> Result<Vec<Record>> {
    let device = |n| shape.stored(&format!("bench-device-{n:04}"), MESSAGES_MAX / DEVICES);
    let devices = (0..DEVICES).map(device).collect::<Result<Vec<_>>>()?;
    let windows = (0..MESSAGES_MAX / DEVICES).step_by(WINDOW);
    let in_order = windows.flat_map(|at| devices.iter().flat_map(move |d| &d[at..at + WINDOW]));
    let record = |(offset, payload): (usize, &bytes::Bytes)| Record {
        offset: Offset(offset as u64),
        payload: payload.clone(),
        stored: StoreMillis(0),
        ttl_secs: 0,
        expires: None,
    };
    Ok(in_order.enumerate().map(record).collect())
}

/// Messages to the bytes of AMQP batches, a window each.
pub(super) fn pack(shape: Shape, count: usize) -> Result<()> {
    let messages = shape.stored(DEVICE, MESSAGES_MAX)?;
    let messages = messages
        .into_iter()
        .map(sphere_gateway::message::Message::decode)
        .collect::<Result<Vec<_>, _>>()?;
    let to = format!("/devices/{DEVICE}/messages/events");
    let mut bytes = Some(0);
    counted_part(&mut || {
        for window in messages[..count].chunks(WINDOW) {
            let packed = upstream::packed_bytes(black_box(window), &to, BATCH_BYTES_MAX);
            bytes = packed.and_then(|more| Some(more + bytes?));
        }
    });
    let bytes = bytes.context("a message is too large for the hub")?;
    ensure!(bytes > count * 256, "{bytes} bytes for {count} messages");
    Ok(())
}
