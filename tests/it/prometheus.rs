//! A strict reader of Prometheus' text format 0.0.4: what it takes, any scraper takes. Panics at what is not exact.
//!
//! Stricter than the format where the Azure Monitor metrics collector is (`PrometheusMetricsParser.cs` of Azure/iotedge): a
//! value is `[0-9.eE+-]+` or `NaN`, so that an infinity would be left out of what it uploads, with a warning each time.

use std::collections::{BTreeMap, BTreeSet};

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// One metric name.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) samples: Vec<Sample>,
}

impl Family {
    /// Names of the labels that its series carry.
    pub(crate) fn labels(&self) -> BTreeSet<String> {
        let names = self.samples.iter().flat_map(|sample| sample.labels.keys());
        names.filter(|name| *name != "quantile").cloned().collect()
    }
}

/// The families of a scrape, by name.
pub(crate) fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n') && !text.contains('\r'), "the last line ends, none by CR");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut helped, mut current) = (None::<String>, None::<String>);
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect("a name and words");
            assert!(is_metric_name(name) && !words.is_empty(), "{line}");
            assert!(!families.contains_key(name), "told twice: {line}");
            helped = Some(name.to_owned());
        } else if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').expect("a name and a type");
            assert!(["counter", "gauge", "summary"].contains(&kind), "{line}");
            assert_eq!(helped.take().as_deref(), Some(name), "help comes right before: {line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            families.insert(name.to_owned(), Family { kind: kind.to_owned(), ..Family::default() });
            current = Some(name.to_owned());
        } else {
            let sample = sample(line);
            let name = current.as_deref().expect("a type comes first");
            let family = families.get_mut(name).expect("it was told");
            belongs(&sample, name, &family.kind);
            assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
            family.samples.push(sample);
        }
    }
    for (name, family) in &families {
        assert!(!family.samples.is_empty(), "{name} has a head and no series");
        if family.kind == "summary" {
            is_complete(name, family);
        }
    }
    families
}

fn belongs(sample: &Sample, family: &str, kind: &str) {
    let part = sample.name.strip_prefix(family).unwrap_or_else(|| panic!("{sample:?}"));
    let has_quantile = sample.labels.contains_key("quantile");
    match (kind, part) {
        ("summary", "") => assert!(has_quantile, "{sample:?}"),
        ("summary", "_sum" | "_count") => assert!(!has_quantile, "{sample:?}"),
        ("counter", "") => assert!(sample.value >= 0.0 && !has_quantile, "{sample:?}"),
        ("gauge", "") => assert!(!has_quantile, "{sample:?}"),
        _ => panic!("not of {family}: {sample:?}"),
    }
}

/// Each label set has the reference's quantiles, a sum and a count.
fn is_complete(name: &str, family: &Family) {
    let mut parts: BTreeMap<BTreeMap<String, String>, Vec<String>> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        let part =
            labels.remove("quantile").unwrap_or_else(|| sample.name[name.len()..].to_owned());
        parts.entry(labels).or_default().push(part);
    }
    for (labels, parts) in parts {
        assert_eq!(parts, ["0.1", "0.5", "0.9", "0.99", "_sum", "_count"], "{name} {labels:?}");
    }
}

fn is_metric_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b':';
    name.bytes().all(fits) && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

/// `name{label="value",...} value`.
fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_metric_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inside.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_metric_name(label) && !label.contains(':'), "{line}");
            let (value, after) = unescaped(after).unwrap_or_else(|| panic!("{line}"));
            assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice: {line}");
            match after.strip_prefix(',') {
                Some(more) => inside = more,
                None => {
                    rest = after.strip_prefix('}').unwrap_or_else(|| panic!("{line}"));
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    let plain = !value.is_empty() && value.bytes().all(|b| b"0123456789.eE+-".contains(&b));
    assert!(plain || value == "NaN", "the collector cannot read this: {line}");
    let value = value.parse().unwrap_or_else(|e| panic!("{e}: {line}"));
    Sample { name: name.to_owned(), labels, value }
}

/// A label's value up to its closing quote, and what follows that.
fn unescaped(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}
