//! What the tests share: a certificate authority, nodes on loopback addresses, and a clock to turn by hand.
//!
//! Peers are real connections. Nothing here stands in for one.

pub mod blocking;
pub mod client;
pub mod clock;
pub mod direct;
pub mod flight;
pub mod habits;
pub mod hello;
pub mod memory;
pub mod named_store;
pub mod nested;
pub mod network;
pub mod node;
pub mod openssl;
pub mod peer;
pub mod pki;
pub mod place;
pub mod presentations;
pub mod program;
pub mod programs;
pub mod raced;
pub mod racer;
pub mod record;
pub mod redis;
pub mod redis_groups;
pub mod relay;
pub mod service;
pub mod services;
pub mod session;
pub mod simulated;
pub mod spending;
pub mod stock;
pub mod store;
pub mod watched;

pub use clock::TestClock;
pub use node::{Node, Serve};
pub use pki::Pki;
pub use record::RecordingDialer;
pub use service::{NAME, Service, server_name};
pub use store::{AnswerLosingStore, CountingStore, FailingStore, HeldStore, StumblingStore};
