//! Routes: `FROM source [WHERE condition] INTO sink`, compiled once, evaluated for each message.
//!
//! Owns: the routing language (tokens, grammar, types, three-valued logic) and the immutable [`RouteTable`].
//! Invariants: compiling never panics and never recurses deeper than [`DEPTH_MAX`]; one bad route never stops the
//! others; evaluating allocates nothing but the target list that the caller brings and reuses.
//! Must not know: JSON documents, the twin, queues, tokio, clocks.
//!
//! The language is that of IoT Edge (`edgehub.md` section 4). This version has the grammar's skeleton:
//!
//! ```text
//! route     = [ SELECT "*" ] FROM source [ WHERE condition ] INTO sink
//! source    = item { item } ;  item = "/" ( "*" | ID )
//! sink      = "$upstream" | BrokeredEndpoint("/modules/<m>/inputs/<i>")
//! condition = and { OR and } ;  and = eq { AND eq } ;  eq = un { ("=" | "!=" | "<>") un }
//! un        = NOT un | primary
//! primary   = STRING | true | false | ID | SYS | "{" SYS "}" | IS_DEFINED "(" condition ")" | "(" condition ")"
//! ```
//!
//! Everything else of the language (numbers, `null`, `undefined`, order, arithmetic, `??`, `$body`, other functions) is
//! refused with its place in the text and what to write instead, never misread.
//!
//! # Live-first
//!
//! By default the messages of one device and priority arrive in the order in which it sent them, a backlog before
//! everything fresh. A route with `liveFirst` (its own, else `storeAndForwardConfiguration.liveFirst`, else the setting
//! `storeSettings__liveFirst`) lets fresh messages pass the backlog of their own priority: they go to a queue of their own,
//! drained first, while the endpoint can be reached and that queue is short. While the endpoint is away, or slower than
//! what comes in, they join the backlog instead, until the live queue has been drained. So a device's messages are in
//! order within each of the two classes, live and backlog, and not between them: who needs one order for all leaves it
//! off. The class is chosen when a message is stored, and stays.
//!
//! # On purpose different from the reference
//!
//! | reference | here |
//! |---|---|
//! | one bad route refuses the whole configuration | it is set aside, the others run |
//! | text after the sink is ignored | refused: a `WHERE` there would silently select everything |
//! | `/*` of a source opens a comment when a `*/` comes later | a `/*` that touches its source path is the wildcard |
//! | `BrokeredEndpoint("/foo/m/bar/i")` passes | the words `modules` and `inputs` are required |
//! | conditions of any length and depth | [`TEXT_BYTES_MAX`] bytes, [`DEPTH_MAX`] levels |

mod condition;
mod error;
mod parse;
mod table;
#[cfg(test)]
mod tests;
mod token;

pub use condition::{Condition, Tri};
pub use error::{CompileError, Span};
pub use table::{
    Endpoint, Global, PRIORITY_NONE, RefusedRoute, RouteSpec, RouteTable, Target,
    UPSTREAM_ENDPOINT_ID,
};

/// Longest text of one route, in bytes. A deployment's twin holds 32 KB in all, so no real route comes near.
pub const TEXT_BYTES_MAX: usize = 32 * 1024;

/// Deepest nesting of a condition (parentheses, `NOT`, calls, chained comparisons). Each level costs well under 1 KB
/// of stack, and a task's thread has 2 MB.
pub const DEPTH_MAX: usize = 100;
