//! What TLS messages look like (RFC 8446 sections 4 and 5): pure functions over bytes.
//!
//! Nothing here decides what is allowed, and nothing here panics on any input.

pub(crate) mod checkpoint;
pub(crate) mod dialect;
pub(crate) mod hello;
pub(crate) mod record;
pub(crate) mod ticket;

/// Largest plaintext of one record, in bytes (RFC 8446 section 5.1).
pub(crate) const MAX_FRAGMENT_LEN: usize = 1 << 14;

/// Length of a handshake message's header: type and length.
pub(crate) const MESSAGE_HEADER_LEN: usize = 4;

pub(crate) const CLIENT_HELLO: u8 = 1;
pub(crate) const NEW_SESSION_TICKET: u8 = 4;
pub(crate) const CERTIFICATE: u8 = 11;
pub(crate) const SERVER_HELLO_DONE: u8 = 14;
pub(crate) const CLIENT_KEY_EXCHANGE: u8 = 16;
pub(crate) const KEY_UPDATE: u8 = 24;

/// A KeyUpdate that asks for an answer, and one that does not (RFC 8446 section 4.6.3).
pub(crate) const KEY_UPDATE_REQUESTED: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 1];
pub(crate) const KEY_UPDATE_NOT_REQUESTED: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];
pub(crate) const COMPRESSED_CERTIFICATE: u8 = 25;

pub(crate) const EXT_SERVER_NAME: u16 = 0;
pub(crate) const EXT_PRE_SHARED_KEY: u16 = 41;
pub(crate) const EXT_EARLY_DATA: u16 = 42;
pub(crate) const EXT_TICKET_REQUEST: u16 = 58;
pub(crate) const EXT_PSK_KEY_EXCHANGE_MODES: u16 = 45;

/// Bytes are not the message that they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A cursor over received bytes.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn remaining(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u24(&mut self) -> Result<usize, Malformed> {
        let [a, b, c] = self.array()?;
        usize::try_from(u32::from_be_bytes([0, a, b, c])).map_err(|_| Malformed)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    /// A vector with a length of one byte.
    pub(crate) fn vec8(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// A vector with a length of two bytes.
    pub(crate) fn vec16(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// The `(type, data)` pairs of an extension block without its length.
pub(crate) fn extensions(
    block: &[u8],
) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> + '_ {
    let mut reader = Reader::new(block);
    std::iter::from_fn(move || {
        if reader.is_empty() {
            return None;
        }
        let item = reader
            .u16()
            .and_then(|kind| reader.vec16().map(|data| (kind, data)));
        if item.is_err() {
            reader = Reader::new(&[]);
        }
        Some(item)
    })
}

/// Appends one extension; `None` when `data` is too long for its length field.
pub(crate) fn push_extension(out: &mut Vec<u8>, kind: u16, data: &[u8]) -> Option<()> {
    let len = u16::try_from(data.len()).ok()?;
    out.extend(kind.to_be_bytes());
    out.extend(len.to_be_bytes());
    out.extend_from_slice(data);
    Some(())
}

/// The three bytes of a message length; `None` when it does not fit.
pub(crate) fn u24_bytes(len: usize) -> Option<[u8; 3]> {
    let [high, bytes @ ..] = u32::try_from(len).ok()?.to_be_bytes();
    (high == 0).then_some(bytes)
}

/// Splits the next whole handshake message, header included, off `bytes`.
pub(crate) fn next_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader::new(bytes);
    reader.u8().ok()?;
    let len = reader.u24().ok()?;
    bytes.split_at_checked(MESSAGE_HEADER_LEN.checked_add(len)?)
}
