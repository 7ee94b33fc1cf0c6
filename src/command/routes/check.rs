//! `routes check`: each route of a document in words, and what is wrong with the others.
//!
//! Owns: its arguments and how it ends. Must not know: how documents and routes are read.

mod print;
mod report;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use self::report::Report;
use super::{Given, given, some_edge};
use crate::command::export::write_line;
use crate::command::{CommandError, End};

/// Arguments of `routes check`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = HELP)]
pub struct CheckArgs {
    /// A deployment manifest, a template or a layer of one, a module twin, or $edgeHub's desired properties; a folder of a
    /// base and layers over it; - reads the standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
A folder is what edgeHubTwinFile may name: of its *.json in the order of their names the first is the base, the others are laid
over it path by path (routes.NAME and storeAndForwardConfiguration.KEY one by one), null takes out, the later wins. A layer
that is bad as a whole is set apart, the others count.

Exit code: 0 = every route compiles; 1 = a route does not, a layer is set apart, or the document is refused; 64 = the file
cannot be read.

--json writes one object:
  file, kind            what was read: deploymentManifest, deploymentTemplate, layeredDeployment, modulePart, moduleTwin,
                        desiredProperties, or folder; null if it cannot be told
  files                 of a folder: the files that count, the base first
  layersSetApart        of a folder: those that do not: file, reason (\"bad\" or \"unreadable\"), problem
  schemaVersion, twinVersion, storeBytesMax
                        what the document says; null = nothing
  timeToLiveSecs, timeToLiveFrom
                        how long a message waits if its route does not say; null = for ever, or not known if it is from
                        \"otherDeployment\" (this is a layer) and not from the \"document\"
  routes                those that compile, in the order in which they are asked:
    name, text, plain   the text as written, and in its plain form
    source, condition, sink
                        the same in words; condition null = every message of the source
    endpoint, endpointId
                        \"$upstream\" or \"/modules/<module>/inputs/<input>\"; and what queues and metrics name
                        it, null for an input: the edge device's name is in it
    priority            0 (first) to 9; null = after 9
    timeToLiveSecs, timeToLiveFrom
                        as above, or from the \"route\"
    liveFirst           whether fresh messages may pass the backlog
    warnings, notes     texts
  refused               those that do not compile: name, text, line, column, length (of the place in text, in characters
                        from 1), problem, suggestion
  problems              why a gateway would refuse the document as a whole and keep the last good one: texts. Then none of
                        the routes runs
  warnings              of the document: texts
  running, setAside
                        how many routes
  isFine                whether the exit code is 0";

pub(super) fn run(args: &CheckArgs, out: &mut dyn Write) -> Result<End, CommandError> {
    let name = args.file.display().to_string();
    let report = match given(&args.file, &some_edge())? {
        Given::File(bytes) => Report::of(name, &bytes),
        Given::Folder(layered) => Report::of_folder(name, layered),
    };
    if args.json {
        write_line(out, &report)?;
    } else {
        print::print(&report, out)?;
    }
    Ok(if report.is_fine { End::Fine } else { End::Found })
}
