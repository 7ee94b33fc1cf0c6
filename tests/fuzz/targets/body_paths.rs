//! Bodies of a stranger, and paths into them.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    sphere_gateway::route::fuzz::body_paths(input);
});
