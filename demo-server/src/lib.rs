//! The parts of a demo node, for its own program and for the self-contained hand-off of `demo-client`.
//!
//! Everything here goes through rustls-migration's public API; nothing here knows how a connection is moved.

pub mod authority;
pub mod blocks;
pub mod connections;
pub mod dialect;
pub mod files;
pub mod key_log;
pub mod keys;
pub mod leave;
pub mod node;
pub mod nonces;
pub mod operator;
pub mod options;
pub mod program;
pub mod protocol;
pub mod redis_address;
mod serve;
pub mod service;
pub mod state;
pub mod sync;
pub mod trigger;
pub mod upload;
pub mod web;
