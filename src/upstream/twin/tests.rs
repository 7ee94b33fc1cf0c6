//! The machine by tables; the links against the hub double.

mod machine;
mod model;
mod wire;
