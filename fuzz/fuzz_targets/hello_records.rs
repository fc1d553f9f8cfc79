//! The ClientHello in its records, cut in any way.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rustls_migration::fuzzing::hello_records(bytes));
