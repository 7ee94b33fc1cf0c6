//! Texts of a stranger: topics, filters, user names, property bags.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    sphere_gateway::iothub::fuzz::topics_bags(input);
});
