//! Who a conversation is. It is decided once, where the conversation begins, and then stays in its state.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use super::state::IDENTITY_LEN;
use crate::tokio::TlsStream;

/// Who this conversation is, from now on and at each server: known to its two ends, and nobody else's.
pub(super) fn new_identity<IO>(stream: &TlsStream<IO>) -> io::Result<[u8; IDENTITY_LEN]>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let label = b"EXPORTER-rustls-migration conversation";
    let stream = stream.get_ref();
    let identity = stream
        .tls()
        .export_keying_material([0; IDENTITY_LEN], label, None);
    identity.map_err(io::Error::other)
}
