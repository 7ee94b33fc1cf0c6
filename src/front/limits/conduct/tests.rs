//! Who is banned, who is slowed, and that a site that shares its address with a flood gets in.

use std::collections::VecDeque;

use super::super::pressure::Pressure;
use super::*;

const CONFIG: Config = Config {
    failures_per_min: 60,
    ban_max: Duration::from_secs(60),
    log_ins_per_min: 12,
    packets_per_sec: 0,
    handshake_threads: 1,
};

fn start() -> Instant {
    crate::clock::system().monotonic()
}

fn source(number: u32) -> Source {
    Source::of(std::net::IpAddr::V4((0x0a00_0000 + number).into()))
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Whether it may come in when it has used up its share.
fn judge(all: &mut Conducts, source: Source, now: Instant) -> Result<(), TurnedAway> {
    (0..1000).try_for_each(|_| all.judge(source, true, now))
}

/// Fails until banned; gives the ban and how many failures it took.
fn fail(all: &mut Conducts, source: Source, now: Instant) -> (Duration, usize) {
    for failures in 1..10_000 {
        if let Some(ban) = all.failed(source, Cost::Handshake, true, now) {
            return (ban, failures);
        }
    }
    panic!("never banned")
}

#[test]
fn an_address_that_only_fails_is_banned_twice_as_long_each_time() {
    let (mut all, mut now) = (Conducts::new(&CONFIG), start());
    let bad = source(1);
    assert_eq!(fail(&mut all, bad, now), (secs(1), 60));
    assert_eq!(judge(&mut all, bad, now), Err(TurnedAway::Banned(secs(1))));
    assert_eq!(judge(&mut all, source(2), now), Ok(()), "nobody else");
    assert_eq!(
        all.failed(bad, Cost::Handshake, true, now),
        None,
        "what began before the ban makes it no longer"
    );
    for expected in [2, 4, 8, 16, 32, 60, 60] {
        now += secs(60);
        assert_eq!((judge(&mut all, bad, now), all.banned(now)), (Ok(()), 0));
        let (ban, failures) = fail(&mut all, bad, now);
        assert_eq!(ban, secs(expected));
        assert!(failures <= 60);
    }
    now += secs(60);
    assert_eq!(fail(&mut all, bad, now), (secs(60), 10), "right after a ban there are few");
    now += secs(60) + FORGIVEN;
    assert_eq!(fail(&mut all, bad, now), (secs(1), 60), "forgiven");
}

#[test]
fn an_admission_ends_the_ban_and_its_doubling() {
    let (mut all, now) = (Conducts::new(&CONFIG), start());
    let mixed = source(1);
    fail(&mut all, mixed, now);
    all.admitted(mixed, now);
    assert_eq!((judge(&mut all, mixed, now), all.banned(now)), (Ok(()), 0));
    all.left(mixed, now);
    let later = now + CREDIT;
    assert_eq!(fail(&mut all, mixed, later), (secs(1), 60));
}

#[test]
fn an_address_of_admitted_clients_is_slowed_but_never_banned() {
    let (mut all, now) = (Conducts::new(&CONFIG), start());
    let site = source(1);
    all.admitted(site, now);
    for _ in 0..10_000 {
        assert_eq!(all.failed(site, Cost::Handshake, true, now), None);
    }
    assert_eq!(judge(&mut all, site, now), Err(TurnedAway::Slowed(Duration::from_millis(200))));
    assert_eq!(judge(&mut all, site, now + Duration::from_millis(200)), Ok(()), "5 a second");
    // All sessions broke: the credit remains, and each return makes up for failures.
    all.left(site, now);
    assert_eq!(all.failed(site, Cost::Handshake, true, now), None);
    let later = now + secs(1);
    assert_eq!(judge(&mut all, site, later), Ok(()));
    all.admitted(site, later);
    for _ in 0..5 {
        all.failed(site, Cost::Handshake, true, later);
        assert_eq!(judge(&mut all, site, later), Ok(()));
    }
}

/// 1,000 devices come back at once from one address, and every tenth has an expired certificate and tries each second.
#[test]
fn a_site_behind_one_router_is_back_at_once_although_a_tenth_of_it_fails() {
    let (mut all, now) = (Conducts::new(&Config::default()), start());
    let site = source(1);
    for second in 0..10 {
        let now = now + secs(second);
        for device in 0..100 {
            assert_eq!(judge(&mut all, site, now), Ok(()), "second {second}, device {device}");
            match device % 10 {
                0 => assert_eq!(all.failed(site, Cost::Handshake, true, now), None),
                _ => all.admitted(site, now),
            }
        }
    }
}

#[test]
fn the_table_is_bounded_and_a_ban_is_not_bought_with_other_addresses() {
    let (mut all, now) = (Conducts::new(&CONFIG), start());
    let (banned, home) = (source(1), source(2));
    for minute in 0..8 {
        fail(&mut all, banned, now + secs(60 * minute));
    }
    let now = now + secs(60 * 7);
    all.admitted(home, now);
    for number in 10..50_000 {
        all.failed(source(number), Cost::Handshake, true, now);
    }
    assert!(all.by_source.len() <= TABLE_MAX + 1, "{}", all.by_source.len());
    assert!(judge(&mut all, banned, now).is_err(), "still banned");
    all.left(home, now);
    assert!(all.by_source[&home].has_credit(now));
}

#[test]
fn limits_that_are_off_ban_nobody() {
    let now = start();
    for config in
        [Config { failures_per_min: 0, ..CONFIG }, Config { ban_max: Duration::ZERO, ..CONFIG }]
    {
        let mut all = Conducts::new(&config);
        for _ in 0..1000 {
            assert_eq!(all.failed(source(1), Cost::Handshake, true, now), None);
            assert_eq!(judge(&mut all, source(1), now), Ok(()));
        }
    }
}

#[test]
fn what_costs_nothing_counts_nothing_and_without_pressure_nobody_is_turned_away() {
    let (mut all, now) = (Conducts::new(&CONFIG), start());
    for (number, cost, pressed) in
        [(1, Cost::Nothing, true), (2, Cost::Nothing, false), (3, Cost::Handshake, false)]
    {
        for _ in 0..10_000 {
            assert_eq!(all.failed(source(number), cost, pressed, now), None);
        }
        assert_eq!(all.judge(source(number), pressed, now), Ok(()));
    }
    let bad = source(4);
    fail(&mut all, bad, now);
    assert!(judge(&mut all, bad, now).is_err());
    assert_eq!(all.judge(bad, false, now), Ok(()), "banned, but nobody waits any more");
    assert!(all.failed(source(3), Cost::Handshake, true, now).is_some(), "its failures were kept");
}

#[test]
fn a_banned_and_a_slowed_address_keep_a_share_of_the_turns() {
    for has_client in [false, true] {
        let (mut all, now) = (Conducts::new(&CONFIG), start());
        let site = source(1);
        fail(&mut all, source(1), now);
        if has_client {
            all.admitted(site, now);
        }
        let mut inside = 0;
        for millis in 0..1000 {
            let now = now + Duration::from_millis(millis);
            (0..5).for_each(|_| _ = all.failed(site, Cost::Handshake, true, now));
            inside += u32::from(all.judge(site, true, now).is_ok());
        }
        // What was saved, and 50 a second. The bucket of a slowed one fills by five a second.
        assert!((50..=62).contains(&inside), "{inside}");
    }
}

/// Turns of a Raspberry Pi 4, by the millisecond.
const TURNS: usize = 3;
const HANDSHAKE_MS: u64 = 5;

/// One address, from which a flood of full handshakes comes and a site of devices.
struct Simulation {
    all: Conducts,
    pressure: Pressure,
    start: Instant,
    millis: u64,
    random: u64,
    /// Who has a turn until when, and who waits for one: a device's number, or the flood.
    turns: Vec<(u64, Option<usize>)>,
    queue: VecDeque<Option<usize>>,
    /// When each device tries next, and how often it has tried. `None`: it waits for an answer, or is in.
    devices: Vec<(Option<u64>, usize)>,
    /// Not before that one of them tries.
    next_try: u64,
    inside: Vec<u64>,
    wasted: u64,
}

impl Simulation {
    fn new(devices: usize) -> Self {
        let config = Config { handshake_threads: TURNS, ..Config::default() };
        let mut new = Self {
            all: Conducts::new(&config),
            pressure: Pressure::default(),
            start: start(),
            millis: 0,
            random: 1,
            turns: Vec::new(),
            queue: VecDeque::new(),
            devices: Vec::new(),
            next_try: 0,
            inside: Vec::new(),
            wasted: 0,
        };
        // They come when the flood has been there for 15 s.
        new.devices = (0..devices).map(|_| (Some(15_000 + new.random_below(1000)), 0)).collect();
        new
    }

    /// As MMIX does it: the same in each run.
    fn random_below(&mut self, limit: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }

    fn step(&mut self, flood_per_sec: u64) {
        let (site, now) = (source(1), self.start + Duration::from_millis(self.millis));
        let done: Vec<_> = self.turns.extract_if(.., |turn| turn.0 <= self.millis).collect();
        for (_, who) in done {
            match who {
                None => {
                    self.wasted += HANDSHAKE_MS;
                    let pressed = self.pressure.is_on(now);
                    self.all.failed(site, Cost::Handshake, pressed, now);
                }
                Some(_) => {
                    self.all.admitted(site, now);
                    self.inside.push(self.millis - 15_000);
                }
            }
        }
        while self.turns.len() < TURNS
            && let Some(who) = self.queue.pop_front()
        {
            self.pressure.waited(now);
            self.turns.push((self.millis + HANDSHAKE_MS, who));
        }
        let mut arrivals: Vec<Option<usize>> = Vec::new();
        let flood = self.random_below(1000) < flood_per_sec % 1000;
        arrivals.extend((0..flood_per_sec / 1000 + u64::from(flood)).map(|_| None));
        if self.millis >= self.next_try {
            for number in 0..self.devices.len() {
                if self.devices[number].0.take_if(|at| *at <= self.millis).is_some() {
                    let places = arrivals.len() as u64 + 1;
                    let place = usize::try_from(self.random_below(places)).unwrap();
                    arrivals.insert(place, Some(number));
                }
            }
            self.next_try =
                self.devices.iter().filter_map(|device| device.0).min().unwrap_or(u64::MAX);
        }
        for who in arrivals {
            self.arrive(who, now);
        }
        self.millis += 1;
    }

    fn arrive(&mut self, who: Option<usize>, now: Instant) {
        let pressed = self.pressure.is_on(now);
        if self.all.judge(source(1), pressed, now).is_ok() {
            if self.turns.len() < TURNS {
                self.turns.push((self.millis + HANDSHAKE_MS, who));
            } else {
                self.pressure.waits(now);
                self.queue.push_back(who);
            }
        } else if let Some(number) = who {
            let tries = self.devices[number].1;
            let wait = [1, 2, 4, 8, 16, 30][tries.min(5)] * 1000 + self.random_below(1000);
            self.devices[number] = (Some(self.millis + wait), tries + 1);
            self.next_try = self.next_try.min(self.millis + wait);
        }
    }

    fn wasted_percent(&self) -> u64 {
        self.wasted * 100 / (self.millis * TURNS as u64)
    }
}

/// Back-off of 1 to 30 s. With 1,000 full handshakes a second there is no telling the devices from the flood, and a quarter of
/// the turns serves one try in seven: 100 devices take 30 tries each at most (0.85^30 = 1 %), and some luck.
#[test]
fn a_site_that_shares_its_address_with_a_flood_gets_in() {
    // Full handshakes of the flood a second; seconds until half of the devices, and all of them, are in; its share of the turns.
    let cases = [
        (20, 2, 2, 5),
        (100, 2, 2, 20),
        (150, 2, 2, 30),
        // The turns suffice for all: nobody is turned away, and nobody waits.
        (400, 2, 2, 70),
        (1000, 240, 2400, 30),
    ];
    for (flood, half, all, percent) in cases {
        for devices in [10, 100] {
            let mut site = Simulation::new(devices);
            while site.inside.len() < devices || site.millis < 120_000 {
                site.step(flood);
                assert!(site.millis < all * 1000 + 150_000, "{flood}: {} in", site.inside.len());
            }
            let came = [site.inside[devices / 2] / 1000, site.inside[devices - 1] / 1000];
            let wasted = site.wasted_percent();
            let case = format!("{flood}/s, {devices} devices: in after {came:?} s, {wasted} %");
            assert!(came[0] <= half && came[1] <= all && wasted <= percent, "{case}");
        }
    }
}
