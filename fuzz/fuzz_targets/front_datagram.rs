//! A client's datagram, as a forwarder's front reads it to find the node.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| quic_forwarder::fuzzing::front_datagram(bytes));
