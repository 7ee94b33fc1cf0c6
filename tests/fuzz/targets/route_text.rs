//! Texts of a stranger: routes and conditions. Read, print, read again.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    sphere_gateway::route::fuzz::route_text(input);
});
