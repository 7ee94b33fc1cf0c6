//! What the members that measure share: tables with aims, medians, and what the kernel says.

#![allow(clippy::disallowed_methods, reason = "a measuring program's own files need no seam")]
#![allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]

pub mod machine;
pub mod report;
