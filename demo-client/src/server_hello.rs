//! What a ServerHello says about the session (RFC 8446 sections 4.1.3 and 5.1), as anybody on the wire can read it.
//!
//! It never guesses: what is no ServerHello is an error.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

const RECORD_HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;
const PRE_SHARED_KEY: u16 = 41;

/// Reads the first record from `io` and tells whether its ServerHello resumes a session: whether it has a
/// `pre_shared_key`.
pub(crate) async fn read_resumes(io: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
    let content_type = io.read_u8().await?;
    let _legacy_version = io.read_u16().await?;
    let mut record = vec![0; usize::from(io.read_u16().await?)];
    io.read_exact(&mut record).await?;
    let hello = match content_type {
        RECORD_HANDSHAKE => resumes(&record),
        _ => None,
    };
    hello.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is no ServerHello"))
}

fn resumes(record: &[u8]) -> Option<bool> {
    let (message_type, rest) = record.split_first()?;
    let (_length, rest) = rest.split_at_checked(3)?;
    let (_version_and_random, rest) = rest.split_at_checked(2 + 32)?;
    let (session_id_len, rest) = rest.split_first()?;
    let (_session_id, rest) = rest.split_at_checked(usize::from(*session_id_len))?;
    let (_suite_and_compression, rest) = rest.split_at_checked(2 + 1)?;
    let (len, rest) = u16_prefix(rest)?;
    let mut extensions = rest.get(..usize::from(len))?;
    let mut resumes = false;
    while !extensions.is_empty() {
        let (extension, rest) = u16_prefix(extensions)?;
        let (len, rest) = u16_prefix(rest)?;
        extensions = rest.get(usize::from(len)..)?;
        resumes |= extension == PRE_SHARED_KEY;
    }
    (*message_type == SERVER_HELLO).then_some(resumes)
}

fn u16_prefix(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (value, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*value), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ServerHello with these extensions, empty.
    fn hello(extensions: &[u16]) -> Vec<u8> {
        let mut body = vec![3; 2 + 32];
        body.extend([2, 0, 0, 0x13, 1, 0]);
        body.extend(u16::try_from(4 * extensions.len()).unwrap().to_be_bytes());
        for extension in extensions {
            body.extend(extension.to_be_bytes());
            body.extend([0, 0]);
        }
        let mut message = vec![SERVER_HELLO, 0, 0, u8::try_from(body.len()).unwrap()];
        message.extend(body);
        message
    }

    #[test]
    fn a_hello_resumes_when_it_has_a_pre_shared_key() {
        assert_eq!(resumes(&hello(&[51, 43])), Some(false));
        assert_eq!(resumes(&hello(&[51, 41, 43])), Some(true));
    }

    #[test]
    fn what_is_cut_is_no_hello() {
        let whole = hello(&[51, 41]);
        for len in 0..whole.len() {
            assert_eq!(resumes(&whole[..len]), None, "{len}");
        }
    }

    #[tokio::test]
    async fn an_alert_is_no_hello() {
        let mut alert: &[u8] = &[21, 3, 3, 0, 2, 2, 51];
        assert!(read_resumes(&mut alert).await.is_err());
    }
}
