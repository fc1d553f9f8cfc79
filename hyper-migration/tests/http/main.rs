//! HTTP over connections that move: hyper, axum, tonic, WebSocket, and clients that know nothing of it.
//!
//! Peers are real connections over loopback.
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

mod cluster;
mod drained;
mod events;
mod examples;
mod grpc;
mod listeners;
mod one_way;
mod requests;
mod trial;
mod websocket;
