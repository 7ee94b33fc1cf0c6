//! The source of a route: which messages it looks at (`edgehub.md` 4.2).
//!
//! Owns: [`Scope`], and saying why a source covers nothing. Must not know: conditions, sinks.

use std::fmt::{self, Write as _};

use super::advice::{is_invisible, nearest};
use super::subject::Origin;
use super::syntax::Segment;
use crate::identity::ModuleId;

const MESSAGES: &str = "messages";
const MODULES: &str = "modules";
const OUTPUTS: &str = "outputs";
const TWIN_CHANGES: &str = "twinChangeNotifications";

/// Those messages whose source path begins with these segments.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source(Vec<Box<str>>);

/// Which messages a source covers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scope<'s> {
    Everything,
    /// All twin changes.
    TwinChanges,
    /// Telemetry of all senders.
    Telemetry,
    /// Messages of all modules.
    Modules,
    /// Messages of this module.
    Module(&'s str),
    /// Messages of all outputs of this module.
    Outputs(&'s str),
    /// Messages of a module and one of its outputs.
    Output(&'s str, &'s str),
    /// No message comes from there.
    Nothing,
}

impl Source {
    /// Trailing `*` characters say nothing: matching is by prefix anyway (`edgehub.md` 4.2).
    pub(super) fn new(segments: &[Segment]) -> Self {
        let mut names: Vec<Box<str>> = segments.iter().map(|s| s.text.as_str().into()).collect();
        if let Some(last) = names.pop() {
            let stripped = last.trim_end_matches('*');
            if !stripped.is_empty() {
                names.push(stripped.into());
            }
        }
        Self(names)
    }

    /// What it covers of all that can come.
    pub(super) fn scope(&self) -> Scope<'_> {
        let names: Vec<&str> = self.0.iter().map(|name| &**name).collect();
        match names[..] {
            [] => Scope::Everything,
            [only] if same(only, TWIN_CHANGES) => Scope::TwinChanges,
            [first, ..] if !same(first, MESSAGES) => Scope::Nothing,
            [_, modules, ..] if !same(modules, MODULES) => Scope::Nothing,
            [_, _, module, ..] if is_star(module) || ModuleId::parse(module).is_err() => {
                Scope::Nothing
            }
            [_, _, _, outputs, ..] if !same(outputs, OUTPUTS) => Scope::Nothing,
            [_] => Scope::Telemetry,
            [_, _] => Scope::Modules,
            [_, _, module] => Scope::Module(module),
            [_, _, module, _] => Scope::Outputs(module),
            [_, _, module, _, output] => Scope::Output(module, output),
            _ => Scope::Nothing,
        }
    }

    /// Why no message is covered, and what to do; `None` = some can be.
    pub(super) fn covers_nothing(&self) -> Option<String> {
        match self.scope() {
            Scope::Nothing if self.0.iter().any(|name| is_star(name)) => Some(
                "a `*` that is not the last character of the source is an ordinary character: the route selects \
                 nothing. Name the module, or write /messages/modules/*"
                    .into(),
            ),
            Scope::Nothing => {
                let todo = self.instead();
                Some(format!("no message comes from {self}, so the route selects nothing: {todo}"))
            }
            _ => None,
        }
    }

    /// What to write instead of a source that covers nothing.
    fn instead(&self) -> String {
        let hidden = self.0.iter().flat_map(|name| name.chars()).find(|c| is_invisible(*c));
        let hidden = hidden.map(|c| {
            format!("the source has the invisible character U+{:04X}: take it out", u32::from(c))
        });
        match (hidden, self.meant()) {
            (Some(hidden), Some(meant)) => format!("{hidden} and write {meant}"),
            (Some(hidden), None) => hidden,
            (None, Some(meant)) => format!("did you mean {meant}?"),
            (None, None) if self.0.get(1).is_some_and(|n| nearest(n, ["devices"]).is_some()) => {
                "for one device write FROM /messages/* WHERE $connectionDeviceId = '<device>'"
                    .into()
            }
            (None, None) => {
                "telemetry comes from /messages/*, that of one output of a module from \
                 /messages/modules/<module>/outputs/<output>"
                    .into()
            }
        }
    }

    /// The source that this one is a slip of.
    fn meant(&self) -> Option<String> {
        let visible = |name: &str| name.chars().filter(|c| !is_invisible(*c)).collect::<String>();
        let mut names: Vec<String> = self.0.iter().map(|name| visible(name)).collect();
        names.retain(|name| !is_star(name));
        let near = |name: &String, word| nearest(name, [word]).is_some();
        if names.first().is_some_and(|name| near(name, MODULES)) {
            names.insert(0, MESSAGES.into());
        }
        let first = names.first_mut()?;
        *first = nearest(first, [MESSAGES, TWIN_CHANGES])?.into();
        if first == TWIN_CHANGES {
            names.truncate(1);
        }
        if let Some(second) = names.get(1) {
            if near(second, MODULES) {
                names[1] = MODULES.into();
            } else if names.get(2).is_some_and(|third| near(third, OUTPUTS)) {
                names.insert(1, MODULES.into());
            } else {
                return None;
            }
        }
        if let Some(fourth) = names.get(3) {
            if names.len() > 4 || near(fourth, OUTPUTS) {
                names[3] = OUTPUTS.into();
            } else {
                names.insert(3, OUTPUTS.into());
            }
        }
        names.truncate(5);
        let rest = if names.len() < 5 { "/*" } else { "" };
        let meant = Self(names.into_iter().map(String::into_boxed_str).collect());
        (meant.scope() != Scope::Nothing).then(|| format!("{meant}{rest}"))
    }

    /// Whether it is `/twinChangeNotifications/*`.
    pub(super) fn is_twin_changes(&self) -> bool {
        self.scope() == Scope::TwinChanges
    }

    /// Whether it looks at every message that `other` looks at.
    pub(super) fn includes(&self, other: &Self) -> bool {
        self.0.len() <= other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| same(a, b))
    }

    /// Whole segments, any case.
    pub(super) fn covers(&self, origin: &Origin<'_>) -> bool {
        let path = origin.segments();
        self.0.len() <= path.len() && self.0.iter().zip(path).all(|(ours, part)| same(ours, part))
    }
}

/// Characters that nobody sees are named.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.0 {
            f.write_char('/')?;
            for c in name.chars() {
                if is_invisible(c) {
                    write!(f, "<U+{:04X}>", u32::from(c))?;
                } else {
                    f.write_char(c)?;
                }
            }
        }
        Ok(())
    }
}

/// No module and no output is called so.
fn is_star(name: &str) -> bool {
    name.bytes().all(|b| b == b'*')
}

pub(super) fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn source(text: &str) -> Source {
        Source::new(&parse::source(text).unwrap())
    }

    #[test]
    fn what_covers_nothing_says_so() {
        let meant = |path: &str| format!("did you mean {path}?");
        let table = [
            ("/mesages/*", meant("/messages/*")),
            ("/message/*", meant("/messages/*")),
            ("/mesages/module/m", meant("/messages/modules/m/*")),
            ("/twinChangeNotification/*", meant("/twinChangeNotifications/*")),
            ("/twinChangeNotifications/d", meant("/twinChangeNotifications/*")),
            ("/messages/module/m/outputs/o", meant("/messages/modules/m/outputs/o")),
            ("/messages/modules/m/output/o", meant("/messages/modules/m/outputs/o")),
            ("/messages/modules/m/inputs/i", meant("/messages/modules/m/outputs/i")),
            ("/messages/modules/m/o", meant("/messages/modules/m/outputs/o")),
            ("/messages/modules/m/output", meant("/messages/modules/m/outputs/*")),
            ("/messages/modules/m/outputs/o/x", meant("/messages/modules/m/outputs/o")),
            ("/messages/m/outputs/o", meant("/messages/modules/m/outputs/o")),
            ("/modules/m/outputs/o", meant("/messages/modules/m/outputs/o")),
            ("/messages/devices/d", "$connectionDeviceId = '<device>'".into()),
            ("/messages/modules/ä", "no message comes from /messages/modules/ä, so".into()),
            ("/devices/*", "telemetry comes from /messages/*".into()),
            ("/deviceLifecycleEvents/*", "telemetry comes from /messages/*".into()),
            (
                "/messages/*\u{200b}",
                "no message comes from /messages/*<U+200B>, so the route selects nothing: the source has the invisible \
                 character U+200B: take it out and write /messages/*"
                    .into(),
            ),
            ("/messages\u{feff}/modules/m", "U+FEFF: take it out and write /messages/modules/m/*".into()),
            ("/messages/modules/*/outputs/*", "is an ordinary character".into()),
            ("/messages/modules/**/outputs/*", "is an ordinary character".into()),
            ("/*/x", "is an ordinary character".into()),
        ];
        for (text, expected) in table {
            let said = source(text).covers_nothing().unwrap_or_default();
            assert!(said.contains(&expected), "{text}: {said}");
        }
        for text in [
            "/*",
            "/messages",
            "/MESSAGES/Modules/m/*",
            "/messages/modules/m/outputs/o/*",
            "/twinChangeNotifications/*",
        ] {
            assert_eq!(source(text).covers_nothing(), None, "{text}");
        }
    }
}
