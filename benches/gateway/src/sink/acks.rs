//! One connection of an MQTT sink: reads as much as there is, gives PUBLISHes to the tally, and sends the PUBACKs of one
//! read with one write, late if asked.
//!
//! Invariant: PUBACKs go out in the order of the PUBLISHes (MQTT-4.6.0-2). Must not know: which side opened the
//! connection.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::codec::{self, Malformed, Packet, kind};
use super::{Delay, Tally};

/// Room for one read.
const READ_BYTES: usize = 256 * 1024;

/// What is to be written, now or later.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// For the next write.
    pub(crate) out: Vec<u8>,
    /// PUBACKs of the read that is worked on, when they have to wait.
    batch: Vec<u8>,
    waiting: VecDeque<(Instant, Vec<u8>)>,
}

impl Acks {
    fn puback(&mut self, delay: Duration, id: u16) {
        let at_once = delay.is_zero() && self.waiting.is_empty();
        codec::put_puback(if at_once { &mut self.out } else { &mut self.batch }, id);
    }

    /// A read is worked off: what has to wait waits from now on.
    fn end_of_read(&mut self, now: Instant, delay: Duration) {
        if !self.batch.is_empty() {
            self.waiting.push_back((now + delay, std::mem::take(&mut self.batch)));
        }
    }

    /// Moves what is due to [`Acks::out`].
    fn due(&mut self, now: Instant) {
        while self.next_due().is_some_and(|at| at <= now) {
            let (_, batch) = self.waiting.pop_front().expect("one is due");
            self.out.extend_from_slice(&batch);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.waiting.front().map(|(at, _)| *at)
    }
}

/// Takes a PUBLISH: to the tally when it is a device's, and acknowledged in any case.
pub(crate) fn on_publish(
    packet: &Packet<'_>,
    tally: &Tally,
    acks: &mut Acks,
    delay: Duration,
) -> Result<(), Malformed> {
    let publish = codec::publish(packet)?;
    if publish.topic.starts_with(b"devices/") {
        tally.take(publish.payload);
    }
    if let Some(id) = publish.id {
        acks.puback(delay, id);
    }
    Ok(())
}

/// Runs a connection until the peer closes it. `on_packet` sees every packet in order and says whether to go on; with
/// `ping_every` we say that we live.
pub(crate) async fn run<S>(
    stream: &mut S,
    acks: &mut Acks,
    delay: &Delay,
    ping_every: Option<Duration>,
    mut on_packet: impl FnMut(&Packet<'_>, &mut Acks, Duration) -> Result<bool, Malformed>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let mut ping_at = ping_every.map(|every| Instant::now() + every);
    loop {
        acks.due(Instant::now());
        if !acks.out.is_empty() {
            stream.write_all(&acks.out).await?;
            stream.flush().await?;
            acks.out.clear();
        }
        input.reserve(READ_BYTES);
        let wake_at = acks.next_due().into_iter().chain(ping_at).min();
        let read = match wake_at {
            None => stream.read_buf(&mut input).await?,
            Some(at) => match tokio::time::timeout_at(at.into(), stream.read_buf(&mut input)).await
            {
                Ok(read) => read?,
                Err(_) => {
                    if ping_at.is_some_and(|at| at <= Instant::now()) {
                        codec::put_pingreq(&mut acks.out);
                        ping_at = ping_every.map(|every| Instant::now() + every);
                    }
                    continue;
                }
            },
        };
        if read == 0 {
            return Ok(());
        }
        let late = delay.get();
        while let Some((packet, len)) = codec::next(&input).map_err(invalid)? {
            if !on_packet(&packet, acks, late).map_err(invalid)? {
                return Ok(());
            }
            input.advance(len);
        }
        acks.end_of_read(Instant::now(), late);
    }
}

/// Reads until one whole packet is there, and takes it off; used before [`run`].
pub(crate) async fn expect<S>(stream: &mut S, wanted: u8) -> io::Result<Vec<u8>>
where
    S: AsyncRead + Unpin,
{
    let mut raw = Vec::new();
    loop {
        // One byte at a time: nothing of what follows may be lost, and this happens once per connection.
        raw.push(stream.read_u8().await?);
        if let Some((packet, _)) = codec::next(&raw).map_err(invalid)? {
            if packet.kind() != wanted {
                let words = format!("a packet of type {}, not {wanted}", packet.kind());
                return Err(io::Error::new(io::ErrorKind::InvalidData, words));
            }
            return Ok(packet.body.to_vec());
        }
    }
}

fn invalid(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Answers that both sides give alike: true when `packet` was one of them.
pub(crate) fn on_ping(packet: &Packet<'_>, acks: &mut Acks) -> bool {
    match packet.kind() {
        kind::PINGREQ => {
            codec::put_pingresp(&mut acks.out);
            true
        }
        kind::PINGRESP => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_acknowledgements_keep_their_order() {
        let (mut acks, start, late) = (Acks::default(), Instant::now(), Duration::from_millis(50));
        acks.puback(Duration::ZERO, 1);
        assert_eq!(acks.out, [0x40, 2, 0, 1], "at once");
        acks.out.clear();
        acks.puback(late, 2);
        acks.end_of_read(start, late);
        // The delay ends, but 2 still waits.
        acks.puback(Duration::ZERO, 3);
        acks.end_of_read(start, Duration::ZERO);
        acks.due(start + Duration::from_millis(49));
        assert!(acks.out.is_empty());
        acks.due(start + late);
        assert_eq!(acks.out, [0x40, 2, 0, 2, 0x40, 2, 0, 3]);
        assert_eq!(acks.next_due(), None);
    }
}
