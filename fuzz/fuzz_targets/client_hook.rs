//! The client's state machine between opening and reading: packets of a hostile server, in any order, with the
//! packets, sockets and pauses of the client between them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| quinn_migration::fuzzing::client_hook(script));
