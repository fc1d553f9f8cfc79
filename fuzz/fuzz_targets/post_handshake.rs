//! Handshake messages after the handshake, among them requests to migrate, in records that are cut anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rustls_migration::fuzzing::post_handshake(bytes));
