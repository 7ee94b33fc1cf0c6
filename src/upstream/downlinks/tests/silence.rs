//! A hub that leaves tokens or attaches of some identities without an answer.

use hub_double::{DeviceSpec, Fault, FaultKind};

use super::*;
use crate::deliver::Outcome;
use crate::upstream::live::GivenUp;
use crate::upstream::tests::{device, messages};

impl Bench {
    /// Waits until `event` was counted so often.
    async fn counts(&self, event: &str, reason: &str, least: u64) {
        let counting = async {
            while self.counted(event, reason) < least {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let have = || self.counted(event, reason);
        timeout(LONG, counting).await.unwrap_or_else(|_| panic!("{reason}: {} of {least}", have()));
    }
}

/// More than there are places for, and the hub never answers one of their tokens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_token_gives_its_place_to_the_others() {
    const SILENT: usize = 64;
    let lab = Lab::with(
        |hub| {
            let spec = |n| DeviceSpec::certificate(format!("s{n}")).child_of("edge1");
            hub.devices.extend((0..SILENT).map(spec));
        },
        // No wait ends by itself while this test runs.
        |config| config.operation_timeout = LONG * 4,
    )
    .await;
    for n in 0..SILENT {
        lab.hub.fault(Fault::new(FaultKind::IgnoreTokens).for_device(format!("s{n}")));
    }
    let bench = Bench::with(lab, |config| config.setup_gap = Duration::ZERO).await;
    for n in 0..SILENT {
        bench.want(&device(&format!("s{n}")), METHODS);
    }
    let taken = async {
        while bench.downlinks.inner.places.available_permits() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, taken).await.expect("all places are taken");
    bench.want(&device("d1"), ALL);
    for kind in Kind::ALL {
        bench.opens(kind, 1).await;
    }
    bench.end().await;
}

/// Those that were not answered are tried again by themselves, in a line of their own, until they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_not_answered_is_tried_again_and_holds_up_nobody() {
    for (fault, reason) in [
        (FaultKind::IgnoreTokens, "token_unanswered"),
        (FaultKind::IgnoreLinks, "attach_unanswered"),
    ] {
        let bench = Bench::start().await;
        let (d1, d2) = (device("d1"), device("d2"));
        bench.lab.hub.fault(Fault::new(fault).for_device("d1"));
        bench.want(&d1, ALL);
        // The three kinds once, and one of them again.
        bench.counts("downlink_not_opened", reason, 4).await;
        bench.want(&d2, ALL);
        for kind in Kind::ALL {
            bench.opens(kind, 1).await;
        }
        assert_eq!(bench.next().await, Said::Listening(d2.clone()));
        assert_eq!(bench.lab.deliver(&d2, &messages(&d2, 0..3)).await, Outcome::Delivered);

        bench.lab.hub.clear_faults();
        for kind in Kind::ALL {
            bench.opens(kind, 2).await;
        }
        assert_eq!(bench.next().await, Said::Listening(d1.clone()));
        assert_eq!(bench.lab.deliver(&d1, &messages(&d1, 0..3)).await, Outcome::Delivered);
        for kind in Kind::ALL {
            assert_eq!(bench.counted("downlink_ended", kind.word()), 0, "of one connection");
        }
        assert_eq!(bench.lab.hub.counts().connections, 1);
        bench.want(&d1, NOTHING);
        for kind in Kind::ALL {
            bench.opens(kind, 1).await;
        }
        bench.end().await;
    }
}

#[tokio::test]
async fn it_is_told_how_the_first_attempt_to_reach_the_hub_went() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    for is_there in [true, false] {
        let set = |config: &mut crate::upstream::Config| {
            if !is_there {
                config.amqp_port = port;
            }
        };
        let bench = Bench::unconnected(Lab::with(|_| {}, set).await, |_| {});
        let mut tried = bench.downlinks.tried();
        timeout(LONG, tried.wait_for(|it| *it)).await.expect("in time").expect("it runs");
        assert_eq!(*bench.downlinks.connected().borrow(), is_there);
        bench.end().await;
    }
}

/// Their tokens are due, and the hub does not answer them: our own is renewed nevertheless, or the connection would end for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_that_are_not_answered_do_not_hold_up_our_own() {
    const SILENT: usize = 20;
    let lab = Lab::with(
        |hub| {
            let spec = |n| DeviceSpec::certificate(format!("s{n}")).child_of("edge1");
            hub.devices.extend((0..SILENT).map(spec));
        },
        |config| {
            config.operation_timeout = LONG * 4;
            config.token_ttl = Duration::from_secs(5);
        },
    )
    .await;
    let bench = Bench::with(lab, |config| config.setup_gap = Duration::ZERO).await;
    for n in 0..SILENT {
        bench.want(&device(&format!("s{n}")), METHODS);
    }
    bench.opens(Kind::Methods, SILENT).await;
    for n in 0..SILENT {
        bench.lab.hub.fault(Fault::new(FaultKind::IgnoreTokens).for_device(format!("s{n}")));
    }
    let accepted = || bench.lab.hub.counts().tokens_accepted;
    let before = accepted();
    let renewing = async {
        while accepted() < before + 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, renewing).await.expect("our own token is renewed on and on");
    assert_eq!(bench.lab.hub.counts().connections, 1);
    bench.end().await;
}

/// Beyond so many attaches that were given up each one has a session of its own: who comes then takes that of who has left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_apart_do_not_add_up() {
    let bench = Bench::start().await;
    let live = bench.downlinks.inner.live.borrow().clone().expect("connected");
    let given_up: Vec<_> = (0..64).map(|_| GivenUp::new(&live)).collect();
    for _ in 0..10 {
        bench.want(&device("d1"), METHODS);
        bench.opens(Kind::Methods, 1).await;
        bench.want(&device("d1"), NOTHING);
        let left = async {
            while live.down_held().1 > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, left).await.expect("its links are closed");
    }
    assert_eq!(live.down_held(), (1, 0));
    drop(given_up);
    drop(live);
    bench.end().await;
}
