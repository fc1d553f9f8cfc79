//! Record protection: the hook may change the type of what is encrypted and take out some of what was decrypted.
//!
//! Sequence numbers stay rustls' own, since every record goes through exactly once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    OutboundOpaqueMessage, OutboundPlainMessage, Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, InvalidMessage, ProtocolVersion};
use zeroize::Zeroizing;

use super::hook::{ConnectionHook, current};

pub(super) struct HookedAead(pub(super) &'static dyn Tls13AeadAlgorithm);

impl Tls13AeadAlgorithm for HookedAead {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        let encrypter = self.0.encrypter(key, iv);
        match current() {
            Some(hook) => Box::new(HookedEncrypter { encrypter, hook }),
            None => encrypter,
        }
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        let decrypter = self.0.decrypter(key, iv);
        match current() {
            Some(hook) if hook.wants_decrypter() => {
                let shared = SharedDecrypter(Arc::new(Mutex::new(decrypter)));
                hook.share_decrypter(shared.clone());
                let decrypter = Box::new(shared);
                Box::new(HookedDecrypter { decrypter, hook })
            }
            Some(hook) => Box::new(HookedDecrypter { decrypter, hook }),
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

struct HookedEncrypter {
    encrypter: Box<dyn MessageEncrypter>,
    hook: Arc<dyn ConnectionHook>,
}

impl MessageEncrypter for HookedEncrypter {
    fn encrypt(
        &mut self,
        mut msg: OutboundPlainMessage<'_>,
        seq: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        msg.typ = self.hook.outbound_type(msg.typ, &msg.payload);
        self.encrypter.encrypt(msg, seq)
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.encrypter.encrypted_payload_len(payload_len)
    }
}

struct HookedDecrypter {
    decrypter: Box<dyn MessageDecrypter>,
    hook: Arc<dyn ConnectionHook>,
}

impl MessageDecrypter for HookedDecrypter {
    fn decrypt<'a>(
        &mut self,
        mut msg: InboundOpaqueMessage<'a>,
        seq: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        // The plaintext stands somewhere in the record's own bytes. They are borrowed for a moment, to be changed afterwards.
        let start = msg.payload.as_ptr().addr();
        let record = InboundOpaqueMessage::new(msg.typ, msg.version, &mut msg.payload);
        let plain = self.decrypter.decrypt(record, seq)?;
        let (typ, version, len) = (plain.typ, plain.version, plain.payload.len());
        let at = match len {
            0 => 0,
            _ => plain.payload.as_ptr().addr().saturating_sub(start),
        };
        let mut found = at..at.saturating_add(len).min(msg.payload.len());
        if found.len() != len {
            return Err(Error::General("a record was decrypted elsewhere".into()));
        }
        msg.typ = typ;
        msg.version = version;
        if typ == ContentType::ApplicationData {
            self.hook.application_data(len);
            return Ok(msg.into_plain_message_range(found));
        }
        let payload = msg.payload.get_mut(found.clone()).unwrap_or_default();
        let left = self.hook.inbound(typ, payload);
        let left = left.map_err(|_| InvalidMessage::TrailingData("a message of migration"))?;
        if left == 0 && !found.is_empty() {
            // Only application data may be empty.
            msg.typ = ContentType::ApplicationData;
        }
        found.end = found.end.min(found.start + left);
        Ok(msg.into_plain_message_range(found))
    }
}

/// A decrypter that rustls and the hook have together.
#[derive(Clone)]
pub(crate) struct SharedDecrypter(Arc<Mutex<Box<dyn MessageDecrypter>>>);

impl SharedDecrypter {
    fn decrypter(&self) -> MutexGuard<'_, Box<dyn MessageDecrypter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `fragment` is the first record that this opens.
    pub(crate) fn opens_first(&self, fragment: &[u8]) -> bool {
        // It is decrypted in place, and rustls needs it as it came.
        let mut copy = Zeroizing::new(fragment.to_vec());
        let (kind, version) = (ContentType::ApplicationData, ProtocolVersion::TLSv1_2);
        let record = InboundOpaqueMessage::new(kind, version, &mut copy);
        self.decrypter().decrypt(record, 0).is_ok()
    }
}

impl MessageDecrypter for SharedDecrypter {
    fn decrypt<'a>(
        &mut self,
        msg: InboundOpaqueMessage<'a>,
        seq: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        self.decrypter().decrypt(msg, seq)
    }
}
