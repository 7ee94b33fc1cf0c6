//! The routes: which run, by which document, and which are set aside.
//!
//! Owns: the words. Invariants: nothing on disk is touched, the document that is kept of the twin neither.
//! Must not know: how a document is judged ([`crate::gateway::configuration`]).

use std::path::Path;

use super::Site;
use crate::command::check::{Finding, Group, plural};
use crate::config::Config;
use crate::gateway::configuration::{Basis, Compiled, First};

const GROUP: Group = Group::Routes;

impl Site {
    /// What the document says of the store's size.
    pub(super) fn routes(&mut self, config: &Config) -> Option<u64> {
        let (compiled, basis) = match First::strict(config) {
            Ok(judged) => judged,
            Err(error) => {
                let meanwhile = match First::is_kept(config) {
                    true => " (until then the last good document serves)",
                    false => "",
                };
                for problem in error.problems {
                    let todo =
                        "correct the document; `sphere-gateway routes check FILE` says where";
                    let text = format!("edgeHubTwinFile: {problem}{meanwhile}");
                    self.refused(GROUP.error("routes", text, todo));
                }
                return None;
            }
        };
        let in_twin = !matches!(basis, Basis::File | Basis::Default);
        self.findings.push(judged(config, &compiled, &basis));
        for layer in &compiled.layers_apart {
            let todo =
                "correct the file or take it out; `sphere-gateway routes check FOLDER` tells all";
            self.findings.push(GROUP.error("routes-layer", layer.to_string(), todo));
        }
        for why in compiled.set_aside() {
            let todo = match in_twin {
                true => "correct the route in the deployment: the twin of $edgeHub has it",
                false => "correct the route; `sphere-gateway routes check FILE` says where",
            };
            self.findings.push(GROUP.error("routes-set-aside", why, todo));
        }
        for warning in compiled.warnings() {
            let todo = "see `sphere-gateway routes check FILE`";
            self.findings.push(GROUP.warning("routes-warning", warning, todo));
        }
        compiled.store_bytes_max
    }
}

/// Which routes a start begins with, and whence.
fn judged(config: &Config, compiled: &Compiled, basis: &Basis) -> Finding {
    let running = plural(compiled.running() as u64, "route");
    match basis {
        Basis::File => {
            let path = config.desired_file.as_deref().unwrap_or(Path::new("")).display();
            GROUP.ok("routes", format!("{running}, from edgeHubTwinFile, {path}"))
        }
        Basis::Default => {
            let text = format!("{running}, from the built-in default: everything goes upstream");
            GROUP.ok("routes", text)
        }
        Basis::LastGood(accepted) => {
            let since = crate::auth::x509::utc(*accepted);
            let aside = compiled.set_aside().count();
            let text = format!(
                "{running} and {aside} set aside, from the twin's last good document, accepted {since}: a start begins with it, \
                 until the twin is read"
            );
            GROUP.ok("routes", text)
        }
        Basis::BeforeTwin { unusable: None } => {
            let text = "no document was kept yet: until the twin is read, everything goes upstream";
            GROUP.ok("routes", text)
        }
        Basis::BeforeTwin { unusable: Some(why) } => {
            let text = format!(
                "the twin's last good document does not serve ({why}): until the twin is read, everything goes upstream"
            );
            let todo = "a start sets a damaged one aside and keeps what the hub gives: see its log";
            GROUP.warning("routes", text, todo)
        }
    }
}
