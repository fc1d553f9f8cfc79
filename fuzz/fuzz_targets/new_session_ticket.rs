//! A NewSessionTicket, and a token put into it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rustls_migration::fuzzing::new_session_ticket(bytes));
