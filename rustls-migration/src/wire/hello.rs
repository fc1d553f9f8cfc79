//! ClientHello (RFC 8446 section 4.1.2): what admission reads of it, and splicing extensions into it.
//!
//! It never changes a byte of a hello other than the two lengths that an insertion moves.

use super::{
    CLIENT_HELLO, EXT_EARLY_DATA, EXT_PRE_SHARED_KEY, EXT_PSK_KEY_EXCHANGE_MODES, EXT_SERVER_NAME,
    EXT_TICKET_REQUEST, MESSAGE_HEADER_LEN, Malformed, Reader, extensions, next_message, u24_bytes,
};
use crate::codepoints::Codepoints;
use crate::dialect::Dialect;

const PSK_DHE_KE: u8 = 1;
const NAME_TYPE_HOST: u8 = 0;

/// What a server wants to know of a ClientHello before its TLS library sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientHello<'a> {
    /// The host name of `server_name`.
    pub(crate) server_name: Option<&'a [u8]>,
    /// The data of draft -01's `migration_support`.
    pub(crate) migration_support: Option<&'a [u8]>,
    /// The data of `migration_token`.
    pub(crate) migration_token: Option<&'a [u8]>,
    /// The data of `migration_stream`, by which a client takes a checkpoint up.
    pub(crate) migration_stream: Option<&'a [u8]>,
    /// The data of draft -03's `migration_support`.
    pub(crate) experimental_support: Option<&'a [u8]>,
    /// Whether `psk_key_exchange_modes` has `psk_dhe_ke`.
    pub(crate) psk_dhe_ke: bool,
    /// The `pre_shared_key` extension.
    pub(crate) pre_shared_key: Option<PskOffer<'a>>,
    /// Whether early data follows: the `early_data` extension.
    pub(crate) early_data: bool,
    /// How many tickets the client wants (RFC 9149).
    pub(crate) ticket_request: Option<TicketRequest>,
}

/// How many tickets a client wants (RFC 9149 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TicketRequest {
    pub(crate) new_session: u8,
    pub(crate) resumption: u8,
}

/// The identities of a `pre_shared_key` extension with their binders, and what the binders cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PskOffer<'a> {
    identities: &'a [u8],
    binders: &'a [u8],
    /// The hello up to the list of binders, its length excluded (RFC 8446 section 4.2.11.2).
    pub(crate) truncated_hello: &'a [u8],
}

/// One identity of a `pre_shared_key` extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PskIdentity<'a> {
    pub(crate) ticket: &'a [u8],
    /// The ticket's age as the client sees it, in milliseconds, plus the ticket's `ticket_age_add` (RFC 8446 section 4.2.11.1).
    pub(crate) obfuscated_age: u32,
    pub(crate) binder: &'a [u8],
}

impl<'a> PskOffer<'a> {
    /// Identities with their binders, in the client's order. Ends at the first one that is malformed.
    pub(crate) fn iter(&self) -> impl Iterator<Item = PskIdentity<'a>> + use<'a> {
        let (mut identities, mut binders) =
            (Reader::new(self.identities), Reader::new(self.binders));
        std::iter::from_fn(move || {
            Some(PskIdentity {
                ticket: identities.vec16().ok()?,
                obfuscated_age: identities.u32().ok()?,
                binder: binders.vec8().ok()?,
            })
        })
    }
}

impl<'a> ClientHello<'a> {
    /// Reads one whole ClientHello message, header included.
    pub(crate) fn read(message: &'a [u8], codepoints: Codepoints) -> Result<Self, Malformed> {
        let (block, _) = extension_block(message)?;
        let mut hello = Self {
            server_name: None,
            migration_support: None,
            migration_token: None,
            migration_stream: None,
            experimental_support: None,
            psk_dhe_ke: false,
            pre_shared_key: None,
            early_data: false,
            ticket_request: None,
        };
        for extension in extensions(block) {
            let (kind, data) = extension?;
            if kind == codepoints.migration_support {
                set_once(&mut hello.migration_support, data)?;
            } else if kind == codepoints.migration_token {
                set_once(&mut hello.migration_token, data)?;
            } else if kind == codepoints.migration_stream {
                set_once(&mut hello.migration_stream, data)?;
            } else if kind == codepoints.experimental.migration_support {
                set_once(&mut hello.experimental_support, data)?;
            } else if kind == EXT_SERVER_NAME {
                hello.server_name = host_name(data)?;
            } else if kind == EXT_PSK_KEY_EXCHANGE_MODES {
                hello.psk_dhe_ke = Reader::new(data).vec8()?.contains(&PSK_DHE_KE);
            } else if kind == EXT_PRE_SHARED_KEY {
                hello.pre_shared_key = Some(psk_offer(message, data)?);
            } else if kind == EXT_EARLY_DATA {
                hello.early_data = true;
            } else if kind == EXT_TICKET_REQUEST {
                let [new_session, resumption] = Reader::new(data).array()?;
                hello.ticket_request = Some(TicketRequest {
                    new_session,
                    resumption,
                });
            }
        }
        Ok(hello)
    }

    /// The data of the extension by which the client says that it speaks this dialect.
    pub(crate) fn support(&self, dialect: Dialect) -> Option<&'a [u8]> {
        match dialect {
            Dialect::Draft01 => self.migration_support,
            Dialect::Draft03 => self.experimental_support,
        }
    }
}

fn set_once<'a>(slot: &mut Option<&'a [u8]>, data: &'a [u8]) -> Result<(), Malformed> {
    match slot.replace(data) {
        None => Ok(()),
        Some(_) => Err(Malformed),
    }
}

/// The extension block and the offset of its first byte in `message`.
fn extension_block(message: &[u8]) -> Result<(&[u8], usize), Malformed> {
    let mut reader = Reader::new(message);
    if reader.u8()? != CLIENT_HELLO || reader.u24()? != reader.remaining() {
        return Err(Malformed);
    }
    skip_to_extensions(&mut reader)?;
    let block = reader.vec16()?;
    if !reader.is_empty() {
        return Err(Malformed);
    }
    Ok((block, message.len() - block.len()))
}

/// Skips legacy_version, random, legacy_session_id, cipher_suites and legacy_compression_methods.
fn skip_to_extensions(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    reader.take(2 + 32)?;
    reader.vec8()?;
    reader.vec16()?;
    reader.vec8()?;
    Ok(())
}

fn host_name(data: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let mut names = Reader::new(Reader::new(data).vec16()?);
    while !names.is_empty() {
        let kind = names.u8()?;
        let name = names.vec16()?;
        if kind == NAME_TYPE_HOST {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// `pre_shared_key` must be the last extension, so that its binders end the message.
fn psk_offer<'a>(message: &'a [u8], data: &'a [u8]) -> Result<PskOffer<'a>, Malformed> {
    let mut reader = Reader::new(data);
    let identities = reader.vec16()?;
    let after_identities = reader.rest();
    let binders = reader.vec16()?;
    if !reader.is_empty() || !message.ends_with(data) {
        return Err(Malformed);
    }
    let truncated = message.len().checked_sub(after_identities.len());
    let truncated_hello = truncated
        .and_then(|len| message.get(..len))
        .ok_or(Malformed)?;
    Ok(PskOffer {
        identities,
        binders,
        truncated_hello,
    })
}

/// Inserts encoded extensions into a ClientHello, before `pre_shared_key` or else at the end.
///
/// `hello` may lack its binders, as it does when they are computed; its lengths already count them.
/// `None` when it is no ClientHello, or when it would become too long.
pub(crate) fn splice(hello: &[u8], encoded_extensions: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::new(hello);
    if reader.u8().ok()? != CLIENT_HELLO {
        return None;
    }
    let message_len = reader.u24().ok()?;
    skip_to_extensions(&mut reader).ok()?;
    let lengths_at = hello.len() - reader.remaining();
    let block_len = reader.u16().ok()?;
    let mut at = lengths_at + 2;
    while let Ok(kind) = reader.u16() {
        if kind == EXT_PRE_SHARED_KEY {
            break;
        }
        reader.vec16().ok()?;
        at = hello.len() - reader.remaining();
    }
    let added = u16::try_from(encoded_extensions.len()).ok()?;
    let block_len = block_len.checked_add(added)?;
    let message_len = u24_bytes(message_len + encoded_extensions.len())?;

    let mut out = Vec::with_capacity(hello.len() + encoded_extensions.len());
    out.push(CLIENT_HELLO);
    out.extend(message_len);
    out.extend_from_slice(hello.get(MESSAGE_HEADER_LEN..lengths_at)?);
    out.extend(block_len.to_be_bytes());
    out.extend_from_slice(hello.get(lengths_at + 2..at)?);
    out.extend_from_slice(encoded_extensions);
    out.extend_from_slice(hello.get(at..)?);
    Some(out)
}

/// Splices every ClientHello in a run of handshake messages, the last of which may lack its binders.
///
/// This is what a transcript hash sees: one message at a time, or several at once when the hash was not known
/// before. Whatever is not a ClientHello, and whatever [`splice`] cannot change, stays as it is.
pub(crate) fn splice_all(transcript: &[u8], encoded_extensions: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(transcript.len() + 2 * encoded_extensions.len());
    let mut rest = transcript;
    while !rest.is_empty() {
        let (message, tail) = next_message(rest).unwrap_or((rest, &[]));
        match splice(message, encoded_extensions) {
            Some(spliced) => out.extend(spliced),
            None => out.extend_from_slice(message),
        }
        rest = tail;
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::push_extension;

    /// A ClientHello with the given extensions.
    pub(crate) fn hello_with(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (kind, data) in extensions {
            push_extension(&mut block, *kind, data).unwrap();
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
        body.extend(block);
        let mut out = vec![CLIENT_HELLO];
        out.extend(u24_bytes(body.len()).unwrap());
        out.extend(body);
        out
    }

    /// A `pre_shared_key` extension with one identity and a binder of 32 bytes.
    pub(crate) fn psk_extension(identity: &[u8]) -> (u16, Vec<u8>) {
        let identity_len = u16::try_from(identity.len()).unwrap();
        let mut data = (identity_len + 6).to_be_bytes().to_vec();
        data.extend(identity_len.to_be_bytes());
        data.extend(identity);
        data.extend([1, 2, 3, 4]);
        data.extend([0, 33, 32]);
        data.extend([9; 32]);
        (EXT_PRE_SHARED_KEY, data)
    }

    fn token_extension() -> Vec<u8> {
        let mut out = Vec::new();
        push_extension(&mut out, Codepoints::default().migration_support, &[]).unwrap();
        push_extension(&mut out, Codepoints::default().migration_token, &[5; 98]).unwrap();
        out
    }

    #[test]
    fn spliced_extensions_are_read_and_pre_shared_key_stays_last() {
        let plain = hello_with(&[
            (EXT_SERVER_NAME, b"\x00\x06\x00\x00\x03abc".to_vec()),
            (EXT_PSK_KEY_EXCHANGE_MODES, vec![1, 1]),
            psk_extension(b"ticket"),
        ]);
        let spliced = splice(&plain, &token_extension()).unwrap();
        assert!(spliced.ends_with(&plain[plain.len() - 49..]));
        let hello = ClientHello::read(&spliced, Codepoints::default()).unwrap();
        assert_eq!(hello.migration_support, Some(&[][..]));
        assert_eq!(hello.migration_token, Some(&[5; 98][..]));
        assert_eq!(hello.server_name, Some(&b"abc"[..]));
        assert!(hello.psk_dhe_ke);
        let offer = hello.pre_shared_key.unwrap();
        let offered: Vec<_> = offer.iter().collect();
        let expected = PskIdentity {
            ticket: b"ticket",
            obfuscated_age: 0x0102_0304,
            binder: &[9; 32],
        };
        assert_eq!(offered, [expected]);
        assert_eq!(offer.truncated_hello.len(), spliced.len() - 35);
    }

    #[test]
    fn a_hello_without_its_binders_is_spliced_like_the_whole_one() {
        let plain = hello_with(&[(10, vec![1]), psk_extension(b"ticket")]);
        let whole = splice(&plain, &token_extension()).unwrap();
        let truncated = splice(&plain[..plain.len() - 35], &token_extension()).unwrap();
        assert_eq!(truncated, whole[..whole.len() - 35]);
    }

    #[test]
    fn repeated_migration_extensions_are_malformed() {
        let token = (Codepoints::default().migration_token, vec![1]);
        let hello = hello_with(&[token.clone(), token]);
        assert_eq!(
            ClientHello::read(&hello, Codepoints::default()),
            Err(Malformed)
        );
    }

    #[test]
    fn a_hello_that_would_overflow_its_lengths_is_left_alone() {
        let plain = hello_with(&[(10, vec![0; 60_000])]);
        assert_eq!(splice(&plain, &[0; 6_000]), None);
        assert_eq!(splice_all(&plain, &[0; 6_000]), plain);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = ClientHello::read(&bytes, Codepoints::default());
            let _ = splice(&bytes, &token_extension());
            let _ = splice_all(&bytes, &token_extension());
        }

        #[test]
        fn a_changed_or_cut_hello_is_read_or_refused(
            flip in any::<prop::sample::Index>(),
            value in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = splice(
                &hello_with(&[(EXT_PSK_KEY_EXCHANGE_MODES, vec![1, 1]), psk_extension(&[1; 200])]),
                &token_extension(),
            ).unwrap();
            let at = flip.index(bytes.len());
            bytes[at] = value;
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                let hello = ClientHello::read(bytes, Codepoints::default());
                if let Some(offer) = hello.ok().and_then(|hello| hello.pre_shared_key) {
                    offer.iter().for_each(drop);
                    prop_assert!(bytes.starts_with(offer.truncated_hello));
                }
            }
        }

        #[test]
        fn splicing_adds_just_the_extensions(
            before in prop::collection::vec((100u16..200, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
            psk in prop::option::of(prop::collection::vec(any::<u8>(), 1..80)),
        ) {
            let mut all = before.clone();
            all.extend(psk.iter().map(|identity| psk_extension(identity)));
            let spliced = splice(&hello_with(&all), &token_extension()).unwrap();
            let mut expected = before;
            expected.push((Codepoints::default().migration_support, vec![]));
            expected.push((Codepoints::default().migration_token, vec![5; 98]));
            expected.extend(psk.iter().map(|identity| psk_extension(identity)));
            prop_assert_eq!(spliced, hello_with(&expected));
        }
    }
}
