//! Record protection: the link may replace what is encrypted and hide what was decrypted.
//!
//! Sequence numbers stay rustls' own, since every record goes through exactly once.

use std::sync::Arc;

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    OutboundChunks, OutboundOpaqueMessage, OutboundPlainMessage, Tls13AeadAlgorithm,
    UnsupportedOperationError,
};
use rustls::{ConnectionTrafficSecrets, ContentType, Error};

use super::link::{Link, current};

pub(super) struct LinkedAead(pub(super) &'static dyn Tls13AeadAlgorithm);

impl Tls13AeadAlgorithm for LinkedAead {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        let encrypter = self.0.encrypter(key, iv);
        match current() {
            Some(link) => Box::new(LinkedEncrypter { encrypter, link }),
            None => encrypter,
        }
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        let decrypter = self.0.decrypter(key, iv);
        match current() {
            Some(link) => Box::new(LinkedDecrypter { decrypter, link }),
            None => decrypter,
        }
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }
}

struct LinkedEncrypter {
    encrypter: Box<dyn MessageEncrypter>,
    link: Arc<dyn Link>,
}

impl MessageEncrypter for LinkedEncrypter {
    fn encrypt(
        &mut self,
        msg: OutboundPlainMessage<'_>,
        seq: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        if !self.link.wants_outbound(msg.typ) {
            return self.encrypter.encrypt(msg, seq);
        }
        let payload = msg.payload.to_vec();
        let (typ, payload) = self
            .link
            .rewrite_outbound(msg.typ, &payload)
            .unwrap_or((msg.typ, payload));
        let rewritten = OutboundPlainMessage {
            typ,
            version: msg.version,
            payload: OutboundChunks::Single(&payload),
        };
        self.encrypter.encrypt(rewritten, seq)
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.encrypter.encrypted_payload_len(payload_len)
    }
}

struct LinkedDecrypter {
    decrypter: Box<dyn MessageDecrypter>,
    link: Arc<dyn Link>,
}

impl MessageDecrypter for LinkedDecrypter {
    fn decrypt<'a>(
        &mut self,
        msg: InboundOpaqueMessage<'a>,
        seq: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let plain = self.decrypter.decrypt(msg, seq)?;
        if plain.typ == ContentType::ApplicationData
            || !self.link.hide_inbound(plain.typ, plain.payload)
        {
            return Ok(plain);
        }
        // rustls locates the payload inside the record, so an empty one must still lie there.
        Ok(InboundPlainMessage {
            typ: ContentType::ApplicationData,
            version: plain.version,
            payload: plain.payload.get(..0).unwrap_or_default(),
        })
    }
}
