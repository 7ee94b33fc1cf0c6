//! What the members that measure share: tables with aims, medians, what the kernel says, and a disk that
//! syncs as one likes.

#![allow(clippy::disallowed_methods, reason = "a measuring program's own files need no seam")]
#![allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]

pub mod disk;
pub mod machine;
pub mod report;
