//! What is kept is bounded, and noise goes first.

use std::io::{self, Write};

use super::ring::KEPT;
use super::*;
use crate::clock::{UnixMillis, system};
use crate::identity::{ClientName, DeviceId};

fn refused(label: &'static str, claim: &str, port: u16, at: u64) -> Decision {
    Decision {
        at: UnixMillis(at),
        stage: Stage::Connect,
        peer: Some(([192, 0, 2, 1], port).into()),
        claim: DeviceId::parse(claim).ok().map(ClientName::Device),
        outcome: Outcome::Refused { label, detail: "why".to_owned(), hint: None },
        certificate: None,
    }
}

#[test]
fn the_same_again_is_counted_and_moves_to_the_end() {
    let refusals = Refusals::new(None, system());
    assert!(!refusals.wants_admissions());
    for (at, (claim, port)) in [("a", 1), ("b", 2), ("a", 3)].into_iter().enumerate() {
        refusals.decided(refused("disabled", claim, port, at as u64 * 1000));
    }
    let report = refusals.report();
    let seen: Vec<_> = report
        .refusals
        .iter()
        .map(|r| {
            (r.claim.as_deref().unwrap(), r.times, &*r.first, &*r.last, r.peer.as_deref().unwrap())
        })
        .collect();
    let at = |second: u8| format!("1970-01-01T00:00:0{second}Z");
    let (zero, one, two) = (at(0), at(1), at(2));
    assert_eq!(
        seen,
        [("b", 1, &*one, &*one, "192.0.2.1:2"), ("a", 2, &*zero, &*two, "192.0.2.1:3")]
    );
    assert_eq!(report.total, 3);
}

#[test]
fn a_hundred_are_kept_and_noise_makes_room_first() {
    let refusals = Refusals::new(None, system());
    for n in 0..50 {
        refusals.decided(refused("disabled", &format!("mend-{n}"), 1, n));
    }
    for n in 0..10_000 {
        refusals.decided(refused("eof", &format!("noise-{n}"), 1, n));
    }
    let report = refusals.report();
    let mend = report.refusals.iter().filter(|r| r.reason == "disabled").count();
    assert_eq!((report.refusals.len(), mend, report.total), (KEPT, 50, 10_050));
    for n in 0..1000 {
        refusals.decided(refused("expired", &format!("more-{n}"), 1, n));
    }
    let report = refusals.report();
    assert_eq!(report.refusals.len(), KEPT);
    assert!(report.refusals.iter().all(|r| r.reason == "expired"));
    assert_eq!(report.refusals.last().unwrap().claim.as_deref(), Some("more-999"));
}

/// What is logged goes here.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Its lines while `what` runs at that level.
    fn of(level: Level, what: impl FnOnce()) -> Vec<String> {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, what);
        let bytes = log.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }
}

#[test]
fn the_log_has_one_line_for_a_thousand_of_a_kind_and_says_how_many_more() {
    let refusals = Refusals::new(None, system());
    let lines = Log::of(Level::INFO, || {
        for n in 0..1000 {
            refusals.decided(refused("disabled", "dev1", 1, n));
            refusals.decided(refused("eof", "dev1", 1, n));
        }
        refusals.lock().limiter.rest().iter().for_each(tell_more);
    });
    assert_eq!(
        lines,
        [
            " WARN refused at connect (disabled): peer 192.0.2.1:1, claim dev1, no certificate: why; to do: Enable it in IoT \
             Hub, if it should connect",
            " WARN refused at connect (disabled): 999 more like this from peer 192.0.2.1, claim dev1",
        ]
    );
    let noise = Log::of(Level::DEBUG, || refusals.decided(refused("eof", "dev1", 1, 0)));
    assert!(
        noise.len() == 1 && noise[0].starts_with("DEBUG refused at connect (eof)"),
        "{noise:?}"
    );
    let ours = Log::of(Level::INFO, || refusals.decided(refused("encode", "dev1", 1, 0)));
    assert!(
        ours.len() == 1 && ours[0].starts_with("ERROR refused at connect (encode)"),
        "{ours:?}"
    );
}
