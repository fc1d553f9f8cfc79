//! Packet keys that let a hook see every packet in the clear: before it is sealed and after it is opened.
//!
//! Never touches a packet that failed authentication.

use bytes::BytesMut;
use quinn_proto::crypto::{CryptoError, PacketKey};

use super::Handle;
use crate::hooks::{Arrival, Hook, Incoming, Outgoing, widen_packet_number};

pub(super) struct HookedKey<H> {
    /// quinn implements its own trait for this type.
    key: Box<dyn rustls::quic::PacketKey>,
    handle: Handle<H>,
}

impl<H: Hook> HookedKey<H> {
    pub(super) fn new(key: Box<dyn rustls::quic::PacketKey>, handle: Handle<H>) -> Self {
        Self { key, handle }
    }

    /// quinn passes header, payload and room for the tag in one buffer. Answers with the header's length, which a
    /// longer packet number changes: quinn protects the number by the length that the header itself states.
    fn before_sealing(&self, number: u64, packet: &mut [u8], header_length: usize) -> usize {
        let tag = self.key.tag_len();
        let Some((header, rest)) = packet.split_at_mut_checked(header_length) else {
            return header_length;
        };
        let Some(payload) = rest
            .len()
            .checked_sub(tag)
            .and_then(|length| rest.get_mut(..length))
        else {
            return header_length;
        };
        let outgoing = Outgoing {
            number,
            header,
            payload,
            tag,
        };
        let force_4_byte_pn = self
            .handle
            .apply(|hook, effects| hook.on_send(outgoing, effects));
        if force_4_byte_pn {
            widen_packet_number(packet, header_length, tag, number)
        } else {
            header_length
        }
    }
}

impl<H: Hook> PacketKey for HookedKey<H> {
    fn encrypt(&self, number: u64, packet: &mut [u8], header_length: usize) {
        let header_length = self.before_sealing(number, packet, header_length);
        PacketKey::encrypt(&self.key, number, packet, header_length);
    }

    fn decrypt(
        &self,
        number: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        let by = payload
            .last_chunk()
            .and_then(|tag| self.handle.came_by(tag));
        PacketKey::decrypt(&self.key, number, header, payload)?;
        let unread = by.is_some() && self.handle.has_unread();
        let incoming = Incoming {
            number,
            header,
            payload,
            arrival: Arrival { by, unread },
        };
        self.handle
            .apply(|hook, effects| hook.on_receive(incoming, effects));
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.key.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.key.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.key.integrity_limit()
    }
}
