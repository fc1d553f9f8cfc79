//! The token codec beside a second one, which `tls_codec` makes out of the draft's structure: both take the same bytes, and
//! read the same in them.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use migration_token::MigrationToken;
use tls_codec::{
    DeserializeBytes, Serialize, TlsByteVecU8, TlsDeserializeBytes, TlsSerialize, TlsSize,
};

/// `TargetAddress`, with the select of the draft as an enumeration that has its type as discriminant.
#[derive(Debug, TlsDeserializeBytes, TlsSerialize, TlsSize)]
#[repr(u8)]
enum TargetAddress {
    #[tls_codec(discriminant = 0)]
    Ipv4([u8; 4], u16),
    #[tls_codec(discriminant = 1)]
    Ipv6([u8; 16], u16),
}

/// `MigrationToken`.
#[derive(Debug, TlsDeserializeBytes, TlsSerialize, TlsSize)]
struct Token {
    target_address: TargetAddress,
    session_id: TlsByteVecU8,
    expiry_timestamp: u64,
    nonce: TlsByteVecU8,
    signature: TlsByteVecU8,
}

impl Token {
    /// The lower bounds of the vectors, which `tls_codec` has no words for.
    fn in_bounds(&self) -> bool {
        self.session_id.as_slice().len() >= 32
            && self.nonce.as_slice().len() >= 16
            && self.signature.as_slice().len() >= 32
    }

    fn address(&self) -> SocketAddr {
        match self.target_address {
            TargetAddress::Ipv4(ip, port) => (Ipv4Addr::from(ip), port).into(),
            TargetAddress::Ipv6(ip, port) => (Ipv6Addr::from(ip), port).into(),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let theirs = Token::tls_deserialize_exact_bytes(bytes)
        .ok()
        .filter(Token::in_bounds);
    match (MigrationToken::decode(bytes), theirs) {
        (Ok(ours), Some(theirs)) => {
            assert_eq!(ours.target_address(), theirs.address());
            assert_eq!(ours.session_id(), theirs.session_id.as_slice());
            assert_eq!(ours.expiry_timestamp(), theirs.expiry_timestamp);
            assert_eq!(ours.nonce(), theirs.nonce.as_slice());
            assert_eq!(ours.signature(), theirs.signature.as_slice());
            assert_eq!(ours.encode(), bytes);
            assert_eq!(theirs.tls_serialize_detached().unwrap(), bytes);
        }
        (Err(_), None) => {}
        (ours, theirs) => panic!("{ours:?} and {theirs:?}"),
    }
});
