//! Opening a captured 1-RTT packet with a logged secret, without the code under test (RFC 9001 section 5).

use ring::aead::quic::HeaderProtectionKey;
use ring::aead::{self, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA384, KeyType, Prk};

const TAG: usize = 16;

/// The client's keys of a connection with TLS13_AES_256_GCM_SHA384, before any key update.
pub struct Opener {
    key: LessSafeKey,
    iv: [u8; 12],
    protection: HeaderProtectionKey,
}

pub struct Opened {
    /// Length of the packet number, in bytes.
    pub number_length: usize,
    pub payload: Vec<u8>,
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label without a context (RFC 8446 section 7.1).
fn expand<const N: usize>(secret: &Prk, label: &str) -> [u8; N] {
    let label = format!("tls13 {label}");
    let length = u16::try_from(N).unwrap().to_be_bytes();
    let info = [
        &length[..],
        &[u8::try_from(label.len()).unwrap()],
        label.as_bytes(),
        &[0],
    ];
    let mut out = [0; N];
    let expanded = secret.expand(&info, Length(N)).unwrap();
    expanded.fill(&mut out).unwrap();
    out
}

impl Opener {
    /// From a key log in the NSS format.
    pub fn of_client(log: &str) -> Self {
        let line = log
            .lines()
            .find(|line| line.starts_with("CLIENT_TRAFFIC_SECRET_0 "))
            .expect("no secret in the key log");
        let secret = base16ct::lower::decode_vec(line.rsplit(' ').next().unwrap()).unwrap();
        assert_eq!(secret.len(), 48, "another cipher suite");
        let secret = Prk::new_less_safe(HKDF_SHA384, &secret);
        let key = UnboundKey::new(&AES_256_GCM, &expand::<32>(&secret, "quic key")).unwrap();
        let protection = expand::<32>(&secret, "quic hp");
        Self {
            key: LessSafeKey::new(key),
            iv: expand(&secret, "quic iv"),
            protection: HeaderProtectionKey::new(&aead::quic::AES_256, &protection).unwrap(),
        }
    }

    /// Opens a packet whose connection ID has `id_length` bytes and whose number fits in the bytes that it has.
    pub fn open(&self, datagram: &[u8], id_length: usize) -> Opened {
        let mut packet = datagram.to_vec();
        let start = 1 + id_length;
        let sample = &datagram[start + 4..][..16];
        let mask = self.protection.new_mask(sample).unwrap();
        packet[0] ^= mask[0] & 0x1f;
        let number_length = usize::from(packet[0] & 0x03) + 1;
        let header = start + number_length;
        let masked = packet[start..header].iter_mut().zip(&mask[1..]);
        masked.for_each(|(byte, mask)| *byte ^= mask);
        let mut nonce = self.iv;
        let number = nonce
            .iter_mut()
            .rev()
            .zip(packet[start..header].iter().rev());
        number.for_each(|(byte, number)| *byte ^= number);
        let (header, sealed) = packet.split_at_mut(header);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let payload = self.key.open_in_place(nonce, Aad::from(header), sealed);
        let payload = payload.expect("not authentic").to_vec();
        assert_eq!(payload.len() + TAG, sealed.len());
        Opened {
            number_length,
            payload,
        }
    }
}
