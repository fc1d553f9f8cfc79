//! The SERVER_ALTERNATE_ADDRESS frame (draft-saa-ali-quic, "Server Alternate Address Frame").
//!
//! Never judges whether an address may be followed: that is the client policy's part.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use quinn_proto::{ConnectionId, VarInt};
use thiserror::Error;

use super::connection_id::read_connection_id;
use super::{NewConnectionId, Reader, ResetToken, put_varint};

/// Another address of the server, with the connection ID and reset token to use there.
///
/// On the wire an absent family is all zeros, as in the preferred_address transport parameter (RFC 9000 section 18.2).
/// A frame with an 8-byte connection ID takes 54 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlternateAddress {
    /// Sequence number. The draft does not define it; here it is the sequence number of the connection ID.
    pub sequence: VarInt,
    /// IPv4 address and port.
    pub v4: Option<SocketAddrV4>,
    /// IPv6 address and port.
    pub v6: Option<SocketAddrV6>,
    /// Connection ID for the new path, 1 to 20 bytes.
    pub id: ConnectionId,
    /// Stateless reset token of that connection ID.
    pub token: ResetToken,
}

/// A frame that cannot be used; the server is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AlternateAddressError {
    /// The bytes end early, or go on after the frame.
    #[error("SERVER_ALTERNATE_ADDRESS frame has the wrong length")]
    Length,
    /// The connection ID has no bytes, or more than 20.
    #[error("SERVER_ALTERNATE_ADDRESS frame has a connection ID of {0} bytes, not 1 to 20")]
    ConnectionIdLength(usize),
}

impl AlternateAddress {
    /// Sequence, addresses, ports: the shortest part before the connection ID's length byte, less the sequence.
    const ADDRESSES: usize = 4 + 2 + 16 + 2;

    /// Reads a frame body (what follows the type).
    ///
    /// # Errors
    ///
    /// [`AlternateAddressError`] when the body is malformed.
    pub fn decode(body: &[u8]) -> Result<Self, AlternateAddressError> {
        if Self::body_length(body) != Some(body.len()) {
            return Err(AlternateAddressError::Length);
        }
        let mut reader = Reader::new(body);
        let (sequence, v4, v6) =
            read_addresses(&mut reader).ok_or(AlternateAddressError::Length)?;
        let length = reader.clone().byte().map_or(0, usize::from);
        let id = read_connection_id(&mut reader)
            .ok_or(AlternateAddressError::ConnectionIdLength(length))?;
        let token = ResetToken::new(reader.array().ok_or(AlternateAddressError::Length)?);
        Ok(Self {
            sequence,
            v4,
            v6,
            id,
            token,
        })
    }

    /// Reads the value of the transport parameter preferred_address (RFC 9000 section 18.2): the same without a sequence
    /// number, which is 1 (section 5.1.1).
    ///
    /// # Errors
    ///
    /// [`AlternateAddressError`] when the value is malformed.
    pub fn from_preferred_address(value: &[u8]) -> Result<Self, AlternateAddressError> {
        const SEQUENCE: u8 = 1;
        let mut body = vec![SEQUENCE];
        body.extend_from_slice(value);
        Self::decode(&body)
    }

    /// The connection ID in it, as a NEW_CONNECTION_ID frame (RFC 9000 section 19.15) that retires none.
    pub fn connection_id(&self) -> NewConnectionId {
        NewConnectionId {
            sequence: self.sequence,
            retire_prior_to: VarInt::default(),
            id: self.id,
            token: self.token.clone(),
        }
    }

    /// Appends the whole frame with type `frame_type`.
    pub fn encode(&self, frame_type: VarInt, out: &mut Vec<u8>) {
        put_varint(out, frame_type);
        put_varint(out, self.sequence);
        out.extend_from_slice(&self.v4.map_or(Ipv4Addr::UNSPECIFIED, |a| *a.ip()).octets());
        out.extend_from_slice(&self.v4.map_or(0, |a| a.port()).to_be_bytes());
        out.extend_from_slice(&self.v6.map_or(Ipv6Addr::UNSPECIFIED, |a| *a.ip()).octets());
        out.extend_from_slice(&self.v6.map_or(0, |a| a.port()).to_be_bytes());
        out.extend(u8::try_from(self.id.len()));
        out.extend_from_slice(&self.id);
        out.extend_from_slice(self.token.as_bytes());
    }

    /// Length of the frame body that `bytes` starts with, whatever its connection ID length says.
    pub(super) fn body_length(bytes: &[u8]) -> Option<usize> {
        let mut reader = Reader::new(bytes);
        let _sequence = reader.varint()?;
        reader.take(Self::ADDRESSES)?;
        let id = usize::from(reader.byte()?);
        reader.take(id)?;
        reader.take(ResetToken::LENGTH)?;
        Some(reader.position())
    }
}

type Addresses = (VarInt, Option<SocketAddrV4>, Option<SocketAddrV6>);

fn read_addresses(reader: &mut Reader<'_>) -> Option<Addresses> {
    let sequence = reader.varint_checked()?;
    let ip4 = Ipv4Addr::from(reader.array::<4>()?);
    let port4 = u16::from_be_bytes(reader.array()?);
    let ip6 = Ipv6Addr::from(reader.array::<16>()?);
    let port6 = u16::from_be_bytes(reader.array()?);
    let v4 = (port4 != 0 && !ip4.is_unspecified()).then(|| SocketAddrV4::new(ip4, port4));
    let v6 = (port6 != 0 && !ip6.is_unspecified()).then(|| SocketAddrV6::new(ip6, port6, 0, 0));
    Some((sequence, v4, v6))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::wire::Codepoints;
    use proptest::prelude::*;

    pub(crate) fn any_frame() -> impl Strategy<Value = AlternateAddress> {
        let v4 = prop::option::of(
            (1..=u32::MAX, 1..=u16::MAX).prop_map(|(ip, port)| SocketAddrV4::new(ip.into(), port)),
        );
        let v6 = prop::option::of(
            (1..=u128::MAX, 1..=u16::MAX)
                .prop_map(|(ip, port)| SocketAddrV6::new(ip.into(), port, 0, 0)),
        );
        let id = prop::collection::vec(any::<u8>(), 1..=20);
        (0..1u64 << 62, v4, v6, id, any::<[u8; 16]>()).prop_map(|(sequence, v4, v6, id, token)| {
            AlternateAddress {
                sequence: VarInt::from_u64(sequence).unwrap(),
                v4,
                v6,
                id: ConnectionId::new(&id),
                token: ResetToken::new(token),
            }
        })
    }

    fn body(frame: &AlternateAddress) -> Vec<u8> {
        let mut out = Vec::new();
        frame.encode(Codepoints::default().frame(), &mut out);
        out.split_off(4)
    }

    proptest! {
        #[test]
        fn a_frame_reads_back(frame in any_frame()) {
            let body = body(&frame);
            prop_assert_eq!(AlternateAddress::body_length(&body), Some(body.len()));
            prop_assert_eq!(AlternateAddress::decode(&body), Ok(frame));
        }

        #[test]
        fn every_cut_of_a_frame_is_refused(frame in any_frame(), cut in 0..100usize) {
            let body = body(&frame);
            let cut = cut % body.len();
            prop_assert_eq!(AlternateAddress::decode(&body[..cut]), Err(AlternateAddressError::Length));
        }

        #[test]
        fn any_bytes_decode_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = AlternateAddress::decode(&bytes);
            let _ = AlternateAddress::body_length(&bytes);
        }
    }

    #[test]
    fn a_frame_with_an_eight_byte_connection_id_takes_54_bytes_in_the_order_of_the_draft() {
        let frame = AlternateAddress {
            sequence: VarInt::from_u32(1),
            v4: Some("127.0.0.2:4434".parse().unwrap()),
            v6: None,
            id: ConnectionId::new(&[0xc1; 8]),
            token: ResetToken::new([0xab; 16]),
        };
        let mut out = Vec::new();
        frame.encode(Codepoints::default().frame(), &mut out);
        let mut expected = vec![0x80, 0x5a, 0xa0, 0x0a, 1, 127, 0, 0, 2, 0x11, 0x52];
        expected.extend_from_slice(&[0; 18]);
        expected.push(8);
        expected.extend_from_slice(&[0xc1; 8]);
        expected.extend_from_slice(&[0xab; 16]);
        assert_eq!(out, expected);
        assert_eq!(out.len(), 54);
    }

    #[test]
    fn a_preferred_address_is_the_frame_with_number_1_and_without_it() {
        let mut value = vec![192, 0, 2, 1, 0x11, 0x52];
        value.extend_from_slice(&[0; 18]);
        value.push(4);
        value.extend_from_slice(&[0xc1; 4]);
        value.extend_from_slice(&[0xab; 16]);
        let read = AlternateAddress::from_preferred_address(&value).unwrap();
        assert_eq!(read.sequence, VarInt::from_u32(1));
        assert_eq!(read.v4, Some("192.0.2.1:4434".parse().unwrap()));
        assert_eq!((read.v6, &read.id[..]), (None, &[0xc1; 4][..]));
        value.pop();
        let short = AlternateAddress::from_preferred_address(&value);
        assert_eq!(short, Err(AlternateAddressError::Length));
    }

    #[test]
    fn a_connection_id_of_no_bytes_or_of_21_is_refused() {
        for length in [0u8, 21] {
            let mut body = vec![1];
            body.extend_from_slice(&[1; 24]);
            body.push(length);
            body.extend(std::iter::repeat_n(9, usize::from(length) + 16));
            assert_eq!(
                AlternateAddress::decode(&body),
                Err(AlternateAddressError::ConnectionIdLength(length.into()))
            );
        }
    }
}
