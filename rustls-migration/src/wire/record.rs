//! The ClientHello in its records (RFC 8446 section 5.1): putting it together on arrival, rewriting it on departure.
//!
//! Only plaintext handshake records are touched. Everything after the hello passes as it came.

use std::fmt;

use super::hello::splice;
use super::{CLIENT_HELLO, MAX_FRAGMENT_LEN, MESSAGE_HEADER_LEN, Reader, next_message};

pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const APPLICATION_DATA: u8 = 23;

/// Length of a record's header: content type, version and length.
pub(crate) const HEADER_LEN: usize = 5;

/// Largest ClientHello that is read, in bytes (`docs/protocol.md` section 7, step 1).
const MAX_HELLO_LEN: usize = 1 << 16;

/// Most that is read for one ClientHello in whole records, in bytes. Records of a few bytes each would add a header to each
/// of them.
const MAX_RECORDS_LEN: usize = 2 * MAX_HELLO_LEN;

/// Room for the headers of a hello's records, if these are not very short, and for what was read with its end, in bytes.
#[cfg(feature = "tokio")]
const ROOM_BESIDE: usize = 8192;

/// A record in a run of bytes.
pub(crate) struct Record<'a> {
    pub(crate) kind: u8,
    version: [u8; 2],
    pub(crate) fragment: &'a [u8],
    /// Header and fragment.
    pub(crate) whole: &'a [u8],
}

/// Splits the next whole record off `bytes`.
pub(crate) fn next_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let mut reader = Reader::new(bytes);
    let kind = reader.u8().ok()?;
    let version = reader.array().ok()?;
    let fragment = reader.vec16().ok()?;
    let (whole, rest) = bytes.split_at_checked(HEADER_LEN + fragment.len())?;
    let record = Record {
        kind,
        version,
        fragment,
        whole,
    };
    Some((record, rest))
}

/// Collects what a client sends first until its ClientHello is complete.
#[derive(Default)]
pub(crate) struct HelloReader {
    /// All that came, for the TLS library.
    raw: Vec<u8>,
    /// How much of `raw` has been looked at, in whole records.
    seen: usize,
    /// The handshake message found so far.
    message: Vec<u8>,
}

/// How far a [`HelloReader`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HelloProgress {
    /// More bytes are needed.
    Incomplete,
    /// [`HelloReader::message`] is the ClientHello.
    Complete,
    /// This is no ClientHello of an acceptable size. The TLS library finds the right alert for it.
    NotAHello,
}

impl HelloReader {
    /// Takes what the client sent next.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> HelloProgress {
        self.raw.extend_from_slice(bytes);
        loop {
            match self.expected_len() {
                Some(len) if len > MAX_HELLO_LEN => return HelloProgress::NotAHello,
                Some(len) if self.message.len() >= len => {
                    self.message.truncate(len);
                    return HelloProgress::Complete;
                }
                Some(_) | None => {}
            }
            let rest = self.raw.get(self.seen..).unwrap_or_default();
            match rest.first() {
                Some(&HANDSHAKE) => {}
                Some(_) => return HelloProgress::NotAHello,
                None => return HelloProgress::Incomplete,
            }
            let Some((record, _)) = next_record(rest) else {
                return HelloProgress::Incomplete;
            };
            let too_long = record.fragment.len() > MAX_FRAGMENT_LEN;
            if record.fragment.is_empty() || too_long {
                return HelloProgress::NotAHello;
            }
            self.message.extend_from_slice(record.fragment);
            self.seen += record.whole.len();
            if self.message.first() != Some(&CLIENT_HELLO) || self.seen > MAX_RECORDS_LEN {
                return HelloProgress::NotAHello;
            }
        }
    }

    /// The length of the whole message, once its header is there.
    fn expected_len(&self) -> Option<usize> {
        let mut reader = Reader::new(&self.message);
        reader.u8().ok()?;
        Some(MESSAGE_HEADER_LEN + reader.u24().ok()?)
    }

    /// How many bytes have come.
    #[cfg(feature = "tokio")]
    pub(crate) fn received(&self) -> usize {
        self.raw.len()
    }

    /// How many bytes this may come to hold, as far as the client has announced by now: the records, and the message in them.
    #[cfg(feature = "tokio")]
    pub(crate) fn most(&self) -> usize {
        let message = self.expected_len().unwrap_or_default().min(MAX_HELLO_LEN);
        // Early data may follow in the same read.
        let few_records = message.saturating_add(ROOM_BESIDE);
        let records = match self.raw.len() > few_records {
            true => MAX_RECORDS_LEN.saturating_add(ROOM_BESIDE),
            false => few_records,
        };
        message.saturating_add(records)
    }

    /// Makes room for [`most`](Self::most) bytes, so that buffers do not grow to twice what is needed.
    #[cfg(feature = "tokio")]
    pub(crate) fn reserve(&mut self) {
        let message = self.expected_len().unwrap_or_default().min(MAX_HELLO_LEN);
        let records = self.most().saturating_sub(message);
        self.message
            .reserve_exact(message.saturating_sub(self.message.len()));
        self.raw
            .reserve_exact(records.saturating_sub(self.raw.len()));
    }

    /// The ClientHello message, once complete.
    pub(crate) fn message(&self) -> &[u8] {
        &self.message
    }

    /// Everything that came, unchanged.
    pub(crate) fn into_raw(self) -> Vec<u8> {
        self.raw
    }
}

/// Leaves the hello out, which has a token and a ticket in it.
impl fmt::Debug for HelloReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HelloReader")
            .field("received", &self.raw.len())
            .finish_non_exhaustive()
    }
}

/// Splices extensions into the ClientHello records among outgoing bytes.
pub(crate) struct HelloSplicer {
    /// Fragments of a hello whose end is still to come.
    partial: Vec<u8>,
    /// What one record carries at most, in bytes.
    max_fragment_len: usize,
}

impl Default for HelloSplicer {
    fn default() -> Self {
        Self::new(None)
    }
}

impl HelloSplicer {
    /// `max_fragment_size` is rustls': with the record's header.
    pub(crate) fn new(max_fragment_size: Option<usize>) -> Self {
        let len = max_fragment_size.map(|size| size.saturating_sub(HEADER_LEN));
        Self {
            partial: Vec::new(),
            max_fragment_len: len.unwrap_or(MAX_FRAGMENT_LEN).clamp(1, MAX_FRAGMENT_LEN),
        }
    }

    /// Rewrites `records`, which are whole records.
    ///
    /// With `hello_expected` false only a hello that was begun before is finished; nothing else changes.
    pub(crate) fn rewrite(
        &mut self,
        records: &[u8],
        hello_expected: bool,
        encoded_extensions: &[u8],
    ) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(records.len() + encoded_extensions.len());
        let mut rest = records;
        let mut expected = hello_expected;
        while let Some((record, tail)) = next_record(rest) {
            rest = tail;
            let starts = expected && record.fragment.first() == Some(&CLIENT_HELLO);
            if record.kind != HANDSHAKE || (self.partial.is_empty() && !starts) {
                out.extend_from_slice(record.whole);
                continue;
            }
            self.partial.extend_from_slice(record.fragment);
            let Some((hello, after)) = next_message(&self.partial) else {
                continue;
            };
            let mut message = splice(hello, encoded_extensions).unwrap_or_else(|| hello.to_vec());
            message.extend_from_slice(after);
            push_records(&mut out, record.version, &message, self.max_fragment_len);
            self.partial = Vec::new();
            expected = false;
        }
        out.extend_from_slice(rest);
        (out, hello_expected && !expected)
    }
}

fn push_records(out: &mut Vec<u8>, version: [u8; 2], message: &[u8], max_fragment_len: usize) {
    for fragment in message.chunks(max_fragment_len) {
        out.push(HANDSHAKE);
        out.extend(version);
        out.extend(
            u16::try_from(fragment.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        out.extend_from_slice(fragment);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::hello::tests::{hello_with, psk_extension};

    fn records(message: &[u8], fragment_len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for fragment in message.chunks(fragment_len) {
            push_records(&mut out, [3, 1], fragment, MAX_FRAGMENT_LEN);
        }
        out
    }

    fn hello() -> Vec<u8> {
        hello_with(&[(10, vec![1; 300]), psk_extension(&[2; 400])])
    }

    #[test]
    fn what_is_no_hello_is_told_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            &[22, 3, 1, 0, 1, 2],
            &[22, 3, 1, 0, 0],
        ] {
            assert_eq!(HelloReader::default().push(bytes), HelloProgress::NotAHello);
        }
    }

    #[test]
    fn a_hello_of_more_than_64_kib_is_refused_by_its_header() {
        let mut reader = HelloReader::default();
        assert_eq!(
            reader.push(&[22, 3, 1, 0, 4, 1, 1, 0, 0]),
            HelloProgress::NotAHello
        );
    }

    #[test]
    fn a_hello_of_64_kib_is_read_unless_its_records_are_tiny() {
        let mut hello = vec![1; MAX_HELLO_LEN];
        hello[1..4].copy_from_slice(&[0, 0xff, 0xfc]);
        for (fragment, expected) in [
            (16_384, HelloProgress::Complete),
            (8, HelloProgress::Complete),
            (4, HelloProgress::NotAHello),
        ] {
            let mut reader = HelloReader::default();
            let bytes = records(&hello, fragment);
            let progress = bytes.chunks(4096).map(|bytes| reader.push(bytes));
            let last = progress.skip_while(|progress| *progress == HelloProgress::Incomplete);
            let last = last.take(1).next();
            assert_eq!(last, Some(expected), "in records of {fragment}");
            assert!(reader.raw.len() <= MAX_RECORDS_LEN + 4096);
        }
    }

    #[test]
    fn early_data_behind_the_hello_is_kept() {
        let mut bytes = records(&hello(), 16_384);
        bytes.extend([20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 2, 9]);
        let mut reader = HelloReader::default();
        assert_eq!(reader.push(&bytes), HelloProgress::Complete);
        assert_eq!(reader.message(), hello());
        assert_eq!(reader.into_raw(), bytes);
    }

    #[test]
    fn only_the_hello_among_outgoing_records_changes() {
        let tail = [20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 3, 1, 0, 0];
        let mut bytes = records(&hello(), 16_384);
        bytes.extend(tail);
        let (out, found) = HelloSplicer::default().rewrite(&bytes, true, &[0, 99, 0, 0]);
        assert!(found);
        assert!(out.ends_with(&tail));
        assert_eq!(
            out[5..out.len() - tail.len()],
            splice(&hello(), &[0, 99, 0, 0]).unwrap()
        );
        let (out, found) = HelloSplicer::default().rewrite(&bytes, false, &[0, 99, 0, 0]);
        assert_eq!((out, found), (bytes, false));
    }

    proptest! {
        #[test]
        fn a_hello_arrives_however_it_is_cut(fragment in 1usize..900, segment in 1usize..900) {
            let bytes = records(&hello(), fragment);
            let mut reader = HelloReader::default();
            let mut last = HelloProgress::Incomplete;
            for segment in bytes.chunks(segment) {
                prop_assert_eq!(last, HelloProgress::Incomplete);
                last = reader.push(segment);
            }
            prop_assert_eq!(last, HelloProgress::Complete);
            prop_assert_eq!(reader.message(), hello());
        }

        #[test]
        fn any_bytes_are_collected_or_refused(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..9),
            start in prop::bool::ANY,
        ) {
            let mut reader = HelloReader::default();
            if start {
                reader.push(&[22, 3, 1, 0, 40, 1, 0, 0]);
            }
            for chunk in &chunks {
                reader.push(chunk);
            }
            let mut splicer = HelloSplicer::default();
            for chunk in &chunks {
                splicer.rewrite(chunk, true, &[0, 99, 0, 0]);
            }
        }

        #[test]
        fn a_fragmented_hello_leaves_spliced_and_in_fragments_of_the_configured_size(
            fragment in 1usize..900, size in prop::option::of(6usize..900),
        ) {
            let (out, _) =
                HelloSplicer::new(size).rewrite(&records(&hello(), fragment), true, &[0, 99, 0, 0]);
            let len = size.map_or(16_384, |size| size - HEADER_LEN);
            prop_assert_eq!(out, records(&splice(&hello(), &[0, 99, 0, 0]).unwrap(), len));
        }
    }
}
