//! A share of the kill campaign (`examples/durability`): 50 devices, online and offline mixed.
//!
//! `SPHERE_KILL_CYCLES` (default 50) and `SPHERE_SEED` are settable; the seed is printed.

use std::path::Path;

use crate::kills::kills;

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
    let seen = kills(Path::new(env!("CARGO_BIN_EXE_sphere-gateway")), cycles, seed, |_| ()).await;
    println!("{seen:?}");
    assert!(seen.violations.is_empty(), "{seen:?}");
    assert_eq!((seen.lost, seen.reordered), (0, 0), "{seen:?}");
    assert!(seen.cycles == cycles && seen.acked > 10 * cycles, "the trial must try: {seen:?}");
}
