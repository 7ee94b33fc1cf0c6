//! Bytes of a stranger: decode, encode, decode again.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    sphere_gateway::mqtt::fuzz::packets(input);
});
