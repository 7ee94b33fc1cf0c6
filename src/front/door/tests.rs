//! Who comes in, who makes room, and that everything is given back.

use std::time::Instant;

use super::*;
use crate::clock::{Clock, UnixMillis};
use crate::identity::{ClientName, DeviceId};

/// Stands still until it is moved.
struct Still(Mutex<Instant>);

impl Clock for Still {
    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }

    fn monotonic(&self) -> Instant {
        *self.0.lock().unwrap()
    }
}

struct World {
    clock: Arc<Still>,
    metrics: Arc<Metrics>,
    door: Arc<Door>,
    stop: CancellationToken,
}

impl World {
    fn new(connections_max: usize) -> Self {
        let clock = Arc::new(Still(Mutex::new(crate::clock::system().monotonic())));
        let metrics = Metrics::new("hub", "edge");
        let (shared, counters) = (Arc::clone(&clock) as SharedClock, Arc::clone(&metrics));
        let config = Config { failures_per_min: 60, ..Config::default() };
        let door = Door::new(&config, connections_max, shared, counters);
        Self { clock, metrics, door, stop: CancellationToken::new() }
    }

    fn enter(&self, address: u8) -> Result<Pass, Closed> {
        self.door.enter(([192, 0, 2, address], 4711).into(), &self.stop)
    }

    /// Somebody waits for a turn, and goes on waiting.
    fn press(&self) {
        self.door.lock().pressure.waits(self.clock.monotonic());
        self.pass(Duration::from_millis(100));
    }

    fn pass(&self, duration: Duration) {
        *self.clock.0.lock().unwrap() += duration;
    }

    fn is_as_new(&self) -> bool {
        let state = self.door.lock();
        state.open == 0 && state.strangers.len() == 0 && state.leave.is_empty()
    }
}

fn who(id: &str) -> Identity {
    Identity::vouched(ClientName::Device(DeviceId::parse(id).unwrap()))
}

#[test]
fn silent_peers_make_room_and_who_logged_in_never_does() {
    let world = World::new(10);
    let mut devices: Vec<Pass> = (0..5).map(|n| world.enter(n).unwrap()).collect();
    for (n, pass) in devices.iter_mut().enumerate() {
        pass.log_in(&who(&format!("d{n}"))).unwrap();
    }
    let silent: Vec<Pass> = (0..5).map(|_| world.enter(100).unwrap()).collect();
    let newcomer = world.enter(50).unwrap();
    let asked = |passes: &[Pass]| passes.iter().filter(|p| p.leave().is_cancelled()).count();
    assert!(silent[0].leave().is_cancelled() && asked(&silent) == 1);
    // Its address may not push out its own at once, and is not refused for ever.
    assert_eq!(world.enter(100).err(), Some(Closed::Full(10)));
    world.pass(Duration::from_secs(1));
    let again = world.enter(100).unwrap();
    assert_eq!(asked(&silent), 2);
    // Who is asked to leave and does not is bounded, too.
    let each = |n| {
        world.pass(Duration::from_secs(1));
        world.enter(n).ok()
    };
    let more: Vec<_> = (0..100).filter_map(each).collect();
    assert_eq!(world.door.lock().open, 10 + LEAVING_MAX);
    assert_eq!(asked(&devices), 0);
    drop((newcomer, again, more, silent, devices));
    assert!(world.is_as_new());
}

#[test]
fn an_address_that_only_fails_is_turned_away_and_one_that_succeeds_is_not() {
    let world = World::new(10_000);
    let fail = |address, cost| {
        (0..1000).map_while(|_| world.enter(address).ok().map(|pass| pass.failed(cost))).count()
    };
    assert_eq!(fail(1, Cost::Handshake), 1000, "nobody has to wait for it");
    world.press();
    assert_eq!(fail(4, Cost::Nothing), 1000);
    assert_eq!(fail(3, Cost::Handshake), 60 + 5, "and what it had saved of its share");
    assert_eq!(fail(1, Cost::Handshake), 1 + 5, "what it did before counts");
    assert_eq!(world.enter(1).err(), Some(Closed::Banned(Duration::from_secs(1))));
    assert!(world.metrics.render().contains("sphere_gateway_addresses_banned"));
    let mut device = world.enter(2).unwrap();
    device.log_in(&who("d")).unwrap();
    assert!(fail(2, Cost::Handshake) >= 60);
    assert!(matches!(world.enter(2).err(), Some(Closed::Slowed(_))));
    world.pass(Duration::from_secs(1));
    assert!(world.enter(1).is_ok() && world.enter(2).is_ok());
}

/// One leaf of our own CA, of a device that is disabled, used for a flood; and a site of such devices.
#[test]
fn one_vouched_leaf_that_hammers_is_turned_away_and_a_site_in_need_is_not() {
    let world = World::new(10_000);
    world.press();
    let refused = |address, id: &str| {
        let Ok(pass) = world.enter(address) else { return false };
        pass.failed(pass.refused_though_vouched(&DeviceId::parse(id).unwrap()));
        true
    };
    for round in 0..20 {
        assert!((0..100).all(|n| refused(1, &format!("d{n}"))), "round {round}");
    }
    let times = (0..1000).take_while(|_| refused(2, "bad")).count();
    assert_eq!(
        times,
        30 + 60 + 5,
        "its own, the address's failures, and what it had saved of its share"
    );
    assert!(matches!(world.enter(2).err(), Some(Closed::Banned(_))));
    assert!(refused(1, "d7"));
}

#[test]
fn a_fight_is_damped_and_counted_against_the_address() {
    let world = World::new(100);
    let mut seat = world.enter(1).unwrap();
    seat.log_in(&who("d")).unwrap();
    let mut refused = 0;
    for _ in 0..50 {
        let mut newcomer = world.enter(2).unwrap();
        match newcomer.log_in(&who("d")) {
            Ok(()) => seat = newcomer,
            Err(TooOften::Fight { holder, .. }) => {
                assert_eq!(holder.ip(), std::net::IpAddr::from([192, 0, 2, 2]));
                refused += 1;
            }
            Err(e) => panic!("{e:?}"),
        }
    }
    assert_eq!(refused, 50 - 14, "30 at first: one log-in, and 14 takeovers of 2");
    let mut other = world.enter(3).unwrap();
    assert!(other.log_in(&who("e")).is_ok(), "nobody else is held back");
    drop((seat, other));
    assert!(world.is_as_new());
}

#[tokio::test]
async fn a_handshake_computes_only_in_its_turn_and_holds_none_while_it_waits() {
    let world = World::new(10);
    let pass = world.enter(1).unwrap();
    let turn = pass.turn().await;
    let mut steps = 0;
    let work = poll_fn(|_| {
        steps += 1;
        std::task::Poll::<()>::Pending
    });
    let mut shaking = Box::pin(pass.in_turns(work));
    assert!(futures_util::poll!(&mut shaking).is_pending());
    drop(turn);
    assert!(futures_util::poll!(&mut shaking).is_pending());
    // It waits for its peer now: another one has the turn at once.
    let mut another = Box::pin(pass.turn());
    assert!(futures_util::poll!(&mut another).is_ready());
    drop(shaking);
    assert_eq!(steps, 1);
}

#[tokio::test]
async fn who_waits_for_a_turn_is_pressure_until_it_has_it_or_gives_up() {
    let world = World::new(10);
    let pass = world.enter(1).unwrap();
    let is_pressed = || world.door.lock().is_pressed(10, world.clock.monotonic());
    let held = pass.turn().await;
    world.pass(Duration::from_secs(1));
    assert!(!is_pressed(), "nobody waits");
    let mut waits = Box::pin(pass.turn());
    let mut steps = Box::pin(pass.in_turns(std::future::pending::<()>()));
    assert!(futures_util::poll!(&mut waits).is_pending());
    assert!(futures_util::poll!(&mut steps).is_pending());
    world.pass(Duration::from_millis(99));
    assert!(!is_pressed());
    world.pass(Duration::from_millis(1));
    assert!(is_pressed());
    drop(held);
    drop(waits);
    assert!(
        futures_util::poll!(&mut steps).is_pending(),
        "it has had its turn, and waits for its peer"
    );
    world.pass(Duration::from_secs(10));
    assert!(!is_pressed());
    drop(steps);
}

#[test]
fn strangers_who_hold_most_of_the_places_are_pressure() {
    let world = World::new(10);
    let is_pressed = || world.door.lock().is_pressed(10, world.clock.monotonic());
    let mut device = world.enter(1).unwrap();
    device.log_in(&who("d")).unwrap();
    let strangers: Vec<Pass> = (0..4).map(|_| world.enter(2).unwrap()).collect();
    assert!(!is_pressed(), "four of nine");
    let fifth = world.enter(2).unwrap();
    assert!(is_pressed());
    drop((fifth, strangers));
    assert!(!is_pressed());
}
