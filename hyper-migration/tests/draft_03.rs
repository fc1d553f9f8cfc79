//! HTTP over connections that move in draft -03 (`docs/protocol.md` section 10): the modules of `http`, whose peers speak what this
//! program is named after (`migration_tests::dialect`).
//!
//! Three modules stay with draft -01: `examples` are programs, which speak the default; `one_way` and `trial` try deadlines and load for
//! half a minute, and what they are about begins when a client has been told, in whichever dialect.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::duplicate_mod,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "test code fails by panicking, and a trial prints its figures"
)]

#[path = "http/cluster.rs"]
mod cluster;
#[path = "http/drained.rs"]
mod drained;
#[path = "http/events.rs"]
mod events;
#[path = "http/grpc.rs"]
mod grpc;
#[path = "http/listeners.rs"]
mod listeners;
#[path = "http/requests.rs"]
mod requests;
#[path = "http/websocket.rs"]
mod websocket;
