//! Fuzzes target files.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    partita_tests::fuzzing::target_file(data);
});
