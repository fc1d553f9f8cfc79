//! The state of a conversation, as it is sealed: who it is, how many requests have been answered, how far the one under way
//! is, and what was read ahead.
//!
//! | field | bytes |
//! |---|---|
//! | version, 1 | 1 |
//! | identity | 16 |
//! | requests that have been answered | 8 |
//! | bytes that the client has of what is written next | 8 |
//! | application's state | 2 for its length, and that |
//! | whether a request is under way | 1, 0 or 1 |
//! | of that: bytes received behind it, and itself | 8; 2 for its length, and that |
//! | what was read ahead | the rest |
//!
//! Numbers are in network order.

use zeroize::Zeroizing;

const VERSION: u8 = 1;

/// Length of an identity, in bytes.
pub(super) const IDENTITY_LEN: usize = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) identity: [u8; IDENTITY_LEN],
    /// How many requests have been answered.
    pub(super) answered: u64,
    /// How many bytes the client has of what is written from the request under way on.
    pub(super) sent: u64,
    /// The application's own state, as it was when the last answer was complete.
    pub(super) application: Vec<u8>,
    pub(super) request: Option<Request>,
    /// What has been read and belongs to no request yet.
    pub(super) unread: Vec<u8>,
}

/// A request under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// What the application takes for the request.
    pub(super) head: Vec<u8>,
    /// How many bytes that came behind it have been taken for good.
    pub(super) received: u64,
}

/// What is always there, in bytes.
const FIXED_LEN: usize = 1 + IDENTITY_LEN + 8 + 8 + 2 + 1;

impl State {
    /// How long it is when it is encoded, in bytes.
    pub(super) fn encoded_len(&self) -> usize {
        let request = self.request.as_ref();
        let request = request.map_or(0, |request| 8 + 2 + request.head.len());
        let own = self.application.len() + self.unread.len();
        FIXED_LEN + request + own
    }

    /// `None` when something in it is longer than can be said.
    pub(super) fn encode(&self) -> Option<Zeroizing<Vec<u8>>> {
        // It is not to grow, which would leave copies behind.
        let mut encoded = Zeroizing::new(Vec::with_capacity(self.encoded_len()));
        encoded.push(VERSION);
        encoded.extend(self.identity);
        encoded.extend(self.answered.to_be_bytes());
        encoded.extend(self.sent.to_be_bytes());
        put(&mut encoded, &self.application)?;
        match &self.request {
            None => encoded.push(0),
            Some(request) => {
                encoded.push(1);
                encoded.extend(request.received.to_be_bytes());
                put(&mut encoded, &request.head)?;
            }
        }
        encoded.extend_from_slice(&self.unread);
        Some(encoded)
    }

    /// `None` when no conversation has made it.
    pub(super) fn decode(encoded: &[u8]) -> Option<Self> {
        let (version, rest) = encoded.split_first()?;
        let (identity, rest) = rest.split_first_chunk()?;
        let (answered, rest) = rest.split_first_chunk()?;
        let (sent, rest) = rest.split_first_chunk()?;
        let (application, rest) = take(rest)?;
        let (under_way, rest) = rest.split_first()?;
        let (request, unread) = match under_way {
            0 => (None, rest),
            1 => {
                let (received, rest) = rest.split_first_chunk()?;
                let (head, rest) = take(rest)?;
                let request = Request {
                    head: head.to_vec(),
                    received: u64::from_be_bytes(*received),
                };
                (Some(request), rest)
            }
            _ => return None,
        };
        (*version == VERSION).then(|| Self {
            identity: *identity,
            answered: u64::from_be_bytes(*answered),
            sent: u64::from_be_bytes(*sent),
            application: application.to_vec(),
            request,
            unread: unread.to_vec(),
        })
    }
}

fn put(encoded: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    encoded.extend(u16::try_from(bytes.len()).ok()?.to_be_bytes());
    encoded.extend_from_slice(bytes);
    Some(())
}

fn take(encoded: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = encoded.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*len).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_no_conversation_has_made_is_refused() {
        let state = State {
            request: Some(Request::default()),
            ..State::default()
        };
        let encoded = state.encode().unwrap();
        assert_eq!(State::decode(&encoded), Some(state));
        for len in 0..encoded.len() {
            assert_eq!(State::decode(&encoded[..len]), None, "{len}");
        }
        let mut other = encoded.to_vec();
        other[0] = 2;
        assert_eq!(State::decode(&other), None);
        let mut other = encoded.to_vec();
        other[35] = 2;
        assert_eq!(State::decode(&other), None);
    }

    #[test]
    fn what_is_too_long_to_be_said_is_no_state() {
        let state = State {
            application: vec![0; 65_536],
            ..State::default()
        };
        assert_eq!(state.encode(), None);
    }

    proptest! {
        #[test]
        fn a_state_is_read_as_it_was_written(
            identity: [u8; 16],
            answered: u64,
            sent: u64,
            application: Vec<u8>,
            request: Option<(Vec<u8>, u64)>,
            unread: Vec<u8>,
        ) {
            let request = request.map(|(head, received)| Request { head, received });
            let state = State { identity, answered, sent, application, request, unread };
            let encoded = state.encode().unwrap();
            prop_assert_eq!(encoded.len(), state.encoded_len());
            prop_assert_eq!(State::decode(&encoded), Some(state));
        }

        #[test]
        fn nothing_makes_reading_panic(bytes: Vec<u8>) {
            if let Some(state) = State::decode(&bytes) {
                prop_assert_eq!(state.encode().unwrap().to_vec(), bytes);
            }
        }
    }
}
