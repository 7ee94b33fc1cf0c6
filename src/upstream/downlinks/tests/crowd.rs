//! Many identities at once.

use hub_double::DeviceSpec;

use super::*;
use crate::deliver::Outcome;
use crate::upstream::tests::{device, messages};

const MANY: usize = 1000;

async fn crowd(set: impl FnOnce(&mut Config)) -> Bench {
    let lab = Lab::with(
        |hub| {
            let spec = |n| DeviceSpec::certificate(format!("c{n}")).child_of("edge1");
            hub.devices.extend((0..MANY).map(spec));
        },
        // As in the field: a machine that is busy with other tests must not look like a dead hub.
        |config| config.operation_timeout = Duration::from_secs(20),
    )
    .await;
    let bench = Bench::with(lab, set).await;
    for n in 0..MANY {
        bench.want(&device(&format!("c{n}")), ALL);
    }
    bench
}

async fn all_open(bench: &Bench, count: usize) {
    for kind in Kind::ALL {
        bench.opens(kind, count).await;
    }
}

/// All get their links, again after a reconnect, at the pace that was set; telemetry goes on meanwhile; and all goes when nobody
/// wants it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_identities_get_their_links_at_a_pace_and_telemetry_does_not_wait_for_them() {
    let gap = Duration::from_millis(4);
    let bench = crowd(|config| config.setup_gap = gap).await;
    all_open(&bench, MANY).await;

    bench.lab.hub.go_away().await;
    bench.disconnected().await;
    bench.lab.hub.come_back().await.expect("the ports are still ours");
    bench.connected().await;
    let clock = crate::clock::system();
    let began = clock.monotonic();
    let before = bench.open(Kind::Twin);
    let d1 = device("d1");
    assert_eq!(bench.lab.deliver(&d1, &messages(&d1, 0..3)).await, Outcome::Delivered);
    assert!(bench.open(Kind::Twin) < MANY, "telemetry did not wait for all of them");
    all_open(&bench, MANY).await;
    let took = clock.monotonic() - began;
    let least = gap * u32::try_from(MANY - before).unwrap() / 2;
    assert!(took >= least, "{took:?} for {MANY} at {gap:?} each");

    for n in 0..MANY {
        bench.want(&device(&format!("c{n}")), NOTHING);
    }
    all_open(&bench, 0).await;
    timeout(LONG, async {
        while !bench.downlinks.inner.table().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("nothing is kept of them");
    assert_eq!(
        bench.counted("downlink_ended", "twin"),
        0,
        "a lost connection is nothing of theirs"
    );
    bench.end().await;
}

/// Prints what an identity with all its links costs, the hub double's share included (it is in this process).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints a measurement"]
async fn memory_of_an_identity() {
    fn resident_kib() -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
    let bench = crowd(|config| config.setup_gap = Duration::ZERO).await;
    for n in 0..MANY {
        bench.want(&device(&format!("c{n}")), NOTHING);
    }
    all_open(&bench, 0).await;
    for (name, wanted) in [("methods", METHODS), ("desired", DESIRED), ("all", ALL)] {
        for n in 0..MANY {
            bench.want(&device(&format!("c{n}")), wanted);
        }
        let count = |is: bool| if is { MANY } else { 0 };
        bench.opens(Kind::Twin, count(wanted.desired)).await;
        bench.opens(Kind::Methods, count(wanted.methods)).await;
        bench.opens(Kind::CloudToDevice, count(wanted.cloud_to_device)).await;
        println!("{name}: {} KiB resident", resident_kib());
    }
    bench.end().await;
}
