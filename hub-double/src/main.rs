//! The hub double binary.
fn main() {}
