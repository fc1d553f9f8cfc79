//! The published test vectors (`docs/vectors.json`), made by a program that shares no code with this crate.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a vector that cannot be read fails its test"
)]

use migration_token::{MigrationToken, TokenHash, TokenKey, VerifyError};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    tokens: Vec<Good>,
    malformed: Vec<Malformed>,
    unverifiable: Vec<Unverifiable>,
}

#[derive(Deserialize)]
struct Session {
    hash: String,
    resumption_master_secret: String,
}

impl Session {
    fn key(&self) -> TokenKey {
        let hash = match self.hash.as_str() {
            "sha256" => TokenHash::Sha256,
            "sha384" => TokenHash::Sha384,
            other => panic!("unknown hash {other}"),
        };
        TokenKey::derive(hash, &hex(&self.resumption_master_secret)).expect("secret fits the hash")
    }
}

#[derive(Deserialize)]
struct Good {
    #[serde(flatten)]
    session: Session,
    session_id: String,
    mac_key: String,
    target_address: String,
    expiry_timestamp: i64,
    nonce: String,
    token: String,
}

#[derive(Deserialize)]
struct Malformed {
    name: String,
    token: String,
}

#[derive(Deserialize)]
struct Unverifiable {
    name: String,
    #[serde(flatten)]
    session: Session,
    token: String,
    error: String,
}

fn hex(text: &str) -> Vec<u8> {
    base16ct::lower::decode_vec(text).expect("vectors are in lower-case hexadecimal")
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../vectors.json")).expect("vectors parse")
}

#[test]
fn published_tokens_are_derived_signed_and_read_alike() {
    let vectors = vectors();
    assert!(
        vectors.tokens.len() >= 4,
        "both hashes with both address families"
    );
    for good in vectors.tokens {
        let key = good.session.key();
        assert_eq!(key.session_id().as_slice(), hex(&good.session_id));
        assert_eq!(key.mac_key(), hex(&good.mac_key));
        let expiry =
            time::OffsetDateTime::from_unix_timestamp(good.expiry_timestamp).expect("in range");
        let target = good.target_address.parse().expect("an address");
        let signed = key
            .sign(target, expiry, &hex(&good.nonce))
            .expect("in bounds");
        assert_eq!(signed.encode(), hex(&good.token));

        let read = MigrationToken::decode(&hex(&good.token)).expect("a token");
        assert_eq!(read, signed);
        assert_eq!(key.verify(&read), Ok(()));
    }
}

#[test]
fn published_malformed_tokens_are_refused() {
    let vectors = vectors();
    assert!(!vectors.malformed.is_empty());
    for bad in vectors.malformed {
        assert!(
            MigrationToken::decode(&hex(&bad.token)).is_err(),
            "{}",
            bad.name
        );
    }
}

#[test]
fn published_forgeries_do_not_verify() {
    let vectors = vectors();
    assert!(!vectors.unverifiable.is_empty());
    for bad in vectors.unverifiable {
        let token = MigrationToken::decode(&hex(&bad.token)).expect("well formed");
        let expected = match bad.error.as_str() {
            "other_session" => VerifyError::OtherSession,
            "bad_signature" => VerifyError::BadSignature,
            other => panic!("unknown error {other}"),
        };
        assert_eq!(
            bad.session.key().verify(&token),
            Err(expected),
            "{}",
            bad.name
        );
    }
}
