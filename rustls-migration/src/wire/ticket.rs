//! NewSessionTicket (RFC 8446 section 4.6.1): reading one, and writing one, marked or not.
//!
//! It never looks inside a ticket: to the client that is opaque.

use super::{
    EXT_EARLY_DATA, MESSAGE_HEADER_LEN, Malformed, NEW_SESSION_TICKET, Reader, extensions,
    push_extension, u24_bytes,
};

/// Longest ticket that may be taken elsewhere, in bytes (`docs/protocol.md` section 3).
///
/// It has 8192 bytes of state, and room for a session with 16,000 bytes of a client's certificates. Whatever it is, the
/// client sends it on to an address that the server names.
pub(crate) const MAX_OFFERED_TICKET_LEN: usize = 24_576;

/// A NewSessionTicket message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewSessionTicket<'a> {
    pub(crate) lifetime_secs: u32,
    pub(crate) age_add: u32,
    pub(crate) nonce: &'a [u8],
    pub(crate) ticket: &'a [u8],
    extensions: &'a [u8],
}

impl<'a> NewSessionTicket<'a> {
    /// Reads one whole message, header included.
    pub(crate) fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(message);
        if reader.u8()? != NEW_SESSION_TICKET || reader.u24()? != reader.remaining() {
            return Err(Malformed);
        }
        let ticket = Self {
            lifetime_secs: reader.u32()?,
            age_add: reader.u32()?,
            nonce: reader.vec8()?,
            ticket: reader.vec16()?,
            extensions: reader.vec16()?,
        };
        if !reader.is_empty() || extensions(ticket.extensions).any(|extension| extension.is_err()) {
            return Err(Malformed);
        }
        Ok(ticket)
    }

    /// The data of the extension of type `kind`.
    pub(crate) fn extension(&self, kind: u16) -> Option<&'a [u8]> {
        extensions(self.extensions)
            .filter_map(Result::ok)
            .find(|(found, _)| *found == kind)
            .map(|(_, data)| data)
    }
}

/// A NewSessionTicket to be sent, marked or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfferedTicket<'a> {
    pub(crate) lifetime_secs: u32,
    pub(crate) age_add: u32,
    pub(crate) nonce: &'a [u8],
    /// The sealed ticket.
    pub(crate) ticket: &'a [u8],
    /// The extension that says that the ticket may be taken elsewhere, by the dialect; `None` for an ordinary ticket.
    pub(crate) mark: Option<(u16, &'a [u8])>,
    /// The extension that says that the stream goes on at the target; `None` when it does not.
    pub(crate) stream_extension: Option<(u16, &'a [u8])>,
    /// The early data that the target accepts; 0 for none.
    pub(crate) max_early_data_size: u32,
}

impl OfferedTicket<'_> {
    /// The whole message; `None` when a part is too long for its field.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let len =
            |extension: Option<(u16, &[u8])>| extension.map_or(0, |(_, content)| content.len());
        let extensions = len(self.mark) + len(self.stream_extension);
        let parts = self.nonce.len() + self.ticket.len() + extensions;
        let mut out = Vec::with_capacity(FIXED_LEN + parts);
        out.extend([NEW_SESSION_TICKET, 0, 0, 0]);
        out.extend(self.lifetime_secs.to_be_bytes());
        out.extend(self.age_add.to_be_bytes());
        out.push(u8::try_from(self.nonce.len()).ok()?);
        out.extend_from_slice(self.nonce);
        out.extend(u16::try_from(self.ticket.len()).ok()?.to_be_bytes());
        out.extend_from_slice(self.ticket);
        let lengths_at = out.len();
        out.extend([0, 0]);
        if self.max_early_data_size > 0 {
            let size = self.max_early_data_size.to_be_bytes();
            push_extension(&mut out, EXT_EARLY_DATA, &size)?;
        }
        if let Some((kind, content)) = self.mark {
            push_extension(&mut out, kind, content)?;
        }
        if let Some((kind, content)) = self.stream_extension {
            push_extension(&mut out, kind, content)?;
        }
        let block = out.len().checked_sub(lengths_at + 2)?;
        let block = u16::try_from(block).ok()?.to_be_bytes();
        out.get_mut(lengths_at..lengths_at + 2)?
            .copy_from_slice(&block);
        let len = u24_bytes(out.len().checked_sub(MESSAGE_HEADER_LEN)?)?;
        out.get_mut(1..MESSAGE_HEADER_LEN)?.copy_from_slice(&len);
        Some(out)
    }
}

/// Room for everything but nonce, ticket and the content of marks, in bytes: fields of a fixed length, and the extensions' headers.
const FIXED_LEN: usize = 40;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: u16 = 0xFF4E;
    const STREAM: u16 = 0xFF4F;

    fn plain() -> Vec<u8> {
        let mut out = vec![NEW_SESSION_TICKET, 0, 0, 0];
        out.extend(86_400u32.to_be_bytes());
        out.extend(0xDEAD_BEEFu32.to_be_bytes());
        out.extend([
            2, 1, 2, 0, 3, 7, 7, 7, 0, 13, 0, 42, 0, 4, 0, 0, 64, 0, 0, 99, 0, 1, 5,
        ]);
        let len = u8::try_from(out.len() - 4).unwrap();
        out[3] = len;
        out
    }

    fn offered<'a>(ticket: &'a [u8], token: &'a [u8]) -> OfferedTicket<'a> {
        OfferedTicket {
            lifetime_secs: 300,
            age_add: 0xDEAD_BEEF,
            nonce: &[1, 2],
            ticket,
            mark: Some((TOKEN, token)),
            stream_extension: None,
            max_early_data_size: 1_000,
        }
    }

    #[test]
    fn a_ticket_of_another_stack_is_read() {
        let message = plain();
        let ticket = NewSessionTicket::read(&message).unwrap();
        assert_eq!((ticket.lifetime_secs, ticket.nonce), (86_400, &[1, 2][..]));
        assert_eq!((ticket.age_add, ticket.ticket), (0xDEAD_BEEF, &[7; 3][..]));
        assert_eq!(ticket.extension(99), Some(&[5][..]));
        assert_eq!(ticket.extension(TOKEN), None);
    }

    #[test]
    fn a_ticket_with_a_token_is_read_as_it_was_written() {
        let checkpoint = Some((STREAM, &[9; 8][..]));
        let hand_over = Some((STREAM, &[][..]));
        for (early_data, stream) in [(0, None), (1_000, hand_over), (1_000, checkpoint)] {
            let written = OfferedTicket {
                max_early_data_size: early_data,
                stream_extension: stream,
                ..offered(&[1; 300], &[2; 98])
            };
            let message = written.encode().unwrap();
            let read = NewSessionTicket::read(&message).unwrap();
            assert_eq!((read.age_add, read.nonce), (written.age_add, written.nonce));
            assert_eq!((read.lifetime_secs, read.ticket), (300, &[1; 300][..]));
            assert_eq!(read.extension(TOKEN), Some(&[2; 98][..]));
            assert_eq!(read.extension(STREAM), stream.map(|(_, content)| content));
            let size = read.extension(EXT_EARLY_DATA).map(<[u8]>::to_vec);
            assert_eq!(size, (early_data > 0).then(|| vec![0, 0, 3, 232]));
        }
    }

    #[test]
    fn an_ordinary_ticket_is_read_as_it_was_written() {
        let written = OfferedTicket {
            mark: None,
            ..offered(&[1; 300], &[])
        };
        let message = written.encode().unwrap();
        let read = NewSessionTicket::read(&message).unwrap();
        assert_eq!((read.lifetime_secs, read.ticket), (300, &[1; 300][..]));
        assert_eq!(read.extension(TOKEN), None);
        assert_eq!(read.extension(EXT_EARLY_DATA), Some(&[0, 0, 3, 232][..]));
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        assert!(offered(&[0; 65_536], &[0; 98]).encode().is_none());
        assert!(offered(&[0; 9], &[0; 65_536]).encode().is_none());
        let long_nonce = OfferedTicket {
            nonce: &[0; 256],
            ..offered(&[0; 9], &[0; 98])
        };
        assert!(long_nonce.encode().is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = NewSessionTicket::read(&bytes);
        }

        #[test]
        fn a_changed_or_cut_ticket_is_read_or_refused(
            at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = plain();
            let at = at.index(bytes.len());
            bytes[at] = value;
            if let Ok(ticket) = NewSessionTicket::read(&bytes) {
                let _ = ticket.extension(TOKEN);
            }
            prop_assert!(NewSessionTicket::read(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }
}
