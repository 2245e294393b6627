//! Fuzzes random graphs, clusters and strategies against the whole graph.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    partita_tests::fuzzing::differential(data);
});
