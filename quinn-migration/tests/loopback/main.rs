//! The crate against real sockets on loopback and real quinn peers. Each module is a ring of its own:
//! `cargo test --test loopback moving`, and so on.
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

mod added;
mod adversary;
mod capture;
mod challenged;
mod datagrams;
mod drains;
mod families;
mod http3;
mod identifiers;
mod interop;
mod lifecycle;
mod masque;
#[cfg(feature = "metrics")]
mod measured;
mod moving;
mod opened;
mod paths;
mod rebinding;
mod recovery;
mod rotation;
mod segmentation;
mod slow_lines;
mod support;
