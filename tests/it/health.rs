//! `health`, the image's health check, with every setting of the metrics listener that edgeHub knows: a good gateway is
//! healthy.

use std::net::TcpListener;

use crate::check::Examined;
use crate::log_format::Running;
use crate::support::World;

const ENABLED: &str = "metrics__listener__MetricsEnabled";
const HOST: &str = "metrics__listener__host";
const PORT: &str = "metrics__listener__port";

/// A port that is free on every address of loopback; nobody else takes it before the start, or the start says so.
fn free_port() -> String {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    listener.local_addr().expect("bound").port().to_string()
}

/// The exit status of a command in the gateway's environment, and what it said.
fn said(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let output = tokio::task::block_in_place(|| world.command(arguments));
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("UTF-8"))
}

/// What the listener at `address` answers.
async fn answer(address: &str, path: &str) -> String {
    crate::process::scrape(address.parse().expect("an address"), path).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_gateway_is_healthy_wherever_its_listener_is() {
    // Whether there are metrics, the host, where it is asked.
    let table = [
        ("true", "*", "127.0.0.1"),
        ("true", "127.0.0.2", "127.0.0.2"),
        ("false", "127.0.0.2", "127.0.0.2"),
        ("false", "0.0.0.0", "127.0.0.1"),
        // Of no interface here: without metrics only this machine is served.
        ("false", "192.0.2.1", "127.0.0.1"),
    ];
    let mut world = World::new(1).await;
    for (enabled, host, asked) in table {
        let (case, port) = (format!("MetricsEnabled {enabled}, host {host}"), free_port());
        world.set(ENABLED, enabled);
        world.set(HOST, host);
        world.set(PORT, &port);
        assert_eq!(said(&world, &["health"]).0, Some(1), "{case}: nothing runs");
        let running = Running::start(&world);
        running.until_it_listens(&world);
        assert_eq!(said(&world, &["health"]), (Some(0), "healthy\n".to_owned()), "{case}");
        assert_eq!(said(&world, &["refusals"]).0, Some(0), "{case}");
        let seen = Examined::of(&world).words("running");
        assert!(seen.contains("is healthy"), "{case}: {seen}");
        let address = format!("{asked}:{port}");
        assert!(answer(&address, "/readyz").await.starts_with("HTTP/1.1 "), "{case}");
        let metrics = answer(&address, "/metrics").await;
        match enabled {
            "true" => assert!(metrics.starts_with("HTTP/1.1 200"), "{case}: {metrics}"),
            _ => {
                assert!(metrics.starts_with("HTTP/1.1 404"), "{case}: {metrics}");
                assert!(metrics.contains("MetricsEnabled is false"), "{case}: {metrics}");
            }
        }
        tokio::task::block_in_place(|| running.stop());
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_metrics_a_port_that_is_taken_costs_the_health_check_alone() {
    let mut world = World::new(1).await;
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    world.set(ENABLED, "false");
    world.set(PORT, &other.local_addr().expect("bound").port().to_string());
    let running = Running::start(&world);
    let log = running.until_it_listens(&world);
    let warns = |line: &String| line.contains("for the health check") && line.contains("free port");
    assert!(log.iter().any(warns), "{log:#?}");
    let fleet = world.fleet(|_| {});
    fleet.progress(20).await;
    fleet.finish().await;
    world.expect_nothing_lost(&fleet).await;
    tokio::task::block_in_place(|| running.stop());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_free_port_is_one_that_no_health_check_finds_and_check_says_so() {
    let mut world = World::new(1).await;
    world.set(PORT, "0");
    let (code, text) = said(&world, &["health"]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("metrics__listener__port is 0"), "{text}");
    let found = Examined::of(&world);
    assert!(found.with("warning").contains(&"running"), "{:?}", found.with("warning"));
    assert!(found.words("running").contains("health check"), "{}", found.words("running"));
    world.end().await;
}
