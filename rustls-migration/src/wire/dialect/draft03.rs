//! Draft -03 (its section 5; `docs/protocol.md` section 10): a ticket is marked by an empty extension; a post-handshake
//! message asks, and names the target.
//!
//! It never looks into a target: that is the application's.

use rustls::ContentType;

use crate::codepoints::Codepoints;
use crate::wire::{KEY_UPDATE, MESSAGE_HEADER_LEN, Malformed, Reader, u24_bytes};

/// Largest handshake message that the TLS library takes after the handshake, and largest `migrate_request` but for the two
/// bytes of its length.
const MAX_BODY_LEN: usize = 0xffff;

/// The extension of a ticket that may be taken elsewhere.
pub(crate) fn mark(codepoints: Codepoints) -> (u16, &'static [u8]) {
    (codepoints.experimental.migration_allowed, &[])
}

/// The message that asks the client to move to `target`; `None` when that is longer than 65,535 bytes.
pub(crate) fn notice(codepoints: Codepoints, target: &[u8]) -> Option<(ContentType, Vec<u8>)> {
    let len = u16::try_from(target.len()).ok()?;
    let body_len = u24_bytes(target.len().checked_add(size_of::<u16>())?)?;
    let mut message = vec![codepoints.experimental.migrate_request];
    message.extend(body_len);
    message.extend(len.to_be_bytes());
    message.extend_from_slice(target);
    Some((ContentType::Handshake, message))
}

/// The target of a whole `migrate_request`, header included.
fn target(message: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(message.get(MESSAGE_HEADER_LEN..).ok_or(Malformed)?);
    let target = reader.vec16()?;
    match reader.is_empty() {
        true => Ok(target),
        false => Err(Malformed),
    }
}

/// A handshake message after the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PostHandshake<'a> {
    /// A `migrate_request` with this target. The TLS library does not get it.
    Request(&'a [u8]),
    /// Any other message, header included.
    Other(&'a [u8]),
}

/// Reads the handshake messages that come after the handshake, in whatever pieces records have them, and takes the requests
/// out.
#[derive(Debug, Default)]
pub(crate) struct PostHandshakeReader {
    /// The type of requests, if they are expected.
    request: Option<u8>,
    /// A message whose end is still to come.
    partial: Vec<u8>,
}

impl PostHandshakeReader {
    pub(crate) fn new(request: Option<u8>) -> Self {
        Self {
            request,
            partial: Vec::new(),
        }
    }

    /// Takes the content of one record. What the TLS library is to get stands at its beginning afterwards, and how much that
    /// is, is returned. Each message whose end has come goes to `found`, in order.
    ///
    /// Behind a KeyUpdate nothing may stand in the same record (RFC 8446 section 5.1), so the library gets to see what does.
    pub(crate) fn read(
        &mut self,
        record: &mut [u8],
        mut found: impl FnMut(PostHandshake<'_>),
    ) -> Result<usize, Malformed> {
        let (mut at, mut kept) = (0, 0);
        let mut key_updated = false;
        while at < record.len() {
            let piece = at..record.len().min(at.saturating_add(self.missing()?));
            let bytes = record.get(piece.clone()).ok_or(Malformed)?;
            self.partial.extend_from_slice(bytes);
            at = piece.end;
            let is_request =
                self.request.is_some() && self.partial.first().copied() == self.request;
            if key_updated || !is_request {
                let len = piece.len();
                record.copy_within(piece, kept);
                kept += len;
            }
            if self.partial.len() < MESSAGE_HEADER_LEN || self.missing()? > 0 {
                continue;
            }
            match is_request && !key_updated {
                true => found(PostHandshake::Request(target(&self.partial)?)),
                false => found(PostHandshake::Other(&self.partial)),
            }
            key_updated |= self.partial.first() == Some(&KEY_UPDATE);
            // Such messages are rare: their room is not kept.
            self.partial = Vec::new();
        }
        Ok(kept)
    }

    /// How many bytes are missing until the header, or else the message, is there.
    fn missing(&self) -> Result<usize, Malformed> {
        let Some((header, body)) = self.partial.split_first_chunk::<MESSAGE_HEADER_LEN>() else {
            return Ok(MESSAGE_HEADER_LEN - self.partial.len());
        };
        let [kind, length @ ..] = header;
        let len = Reader::new(length).u24()?;
        let most = match Some(*kind) == self.request {
            true => MAX_BODY_LEN + size_of::<u16>(),
            false => MAX_BODY_LEN,
        };
        if len > most {
            return Err(Malformed);
        }
        len.checked_sub(body.len()).ok_or(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors;
    use crate::wire::NEW_SESSION_TICKET;

    const REQUEST: u8 = 0xFD;

    fn other(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind], &u24_bytes(body.len()).unwrap()[..], body].concat()
    }

    fn request(target: &[u8]) -> Vec<u8> {
        notice(Codepoints::default(), target).unwrap().1
    }

    #[derive(Debug, PartialEq)]
    enum Found {
        Request(Vec<u8>),
        Other(Vec<u8>),
    }

    /// What was found in records, and what is left of them.
    fn read(records: &[&[u8]]) -> Result<(Vec<Found>, Vec<Vec<u8>>), Malformed> {
        let mut reader = PostHandshakeReader::new(Some(REQUEST));
        let (mut found, mut left) = (Vec::new(), Vec::new());
        for record in records {
            let mut record = record.to_vec();
            let kept = reader.read(&mut record, |message| {
                found.push(match message {
                    PostHandshake::Request(target) => Found::Request(target.to_vec()),
                    PostHandshake::Other(message) => Found::Other(message.to_vec()),
                });
            })?;
            record.truncate(kept);
            left.push(record);
        }
        Ok((found, left))
    }

    #[test]
    fn the_vectors_requests_are_read_and_written_as_they_say() {
        for vector in vectors::section("migrate_requests") {
            let (name, message) = (&vector["name"], vectors::hex(&vector["message"]));
            let read = read(&[&message]);
            if vector["malformed"] == true {
                assert_eq!(read, Err(Malformed), "{name}");
                continue;
            }
            let target = vectors::hex(&vector["target"]);
            assert_eq!(request(&target), message, "{name}");
            assert_eq!(
                read,
                Ok((vec![Found::Request(target)], vec![vec![]])),
                "{name}"
            );
        }
    }

    #[test]
    fn a_target_has_at_most_65535_bytes() {
        let longest = [7; 0xffff];
        let (found, _) = read(&[&request(&longest)]).unwrap();
        assert_eq!(found, [Found::Request(longest.to_vec())]);
        assert!(notice(Codepoints::default(), &[7; 0x1_0000]).is_none());
    }

    #[test]
    fn what_stands_behind_a_key_update_in_its_record_is_left_to_the_tls_library() {
        let update = other(KEY_UPDATE, &[0]);
        let both = [update.clone(), request(b"b")].concat();
        let (found, left) = read(&[&both]).unwrap();
        assert!(!found.contains(&Found::Request(b"b".to_vec())));
        assert_eq!(left, [both]);
        let (found, left) = read(&[&update, &request(b"b")]).unwrap();
        assert_eq!(found.last(), Some(&Found::Request(b"b".to_vec())));
        assert_eq!(left, [update, vec![]]);
    }

    #[test]
    fn where_no_request_is_expected_all_is_left() {
        let mut reader = PostHandshakeReader::default();
        let mut record = request(b"b");
        let whole = record.clone();
        let kept = reader.read(&mut record, |message| {
            assert_eq!(message, PostHandshake::Other(&whole));
        });
        assert_eq!((kept, &record), (Ok(whole.len()), &whole));
    }

    proptest! {
        #[test]
        fn requests_are_taken_out_of_records_that_are_cut_anywhere(
            messages in prop::collection::vec(
                (any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let mut all = Vec::new();
            let (mut expected, mut rest) = (Vec::new(), Vec::<u8>::new());
            for (asks, body) in messages {
                if asks {
                    all.extend(request(&body));
                    expected.push(Found::Request(body));
                } else {
                    let message = other(NEW_SESSION_TICKET, &body);
                    all.extend(&message);
                    rest.extend(&message);
                    expected.push(Found::Other(message));
                }
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(all.len() + 1)).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let records: Vec<_> = cuts.windows(2).map(|ends| &all[ends[0]..ends[1]]).collect();
            let (found, left) = read(&records).unwrap();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(left.concat(), rest);
        }

        #[test]
        fn any_bytes_are_read_or_refused(records in prop::collection::vec(
            prop::collection::vec(any::<u8>(), 0..60), 0..5)) {
            let records: Vec<_> = records.iter().map(Vec::as_slice).collect();
            if let Ok((_, left)) = read(&records) {
                prop_assert!(left.concat().len() <= records.concat().len());
            }
        }
    }
}
