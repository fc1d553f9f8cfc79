//! What the tests share: a certificate authority, nodes on loopback addresses, and a clock to turn by hand.
//!
//! Peers are real connections. Nothing here stands in for one.
//!
//! | to test | take |
//! |---|---|
//! | a service with nodes on loopback addresses | [`Service`], [`Node`], [`TestClock`] |
//! | what leaves when, byte by byte | [`direct`], [`memory`], [`blocking`]: no runtime; [`RecordingDialer`], [`record`], [`hello`]: what was sent |
//! | faults between client and node, at a chosen byte | [`network`], [`simulated`]: in virtual time; [`mod@line`]: round trips, exactly; [`relay`], [`racer`]: on real sockets |
//! | hosts in network namespaces, whose links can be cut | [`hosts`] |
//! | targets that are not there, or not yet | [`ports`] |
//! | a client that stands still at each step | [`peer`], [`watched`]; [`flight`]: its first flight, cut and copied |
//! | byte streams that move, with no byte lost or repeated | [`session`]: both directions; [`services`], [`habits`]: applications of every kind; [`errands`]: requests, downloads, uploads |
//! | what may become of a stream whose servers die | [`endings`] |
//! | every order of what can happen to a stream, within small bounds | [`states`] |
//! | what an operator sees | [`metrics`]: on this thread, and of a demo node; [`log`]; [`mounted`]: ticket keys as Kubernetes mounts them |
//! | peers that know nothing of this project | [`stock`]: rustls, tokio-rustls; [`openssl`] |
//! | user code inside rustls | [`nested`] |
//! | nonce stores that fail | [`store`], [`spending`], [`named_store`]; [`presentations`]: from processes; [`redis`], [`redis_groups`]: servers that are killed |
//! | programs as processes | [`programs`], [`place`]: the demo; [`raced`]: nodes behind one address; [`mortal`]: nodes that are killed; [`program`]: what a machine may lack |

pub mod blocking;
pub mod browser;
pub mod client;
pub mod clock;
pub mod content;
pub mod dialect;
pub mod direct;
pub mod endings;
pub mod errands;
pub mod flight;
pub mod folder;
pub mod habits;
pub mod hello;
pub mod hosts;
pub mod line;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod mortal;
pub mod mounted;
pub mod named_store;
pub mod nested;
pub mod network;
pub mod node;
pub mod openssl;
pub mod peer;
pub mod pki;
pub mod place;
pub mod ports;
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
pub mod states;
pub mod stock;
pub mod store;
pub mod watched;
pub mod world;

pub use clock::TestClock;
pub use dialect::Spoken;
pub use node::{Node, Serve};
pub use pki::Pki;
pub use record::RecordingDialer;
pub use service::{NAME, Service, server_name};
pub use store::{AnswerLosingStore, CountingStore, FailingStore, HeldStore, StumblingStore};
