//! Fuzzes what a peer says on a link.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    partita_tests::fuzzing::link(data);
});
