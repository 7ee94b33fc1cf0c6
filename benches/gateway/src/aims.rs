//! The aims of the project, each computed from a run's medians: ratios in one run, and counts.
//!
//! Owns: [`aims`]. Invariant: a verdict comes from figures of this run or is "not measured". Must not know: how anything is
//! measured.

use crate::report::Figures;

/// One aim.
pub(crate) struct Aim {
    pub(crate) words: &'static str,
    pub(crate) measured: String,
    /// `None`: not measured.
    pub(crate) met: Option<bool>,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

fn aim(
    words: &'static str,
    value: Option<f64>,
    bound: &Bound,
    measured: impl Fn(f64) -> String,
) -> Aim {
    let met = value.map(|value| match *bound {
        Bound::AtLeast(least) => value >= least,
        Bound::AtMost(most) => value <= most,
        Bound::Below(limit) => value < limit,
    });
    Aim { words, measured: value.map_or_else(|| "-".to_owned(), measured), met }
}

fn times(value: f64) -> String {
    format!("{value:.2}x")
}

/// Mosquitto's two ways to its sink (plain and TLS). Neither is always the better one; the better one is compared.
fn bridges(section: &str, what: &str) -> [String; 2] {
    ["mosquitto", "mosquitto-tls"].map(|who| format!("{section}/{who}/{what}"))
}

fn over(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    Some(ours? / theirs.filter(|n| *n > 0.0)?)
}

/// All of them, in the order of the project's list.
pub(crate) fn aims(figures: &Figures) -> Vec<Aim> {
    let mut all = throughput(figures);
    all.extend(latency(figures));
    all.extend(disk(figures));
    all.extend(cost(figures));
    all.extend(outage(figures));
    all.extend(flood(figures));
    all
}

fn throughput(figures: &Figures) -> Vec<Aim> {
    let forward = |who: &str| format!("forward/{who}/forwarded_per_s");
    let ingest = |who: &str| format!("ingest/500x1x256/{who}/acked_per_s");
    vec![
        aim(
            "durable and forwarded per second: at least 2x Mosquitto's non-durable bridge (plain or TLS, whichever is faster)",
            over(
                figures.median(&forward("gateway")),
                figures.best(&bridges("forward", "forwarded_per_s"), true),
            ),
            &Bound::AtLeast(2.0),
            times,
        ),
        aim(
            "the same: at least 15x Mosquitto's autosave mode",
            figures.ratio(&forward("gateway"), &forward("mosquitto-safe")),
            &Bound::AtLeast(15.0),
            times,
        ),
        aim(
            "durable ingest, 500 devices, window 1: at least 0.8x Mosquitto's non-durable",
            figures.ratio(&ingest("gateway"), &ingest("mosquitto")),
            &Bound::AtLeast(0.8),
            times,
        ),
    ]
}

/// Both ends of the trade-off; the aims are for the defaults, and what the commit window gives stands beside them.
fn latency(figures: &Figures) -> Vec<Aim> {
    let p99 = |who: &str| figures.median(&format!("latency/{who}/p99_us"));
    let beside = |who: &str| {
        let sync = figures.median(&format!("latency/{who}/sync_p99_us"));
        over(p99(who), p99("mosquitto").zip(sync).map(|(m, d)| m + d))
    };
    let syncs = |who: &str| {
        let by = |count| figures.median(&format!("latency/{who}/fdatasync_per_message_{count}"));
        by("kernel").or_else(|| by("own"))
    };
    let number = |n| format!("{n:.3}");
    // A generator that is late itself cannot tell who else is, and what is late comes in clumps, which share an fdatasync.
    let sent_late = |who: &str| figures.median(&format!("latency/{who}/late_p99_us"));
    let late = ["gateway", "gateway-5ms", "mosquitto"].into_iter().filter_map(sent_late);
    let late = late.fold(0.0, f64::max);
    let judge = |mut aim: Aim| {
        if late > LATE_MAX_US && aim.met.take().is_some() {
            aim.measured += &format!(" (the load generator was {late:.0} us late)");
        }
        aim
    };
    let all = vec![
        aim(
            "p99 PUBACK at 2,000 messages/s: at most 1.2x (Mosquitto's p99 + one fdatasync's p99)",
            beside("gateway"),
            &Bound::AtMost(1.2),
            times,
        ),
        aim(
            "the same with a commit window of 5 ms",
            beside("gateway-5ms"),
            &Bound::AtMost(1.2),
            times,
        ),
        aim(
            "fdatasync per message there: fewer than 0.1",
            syncs("gateway"),
            &Bound::Below(0.1),
            number,
        ),
        aim(
            "the same with a commit window of 5 ms, fdatasync per message",
            syncs("gateway-5ms"),
            &Bound::Below(0.1),
            number,
        ),
    ];
    all.into_iter().map(judge).collect()
}

/// The p99 of the load generator's own delay up to which its latencies are judged.
const LATE_MAX_US: f64 = 200.0;

fn disk(figures: &Figures) -> Vec<Aim> {
    let bytes = |what: &str| figures.median(&format!("ingest/50x20x256/gateway/{what}_per_byte"));
    let number = |n| format!("{n:.2}");
    vec![
        aim(
            "bytes handed to write per payload and topic byte, 50 devices, window 20: at most 1.3",
            bytes("written"),
            &Bound::AtMost(1.3),
            number,
        ),
        aim(
            "the same by the 4 KiB blocks that the kernel counts",
            bytes("blocks"),
            &Bound::AtMost(1.3),
            number,
        ),
    ]
}

fn cost(figures: &Figures) -> Vec<Aim> {
    let idle = |who: &str| format!("memory/{who}/idle_mb");
    let mut all = vec![aim(
        "CPU per 100k messages in and out: at most half of Mosquitto's (plain or TLS, whichever takes less)",
        over(
            figures.median("forward/gateway/cpu_s_per_100k"),
            figures.best(&bridges("forward", "cpu_s_per_100k"), false),
        ),
        &Bound::AtMost(0.5),
        times,
    )];
    all.extend(connect(figures));
    all.extend([
        aim(
            "RSS idle: at most Mosquitto's",
            figures.ratio(&idle("gateway"), &idle("mosquitto")),
            &Bound::AtMost(1.0),
            times,
        ),
        aim(
            "RSS per TLS device: at most 20 KB",
            figures.median("memory/gateway/kb_per_device"),
            &Bound::AtMost(20.0),
            |n| format!("{n:.1} KB"),
        ),
        aim(
            "5,000 devices connected",
            figures.least("memory/gateway/connected"),
            &Bound::AtLeast(5000.0),
            |n| format!("{n:.0}"),
        ),
    ]);
    all
}

/// The CA's curve decides what a connect costs, so each aim is there for either.
fn connect(figures: &Figures) -> Vec<Aim> {
    let beside = |curve: &str, what: &str, other: &str| {
        let name = |who: &str| format!("connects/{curve}/{who}/{what}");
        figures.ratio(&name("gateway"), &name(other))
    };
    let cpu = |words, curve, what| {
        aim(words, beside(curve, what, "mosquitto"), &Bound::AtMost(0.25), times)
    };
    let rate =
        |words, curve| aim(words, beside(curve, "per_s", "null"), &Bound::AtLeast(0.8), times);
    vec![
        cpu("CPU per TLS connect (P-256 CA): at most a quarter of Mosquitto's", "p256", "cpu_ms"),
        cpu("the same, the device's second time", "p256", "again_cpu_ms"),
        cpu("CPU per TLS connect (P-384 CA): at most a quarter of Mosquitto's", "p384", "cpu_ms"),
        cpu("the same, its second time", "p384", "again_cpu_ms"),
        rate(
            "connects per second (P-256 CA): at least 80 % of bare rustls (the null broker)",
            "p256",
        ),
        rate(
            "connects per second (P-384 CA): at least 80 % of bare rustls (the null broker)",
            "p384",
        ),
    ]
}

fn outage(figures: &Figures) -> Vec<Aim> {
    // What fewer messages show is no answer to the question.
    let million = |name: &str| {
        figures
            .least("memory/gateway/backlog")
            .filter(|n| *n >= 1e6)
            .and_then(|_| figures.median(name))
    };
    let drain = |who: &str| format!("drain/near/{who}/per_s");
    let lost = |when: &str| figures.sum(&format!("crash/{when}/gateway/lost"));
    vec![
        aim(
            "RSS growth with 1 M messages waiting: at most 16 MB",
            million("memory/gateway/growth_mb"),
            &Bound::AtMost(16.0),
            |n| format!("{n:.1} MB"),
        ),
        aim(
            "drain with a hub 50 ms away: at least 90 % of window / delay",
            figures.median("drain/far/gateway/of_window_over_delay"),
            &Bound::AtLeast(0.9),
            |n| format!("{:.0} %", n * 100.0),
        ),
        aim(
            "the same with the backlog of 500 devices instead of 50",
            figures.median("drain/far500/gateway/of_window_over_delay"),
            &Bound::AtLeast(0.9),
            |n| format!("{:.0} %", n * 100.0),
        ),
        aim(
            "drain to a near hub: at least 0.5x Mosquitto's from memory",
            figures.ratio(&drain("gateway"), &drain("mosquitto")),
            &Bound::AtLeast(0.5),
            times,
        ),
        aim(
            "500 silent connections leave honest connects at 80 % of their rate",
            figures.median("silent/gateway/ratio"),
            &Bound::AtLeast(0.8),
            |n| format!("{:.0} %", n * 100.0),
        ),
        aim(
            "restart to first PUBACK with 1 M waiting: under 1 s",
            million("memory/gateway/restart_ms"),
            &Bound::Below(1000.0),
            |n| format!("{n:.0} ms"),
        ),
        aim(
            "acknowledged and lost, kill -9 in the middle of publishing and after it: 0",
            lost("amid").zip(lost("after")).map(|(amid, after)| amid + after),
            &Bound::AtMost(0.0),
            |n| format!("{n:.0}"),
        ),
    ]
}

/// 512 silent connections at 2 KiB, 24 handshakes at 64 KiB, 4,096 addresses and identities: 4 MiB. The rest is for the
/// allocator.
fn flood(figures: &Figures) -> Vec<Aim> {
    vec![
        aim(
            "p99 PUBACK of honest devices in a flood: at most 2x that without it",
            figures.median("flood/gateway/ratio"),
            &Bound::AtMost(2.0),
            times,
        ),
        aim(
            "RSS growth in a flood (its peak above that before it): at most 16 MB",
            figures.median("flood/gateway/growth_mb"),
            &Bound::AtMost(16.0),
            |n| format!("{n:.1} MB"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(figures: &[(&str, f64)]) -> Vec<Aim> {
        let mut all = Figures::default();
        figures.iter().for_each(|(name, value)| all.add(*name, *value));
        aims(&all)
    }

    fn met(aims: &[Aim], words: &str) -> Option<bool> {
        aims.iter().find(|aim| aim.words.starts_with(words)).expect("the aim").met
    }

    #[test]
    fn what_was_not_measured_is_not_met_and_not_missed() {
        assert!(of(&[]).iter().all(|aim| aim.met.is_none() && aim.measured == "-"));
        let half =
            of(&[("forward/gateway/forwarded_per_s", 9e9), ("crash/amid/gateway/lost", 0.0)]);
        assert!(half.iter().all(|aim| aim.met.is_none()), "one side alone says nothing");
    }

    #[test]
    fn ratios_are_of_the_medians() {
        let mut figures = Figures::default();
        [10.0, 21.0, 99.0].iter().for_each(|n| figures.add("forward/gateway/forwarded_per_s", *n));
        [1.0, 10.0, 11.0].iter().for_each(|n| figures.add("forward/mosquitto/forwarded_per_s", *n));
        let all = aims(&figures);
        assert_eq!(all[0].met, Some(true));
        assert_eq!(all[0].measured, "2.10x");
    }

    #[test]
    fn the_limit_of_latency_is_mosquitto_and_one_sync() {
        let with = |ours| {
            of(&[
                ("latency/gateway/p99_us", ours),
                ("latency/mosquitto/p99_us", 300.0),
                ("latency/gateway/sync_p99_us", 200.0),
            ])
        };
        assert_eq!(met(&with(600.0), "p99"), Some(true));
        assert_eq!(met(&with(601.0), "p99"), Some(false));
    }

    #[test]
    fn a_late_load_generator_judges_nobody() {
        let with = |late| {
            of(&[
                ("latency/gateway/fdatasync_per_message_own", 0.05),
                ("latency/gateway/late_p99_us", 50.0),
                ("latency/mosquitto/late_p99_us", late),
            ])
        };
        assert_eq!(met(&with(199.0), "fdatasync per message"), Some(true));
        assert_eq!(met(&with(3000.0), "fdatasync per message"), None);
    }

    #[test]
    fn the_better_of_both_bridges_is_compared() {
        let all = of(&[
            ("forward/gateway/forwarded_per_s", 100.0),
            ("forward/mosquitto/forwarded_per_s", 50.0),
            ("forward/mosquitto-tls/forwarded_per_s", 80.0),
            ("forward/gateway/cpu_s_per_100k", 0.5),
            ("forward/mosquitto/cpu_s_per_100k", 1.0),
            ("forward/mosquitto-tls/cpu_s_per_100k", 1.1),
        ]);
        assert_eq!(met(&all, "durable and forwarded"), Some(false));
        assert_eq!(met(&all, "CPU per 100k"), Some(true));
    }

    #[test]
    fn both_counts_of_bytes_have_a_verdict() {
        let all = of(&[
            ("ingest/50x20x256/gateway/written_per_byte", 1.29),
            ("ingest/50x20x256/gateway/blocks_per_byte", 1.31),
        ]);
        assert_eq!(met(&all, "bytes handed"), Some(true));
        assert_eq!(met(&all, "the same by the 4 KiB"), Some(false));
    }

    #[test]
    fn a_small_backlog_does_not_answer_for_a_million() {
        let with =
            |backlog| of(&[("memory/gateway/backlog", backlog), ("memory/gateway/growth_mb", 1.0)]);
        assert_eq!(met(&with(1e5), "RSS growth"), None);
        assert_eq!(met(&with(1e6), "RSS growth"), Some(true));
    }

    #[test]
    fn both_aims_of_a_flood_have_a_verdict() {
        for (ratio, growth, expected) in [
            (2.0, 16.0, (Some(true), Some(true))),
            (2.01, 1.0, (Some(false), Some(true))),
            (1.0, 16.1, (Some(true), Some(false))),
        ] {
            let all = of(&[("flood/gateway/ratio", ratio), ("flood/gateway/growth_mb", growth)]);
            let verdicts = (met(&all, "p99 PUBACK of honest"), met(&all, "RSS growth in a flood"));
            assert_eq!(verdicts, expected, "{ratio} {growth}");
        }
    }

    #[test]
    fn one_lost_message_in_one_round_is_told() {
        let mut figures = Figures::default();
        [0.0, 0.0, 1.0].iter().for_each(|n| figures.add("crash/amid/gateway/lost", *n));
        figures.add("crash/after/gateway/lost", 0.0);
        assert_eq!(met(&aims(&figures), "acknowledged and lost"), Some(false));
    }
}
