//! Offline/online schedules: the hub goes away and misbehaves, clients come and go, the gateway restarts, while twins,
//! methods, cloud-to-device messages and telemetry run; in the end both sides agree.
//!
//! `SPHERE_BOTH_WAYS_RUNS` (default 3) and `SPHERE_SEED` are settable; each run's seed is printed: the first is `SPHERE_SEED`,
//! each further one is one more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hub_double::{Ack, C2dMessage, Fault, FaultKind, MethodError};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use sphere_gateway::gateway::Gateway;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::book::{Book, Weather};
use super::player::{Habits, Player, STATUS};
use super::speaker::Who;
use crate::support::{PATIENCE, World, eventually};

const DEVICES: usize = 3;
/// How long things go wrong.
const STORM: Duration = Duration::from_secs(6);
/// A bit more than the hub's lock on a message.
const LOCK: Duration = Duration::from_secs(61);
/// Calls of methods that wait at a time.
const CALLS_MAX: usize = 12;

const HABITS: Habits = Habits {
    patch: 30,
    get: 10,
    telemetry: 40,
    leave: 3,
    keeps: 0.6,
    pause: Duration::from_millis(60),
};

pub(super) fn setting(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_agree_after_any_schedule() {
    let runs = setting("SPHERE_BOTH_WAYS_RUNS", 3);
    let first = setting("SPHERE_SEED", rand::random::<u64>() >> 1);
    for seed in first..first + runs {
        println!("SPHERE_SEED={seed}");
        Run::start(seed).await.run().await;
    }
}

/// A client and what it wrote down.
pub(super) struct Played {
    pub(super) id: String,
    pub(super) book: Arc<Mutex<Book>>,
}

impl Played {
    fn target(&self) -> (&str, Option<&str>) {
        self.id.split_once('/').map_or((&*self.id, None), |(device, module)| (device, Some(module)))
    }
}

/// Waits until hub and clients agree.
pub(super) async fn agree(world: &World, played: &[Played]) {
    let give_up = Instant::now() + PATIENCE;
    let mut locks = Instant::now() + Duration::from_secs(2);
    for player in played {
        loop {
            let differences = {
                let book = player.book.lock().expect("nobody panics with it");
                assert!(book.wrongs.is_empty(), "{}: {:#?}", player.id, book.wrongs);
                book.differences(world, &player.id)
            };
            if differences.is_empty() {
                break;
            }
            let id = &player.id;
            assert!(Instant::now() < give_up, "{id} does not agree: {differences:#?}");
            if Instant::now() > locks {
                // What was left to its lock comes again.
                world.hub.fault(FaultKind::DropLocks);
                locks = Instant::now() + Duration::from_secs(2);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What the callers of methods were told.
#[derive(Default)]
struct Calls {
    next: AtomicU64,
    under_way: AtomicU64,
    answered: AtomicU64,
    by_the_gateway: AtomicU64,
    not_online: AtomicU64,
    timed_out: AtomicU64,
    wrongs: Mutex<Vec<String>>,
}

struct Run {
    world: Arc<World>,
    weather: Arc<Weather>,
    played: Arc<Vec<Played>>,
    calls: Arc<Calls>,
    clients: TaskTracker,
    stop: CancellationToken,
    seed: u64,
    random: StdRng,
    is_away: bool,
    advanced: u32,
    restarts: u32,
    outages: u32,
    faults: u32,
    sent: u32,
}

impl Run {
    async fn start(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::new(DEVICES).await;
        world.set("ReportedPropertiesSyncFrequencySecs", "1");
        world.set("MinTwinSyncPeriodSecs", "1");
        let world = Arc::new(world);
        let (weather, stop) = (Arc::new(Weather::default()), CancellationToken::new());
        let (clients, mut played) = (TaskTracker::new(), Vec::new());
        let devices = (0..DEVICES).map(|index| Who::device(&world, index));
        let everybody: Vec<_> = devices.chain([Who::module(&world, "player")]).collect();
        for who in everybody {
            let id = who.id.clone();
            let (player, book) = Player::new(who, HABITS, random.random(), &weather, &stop);
            clients.spawn(player.run());
            played.push(Played { id, book });
        }
        clients.close();
        Self {
            world,
            weather,
            played: Arc::new(played),
            calls: Arc::default(),
            clients,
            stop,
            seed,
            random,
            is_away: false,
            advanced: 0,
            restarts: 0,
            outages: 0,
            faults: 0,
            sent: 0,
        }
    }

    async fn run(mut self) {
        // Some have a desired property before anything else.
        for player in self.played.iter().take(2) {
            let (device, module) = player.target();
            self.world.hub.put_desired(device, module, &json!({"at": "first"}));
        }
        let mut gateway = self.world.gateway().await;
        let (end, give_up) = (Instant::now() + STORM, Instant::now() + PATIENCE);
        // Whoever is not let in before the hub goes away waits until it is back: nothing would be tried of it.
        while Instant::now() < end || !(self.all_have_begun() || Instant::now() > give_up) {
            for _ in 0..3 {
                self.cloud().await;
                let pause = self.random.random_range(5..60);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            gateway = self.trouble(gateway).await;
        }
        self.calm().await;
        self.judge().await;
        self.tell();
        self.stop.cancel();
        self.clients.wait().await;
        gateway.shutdown().await;
        let world =
            Arc::try_unwrap(self.world).unwrap_or_else(|_| panic!("nobody has it any more"));
        world.end().await;
    }

    fn all_have_begun(&self) -> bool {
        self.played.iter().all(|player| {
            let book = player.book.lock().expect("nobody panics with it");
            book.acked > 0 && book.patches_answered > 0
        })
    }

    /// The cloud side does something.
    async fn cloud(&mut self) {
        let who = self.random.random_range(0..self.played.len());
        let number = self.calls.next.fetch_add(1, Ordering::Relaxed);
        let (device, module) = self.played[who].target();
        match self.random.random_range(0..4) {
            0 => {
                let key = format!("k{}", self.random.random_range(0..4));
                let value = match self.random.random_bool(0.3) {
                    true => Value::Null,
                    false => json!(number),
                };
                let deep = json!({format!("d{}", number % 3): number});
                let patch = json!({key: value, "deep": deep});
                if self.random.random_bool(0.1) {
                    let all = json!({"n": number, "anew": true});
                    self.world.hub.put_desired(device, module, &all);
                } else {
                    self.world.hub.patch_desired(device, module, &patch);
                }
            }
            1 | 2 if module.is_none() => {
                let is_short = self.random.random_bool(0.1);
                let name = if is_short { "short" } else { "long" };
                let mut message = C2dMessage::new("b").id(format!("{name}{number}")).ack(Ack::Full);
                if is_short {
                    use sphere_gateway::clock::Clock as _;
                    let now = sphere_gateway::clock::SystemClock.wall().0 as i64;
                    message.expiry = Some(now + 61_000 * i64::from(self.advanced) + 1500);
                }
                // The queue may be full.
                let sent = self.world.hub.send_c2d(device, message);
                self.sent += u32::from(sent.is_ok());
            }
            _ => self.call(who, number),
        }
    }

    /// Calls a method and looks at what comes of it, meanwhile.
    fn call(&self, who: usize, number: u64) {
        if self.calls.under_way.fetch_add(1, Ordering::Relaxed) >= CALLS_MAX as u64 {
            self.calls.under_way.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let (world, calls) = (Arc::clone(&self.world), Arc::clone(&self.calls));
        let played = Arc::clone(&self.played);
        self.clients.spawn(async move {
            let (device, module) = played[who].target();
            let payload = json!({"id": number});
            let limit = Duration::from_secs(2);
            let answer = world.hub.call_method(device, module, "m", &payload, limit).await;
            let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
            match answer {
                Err(MethodError::NotOnline) => count(&calls.not_online),
                Err(MethodError::Timeout) => count(&calls.timed_out),
                Ok(answer) if answer.status >= STATUS => {
                    let book = played[who].book.lock().expect("nobody panics with it");
                    let is_his =
                        answer.status == STATUS + number as i64 && answer.payload == payload;
                    if !is_his || book.calls.get(&number) != Some(&1) {
                        let words = format!("call {number} was answered {answer:?}");
                        calls.wrongs.lock().expect("nobody panics with it").push(words);
                    }
                    count(&calls.answered)
                }
                Ok(answer) => {
                    if ![404, 429, 504].contains(&answer.status) {
                        let words = format!("the gateway answered {answer:?}");
                        calls.wrongs.lock().expect("nobody panics with it").push(words);
                    }
                    count(&calls.by_the_gateway)
                }
            };
            calls.under_way.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Something goes wrong, or is over.
    async fn trouble(&mut self, gateway: Gateway) -> Gateway {
        let dice = self.random.random_range(0..100);
        match dice {
            0..=9 if self.is_away => {
                self.world.hub.come_back().await.expect("the ports are still ours");
                self.is_away = false;
            }
            0..=6 => {
                self.weather.turn();
                self.world.hub.go_away().await;
                (self.is_away, self.outages) = (true, self.outages + 1);
            }
            // As seldom as it is at all likely.
            10..=11 if self.restarts < 2 => {
                self.weather.turn();
                self.restarts += 1;
                gateway.shutdown().await;
                let pause = self.random.random_range(0..300);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                return self.world.gateway().await;
            }
            12..=13 if self.advanced < 3 => {
                self.advanced += 1;
                self.world.hub.advance_clock(LOCK);
            }
            14..=28 => self.fault(),
            // That a lock ends must not be seen by the device.
            29..=38 => {
                self.world.hub.fault(FaultKind::DropLocks);
            }
            _ => {}
        }
        gateway
    }

    fn fault(&mut self) {
        use FaultKind::{
            DelayCalls, DelayDispositions, DelayTwins, DetachLinks, DropConnections, DropDesired,
            IgnoreTwins, LoseCalls, RefuseLinks, RefuseTwins, Release,
        };
        self.weather.turn();
        self.faults += 1;
        let random = &mut self.random;
        let hub = &self.world.hub;
        let ms = random.random_range(1..400);
        let short = Duration::from_millis(random.random_range(50..600));
        let drop = || DropConnections { condition: None };
        match random.random_range(0..10) {
            0 => hub.fault(drop()),
            1 => hub.fault(DetachLinks { condition: None }),
            2 => hub.fault(Fault::new(DropDesired).times(2)),
            3 => hub.fault(Fault::new(RefuseTwins { status: 429 }).times(2).lasting(short)),
            4 => hub.fault(Fault::new(RefuseTwins { status: 500 }).times(2).lasting(short)),
            5 => hub.fault(Fault::new(DelayTwins { ms }).lasting(short)),
            6 => hub.fault(Fault::new(LoseCalls).times(1)),
            7 => hub.fault(Fault::new(DelayCalls { ms }).lasting(short)),
            8 => {
                let carried_out = random.random_bool(0.5);
                hub.fault(Fault::new(IgnoreTwins { carried_out }).times(2).lasting(short));
                let hub = Arc::clone(&self.world);
                let weather = Arc::clone(&self.weather);
                self.clients.spawn(async move {
                    tokio::time::sleep(short).await;
                    weather.turn();
                    hub.hub.fault(drop());
                });
                0
            }
            _ => {
                hub.fault(Fault::new(DelayDispositions { ms }).lasting(short));
                hub.fault(Fault::new(Release).times(3).lasting(short));
                let condition = "amqp:resource-limit-exceeded".to_owned();
                hub.fault(Fault::new(RefuseLinks { condition }).times(1).lasting(short))
            }
        };
    }

    /// All is well again.
    async fn calm(&mut self) {
        self.weather.turn();
        self.weather.is_quiet.store(true, Ordering::SeqCst);
        // A fault may have a drop of connections to come.
        tokio::time::sleep(Duration::from_millis(600)).await;
        self.world.hub.clear_faults();
        if self.is_away {
            self.world.hub.come_back().await.expect("the ports are still ours");
        }
        eventually("no call is under way", async || {
            self.calls.under_way.load(Ordering::Relaxed) == 0
        })
        .await;
        // Each client answers a call: its links stand. Only then is a change certain to be told, or missed and read.
        for player in self.played.iter() {
            let number = self.calls.next.fetch_add(1, Ordering::Relaxed);
            let payload = json!({"id": number});
            let target = player.target();
            let limit = Duration::from_secs(60);
            let called =
                self.world.hub.call_method_when_connected(target, "m", &payload, limit, PATIENCE);
            let answer = called.await.unwrap_or_else(|e| panic!("{}: {e}", player.id));
            assert_eq!(answer.status, STATUS + number as i64, "{}: {answer:?}", player.id);
            self.calls.answered.fetch_add(1, Ordering::Relaxed);
        }
        self.last_changes().await;
    }

    /// Changes that the clients do not hear of at first; they ask no more, so it is on the gateway to see what they lack.
    async fn last_changes(&mut self) {
        let hub = &self.world.hub;
        let change = |patch: Value| {
            for player in self.played.iter() {
                let (device, module) = player.target();
                hub.patch_desired(device, module, &patch);
            }
        };
        if self.seed.is_multiple_of(2) {
            let everybody = self.played.len() as u64;
            hub.fault(Fault::new(FaultKind::DropDesired).times(everybody));
            change(json!({"missed": 1, "at": null}));
            change(json!({"at": "last"}));
        } else {
            self.weather.turn();
            hub.go_away().await;
            change(json!({"missed": 1, "at": null}));
            hub.come_back().await.expect("the ports are still ours");
        }
    }

    /// Waits until both sides agree.
    async fn judge(&self) {
        agree(&self.world, &self.played).await;
        let wrongs = self.calls.wrongs.lock().expect("nobody panics with it");
        assert!(wrongs.is_empty(), "{wrongs:#?}");
        let counts = self.world.hub.counts();
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let calls = of(&self.calls.answered) + of(&self.calls.by_the_gateway);
        assert_eq!(counts.method_answers, calls, "each answer has its caller");
        let late = counts.method_answers_unwanted;
        assert!(late <= of(&self.calls.timed_out), "{late} answers came late or twice");
    }

    fn tell(&self) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let calls = &self.calls;
        let (answered, gateway) = (of(&calls.answered), of(&calls.by_the_gateway));
        let (away, late) = (of(&calls.not_online), of(&calls.timed_out));
        println!(
            "outages {}, restarts {}, faults {}, sent to devices {}; calls: {answered} answered, {gateway} by the gateway, \
             {away} not online, {late} timed out",
            self.outages, self.restarts, self.faults, self.sent
        );
        for player in self.played.iter() {
            let book = player.book.lock().expect("nobody panics with it");
            println!(
                "  {:.8}: connections {} ({} with a session), telemetry {}, patches {}, desired {}, calls {}, messages {}",
                player.id,
                book.connections,
                book.present,
                book.acked,
                book.patches_answered,
                book.desired_told,
                book.calls.len(),
                book.c2d.len()
            );
            assert!(book.connections > 0 && book.acked > 0 && book.patches_answered > 0);
        }
    }
}
