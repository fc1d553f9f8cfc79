//! The two code points that the draft leaves open (draft-saa-ali-quic, "TBD").
//!
//! Never accepts a value that an existing QUIC frame or parameter already has.

use quinn_proto::VarInt;
use thiserror::Error;

/// Highest frame type and parameter id that may not be taken: RFC 9000, RFC 9221 and the values below 0x40
/// that the IANA registries hold for standards.
const RESERVED: u64 = 0x3f;
/// Frame types of the ack-frequency extension, which quinn speaks.
const ACK_FREQUENCY: u64 = 0xaf;
/// Transport parameters that quinn reads beside the low ones: min_ack_delay and grease_quic_bit.
const KNOWN_PARAMETERS: [u64; 2] = [0x2ab2, 0xff04_de1b];

/// Numbers for the frame and the transport parameter. Both ends must use the same ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codepoints {
    frame: VarInt,
    parameter: VarInt,
}

impl Codepoints {
    /// Code points of your choice.
    ///
    /// # Errors
    ///
    /// A value that QUIC or quinn already uses, or one that is not a variable-length integer (2^62 and above).
    pub fn new(frame: u64, parameter: u64) -> Result<Self, CodepointsError> {
        if frame <= RESERVED || frame == ACK_FREQUENCY {
            return Err(CodepointsError::FrameTaken(frame));
        }
        if parameter <= RESERVED || KNOWN_PARAMETERS.contains(&parameter) {
            return Err(CodepointsError::ParameterTaken(parameter));
        }
        let varint = |value| VarInt::from_u64(value).map_err(|_| CodepointsError::TooLarge(value));
        Ok(Self {
            frame: varint(frame)?,
            parameter: varint(parameter)?,
        })
    }

    /// Type of the SERVER_ALTERNATE_ADDRESS frame.
    pub fn frame(&self) -> VarInt {
        self.frame
    }

    /// Id of the transport parameter enable_server_migration.
    pub fn parameter(&self) -> VarInt {
        self.parameter
    }
}

impl Default for Codepoints {
    /// Frame 0x5aa00a, parameter 0x5aa00b: provisional, in the ranges that RFC 9000 section 22.1.2 leaves for experiments.
    fn default() -> Self {
        Self {
            frame: VarInt::from_u32(0x5a_a00a),
            parameter: VarInt::from_u32(0x5a_a00b),
        }
    }
}

/// A code point that cannot be used; the caller's configuration is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CodepointsError {
    /// The frame type has a meaning already.
    #[error("frame type {0:#x} is taken: choose one above 0x3f that quinn does not know")]
    FrameTaken(u64),
    /// The parameter id has a meaning already.
    #[error("transport parameter {0:#x} is taken: choose one above 0x3f that quinn does not know")]
    ParameterTaken(u64),
    /// Not a variable-length integer.
    #[error("{0:#x} does not fit in a variable-length integer: choose one below 2^62")]
    TooLarge(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_code_points_pass_their_own_check() {
        let default = Codepoints::default();
        assert_eq!(
            Codepoints::new(
                default.frame().into_inner(),
                default.parameter().into_inner()
            ),
            Ok(default)
        );
    }

    #[test]
    fn code_points_with_a_meaning_are_refused() {
        assert_eq!(
            Codepoints::new(0x18, 0x5aa00b),
            Err(CodepointsError::FrameTaken(0x18))
        );
        assert_eq!(
            Codepoints::new(0xaf, 0x5aa00b),
            Err(CodepointsError::FrameTaken(0xaf))
        );
        assert_eq!(
            Codepoints::new(0x5aa00a, 0x20),
            Err(CodepointsError::ParameterTaken(0x20))
        );
        assert_eq!(
            Codepoints::new(1 << 62, 0x5aa00b),
            Err(CodepointsError::TooLarge(1 << 62))
        );
    }
}
