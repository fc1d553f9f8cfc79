//! A conversation between applications with habits of their own, on a service that moves its clients: with the server's
//! consent, without it, with consent that comes late or is taken back.
//!
//! Every byte has its place, so a gap, a repeat or a false end never goes unseen.

mod client;
mod plan;
mod server;

pub use client::{Client, converse};
pub use plan::{AtNode, Consent, Plan, Tells};
pub use server::{Log, Nodes, NodesEnd, Noted, is_overdue};
