//! `kill -9` of the real binary at random moments while clients report as fast as they are answered, with the hub there and
//! away: what was answered 204, or acknowledged, is in the hub's reported properties, in order; versions do not go back; and
//! sessions are there with their subscriptions.
//!
//! `SPHERE_BOTH_WAYS_KILLS` (default 10) and `SPHERE_SEED` are settable; the seed is printed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hub_double::C2dMessage;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::book::Weather;
use super::player::{Habits, Player};
use super::schedule::{Played, agree, setting};
use super::speaker::Who;
use crate::process::Process;
use crate::support::{World, eventually};

const DEVICES: usize = 4;

/// They patch, keep their sessions, and seldom do anything else.
const HABITS: Habits =
    Habits { patch: 100, get: 2, telemetry: 2, leave: 1, keeps: 0.9, pause: Duration::ZERO };

fn answered(played: &[Played]) -> u64 {
    played.iter().map(|p| p.book.lock().expect("nobody panics with it").patches_answered).sum()
}

pub(super) fn start(world: &World) -> Process {
    tokio::task::block_in_place(|| world.process())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reported_is_at_the_hub_whenever_it_is_killed() {
    let kills = setting("SPHERE_BOTH_WAYS_KILLS", 10);
    let seed = setting("SPHERE_SEED", rand::random::<u64>() >> 1);
    println!("SPHERE_SEED={seed} SPHERE_BOTH_WAYS_KILLS={kills}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new(DEVICES).await;
    world.set("ReportedPropertiesSyncFrequencySecs", "1");
    world.set("MinTwinSyncPeriodSecs", "1");
    let (weather, stop) = (Arc::new(Weather::default()), CancellationToken::new());
    let (clients, mut played) = (TaskTracker::new(), Vec::new());
    for who in (0..DEVICES).map(|index| Who::device(&world, index)) {
        let id = who.id.clone();
        let (player, book) = Player::new(who, HABITS, random.random(), &weather, &stop);
        clients.spawn(player.run());
        played.push(Played { id, book });
    }
    clients.close();
    let mut process = start(&world);
    // Without a scope nobody is let in.
    eventually("patches are answered", async || answered(&played) >= 20).await;
    let mut is_away = false;
    for cycle in 0..kills {
        if random.random_bool(0.4) {
            match is_away {
                true => world.hub.come_back().await.expect("the ports are still ours"),
                false => world.hub.go_away().await,
            }
            is_away = !is_away;
        }
        let who = &played[random.random_range(0..DEVICES)].id;
        world.hub.patch_desired(who, None, &json!({"cycle": cycle}));
        world.hub.send_c2d(who, C2dMessage::new("b").id(format!("m{cycle}"))).expect("room");
        // Mostly in the middle of patches; sometimes while all are on their way up.
        if random.random_bool(0.8) {
            let goal = answered(&played) + random.random_range(1..60);
            eventually("patches are answered", async || answered(&played) >= goal).await;
        }
        tokio::time::sleep(Duration::from_micros(random.random_range(0..40_000))).await;
        weather.turn();
        process.kill();
        process = start(&world);
    }
    weather.is_quiet.store(true, Ordering::SeqCst);
    if is_away {
        world.hub.come_back().await.expect("the ports are still ours");
    }
    for player in &played {
        world.hub.patch_desired(&player.id, None, &json!({"at": "last"}));
    }
    agree(&world, &played).await;
    for player in &played {
        let book = player.book.lock().expect("nobody panics with it");
        let (id, answered, present) = (&player.id, book.patches_answered, book.present);
        let connections = book.connections;
        println!(
            "{id:.8}: {answered} patches, {connections} connections, {present} with a session"
        );
        assert!(answered > kills && (kills < 5 || present > 0), "the trial must try");
    }
    stop.cancel();
    clients.wait().await;
    process.stop().await;
    world.end().await;
}
