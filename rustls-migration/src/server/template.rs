//! The template of a connection's offers: one session as rustls encodes it, in which the pre-shared key and the age are
//! replaced (`docs/protocol.md` section 3).
//!
//! Bytes that are not what is expected of rustls' encoding become no template, so no session is changed anywhere else.

use std::fmt;
use std::ops::Range;

use rustls::pki_types::UnixTime;
use zeroize::Zeroizing;

use super::issue::Ticket;

/// Length of `creation_time_sec`, in bytes.
const TIME_LEN: usize = 8;

/// What ends the encoding: `creation_time_sec` and `age_obfuscation_offset`, which is the `ticket_age_add`.
const TAIL_LEN: usize = TIME_LEN + size_of::<u32>();

/// How far rustls' clock may go between making a session and storing it, in seconds. It is set at times.
const CLOCK_STEP: u64 = 3600;

/// Nonce and pre-shared key of a ticket that rustls makes.
pub(super) struct TicketKey {
    pub(super) nonce: Vec<u8>,
    pub(super) psk: Zeroizing<Vec<u8>>,
}

/// A session as rustls encodes it.
#[derive(Clone)]
pub(super) struct Template {
    session: Zeroizing<Vec<u8>>,
    /// Where its pre-shared key is.
    psk: Range<usize>,
    /// Where its age is.
    tail: usize,
}

impl Template {
    /// `None` when `session` does not contain `psk` exactly once, or does not end with the time at which it was made and
    /// four more bytes.
    pub(super) fn new(session: Zeroizing<Vec<u8>>, psk: &[u8], made: UnixTime) -> Option<Self> {
        let windows = session.windows(psk.len().max(1)).enumerate();
        // Most windows differ in their first byte.
        let mut found =
            windows.filter(|(_, window)| window.first() == psk.first() && *window == psk);
        let (at, _) = found.next()?;
        let psk = at..at + psk.len();
        if found.next().is_some() {
            return None;
        }
        drop(found);
        let tail = session.len().checked_sub(TAIL_LEN)?;
        let (time, _) = session.get(tail..)?.split_first_chunk()?;
        let off_by = u64::from_be_bytes(*time).abs_diff(made.as_secs());
        (psk.end <= tail && off_by <= CLOCK_STEP).then_some(Self { session, psk, tail })
    }

    /// The ticket with the session as it is, whose key this is.
    pub(super) fn ticket<'a>(&self, key: &'a TicketKey) -> Ticket<'a> {
        let age_add = self.session.last_chunk().copied().unwrap_or_default();
        Ticket {
            nonce: &key.nonce,
            age_add: u32::from_be_bytes(age_add),
            psk: &key.psk,
            session: self.session.clone(),
        }
    }

    /// The same session with another pre-shared key of the same length, made at another time. `None` when the length differs.
    pub(super) fn with(
        mut self,
        psk: &[u8],
        made: UnixTime,
        age_add: u32,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let place = self.session.get_mut(self.psk)?;
        if place.len() != psk.len() {
            return None;
        }
        place.copy_from_slice(psk);
        let tail = self.session.get_mut(self.tail..)?;
        let (time, offset) = tail.split_at_mut_checked(TIME_LEN)?;
        time.copy_from_slice(&made.as_secs().to_be_bytes());
        offset.copy_from_slice(&age_add.to_be_bytes());
        Some(self.session)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PSK: [u8; 32] = [5; 32];
    const MADE: u64 = 1_700_000_000;

    fn at(secs: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(secs))
    }

    /// What stands before the key, between the key and the age, and after it.
    fn encoded(parts: [&[u8]; 3]) -> Zeroizing<Vec<u8>> {
        let [before, between, after] = parts;
        let (time, age_add) = (MADE.to_be_bytes(), [1, 2, 3, 4]);
        let all = [before, &PSK, between, &time, &age_add, after];
        Zeroizing::new(all.concat())
    }

    #[test]
    fn only_the_key_and_the_age_are_replaced() {
        let before = encoded([b"name", b"chain", b""]);
        let template = Template::new(before.clone(), &PSK, at(MADE + 1)).unwrap();
        let key = TicketKey {
            nonce: vec![3; 32],
            psk: Zeroizing::new(PSK.to_vec()),
        };
        let ticket = template.ticket(&key);
        assert_eq!((ticket.nonce, ticket.psk), (&[3; 32][..], &PSK[..]));
        assert_eq!(ticket.age_add, 0x0102_0304);
        assert_eq!(ticket.session, before);
        let later = template.with(&[6; 32], at(MADE + 7), 9).unwrap();
        let time = (MADE + 7).to_be_bytes();
        let expected = [b"name", &[6; 32][..], b"chain", &time, &[0, 0, 0, 9]].concat();
        assert_eq!(later.to_vec(), expected);
    }

    #[test]
    fn a_session_that_is_not_encoded_as_expected_is_no_template() {
        let made = at(MADE);
        let new = |session, psk: &[u8]| Template::new(session, psk, made).is_some();
        assert!(new(encoded([b"", b"", b""]), &PSK));
        assert!(!new(encoded([b"", b"", b""]), &[7; 32]), "another key");
        assert!(!new(encoded([b"", &PSK, b""]), &PSK), "twice");
        assert!(!new(encoded([&[5], b"", b""]), &PSK), "overlapping");
        assert!(
            !new(encoded([b"", b"", b"x"]), &PSK),
            "something after the age"
        );
        assert!(!new(encoded([b"", b"", &[0; 8]]), &PSK), "a field after it");
        assert!(!new(Zeroizing::new(PSK.to_vec()), &PSK), "no age");
        assert!(!new(Zeroizing::new(Vec::new()), &[]), "nothing");
        let key_last = [&[0; 11][..], &MADE.to_be_bytes(), &[0; 4]].concat();
        assert!(!new(Zeroizing::new(key_last), &[0; 9]), "the key overlaps");
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        let template = Template::new(encoded([b"", b"", b""]), &PSK, at(MADE)).unwrap();
        assert!(template.with(&[6; 48], at(MADE), 9).is_none());
    }
}
