//! Fuzzes texts of schedules.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    partita_tests::fuzzing::schedule(data);
});
