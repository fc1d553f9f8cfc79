//! What `migration_stream` has in it: nothing in a hand-over's ticket; in a checkpoint's, how much of the client's bytes it
//! accounts for; in the hello that takes a checkpoint up, how many bytes the client has had since (`docs/protocol.md` section 11).

use super::{Malformed, Reader};

/// What a ticket with `migration_stream` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamMark<'a> {
    /// The stream goes on elsewhere when its server is done with it.
    HandOver,
    /// The stream can go on elsewhere if its server dies.
    Checkpoint {
        /// How many bytes of the client, on this connection, the state accounts for.
        position: u64,
        /// Where to go on, in draft -03: as in a `migrate_request`. Empty in draft -01, whose token says it.
        target: &'a [u8],
    },
}

impl<'a> StreamMark<'a> {
    /// Reads the data of the extension in a ticket.
    pub(crate) fn read(data: &'a [u8]) -> Result<Self, Malformed> {
        if data.is_empty() {
            return Ok(Self::HandOver);
        }
        let mut reader = Reader::new(data);
        Ok(Self::Checkpoint {
            position: reader.u64()?,
            target: reader.rest(),
        })
    }

    /// The data of the extension.
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::HandOver => Vec::new(),
            Self::Checkpoint { position, target } => [&position.to_be_bytes(), target].concat(),
        }
    }
}

/// Reads the data of the extension in a hello: how many bytes the client has had since the checkpoint.
pub(crate) fn received(data: &[u8]) -> Result<u64, Malformed> {
    data.try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_seven_bytes_are_none() {
        for target in [&[][..], b"192.0.2.7:443"] {
            for position in [0, 1, u64::MAX] {
                let mark = StreamMark::Checkpoint { position, target };
                assert_eq!(StreamMark::read(&mark.encode()), Ok(mark));
            }
        }
        assert_eq!(StreamMark::read(&[]), Ok(StreamMark::HandOver));
        assert!(StreamMark::HandOver.encode().is_empty());
        for len in 1..8 {
            assert_eq!(StreamMark::read(&[0; 8][..len]), Err(Malformed));
        }
    }

    #[test]
    fn a_number_has_eight_bytes() {
        assert_eq!(received(&258u64.to_be_bytes()), Ok(258));
        for len in [0, 1, 7, 9] {
            assert_eq!(received(&[0; 9][..len]), Err(Malformed));
        }
    }
}
