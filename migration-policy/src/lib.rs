//! What the TLS layer (`rustls-migration`) and the QUIC layer (`quinn-migration`) decide alike: where a client may be sent
//! ([`AddressClass`]), how often ([`MoveLimiter`]), and in what order and at what pace a server moves many ([`Shares`],
//! [`Spread`]). And how they tell what they measure, with the feature `metrics`.
//!
//! Pure: no sockets, no clock, no randomness; the current time and random numbers are arguments.
#![forbid(unsafe_code)]

mod address;
mod limiter;
#[cfg(feature = "metrics")]
mod metric;
mod pace;

pub use address::{AddressClass, canonical};
pub use limiter::MoveLimiter;
#[cfg(feature = "metrics")]
pub use metric::{Metric, MetricKind, describe};
pub use pace::{Shares, Spread};
