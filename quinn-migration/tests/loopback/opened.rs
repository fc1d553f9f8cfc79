//! Opening a captured 1-RTT packet with a logged secret, without the code under test (RFC 9001 section 5).

use std::fmt::Write as _;

use parking_lot::Mutex;
use ring::aead::quic::HeaderProtectionKey;
use ring::aead::{self, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA384, KeyType, Prk};

const TAG: usize = 16;

/// Collects TLS secrets in the NSS key log format.
#[derive(Debug, Default)]
pub struct KeyLog(Mutex<String>);

impl rustls::KeyLog for KeyLog {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| base16ct::lower::encode_string(bytes);
        writeln!(
            self.0.lock(),
            "{label} {} {}",
            hex(client_random),
            hex(secret)
        )
        .unwrap();
    }
}

impl KeyLog {
    pub fn text(&self) -> String {
        self.0.lock().clone()
    }
}

/// The client's keys of a connection with TLS13_AES_256_GCM_SHA384. quinn updates them once within the first thousand packets.
pub struct Opener {
    generations: Vec<Generation>,
    protection: HeaderProtectionKey,
}

/// Key updates that are opened (RFC 9001 section 6), and the keys before them.
const GENERATIONS: usize = 3;

struct Generation {
    key: LessSafeKey,
    iv: [u8; 12],
}

impl Generation {
    fn new(secret: &Prk) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &expand::<32>(secret, "quic key")).unwrap();
        Self {
            key: LessSafeKey::new(key),
            iv: expand(secret, "quic iv"),
        }
    }

    fn open(&self, number: &[u8], header: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = self.iv;
        let low = nonce.iter_mut().rev().zip(number.iter().rev());
        low.for_each(|(byte, number)| *byte ^= number);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let mut sealed = sealed.to_vec();
        let payload = self
            .key
            .open_in_place(nonce, Aad::from(header), &mut sealed);
        payload.ok().map(|payload| payload.to_vec())
    }
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
        let mut secret = Prk::new_less_safe(HKDF_SHA384, &secret);
        let protection = expand::<32>(&secret, "quic hp");
        let generations = std::iter::repeat_with(|| {
            let next = Prk::new_less_safe(HKDF_SHA384, &expand::<48>(&secret, "quic ku"));
            Generation::new(&std::mem::replace(&mut secret, next))
        });
        Self {
            generations: generations.take(GENERATIONS).collect(),
            protection: HeaderProtectionKey::new(&aead::quic::AES_256, &protection).unwrap(),
        }
    }

    fn mask(&self, datagram: &[u8], id_length: usize) -> [u8; 5] {
        let sample = &datagram[1 + id_length + 4..][..16];
        self.protection.new_mask(sample).unwrap()
    }

    /// Length of the packet number, in bytes.
    pub fn number_length(&self, datagram: &[u8], id_length: usize) -> usize {
        let first = datagram[0] ^ self.mask(datagram, id_length)[0];
        usize::from(first & 0x03) + 1
    }

    /// Opens a packet whose connection ID has `id_length` bytes and whose number fits in the bytes that it has.
    pub fn open(&self, datagram: &[u8], id_length: usize) -> Opened {
        let mut packet = datagram.to_vec();
        let start = 1 + id_length;
        let mask = self.mask(datagram, id_length);
        packet[0] ^= mask[0] & 0x1f;
        let number_length = self.number_length(datagram, id_length);
        let header = start + number_length;
        let masked = packet[start..header].iter_mut().zip(&mask[1..]);
        masked.for_each(|(byte, mask)| *byte ^= mask);
        let (header, sealed) = packet.split_at(header);
        let number = &header[start..];
        let mut generations = self.generations.iter();
        let payload = generations.find_map(|keys| keys.open(number, header, sealed));
        let payload = payload.expect("not authentic");
        assert_eq!(payload.len() + TAG, sealed.len());
        Opened {
            number_length,
            payload,
        }
    }
}
