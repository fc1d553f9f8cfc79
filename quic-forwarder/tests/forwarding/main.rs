//! Fronts, nodes and clients in one process, over real sockets on loopback.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::wildcard_enum_match_arm,
    reason = "test code fails by panicking"
)]

mod amplification;
mod group;
mod moves;
mod stolen_key;
#[path = "../../../quinn-migration/tests/loopback/support/mod.rs"]
mod support;
