//! Routes: `FROM source [WHERE condition] INTO sink`, compiled once, evaluated for each message.
//!
//! Owns: the routing language (tokens, grammar, types, three-valued logic) and the immutable [`RouteTable`].
//! Invariants: compiling never panics and never recurses deeper than [`DEPTH_MAX`] allows; one bad route never stops the
//! others; evaluating cannot fail, and allocates nothing for conditions on properties but what a text function makes.
//! Must not know: the twin, queues, tokio, clocks.
//!
//! # The way of a route
//!
//! ```text
//! text -> token -> parse -> syntax (the tree) -> condition (typed, ready to run) -> table (all routes, one snapshot)
//!                              |                     ^ functions, number, text, value
//!                              `-> words             ^ body (what all routes ask of a body), subject (what a message tells)
//! ```
//! `explain` runs the same compiled condition part by part; [`StandaloneCondition`] is a condition without a route.
//!
//! # The language
//!
//! That of IoT Edge (`edgehub.md` section 4), whole:
//!
//! ```text
//! route     = [ SELECT "*" ] FROM source [ WHERE condition ] INTO sink
//! source    = item { item } ;  item = "/" ( "*" | ID )
//! sink      = "$upstream" | BrokeredEndpoint("/modules/<m>/inputs/<i>")
//! condition = or { "??" or }                          a ?? b: a, or b where a is undefined
//! or        = and { OR and } ;  and = eq { AND eq }
//! eq        = rel { ("=" | "!=" | "<>") rel }
//! rel       = add { ("<" | "<=" | ">" | ">=") add }
//! add       = mul { ("+" | "-" | "||") mul }          "||" joins text
//! mul       = un { ("*" | "/" | "%") un }
//! un        = NOT un | "-" un | primary               NOT binds tighter than a comparison: write NOT (a = 'x')
//! primary   = STRING | NUMBER | true | false | null | undefined | ID | SYS | "{" SYS "}"
//!           | ID "(" [ condition { "," condition } ] ")" | "(" condition ")"
//! ```
//! Keywords in any case, `true false null undefined` in lower case only. An ID is any run of characters but white space and
//! `( ) < > @ , ; : \ " / [ ] ? = { }`: `a-b`, `a+b` and `a||b` are each *one property name*, so operators need blanks.
//! SYS is `$name`; `$body.path[3].path` asks the JSON body; `{$name}` passes by an application property called `$name`.
//!
//! Types are known at compile time: truth value, number (a double), text, null, undefined, and *body value* (known only when
//! a message comes). Properties are text. Operands of one operator have one type, or one is a body value; anything else is a
//! compile error. Something that is not there is undefined, and so is nearly everything made of it; only `true` selects.
//! NOT and `-` bind tighter than every operator between two operands.
//!
//! | function (any case) | gives |
//! |---|---|
//! | `abs` `ceiling` `floor` `sign` `sqrt` `square` `exp` (number), `power` (number, number) | number |
//! | `as_number` (text) | number as .NET reads it (`" -1,234.5e1 "`, `(5)`), undefined if it is none |
//! | `is_defined` `is_null` `is_bool` `is_number` `is_string` (any) | truth value |
//! | `concat` (text, text, ...) | text, as `\|\|` does; undefined beyond 256 KiB |
//! | `length` (text), `index_of` (text, text) | number, in UTF-16 units; -1 = not in it |
//! | `lower` `upper` (text), `substring` (text, start \[, length\]) | text |
//! | `starts_with` `ends_with` `contains` (text, text) | truth value, by code units |
//! | `twin_change_includes` (path) | truth value; only from `/twinChangeNotifications/*` |
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
//! | one bad route refuses the whole configuration | it is set aside, the others run; only a document of which none can run is refused |
//! | text after the sink is ignored | refused: a `WHERE` there would silently select everything |
//! | `/*` of a source opens a comment when a `*/` comes later | it is the wildcard where it touches its path, or WHERE or INTO follows |
//! | a number is no name in a source | `/messages/modules/123/*` names the module `123` |
//! | `BrokeredEndpoint("/foo/m/bar/i")` passes | the words `modules` and `inputs` are required |
//! | conditions of any length and depth | routes of 32 KiB at most, 100 levels deep |
//! | a condition makes texts of any length | one that `\|\|`, `concat`, `lower` or `upper` would make longer than 256 KiB is undefined |
//! | only blank, tab and line ends part words | any white space does: a no-break blank pasted from a page is no part of a name |
//! | `e3`, `-e3` read as numbers without digits, undefined | they are property names |
//! | a lone half of a `\u` surrogate pair passes in a string | refused |
//! | `substring` cuts a surrogate pair, and its halves can be joined again | a half becomes U+FFFD |
//! | a string is unescaped twice (`\\u0041` becomes `\A`) | once, from left to right |
//! | two properties whose names differ in case only: the publish fails | the first counts |
//! | JSON counts only as `application/json` without parameters | `application/json; charset=utf-8` counts, too |
//! | JSON with comments, single quotes, `NaN` is read | JSON as RFC 8259 has it; a byte order mark in front is skipped |
//! | a blank beside a content type or content encoding makes the body unreadable | it is passed over |
//! | a body nested more than 64 levels deep is unreadable | what no path leads to may be as deep as it likes |
//! | a body's `-0` is 0 | it is -0, as `-0.0` is |
//! | text of the body that looks like a date is undefined | it is text |
//! | a body path may hold `*` and begin with `$` | a path is names and indexes; `*` and quotes are refused |
//! | `$body.a[0]b`, `$body.a]`, an index beyond 2147483647: always undefined | refused; indexes up to 4294967295 are looked up |
//! | `%` and unary minus on a body value crash | they work on numbers, else undefined |
//! | `true AND $body.flag` is refused, `$body.flag AND true` is not | both work |
//! | `AND`, `OR` with a body value are undefined as soon as one side is | `false AND x` is false, `true OR x` is true, as everywhere |
//! | `null` beside a body value or `undefined` in `AND`, `OR` crashes | as beside a truth value |
//! | `is_null($body.x)` is true for what is there, false for what is not | true for `null` and for what is not there |
//! | a body number can be NaN and is less than all others | NaN is undefined everywhere |
//! | `twin_change_includes` is never accepted in a route | it is, where the source is `/twinChangeNotifications/*` |
//! | `$edgeMessageId` has a value | undefined: no such id is made |
//! | an error while a message is evaluated closes the connection | evaluating cannot fail |
//!
//! `is_defined($body.missing)` is true (what is not there is `null`), as in the reference.

mod advice;
mod body;
mod cells;
mod condition;
mod error;
mod functions;
#[doc(hidden)]
pub mod fuzz;
mod number;
mod parse;
mod source;
mod standalone;
mod subject;
mod syntax;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod token;
mod value;
mod words;

pub use advice::nearest;
pub use body::Unreadable;
pub use condition::Explained;
pub use error::{CompileError, Span};
pub use standalone::StandaloneCondition;
pub use subject::{Origin, Subject, SystemName, SystemProperty};
pub use table::{
    CompiledRoute, Endpoint, Global, PRIORITY_NONE, RefusedRoute, RouteExplained, RouteSpec,
    RouteTable, Target, UPSTREAM_ENDPOINT_ID,
};
pub use value::{Tri, Value};
pub use words::{RouteWords, words};

/// Longest text of one route, in bytes. A deployment's twin holds 32 KB in all, so no real route comes near.
pub const TEXT_BYTES_MAX: usize = 32 * 1024;

/// Longest text that a condition makes, in bytes of UTF-8: IoT Hub's limit of a message. What would be longer is undefined,
/// so that a route cannot make a message of 60 KB into a gigabyte.
pub const TEXT_BYTES_MADE_MAX: usize = 256 * 1024;

/// Deepest nesting of a condition (parentheses, `NOT`, calls, chained comparisons). Each level costs well under 1 KB
/// of stack, and a task's thread has 2 MB.
pub const DEPTH_MAX: usize = 100;
