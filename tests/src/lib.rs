//! What the tests share: a certificate authority, nodes on loopback addresses, and a clock to turn by hand.
//!
//! Peers are real connections. Nothing here stands in for one.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    missing_debug_implementations,
    reason = "test support: what fails here fails its test"
)]

pub mod client;
pub mod clock;
pub mod node;
pub mod pki;
pub mod record;
pub mod service;
pub mod store;

pub use clock::TestClock;
pub use node::{Node, Serve};
pub use pki::Pki;
pub use record::RecordingDialer;
pub use service::{NAME, Service, server_name};
pub use store::FailingStore;
