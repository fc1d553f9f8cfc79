//! A sealed ticket and its plaintext.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rustls_migration::{TicketKeys, fuzzing, provider};

static KEYS: LazyLock<TicketKeys> = LazyLock::new(|| {
    TicketKeys::generate(provider::ring().secure_random).expect("the random source works")
});

fuzz_target!(|bytes: &[u8]| fuzzing::sealed_ticket(&KEYS, bytes));
