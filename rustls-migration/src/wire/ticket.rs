//! NewSessionTicket (RFC 8446 section 4.6.1): reading it, and putting another ticket and more extensions in it.
//!
//! It never looks inside a ticket: to the client that is opaque.

use time::Duration;

use super::{
    EXT_EARLY_DATA, MESSAGE_HEADER_LEN, Malformed, NEW_SESSION_TICKET, Reader, extensions,
    push_extension, u24_bytes,
};

/// Longest ticket that comes with a token, in bytes (`docs/protocol.md` section 3).
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

    /// The message that a token travels in; `None` when a part is too long for its field.
    pub(crate) fn with_token(&self, parts: &TokenParts<'_>) -> Option<Vec<u8>> {
        let mut block = Vec::with_capacity(self.extensions.len() + parts.token.len() + 16);
        for extension in extensions(self.extensions) {
            let (kind, data) = extension.ok()?;
            if kind != EXT_EARLY_DATA {
                push_extension(&mut block, kind, data)?;
            }
        }
        if parts.max_early_data_size > 0 {
            let size = parts.max_early_data_size.to_be_bytes();
            push_extension(&mut block, EXT_EARLY_DATA, &size)?;
        }
        push_extension(&mut block, parts.token_extension, parts.token)?;
        if let Some(kind) = parts.stream_extension {
            push_extension(&mut block, kind, &[])?;
        }

        let mut out = Vec::with_capacity(64 + parts.ticket.len() + block.len());
        out.extend([NEW_SESSION_TICKET, 0, 0, 0]);
        out.extend(
            self.lifetime_secs
                .min(parts.max_lifetime_secs)
                .to_be_bytes(),
        );
        out.extend(parts.age_add(self.age_add).to_be_bytes());
        out.push(u8::try_from(self.nonce.len()).ok()?);
        out.extend_from_slice(self.nonce);
        out.extend(u16::try_from(parts.ticket.len()).ok()?.to_be_bytes());
        out.extend_from_slice(parts.ticket);
        out.extend(u16::try_from(block.len()).ok()?.to_be_bytes());
        out.extend(block);
        let len = u24_bytes(out.len().checked_sub(MESSAGE_HEADER_LEN)?)?;
        out.get_mut(1..MESSAGE_HEADER_LEN)?.copy_from_slice(&len);
        Some(out)
    }
}

/// What a ticket with a token has in place of an ordinary ticket's parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenParts<'a> {
    /// The sealed ticket.
    pub(crate) ticket: &'a [u8],
    /// The extension's type and the encoded token in it.
    pub(crate) token_extension: u16,
    pub(crate) token: &'a [u8],
    /// The type of the empty extension that says that the stream goes on at the target; `None` when it does not.
    pub(crate) stream_extension: Option<u16>,
    /// The token's remaining life.
    pub(crate) max_lifetime_secs: u32,
    /// The early data that the target accepts; 0 for none.
    pub(crate) max_early_data_size: u32,
    /// How long ago the ordinary ticket was made.
    pub(crate) older_by: Duration,
}

impl TokenParts<'_> {
    /// The client counts a ticket's age from its arrival, the server from its making. What lies between is added, modulo
    /// 2^32 milliseconds as all ticket ages are, so that early data stays fresh.
    fn age_add(&self, original: u32) -> u32 {
        let range = i128::from(u32::MAX) + 1;
        let millis = self.older_by.whole_milliseconds().rem_euclid(range);
        original.wrapping_add(u32::try_from(millis).unwrap_or(0))
    }
}

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

    fn parts<'a>(ticket: &'a [u8], token: &'a [u8]) -> TokenParts<'a> {
        TokenParts {
            ticket,
            token_extension: TOKEN,
            token,
            stream_extension: None,
            max_lifetime_secs: 300,
            max_early_data_size: 1_000,
            older_by: Duration::ZERO,
        }
    }

    #[test]
    fn a_ticket_with_a_token_keeps_nonce_age_and_other_extensions() {
        let message = plain();
        let before = NewSessionTicket::read(&message).unwrap();
        let rewritten = before.with_token(&parts(&[1; 300], &[2; 98])).unwrap();
        let after = NewSessionTicket::read(&rewritten).unwrap();
        assert_eq!((after.age_add, after.nonce), (before.age_add, before.nonce));
        assert_eq!(after.lifetime_secs, 300);
        assert_eq!(after.ticket, [1; 300]);
        assert_eq!(after.extension(TOKEN), Some(&[2; 98][..]));
        assert_eq!(
            after.extension(EXT_EARLY_DATA),
            Some(&1_000u32.to_be_bytes()[..])
        );
        assert_eq!(after.extension(99), Some(&[5][..]));
    }

    #[test]
    fn a_stream_is_marked_by_an_empty_extension() {
        let message = plain();
        let before = NewSessionTicket::read(&message).unwrap();
        for (mark, found) in [(None, None), (Some(STREAM), Some(&[][..]))] {
            let marked = TokenParts {
                stream_extension: mark,
                ..parts(&[1; 300], &[2; 98])
            };
            let rewritten = before.with_token(&marked).unwrap();
            let after = NewSessionTicket::read(&rewritten).unwrap();
            assert_eq!(after.extension(STREAM), found);
            assert_eq!(after.extension(TOKEN), Some(&[2; 98][..]));
        }
    }

    #[test]
    fn the_lifetime_is_only_ever_shortened() {
        let message = plain();
        let before = NewSessionTicket::read(&message).unwrap();
        let long = TokenParts {
            max_lifetime_secs: u32::MAX,
            ..parts(&[1], &[2])
        };
        let rewritten = before.with_token(&long).unwrap();
        assert_eq!(
            NewSessionTicket::read(&rewritten).unwrap().lifetime_secs,
            86_400
        );
    }

    #[test]
    fn a_ticket_that_waited_is_older_by_that() {
        let message = plain();
        let before = NewSessionTicket::read(&message).unwrap();
        for (waited, added) in [
            (Duration::ZERO, 0),
            (Duration::minutes(10), 600_000),
            (Duration::days(10), 864_000_000),
            (Duration::milliseconds(1 << 32), 0),
        ] {
            let older = TokenParts {
                older_by: waited,
                ..parts(&[1], &[2])
            };
            let rewritten = before.with_token(&older).unwrap();
            let after = NewSessionTicket::read(&rewritten).unwrap();
            assert_eq!(after.age_add, before.age_add.wrapping_add(added));
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let message = plain();
        let ticket = NewSessionTicket::read(&message).unwrap();
        assert!(ticket.with_token(&parts(&[0; 65_536], &[0; 98])).is_none());
        assert!(ticket.with_token(&parts(&[0; 9], &[0; 65_536])).is_none());
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
                let _ = ticket.with_token(&parts(&[1], &[2]));
            }
            prop_assert!(NewSessionTicket::read(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }
}
