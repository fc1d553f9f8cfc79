//! What the fuzz targets of `fuzz/` need of the inside; compiled only with `--cfg fuzzing`.
//!
//! Never part of a build for use.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a fuzz target reports what it finds by panicking"
)]

use migration_token::TokenKey;
use rustls::crypto::SecureRandom;
use zeroize::Zeroizing;

use crate::codepoints::Codepoints;
use crate::key_schedule::binder;
use crate::provider;
use crate::ticket::{Authorization, OrdinarySession, Seal, SealedSession, TicketKeys};
use crate::wire::dialect::draft03::{PostHandshake, PostHandshakeReader};
use crate::wire::hello::{self, ClientHello};
use crate::wire::record::{HelloProgress, HelloReader, HelloSplicer};
use crate::wire::ticket::{NewSessionTicket, OfferedTicket};
use crate::wire::{KEY_UPDATE, next_message, push_extension};

const OTHER_EXTENSION: u16 = 0xFF99;

/// A hello that is read can be spliced, is still read, has the same offer and nothing else changed.
pub fn client_hello(message: &[u8]) {
    let codepoints = Codepoints::default();
    let read = ClientHello::read(message, codepoints);
    let mut added = Vec::new();
    push_extension(&mut added, OTHER_EXTENSION, &[7; 9]).unwrap();
    let Some(spliced) = hello::splice(message, &added) else {
        return;
    };
    assert_eq!(spliced.len(), message.len() + added.len());
    assert!(hello::splice_all(message, &added).len() >= message.len());
    let Ok(before) = read else { return };
    let after = ClientHello::read(&spliced, codepoints).unwrap();
    assert_eq!(after.server_name, before.server_name);
    assert_eq!(after.migration_support, before.migration_support);
    assert_eq!(after.migration_token, before.migration_token);
    assert_eq!(after.psk_dhe_ke, before.psk_dhe_ke);
    match (before.pre_shared_key, after.pre_shared_key) {
        (Some(before), Some(after)) => {
            assert!(before.iter().eq(after.iter()));
            assert_eq!(
                after.truncated_hello.len(),
                before.truncated_hello.len() + added.len()
            );
        }
        (before, after) => assert_eq!(before, after),
    }
}

/// Records give the same hello however they are cut on the way, and nothing that came is lost. The first byte says how
/// they are cut.
pub fn hello_records(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else {
        return;
    };
    let mut pieces = HelloReader::default();
    let (mut taken, mut progress) = (0, HelloProgress::Incomplete);
    for piece in bytes.chunks(usize::from(*cut).max(1)) {
        taken += piece.len();
        progress = pieces.push(piece);
        if progress != HelloProgress::Incomplete {
            break;
        }
    }
    let mut whole = HelloReader::default();
    let at_once = whole.push(&bytes[..taken]);
    if taken > 0 {
        assert_eq!(at_once, progress);
    }
    if progress == HelloProgress::Complete {
        assert_eq!(pieces.message(), whole.message());
    }
    assert_eq!(pieces.into_raw(), &bytes[..taken]);
    let (unchanged, _) = HelloSplicer::default().rewrite(bytes, false, &[1; 4]);
    assert!(bytes.starts_with(&unchanged));
    HelloSplicer::default().rewrite(bytes, true, &[0, 99, 0, 0]);
}

/// What is read of a NewSessionTicket is read again from one with a token. The first byte says how long the token is.
pub fn new_session_ticket(input: &[u8]) {
    let Some((len, message)) = input.split_first() else {
        return;
    };
    let Ok(before) = NewSessionTicket::read(message) else {
        return;
    };
    let token = vec![5; usize::from(*len) * 16];
    let offered = OfferedTicket {
        lifetime_secs: before.lifetime_secs,
        age_add: before.age_add,
        nonce: before.nonce,
        ticket: before.ticket,
        mark: Some((OTHER_EXTENSION, &token)),
        stream_extension: (*len % 2 == 1).then_some((OTHER_EXTENSION - 1, &[][..])),
        max_early_data_size: u32::from(*len),
    };
    let Some(written) = offered.encode() else {
        return;
    };
    let after = NewSessionTicket::read(&written).unwrap();
    assert_eq!((after.nonce, after.ticket), (before.nonce, before.ticket));
    assert_eq!(
        (after.age_add, after.lifetime_secs),
        (before.age_add, before.lifetime_secs)
    );
    assert_eq!(after.extension(OTHER_EXTENSION), Some(&token[..]));
    assert!(*len % 2 == 0 || after.extension(OTHER_EXTENSION - 1).is_some());
}

/// Handshake messages after the handshake are found alike however records cut them, and what is left of the records is all but
/// the requests. The first byte says how they are cut.
pub fn post_handshake(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else {
        return;
    };
    let request = Codepoints::default().experimental.migrate_request;
    let read = |records: &mut dyn Iterator<Item = &[u8]>| {
        let mut reader = PostHandshakeReader::new(Some(request));
        let (mut requests, mut others, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for record in records {
            let mut record = record.to_vec();
            let kept = reader.read(&mut record, |message| match message {
                PostHandshake::Request(target) => requests.push(target.to_vec()),
                PostHandshake::Other(message) => others.extend_from_slice(message),
            });
            left.extend_from_slice(&record[..kept.ok()?]);
        }
        Some((requests, others, left))
    };
    let whole = read(&mut std::iter::once(bytes));
    if let Some((_, others, left)) = &whole {
        assert!(left.starts_with(others) && left.len() <= bytes.len());
    }
    // Behind a KeyUpdate of the same record nothing is taken out.
    if !bytes.contains(&KEY_UPDATE) {
        let pieces = read(&mut bytes.chunks(usize::from(*cut).max(1)));
        assert_eq!(pieces, whole);
    }
}

/// A ticket's plaintext that decodes is what would be encoded again, and bytes that were not sealed do not open.
pub fn sealed_ticket(keys: &TicketKeys, bytes: &[u8]) {
    if let Ok(session) = SealedSession::decode(bytes) {
        assert_eq!(*session.encode().unwrap(), bytes);
    }
    if let Ok(session) = OrdinarySession::decode(bytes) {
        assert_eq!(*session.encode().unwrap(), bytes);
    }
    assert!(keys.open(bytes).is_none());
    let mut ticket = keys.seal(bytes, Seal::Offer, random()).unwrap();
    assert_eq!(*keys.open(&ticket).unwrap(), bytes);
    let at = usize::from(bytes.first().copied().unwrap_or(0)) % ticket.len();
    ticket[at] ^= 1;
    assert!(keys.open(&ticket).is_none());
}

fn random() -> &'static dyn SecureRandom {
    provider::ring().secure_random
}

/// What a service knows of a session whose ticket it opens.
#[derive(Debug)]
pub struct Session {
    /// What signs its token.
    pub token_key: TokenKey,
    psk: Zeroizing<Vec<u8>>,
}

impl Session {
    /// Opens the ticket that `hello` presents first.
    pub fn of(keys: &TicketKeys, hello: &[u8]) -> Option<Self> {
        let offer = ClientHello::read(hello, Codepoints::default())
            .ok()?
            .pre_shared_key?;
        let identity = offer.iter().next()?;
        let sealed = SealedSession::decode(&keys.open(identity.ticket)?).ok()?;
        let Authorization::Token { key, .. } = sealed.authorization else {
            return None;
        };
        Some(Self {
            token_key: key,
            psk: sealed.psk,
        })
    }

    /// Puts the right binder into a hello that ends with one of this session's hash.
    pub fn bind(&self, hello: &mut [u8]) {
        let Ok(read) = ClientHello::read(hello, Codepoints::default()) else {
            return;
        };
        let Some(offer) = read.pre_shared_key else {
            return;
        };
        let len = self.token_key.hash().output_len();
        let suites = provider::ring().cipher_suites;
        let suite = suites
            .iter()
            .filter_map(rustls::SupportedCipherSuite::tls13)
            .find(|suite| suite.common.hash_provider.output_len() == len)
            .unwrap();
        let hash = suite.common.hash_provider.hash(offer.truncated_hello);
        let right = binder(suite, &self.psk, &hash);
        if let Some(at) = hello.len().checked_sub(len) {
            hello[at..].copy_from_slice(right.as_ref());
        }
    }
}

/// Where the token stands in the ClientHello that `bytes` begin with.
pub fn token_in(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    let (hello, _) = next_message(bytes)?;
    let token = ClientHello::read(hello, Codepoints::default())
        .ok()?
        .migration_token?;
    let start = token.as_ptr().addr() - hello.as_ptr().addr();
    Some(start..start + token.len())
}
