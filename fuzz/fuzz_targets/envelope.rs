//! The envelopes between a forwarder's front and a node, with somebody between them who has the key, or has it not.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| quic_forwarder::fuzzing::envelope(script));
