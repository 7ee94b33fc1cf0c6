//! Offers: what they change, what is kept, what is told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::compiled::in_short;
use super::*;
use crate::auth::testing::StillClock;
use crate::clock;
use crate::config::MapEnv;
use crate::desired::LINES_MAX;

const MIB: u64 = 1 << 20;

/// A document with routes of `(name, text)`, and more JSON behind them.
fn document(routes: &[(&str, &str)], more: &str) -> String {
    let routes: serde_json::Map<String, serde_json::Value> =
        routes.iter().map(|(name, text)| ((*name).to_owned(), (*text).into())).collect();
    let routes = serde_json::Value::Object(routes);
    format!(
        r#"{{"schemaVersion":"1.1","routes":{routes},"storeAndForwardConfiguration":{{"timeToLiveSecs":60{more}}}}}"#
    )
}

const ALL: &str = "FROM /messages/* INTO $upstream";

const MODULES: &str = "FROM /messages/modules/* INTO $upstream";

/// A storage folder with an environment, a configured document (`twin.json`), and no certificates worth the name.
struct Place {
    folder: tempfile::TempDir,
    clock: SharedClock,
}

impl Place {
    fn new() -> Self {
        Self::at(clock::system())
    }

    fn at(clock: SharedClock) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pem"), "").unwrap();
        Self { folder, clock }
    }

    fn twin(&self) -> PathBuf {
        self.folder.path().join("twin.json")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.twin(), text).unwrap();
    }

    /// What stands for a disk that refuses to write the last good document: a folder in the place of the new file.
    fn in_the_way(&self) -> PathBuf {
        self.kept().with_file_name("desired.json.new")
    }

    fn kept(&self) -> PathBuf {
        self.folder.path().join("edgeHub/desired.json")
    }

    fn config(&self, more: &[(&str, &str)]) -> Config {
        let here = |name: &str| self.folder.path().join(name).display().to_string();
        let connection =
            "HostName=h.net;DeviceId=edge1;ModuleId=$edgeHub;SharedAccessKey=a2V5".to_owned();
        let settings = [
            ("IotHubConnectionString", connection),
            ("EdgeDeviceHostName", "gw".to_owned()),
            ("EdgeHubDevServerCertificateFile", here("pem")),
            ("EdgeHubDevServerPrivateKeyFile", here("pem")),
            ("EdgeHubDevTrustBundleFile", here("pem")),
            ("StorageFolder", here("")),
            ("edgeHubTwinFile", here("twin.json")),
        ];
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let all: BTreeMap<String, String> =
            settings.into_iter().chain(more).map(|(name, v)| (name.to_owned(), v)).collect();
        Config::read(&MapEnv(all)).unwrap()
    }

    fn choose(&self) -> Result<First, DesiredError> {
        First::choose(&self.config(&[]), self.clock.wall())
    }

    /// A configuration in force that began with what is in the configured file.
    fn start(&self, more: &[(&str, &str)]) -> Running {
        let config = Arc::new(self.config(more));
        let first = First::choose(&config, self.clock.wall()).unwrap();
        let mut store_config = settings::of_store(&config, first.compiled.store_bytes_max);
        // The one before may still hold its lock.
        store_config.dir = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        let (store, _) =
            Store::open(store_config, Arc::new(RealDisk), Arc::clone(&self.clock)).unwrap();
        let parts = Parts {
            config,
            store: Arc::new(store),
            metrics: Metrics::new("hub", "edge1"),
            clock: Arc::clone(&self.clock),
        };
        Running { configuration: Configuration::new(first, parts) }
    }
}

struct Running {
    configuration: Arc<Configuration>,
}

impl Running {
    fn offer(&self, text: &str) {
        self.offer_at(Occasion::Quiet, text);
    }

    fn offer_at(&self, occasion: Occasion, text: &str) {
        self.configuration.offer(Origin::File, Ok(text.to_owned().into()), occasion);
    }

    /// Watches the file until the end of the test; the sender asks.
    fn watch(&self) -> mpsc::Sender<()> {
        let (ask, asked) = mpsc::channel(1);
        let watch = FileWatch::new(Arc::clone(&self.configuration), asked);
        TaskTracker::new().spawn(watch.run(CancellationToken::new()));
        ask
    }

    fn tries_to_keep(&self) -> u64 {
        self.events("configuration_kept", "not_stored")
    }

    /// Names of the routes that run, and what `/healthz` warns of.
    fn check(&self, routes: &[&str], warnings: &[&str]) {
        let table = self.configuration.routes.load();
        let running: Vec<&str> = table.routes().iter().map(|route| route.name()).collect();
        assert_eq!(running, routes);
        let told = self.configuration.warnings().borrow().clone();
        assert_eq!(told.len(), warnings.len(), "{told:?}");
        for (told, words) in told.iter().zip(warnings) {
            assert!(told.contains(words), "{told} does not contain {words}");
        }
    }

    fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let text = self.configuration.parts.metrics.render();
        let ours = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(&format!("\"{label}\"")))
        };
        let values = text.lines().filter(ours).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<u64>().unwrap()).sum()
    }

    fn events(&self, event: &str, reason: &str) -> u64 {
        self.metric("sphere_gateway_events_total", &[event, reason])
    }

    fn gauges(&self) -> [u64; 3] {
        ["routes_running", "routes_set_aside", "configuration_last_good_in_use"]
            .map(|name| self.metric(&format!("sphere_gateway_{name}"), &[]))
    }
}

#[test]
fn a_document_is_accepted_as_a_whole_or_changes_nothing() {
    let place = Place::new();
    let good = document(&[("r", ALL)], "");
    std::fs::write(place.twin(), &good).unwrap();
    let running = place.start(&[]);
    running.check(&["r"], &[]);
    assert_eq!((running.events("configuration_applied", "file"), running.gauges()), (1, [1, 0, 0]));

    // Half-written; each distinct content counts once.
    let half = &good[..good.len() / 2];
    for (text, refused) in [(half, 1), (half, 1), ("", 2), ("{}", 3), ("{}", 3)] {
        running.offer(text);
        running.check(&["r"], &["edgeHubTwinFile is refused ("]);
        assert_eq!(running.events("configuration_refused", "bad"), refused, "{text}");
    }
    let unreadable = || Err(Refusal::unreadable("the disk: look at it".to_owned()));
    running.configuration.offer(Origin::File, unreadable(), Occasion::Quiet);
    running.configuration.offer(Origin::File, unreadable(), Occasion::Quiet);
    running.check(&["r"], &["(the disk: look at it) and the document accepted 20"]);
    assert_eq!(running.events("configuration_refused", "unreadable"), 1);
    assert_eq!(running.gauges(), [1, 0, 1]);
    running.configuration.offer(Origin::File, unreadable(), Occasion::Asked);
    assert_eq!(running.events("configuration_refused", "unreadable"), 2, "who asks is told");

    running.offer(&good);
    running.check(&["r"], &[]);
    assert_eq!((running.events("configuration_applied", "file"), running.gauges()), (1, [1, 0, 0]));

    // One bad route stays one bad route.
    let input = "FROM /messages/* INTO BrokeredEndpoint('m')";
    let mixed = [("r", ALL), ("bad", "FROM /messages/* WHERE ) INTO $upstream"), ("in", input)];
    running.offer(&document(&mixed, ""));
    running.check(&["r"], &["2 routes are set aside: \"bad\", \"in\"; correct them"]);
    assert_eq!((running.events("configuration_applied", "file"), running.gauges()), (2, [1, 2, 0]));
    running.offer(&document(&mixed[1..], ""));
    let refused = "refused (none of its 2 routes can run: correct one, or write routes: {} to drop every message on \
                   purpose; route \"bad\", column 24: ";
    running.check(&["r"], &[refused, "2 routes are set aside"]);
    // No route at all is what somebody wants.
    running.offer(&document(&[], ""));
    running.check(&[], &["no route runs"]);
    // A slip in the source: the route runs, and selects nothing.
    running.offer(&document(&[("slip", "FROM /mesages/* INTO $upstream")], ""));
    running.check(&["slip"], &["no route that runs can select a message"]);
    running.offer(&good);
    running.check(&["r"], &[]);
}

#[test]
fn what_is_in_force_is_on_disk_and_serves_when_the_configured_document_does_not() {
    let place = Place::new();
    let (one, two) = (document(&[("one", ALL)], ""), document(&[("two", ALL)], ""));
    let broken = |text: Option<&str>| match text {
        None => std::fs::remove_file(place.twin()).unwrap(),
        Some(text) => std::fs::write(place.twin(), text).unwrap(),
    };
    std::fs::write(place.twin(), "{").unwrap();
    let error = place.choose().err().unwrap().to_string();
    assert!(error.contains("not JSON") && !place.kept().exists(), "{error}");

    std::fs::write(place.twin(), &one).unwrap();
    let running = place.start(&[]);
    let kept = std::fs::read(place.kept()).unwrap();
    running.offer("{}");
    assert_eq!(std::fs::read(place.kept()).unwrap(), kept, "what was refused is not kept");
    running.offer(&two);
    drop(running);
    // The configured file still has the first one.
    for text in [Some("{"), Some(""), Some("{\"schemaVersion\":\"9\"}"), None] {
        broken(text);
        let running = place.start(&[]);
        running.check(&["two"], &["the document accepted 20"]);
        assert_eq!(running.gauges(), [1, 0, 1], "{text:?}");
        assert_eq!(running.events("configuration_applied", "last_good"), 1);
        let reason = if text.is_some() { "bad" } else { "unreadable" };
        assert_eq!(running.events("configuration_refused", reason), 1);
        // It heals while it runs.
        running.offer(&one);
        running.check(&["one"], &[]);
        running.offer(&two);
        let strict = First::strict(&place.config(&[]));
        assert!(strict.is_err(), "a check wants the configured document: {text:?}");
    }
}

#[test]
fn a_damaged_last_good_document_is_set_aside_and_a_check_touches_nothing() {
    let place = Place::new();
    std::fs::write(place.twin(), document(&[("r", ALL)], "")).unwrap();
    drop(place.start(&[]));
    std::fs::write(place.kept(), "damaged").unwrap();
    assert!(First::strict(&place.config(&[])).is_ok());
    assert_eq!(std::fs::read(place.kept()).unwrap(), b"damaged");
    let running = place.start(&[]);
    running.check(&["r"], &[]);
    assert_eq!(running.events("configuration_kept", "set_aside"), 1);
    drop(running);
    assert_eq!(
        std::fs::read(place.kept().with_file_name("desired.json.bad0")).unwrap(),
        b"damaged"
    );
    assert_ne!(std::fs::read(place.kept()).unwrap(), b"damaged", "the good one is kept again");
    std::fs::write(place.kept(), "damaged").unwrap();
    std::fs::write(place.twin(), "{").unwrap();
    assert!(place.choose().is_err(), "there is none to fall back on");
}

#[test]
fn a_document_that_cannot_be_kept_serves_all_the_same() {
    let place = Place::new();
    std::fs::write(place.twin(), document(&[("r", ALL)], "")).unwrap();
    std::fs::create_dir_all(place.in_the_way()).unwrap();
    let running = place.start(&[]);
    let told = "the document in force could not be kept for the next start (Is a directory";
    let gauge = || running.metric("sphere_gateway_configuration_not_kept", &[]);
    running.check(&["r"], &[told]);
    let other = document(&[("s", ALL)], "");
    running.offer(&other);
    running.check(&["s"], &[told]);
    assert_eq!((running.tries_to_keep(), gauge()), (2, 1));
    // Also when what comes is refused; but what is half-written is no occasion.
    running.offer_at(Occasion::Unquiet, "{");
    assert_eq!(running.tries_to_keep(), 2);
    running.offer("{");
    running.check(&["s"], &["edgeHubTwinFile is refused", told]);
    assert_eq!((running.tries_to_keep(), gauge()), (3, 1));
    std::fs::remove_dir(place.in_the_way()).unwrap();
    running.offer_at(Occasion::Asked, "{");
    running.check(&["s"], &["edgeHubTwinFile is refused"]);
    assert_eq!((running.tries_to_keep(), gauge()), (3, 0));
    drop(running);
    std::fs::write(place.twin(), "{").unwrap();
    place.start(&[]).check(&["s"], &["edgeHubTwinFile is refused"]);
}

#[test]
fn what_could_not_be_kept_is_tried_again_now_and_then() {
    let accepted = UnixMillis(1_700_000_000_000);
    let clock = StillClock::at(accepted);
    let place = Place::at(Arc::clone(&clock) as SharedClock);
    place.write(&document(&[("r", ALL)], ""));
    std::fs::create_dir_all(place.in_the_way()).unwrap();
    let running = place.start(&[]);
    for round in 1..4 {
        assert_eq!(running.tries_to_keep(), round);
        for _ in 0..KEEP_AGAIN_LOOKS {
            assert_eq!(running.tries_to_keep(), round, "not at every look");
            running.configuration.keep_again();
        }
    }
    std::fs::remove_dir(place.in_the_way()).unwrap();
    clock.set(accepted.plus(Duration::from_secs(86_400)));
    for _ in 0..2 * KEEP_AGAIN_LOOKS {
        running.configuration.keep_again();
    }
    running.check(&["r"], &[]);
    assert_eq!(running.tries_to_keep(), 4);
    let kept = std::fs::read_to_string(place.kept()).unwrap();
    assert!(kept.contains("\"accepted_ms\":1700000000000,"), "not the time of the write: {kept}");
}

#[tokio::test(start_paused = true)]
async fn the_watch_keeps_what_could_not_be_kept_when_there_is_room_again() {
    let place = Place::new();
    place.write(&document(&[("r", ALL)], ""));
    std::fs::create_dir_all(place.in_the_way()).unwrap();
    let running = place.start(&[]);
    let ask = running.watch();
    sleep(Duration::from_secs(100)).await;
    // The start, the first quiet look, and every 30 seconds.
    assert_eq!(running.tries_to_keep(), 5);
    std::fs::remove_dir(place.in_the_way()).unwrap();
    sleep(Duration::from_secs(31)).await;
    running.check(&["r"], &[]);
    assert_eq!(running.tries_to_keep(), 5);
    assert!(place.kept().exists());
    // Who asks does not wait.
    std::fs::create_dir_all(place.in_the_way()).unwrap();
    place.write(&document(&[("other", ALL)], ""));
    ask.send(()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    running.check(&["other"], &["could not be kept"]);
    std::fs::remove_dir(place.in_the_way()).unwrap();
    ask.send(()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    running.check(&["other"], &[]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_written_every_second_takes_effect_and_half_of_it_is_no_news() {
    let place = Place::new();
    place.write(&document(&[("r", ALL)], ""));
    let running = place.start(&[]);
    let _ask = running.watch();
    sleep(Duration::from_secs(10)).await;
    let mut written = 0;
    let mut write_for_12_seconds = async |text: String| {
        for _ in 0..12 {
            written += 1;
            place.write(&format!("{text}{}", " ".repeat(written)));
            sleep(Duration::from_secs(1)).await;
        }
    };
    write_for_12_seconds(document(&[("s", ALL)], "")).await;
    running.check(&["s"], &[]);
    let whole = document(&[("t", ALL)], "");
    write_for_12_seconds(whole[..whole.len() / 2].to_owned()).await;
    running.check(&["s"], &[]);
    assert_eq!(running.events("configuration_refused", "bad"), 0, "it may be half-written");
    write_for_12_seconds(whole.clone()).await;
    running.check(&["t"], &[]);
    // It is quiet, and still no document.
    write_for_12_seconds("{".to_owned()).await;
    assert_eq!(running.events("configuration_refused", "bad"), 0);
    sleep(Duration::from_secs(6)).await;
    running.check(&["t"], &["edgeHubTwinFile is refused"]);
    assert_eq!(running.events("configuration_refused", "bad"), 1);
    // Half of one does not take that back.
    running.offer_at(Occasion::Unquiet, "[");
    running.check(&["t"], &["edgeHubTwinFile is refused"]);
    running.offer_at(Occasion::Unquiet, &whole);
    running.check(&["t"], &[]);
}

#[test]
fn the_time_of_acceptance_outlives_a_restart() {
    let clock = StillClock::at(UnixMillis(1_700_000_000_000));
    let place = Place::at(Arc::clone(&clock) as SharedClock);
    let check = |time: &str| {
        let running = place.start(&[]);
        running.offer("{");
        running.check(&["r"], &[&format!("the document accepted {time} is in force")]);
    };
    place.write(&document(&[("r", ALL)], ""));
    check("2023-11-14T22:13:20Z");
    clock.set(UnixMillis(1_700_086_400_000));
    check("2023-11-14T22:13:20Z");
    place.write("{");
    check("2023-11-14T22:13:20Z");
    place.write(&document(&[("r", MODULES)], ""));
    check("2023-11-15T22:13:20Z");
}

#[test]
fn a_last_good_document_that_cannot_be_read_is_told_as_such() {
    let place = Place::new();
    // A folder in its place stands for a file that the user may not read (a test may run as root).
    std::fs::create_dir_all(place.kept()).unwrap();
    place.write("{");
    let error = place.choose().err().unwrap();
    assert_eq!(error.problems.len(), 2, "{error}");
    assert!(error.problems[0].contains("not JSON"), "{error}");
    assert!(error.problems[1].contains("last good document on disk cannot be read"), "{error}");
    place.write(&document(&[("r", ALL)], ""));
    let running = place.start(&[]);
    running.check(&["r"], &["could not be kept"]);
    assert_eq!(running.events("configuration_kept", "unreadable"), 1);
    assert_eq!(running.events("configuration_kept", "set_aside"), 0);
    std::fs::remove_dir(place.kept()).unwrap();
    std::fs::write(place.kept(), "damaged").unwrap();
    place.write("{");
    let error = place.choose().err().unwrap();
    assert!(error.problems[1].contains("was set aside as"), "{error}");
}

/// The environment of a gateway that goes by the twin: blank is not set.
const BY_TWIN: (&str, &str) = ("edgeHubTwinFile", "");

#[test]
fn until_the_twin_is_read_the_last_good_document_serves_or_the_default() {
    let place = Place::new();
    // What a file said is kept apart.
    let kept = place.kept().with_file_name("desired-twin.json");
    let running = place.start(&[BY_TWIN]);
    running.check(&["default"], &[]);
    assert!(running.configuration.has_none());
    assert_eq!(running.events("configuration_applied", "default"), 1);
    let offer = |running: &Running, text: &str| {
        running.configuration.offer(Origin::Twin, Ok(text.to_owned().into()), Occasion::Quiet)
    };

    // Refused before there ever was one: the default goes on, and nothing is kept.
    let Offered::Refused(problems) = offer(&running, r#"{"$version":2}"#) else { panic!() };
    assert!(problems.iter().any(|problem| problem.contains("schemaVersion")), "{problems:?}");
    running.check(&["default"], &["the $edgeHub twin is refused ("]);
    assert!(!kept.exists() && !running.configuration.has_none());

    let good = document(&[("r", ALL)], "");
    assert_eq!(offer(&running, &good), Offered::InForce(Vec::new()));
    running.check(&["r"], &[]);
    let mixed = document(&[("s", ALL), ("bad", "FROM nowhere")], "");
    let Offered::InForce(set_aside) = offer(&running, &mixed) else { panic!() };
    assert!(matches!(&set_aside[..], [why] if why.contains("\"bad\"")), "{set_aside:?}");
    assert_eq!(offer(&running, &mixed), Offered::InForce(set_aside), "told again");
    assert_eq!(running.events("configuration_applied", "twin"), 2);

    // The next start has it at once, whatever the twin says by now.
    offer(&running, "{}");
    drop(running);
    let running = place.start(&[BY_TWIN]);
    running.check(&["s"], &["1 routes are set aside"]);
    assert_eq!(running.events("configuration_applied", "last_good"), 1);
    assert!(matches!(offer(&running, &mixed), Offered::InForce(_)));
    assert_eq!(running.events("configuration_applied", "twin"), 0, "it is the one in force");
    drop(running);

    std::fs::write(kept, "damaged").unwrap();
    let running = place.start(&[BY_TWIN]);
    running.check(&["default"], &[]);
    assert_eq!(running.events("configuration_kept", "set_aside"), 1);
}

#[test]
fn limits_and_live_first_follow_the_document() {
    let place = Place::new();
    std::fs::write(place.twin(), document(&[("r", ALL)], "")).unwrap();
    let running = place.start(&[("storeSettings__maxSizeBytes", "67108864")]);
    let room = || running.configuration.parts.store.room().limit.unwrap();
    let limit = |bytes: &str| {
        let limits = format!(r#","storeLimits":{{"maxSizeBytes":{bytes}}}"#);
        running.offer(&document(&[("r", ALL)], &limits));
        room()
    };
    let setting = room();
    let (less, least) = (limit("33554432"), limit("16777216"));
    assert!(least < less && less <= 32 * MIB && less < setting, "{least} {less} {setting}");
    assert_eq!(limit("134217728"), setting, "the smaller one of document and setting");
    limit("33554432");
    running.offer(&document(&[("r", ALL)], ""));
    assert_eq!(room(), setting);

    let live_first = running.configuration.live_first();
    assert!(!*live_first.borrow());
    running.offer(&document(&[("r", ALL)], r#","liveFirst":true"#));
    assert!(*live_first.borrow());
    let ttl = || running.configuration.routes.load().routes()[0].target().ttl_secs;
    assert_eq!(ttl(), 60);
    running.offer(&document(&[("r", ALL)], "").replace("60", "61"));
    assert_eq!(ttl(), 61);
}

#[test]
fn changes_are_told_in_words() {
    let place = Place::new();
    std::fs::write(place.twin(), "{}").unwrap();
    let config = place.config(&[]);
    let compiled = |routes: &[(&str, &str)], more: &str| {
        Compiled::new(&Desired::parse(&document(routes, more)).unwrap(), &config)
    };
    let bad = "FROM nowhere";
    let before = compiled(&[("a", ALL), ("b", ALL), ("was bad", bad), ("still bad", bad)], "");
    let check = |routes: &[(&str, &str)], more: &str, expected: &str| {
        let aside: Vec<String> = before.set_aside.iter().map(|route| route.name.clone()).collect();
        let now = compiled(routes, more);
        assert_eq!(now.changes(&before.table, &aside), expected, "{routes:?}");
    };
    let (a, b, still) = (("a", ALL), ("b", ALL), ("still bad", bad));
    check(&[a, b], "", "removed \"still bad\", \"was bad\"");
    check(&[a, b, ("was bad", ALL), still], "", "added \"was bad\"; set aside \"still bad\"");
    check(
        &[a, ("b", MODULES), ("c", ALL), still],
        "",
        "added \"c\"; changed \"b\"; removed \"was bad\"; set aside \"still bad\"",
    );
    check(&[("a", bad)], "", "removed \"b\", \"still bad\", \"was bad\"; set aside \"a\"");
    let same = [a, b, ("was bad", bad), still];
    check(&same, "", "set aside \"still bad\", \"was bad\"");
    check(
        &same,
        r#","liveFirst":true"#,
        "changed \"a\", \"b\"; set aside \"still bad\", \"was bad\"",
    );
    let none = compiled(&[a], "");
    assert_eq!(none.changes(&none.table, &[]), "no route is different");
}

#[test]
fn what_is_told_of_a_document_is_bounded() {
    let place = Place::new();
    std::fs::write(place.twin(), "{}").unwrap();
    let config = place.config(&[]);
    let names: Vec<String> = (0..5000).map(|n| format!("{n} {}", "x".repeat(40))).collect();
    let bad: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "FROM \n nowhere")).collect();
    let compiled = |routes: &[(&str, &str)]| {
        Compiled::new(&Desired::parse(&document(routes, "")).unwrap(), &config)
    };
    let some = compiled(&[&bad[..], &[("all", ALL)]].concat());
    assert_eq!(some.refused(), None);
    let lines = some.set_aside_lines();
    assert_eq!(lines.len(), LINES_MAX + 1);
    let more = "and 4980 more: `sphere-gateway routes check FILE` tells all";
    assert_eq!(lines.last().map(String::as_str), Some(more));
    assert!(lines.iter().all(|line| line.len() < 1000 && !line.contains('\n')), "{lines:?}");
    // Refused as a whole: one line, with what else is to be said of it.
    let refused = compiled(&bad).refused().unwrap();
    let told = refused.to_string();
    assert!(told.len() < 20_000 && !told.contains('\n'), "{told}");
    for part in [
        "refused: none of its 5000 routes can run: correct one, ",
        "route \"0 xx",
        "and 4990 more: `sphere",
        // Blanks in names.
        ". Also: route \"",
    ] {
        assert!(told.contains(part), "{part:?} in {told}");
    }
    assert!(!told.contains("set aside") && !told.contains("others run"), "{told}");
    assert!(in_short(&refused).len() < 600);
}

#[test]
fn what_is_told_in_one_line_is_bounded() {
    let long = "ü".repeat(1000);
    assert_eq!(compiled::short(&long).chars().count(), 123);
    let many: Vec<String> = (0..1000).map(|n| format!("{n}{long}")).collect();
    let told = names(many.iter().map(String::as_str));
    assert!(told.ends_with(" and 990 more") && told.chars().count() < 1500, "{told}");
    assert_eq!(names(["a\nb"].into_iter()), "\"a\\nb\"");
    assert_eq!(names(std::iter::empty()), "");
}

/// `edgeHubTwinFile` as a folder: a base with the route `all`, and layers.
struct Layers {
    place: Place,
    /// The value of `edgeHubTwinFile`.
    folder: String,
}

impl Layers {
    fn new() -> Self {
        let place = Place::new();
        let folder = place.folder.path().join("layers");
        std::fs::create_dir(&folder).unwrap();
        let folder = folder.display().to_string();
        let layers = Self { place, folder };
        layers.write("00-base.json", &document(&[("all", ALL)], ""));
        layers
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(format!("{}/{name}", self.folder), text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(format!("{}/{name}", self.folder)).unwrap();
    }

    fn start(&self) -> Running {
        self.place.start(&[("edgeHubTwinFile", &self.folder)])
    }
}

/// A layered deployment as it is deployed.
fn layer(route: &str, text: &str) -> String {
    format!(
        r#"{{"content":{{"modulesContent":{{"$edgeHub":{{"properties.desired.routes.{route}":"{text}"}}}}}}}}"#
    )
}

#[tokio::test(start_paused = true)]
async fn a_layer_comes_changes_breaks_and_goes_while_the_others_serve() {
    let layers = Layers::new();
    layers.write("10-modules.json", &layer("modules", MODULES));
    let running = layers.start();
    running.check(&["all", "modules"], &[]);
    let _ask = running.watch();
    let looked = async || sleep(Duration::from_secs(5)).await;
    let apart = || running.metric("sphere_gateway_configuration_layers_set_apart", &[]);
    let counted = |reason: &str| running.events("configuration_layer_set_apart", reason);
    looked().await;

    layers.write("20-more.json", &layer("more", MODULES));
    looked().await;
    running.check(&["all", "modules", "more"], &[]);
    // One layer breaks: the others go on, and it is named.
    layers.write("10-modules.json", "{");
    looked().await;
    let told = r#"1 layers are set apart: "10-modules.json"; correct them"#;
    running.check(&["all", "more"], &[told]);
    assert_eq!((apart(), counted("bad")), (1, 1));
    looked().await;
    assert_eq!(counted("bad"), 1, "told once");
    // Another one that was never good changes nothing but what is told.
    layers.write("30-other.json", "[]");
    looked().await;
    let both = r#"2 layers are set apart: "10-modules.json", "30-other.json""#;
    running.check(&["all", "more"], &[both]);
    assert_eq!((apart(), counted("bad")), (2, 2));
    layers.remove("30-other.json");
    looked().await;
    running.check(&["all", "more"], &[told]);
    // A bad route of a good layer is set aside as any other.
    layers.write("10-modules.json", &layer("modules", "FROM nowhere"));
    looked().await;
    running.check(&["all", "more"], &[r#"1 routes are set aside: "modules""#]);
    layers.write("10-modules.json", &layer("modules", MODULES));
    layers.remove("20-more.json");
    looked().await;
    running.check(&["all", "modules"], &[]);
    assert_eq!((apart(), running.events("configuration_refused", "bad")), (0, 0));

    // Without its base nothing changes, and it is what serves at the next start.
    layers.write("00-base.json", "{");
    looked().await;
    running.check(&["all", "modules"], &["edgeHubTwinFile is refused (00-base.json, the base"]);
    layers.write("10-modules.json", "{");
    drop(running);
    let running = layers.start();
    running.check(&["all", "modules"], &["edgeHubTwinFile is refused (00-base.json, the base"]);
    // A start with a bad layer and a good base has what is good of them.
    drop(running);
    layers.write("00-base.json", &document(&[("all", ALL)], ""));
    let running = layers.start();
    running.check(&["all"], &[told]);
    assert_eq!(running.events("configuration_layer_set_apart", "bad"), 1);
}

#[test]
fn half_of_a_layer_that_is_written_over_and_over_is_no_news() {
    let layers = Layers::new();
    let running = layers.start();
    let offer = |occasion, text: &str| {
        layers.write("10.json", text);
        let edge = &running.configuration.parts.config.connection.device;
        let came = file::read(std::path::Path::new(&layers.folder), edge);
        running.configuration.offer(Origin::File, came, occasion);
    };
    offer(Occasion::Unquiet, &layer("r", MODULES));
    running.check(&["all", "r"], &[]);
    offer(Occasion::Unquiet, "{");
    running.check(&["all", "r"], &[]);
    offer(Occasion::Quiet, "{");
    running.check(&["all"], &["1 layers are set apart"]);
    // It is known by now, and no longer in the way of the others.
    layers.write("20.json", &layer("s", MODULES));
    offer(Occasion::Unquiet, "{");
    running.check(&["all", "s"], &["1 layers are set apart"]);
}
