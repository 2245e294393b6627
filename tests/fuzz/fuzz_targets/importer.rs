//! Fuzzes models as ONNX files hold them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    partita_tests::fuzzing::importer(data);
});
