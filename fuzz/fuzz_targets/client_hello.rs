//! A ClientHello as admission reads it and as the client splices it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rustls_migration::fuzzing::client_hello(bytes));
