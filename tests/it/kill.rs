//! `kill -9` of the real binary at random moments while devices publish, the hub there or away: everything that was
//! acknowledged arrives, in order, and duplicates stay within what was in flight.
//!
//! `SPHERE_KILL_CYCLES` (default 50) and `SPHERE_SEED` are settable; the seed is printed.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::support::World;

const DEVICES: usize = 8;
const DEVICE_WINDOW: usize = 5;

/// `upstreamSettings__windowMessages`: what may be under way to the hub.
const PUMP_WINDOW: u64 = 64;

/// What one broken connection or one kill can make the hub see twice: what was under way, as much again that was settled
/// while the store had not noted it yet, and what the devices send again.
const DUPLICATES_MAX: u64 = 2 * PUMP_WINDOW + (DEVICES * DEVICE_WINDOW) as u64;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acked_is_lost_by_kill_9() {
    let cycles = setting("SPHERE_KILL_CYCLES", 50);
    let seed = setting("SPHERE_SEED", rand::random());
    println!("SPHERE_SEED={seed} SPHERE_KILL_CYCLES={cycles}");
    let mut random = StdRng::seed_from_u64(seed);

    let mut world = World::new(DEVICES).await;
    world.set("upstreamSettings__windowMessages", &PUMP_WINDOW.to_string());
    let mut child = world.binary(Path::new(env!("CARGO_BIN_EXE_sphere-gateway")));
    let fleet = world.fleet(|d| {
        d.window = DEVICE_WINDOW;
        d.interval = Duration::from_millis(2);
    });
    fleet.progress(10).await;

    let mut away = false;
    let (mut duplicates, mut worst) = (0, 0);
    for cycle in 0..cycles {
        let toggle = random.random_bool(0.3);
        match (toggle, away) {
            (true, false) => world.hub.go_away().await,
            (true, true) => world.hub.come_back().await.expect("the ports are still ours"),
            (false, _) => {}
        }
        away ^= toggle;
        // Mostly in the middle of publishing; sometimes while the gateway or the devices are still on their way up.
        if random.random_bool(0.7) {
            fleet.progress(random.random_range(1..150)).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
        child.kill().expect("SIGKILL");
        child.wait().expect("it is dead");
        child = world.binary(Path::new(env!("CARGO_BIN_EXE_sphere-gateway")));
        let now = world.hub.counts().duplicates;
        let (new, events) = (now - duplicates, 1 + u64::from(toggle));
        assert!(
            new <= events * DUPLICATES_MAX,
            "{new} duplicates in cycle {cycle}, {DUPLICATES_MAX} are explained"
        );
        (duplicates, worst) = (now, worst.max(new));
    }
    if away {
        world.hub.come_back().await.expect("the ports are still ours");
    }
    fleet.progress(10).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;

    duplicates_are_copies(&world);
    let counts = world.hub.counts();
    println!(
        "{cycles} kills: {} acked, {} duplicates, {worst} at most in a cycle",
        fleet.acked(),
        counts.duplicates
    );
    child.kill().expect("SIGKILL");
    child.wait().expect("it is dead");
    world.end().await;
}

/// Every copy of a message carries the same message id and the same body.
fn duplicates_are_copies(world: &World) {
    let mut first = HashMap::new();
    for message in world.hub.messages() {
        let seq = message.application_properties["seq"].clone();
        let id = message.system_properties["message-id"].clone();
        let known =
            first.entry((message.device_id, seq)).or_insert((id.clone(), message.body.clone()));
        assert_eq!(*known, (id, message.body));
    }
}
