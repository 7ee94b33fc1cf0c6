//! The shares of the durability campaign (`examples/durability`) that every test run does. The seed is random unless
//! `SPHERE_SEED` is set, and shown when something fails.

use crate::store::trial;

/// The seed of this run.
fn seed() -> u64 {
    let seed = std::env::var("SPHERE_SEED").ok();
    let seed = seed.map_or_else(rand::random, |s| s.parse().expect("SPHERE_SEED is a number"));
    println!("SPHERE_SEED={seed}");
    seed
}

#[test]
fn power_cuts_lose_nothing_that_was_acked() {
    let cuts = trial::power_cuts(seed(), 2_000);
    assert!(cuts.cuts >= 2_000 && cuts.acked > cuts.cuts, "the trial must try: {cuts:?}");
    assert!(cuts.expired > 0 || cuts.dropped > 0, "the trial must remove: {cuts:?}");
    assert!(cuts.is_clean(), "{cuts:#?}");
}

#[test]
fn a_real_folder_recovers_from_what_power_cuts_leave() {
    let folder = tempfile::tempdir().unwrap();
    let cuts = trial::power_cuts_on(folder.path(), seed(), 20).unwrap();
    assert!(cuts.cuts == 20 && cuts.acked > 0, "the trial must try: {cuts:?}");
    assert!(cuts.is_clean(), "{cuts:#?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it leaves nothing behind");
}

#[test]
fn damage_costs_what_it_touches_and_is_reported() {
    let seen = trial::damages(seed(), 600);
    let kinds = [seen.sealed, seen.open, seen.checkpoints, seen.others];
    assert!(seen.damages == 600 && kinds.iter().all(|n| *n > 0), "the trial must try: {seen:?}");
    assert!(seen.touched > seen.unprovable, "the trial must hurt: {seen:?}");
    assert!(seen.is_clean(), "{seen:#?}");
}

#[test]
fn every_operation_of_the_disk_may_fail() {
    let seen = trial::io_faults(seed());
    assert!(seen.faults > 500 && seen.poisoned > 50, "the trial must try: {seen:?}");
    assert!(seen.refused > 100 && seen.acked > seen.refused, "the trial must try: {seen:?}");
    assert!(seen.is_clean(), "{seen:#?}");
}
