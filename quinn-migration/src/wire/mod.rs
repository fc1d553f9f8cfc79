//! Byte formats of the extension: the transport parameter, the SERVER_ALTERNATE_ADDRESS frame and the few
//! QUIC frames that the hooks must recognise (RFC 9000 section 19).
//!
//! Everything here is a pure function of its input. Nothing here panics, allocates more than its input
//! warrants, or trusts a length that it has not checked.

mod ack;
mod alternate;
mod codepoints;
mod connection_id;
mod frames;
mod parameters;
mod reader;
mod token;

use quinn_proto::VarInt;

pub use ack::ack_covers;
pub use alternate::{AlternateAddress, AlternateAddressError};
pub use codepoints::{Codepoints, CodepointsError};
pub use connection_id::{NewConnectionId, retire_connection_id};
pub use frames::{Frame, next_frame, overwrite};
pub use parameters::{
    ParametersError, append_parameter, find_parameter, remove_parameter, replace_parameter,
};
pub use token::ResetToken;

pub(crate) use connection_id::LONGEST_CONNECTION_ID;
pub(crate) use reader::{Reader, put_varint};

/// Frame types of RFC 9000 section 19, RFC 9221 and the extensions that quinn speaks.
pub(crate) mod kind {
    pub(crate) const PADDING: u64 = 0x00;
    pub(crate) const PING: u64 = 0x01;
    pub(crate) const ACK: u64 = 0x02;
    pub(crate) const ACK_ECN: u64 = 0x03;
    pub(crate) const NEW_CONNECTION_ID: u64 = 0x18;
    pub(crate) const RETIRE_CONNECTION_ID: u64 = 0x19;
    pub(crate) const PATH_CHALLENGE: u64 = 0x1a;
    pub(crate) const PATH_RESPONSE: u64 = 0x1b;
    pub(crate) const CONNECTION_CLOSE: u64 = 0x1c;
    pub(crate) const APPLICATION_CLOSE: u64 = 0x1d;
    pub(crate) const HANDSHAKE_DONE: u64 = 0x1e;
    pub(crate) const IMMEDIATE_ACK: u64 = 0x1f;
    pub(crate) const DATAGRAM: u64 = 0x30;
    pub(crate) const DATAGRAM_WITH_LENGTH: u64 = 0x31;
}

/// The transport parameter `max_datagram_frame_size` (RFC 9221 section 3).
pub(crate) const MAX_DATAGRAM_FRAME_SIZE: VarInt = VarInt::from_u32(0x20);

/// The transport parameter `preferred_address` (RFC 9000 section 18.2).
pub(crate) const PREFERRED_ADDRESS: VarInt = VarInt::from_u32(0x0d);

/// The transport parameter `initial_source_connection_id` (RFC 9000 section 18.2).
pub(crate) const INITIAL_SOURCE_CONNECTION_ID: u64 = 0x0f;

/// One PING frame: what a removed frame leaves behind, so that its packet stays ack-eliciting.
pub(crate) const PING_FRAME: &[u8] = &[0x01];
