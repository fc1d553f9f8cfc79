//! What the TLS layer (`rustls-migration`) and the QUIC layer (`quinn-migration`) decide alike: where a client may be sent
//! ([`AddressClass`]), how often ([`MoveLimiter`]), and in what order and at what pace a server moves many ([`Shares`],
//! [`Spread`]).
//!
//! Pure: no sockets, no clock, no randomness; the current time and random numbers are arguments.
#![forbid(unsafe_code)]

mod address;
mod limiter;
mod pace;

pub use address::{AddressClass, canonical};
pub use limiter::MoveLimiter;
pub use pace::{Shares, Spread};
