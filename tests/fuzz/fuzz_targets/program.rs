//! Fuzzes texts of programs.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    partita_tests::fuzzing::program(data);
});
