//! The `$edgeHub` part of a manifest: read and compiled by the code that `routes check` and the gateway use.
//!
//! Owns: what a person should think of its routes and times to live. Must not know: the routing language.

use super::finding::{Findings, Level};
use crate::command::text::{plural, span};
use crate::desired::{Desired, Document};
use crate::identity::DeviceId;
use crate::route::{CompiledRoute, Endpoint, PRIORITY_NONE};

const ROUTES: &str = "$edgeHub routes";
const TTL: &str = "$edgeHub timeToLiveSecs";

/// Below it, a night without the hub loses messages.
const TTL_SHORT_SECS: u32 = 86_400;

pub(super) fn examine(bytes: &[u8], found: &mut Findings) {
    let desired = Document::from_bytes(bytes).and_then(|document| document.desired());
    match desired {
        Ok(desired) => examined(&desired, found),
        Err(refused) => {
            let problems = refused.problems.into_iter();
            problems.for_each(|problem| found.told(Level::Error, "$edgeHub", problem));
        }
    }
}

fn examined(desired: &Desired, found: &mut Findings) {
    let edge = DeviceId::parse("edge").expect("letters are an id");
    let judged = desired.judge(&edge, false);
    for route in &judged.refused {
        found.told(Level::Error, ROUTES, route.to_string());
    }
    if let Some(why) = judged.none_runs() {
        found.told(Level::Error, ROUTES, format!("the gateway refuses the document: {why}"));
    }
    let routes = judged.compiled.routes();
    for route in routes {
        for warning in route.warnings() {
            found.told(Level::Warning, ROUTES, format!("{:?}: {warning}", route.name()));
        }
    }
    let mut is_none = false;
    for warning in &desired.warnings {
        // edgeHub, to which one may want to go back, would drop everything.
        let is_zero =
            warning.starts_with("timeToLiveSecs is 0") || warning.contains("has no timeToLiveSecs");
        is_none |= is_zero;
        let level = if is_zero { Level::Error } else { Level::Warning };
        found.told(level, "$edgeHub", warning.clone());
    }
    let upstream: Vec<&CompiledRoute> =
        routes.iter().filter(|route| route.target().endpoint == Endpoint::Upstream).collect();
    if upstream.is_empty() && desired.schema_version.is_some() {
        let todo = "add \"FROM /messages/* INTO $upstream\"";
        found.error(ROUTES, "no route goes to $upstream: nothing reaches the hub", todo);
    }
    if !upstream.is_empty() {
        let told = upstream.iter().map(|route| told(route)).collect::<Vec<_>>().join(", ");
        let count = plural(upstream.len() as u64, "route");
        found.ok(ROUTES, format!("{count} to $upstream: {told}"));
    }
    // What stands in for none is told already.
    let all = desired.ttl_secs.filter(|_| !is_none);
    time_to_live(all, desired, &upstream, found);
}

/// `"leafToHub" (priority 0)`.
fn told(route: &CompiledRoute) -> String {
    match route.target().priority {
        PRIORITY_NONE.. => format!("{:?}", route.name()),
        priority => format!("{:?} (priority {priority})", route.name()),
    }
}

fn time_to_live(
    all: Option<u32>,
    desired: &Desired,
    upstream: &[&CompiledRoute],
    found: &mut Findings,
) {
    let todo = "write the longest outage that you want to outlast; -1 keeps messages until the store is full";
    let lost_after = |secs: u32| {
        let span = span(secs.into());
        format!("{secs}: a message that waits longer than {span} for the hub is dropped")
    };
    let mut shorts: Vec<(String, u32)> = Vec::new();
    for route in upstream {
        let own = desired.routes.iter().find(|spec| spec.name == route.name());
        if let Some(spec) = own.filter(|spec| spec.ttl_secs > 0 && spec.ttl_secs < TTL_SHORT_SECS) {
            shorts.push((format!("{ROUTES} {:?} timeToLiveSecs", spec.name), spec.ttl_secs));
        }
    }
    match all {
        Some(0) => found.ok(TTL, "messages wait until the store is full"),
        Some(secs) if secs < TTL_SHORT_SECS => shorts.insert(0, (TTL.to_owned(), secs)),
        Some(secs) => found.ok(TTL, format!("a message waits {} for the hub", span(secs.into()))),
        None => {}
    }
    shorts.into_iter().for_each(|(subject, secs)| found.warning(&subject, lost_after(secs), todo));
}
