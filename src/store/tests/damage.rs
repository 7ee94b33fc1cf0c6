//! Damage anywhere in any file: only touched records are lost, all of them are counted, and the store opens.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::model::{TestClock, config};
use crate::clock::UnixMillis;
use crate::store::append::{Append, AppendChain, AppendClass, AppendTo, ReceiptTo};
use crate::store::disk::{Disk, Mode, read_all};
use crate::store::engine::Engine;
use crate::store::id::{Offset, QueueId};
use crate::store::segment::{Key, Scan};
use crate::store::sim::SimDisk;

const FOLDER: &str = "/data/store/upstream.10";

#[derive(Debug, Clone)]
enum Damage {
    Flip(u8),
    Zero(usize),
    Garbage(usize),
    Truncate,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (0u8..8).prop_map(Damage::Flip),
        (1usize..4096).prop_map(Damage::Zero),
        (1usize..4096).prop_map(Damage::Garbage),
        Just(Damage::Truncate),
    ]
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>, at: usize) {
        match self {
            Self::Flip(bit) => bytes[at] ^= 1 << bit,
            Self::Zero(len) => bytes.iter_mut().skip(at).take(*len).for_each(|byte| *byte = 0),
            Self::Garbage(len) => {
                for (i, byte) in bytes.iter_mut().skip(at).take(*len).enumerate() {
                    *byte ^= (i * 31 + 7).to_le_bytes()[0] | 1;
                }
            }
            Self::Truncate => bytes.truncate(at),
        }
    }
}

fn open(disk: &SimDisk) -> (Engine, super::RecoveryReport) {
    Engine::open(config(), Arc::new(disk.clone()), TestClock::new(), Arc::default()).unwrap()
}

fn queue() -> QueueId {
    QueueId::new("upstream", 10)
}

/// One record per commit.
fn fill(disk: &SimDisk, sizes: &[usize]) -> Vec<Bytes> {
    let (mut engine, _) = open(disk);
    let (to, _mailbox) = mpsc::channel(1);
    let payload = |(i, size): (usize, &usize)| Bytes::from(vec![i.to_le_bytes()[0]; *size]);
    let payloads: Vec<Bytes> = sizes.iter().enumerate().map(payload).collect();
    for payload in &payloads {
        let append = Append {
            queues: vec![AppendTo { queue: queue(), ttl_secs: 0 }],
            payload: payload.clone(),
            received: UnixMillis(5),
            class: AppendClass::Ingress,
            receipt: ReceiptTo::new(0, to.clone(), &AppendChain::new()),
        };
        engine.commit(std::iter::once(&append)).unwrap();
    }
    payloads
}

fn bytes_of(disk: &SimDisk, path: &str) -> Vec<u8> {
    read_all(&*disk.open(Path::new(path), Mode::Read).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(300),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn damage_costs_what_it_touches_and_is_counted(
        sizes in prop::collection::vec(0usize..600, 2..60),
        file in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        damage in damage(),
    ) {
        let disk = SimDisk::new();
        let payloads = fill(&disk, &sizes);
        let disk = disk.kill();
        let names = disk.names(FOLDER);
        let name = file.get(&names);
        let path = format!("{FOLDER}/{name}");
        let before = bytes_of(&disk, &path);
        disk.damage(&path, |bytes| damage.apply(bytes, place.index(before.len())));
        let after = bytes_of(&disk, &path);
        let mut touched = Vec::new();
        if let Some(key) = Key::from_file_name(name) {
            for placed in Scan::of(&before, key, 0..u64::MAX).records {
                let range = placed.at..placed.at + 40 + placed.found.payload_len;
                if after.get(range.clone()) != before.get(range) {
                    touched.push(placed.found.head.offset.0);
                }
            }
        }

        let (mut engine, report) = open(&disk);
        let shared = engine.queue(&queue()).unwrap();
        let (mut got, mut next, mut lost) = (Vec::new(), Offset(0), 0);
        loop {
            let chunk = shared.read(next, 7, 3000).unwrap();
            lost += chunk.lost.iter().map(|range| range.end.0 - range.start.0).sum::<u64>();
            if chunk.next == next {
                break;
            }
            next = chunk.next;
            got.extend(chunk.records.into_iter().map(|r| (r.offset.0, r.payload)));
        }
        let all = payloads.into_iter().enumerate().map(|(i, payload)| (i as u64, payload));
        let want: Vec<(u64, Bytes)> = all.filter(|(o, _)| !touched.contains(o)).collect();
        let offsets = |records: &[(u64, Bytes)]| records.iter().map(|r| r.0).collect::<Vec<_>>();
        prop_assert_eq!(offsets(&got), offsets(&want));
        prop_assert!(got == want, "other bytes than were appended");
        // Nothing proves of records behind the last one that is left that they were ever acknowledged.
        let last_left = want.last().map_or(0, |(offset, _)| *offset);
        let provable = touched.iter().filter(|offset| **offset < last_left).count();
        prop_assert_eq!(report.proven_lost + lost, provable as u64);
        drop(engine);
        let (_, again) = open(&disk);
        prop_assert_eq!(again.proven_lost, 0, "counted once");
        prop_assert_eq!(again.records >= want.len() as u64, true);
    }
}
