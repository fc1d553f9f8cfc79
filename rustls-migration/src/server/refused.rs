//! Early data that is refused (RFC 8446 section 4.2.10): its records are dropped here, before rustls sees them.
//!
//! rustls can skip refused early data too. But it keeps the records until it can read another one, counts each of them
//! again with all that follow, and has room for one of 16 KiB. So early data of more than some 8 KB, or in many small
//! records, would cost the client its connection.
//!
//! A record is dropped only if the client wrote it before it knew of the refusal: before its second hello, or before the
//! first record that the handshake's key opens.

use std::fmt;
use std::io::{self, Read};

use rustls::{HandshakeKind, ProtocolVersion};

use super::hook::ServerHook;
use crate::provider::SharedDecrypter;
use crate::wire::record::{APPLICATION_DATA, HANDSHAKE, HEADER_LEN, Record, next_record};

/// How much is read at a time, in bytes.
const READ_LEN: usize = 4096;

/// So many records are dropped at least (`docs/protocol.md` section 3): each has a byte of early data.
const LEAST_RECORDS: u32 = 16_384;

/// Length of a record with one byte of early data: header, the byte, content type, tag.
const SMALLEST_RECORD_LEN: usize = HEADER_LEN + 1 + 1 + 16;

/// Largest record that TLS 1.3 allows, without its header (RFC 8446 section 5.2).
const MAX_CIPHERTEXT_LEN: usize = (1 << 14) + 256;

/// Stands between the transport and rustls for as long as refused early data may come.
pub(super) struct EarlyDataFilter {
    stage: Stage,
    /// What was received. rustls has seen the first `done` bytes, or is not to see them.
    received: Vec<u8>,
    done: usize,
    budget: Budget,
}

enum Stage {
    /// The hello is not answered.
    Hello,
    /// It was answered by a HelloRetryRequest, which refuses early data. The second hello ends it.
    Retry,
    /// It was answered and its early data refused. The first record that this opens ends it.
    Refused(SharedDecrypter),
}

/// What is to be done next.
pub(super) enum Next<'a> {
    /// Receive more.
    Receive,
    /// Give rustls this record, and ask [`EarlyDataFilter::goes_on`].
    Record(&'a [u8]),
    /// Give rustls this, and all that comes later: no early data is to be dropped any more.
    Over(&'a [u8]),
}

impl EarlyDataFilter {
    /// For a client that announces early data, at a server that takes `max_early_data_size` bytes of it.
    pub(super) fn new(max_early_data_size: u32) -> Self {
        Self {
            stage: Stage::Hello,
            received: Vec::new(),
            done: 0,
            budget: Budget::new(max_early_data_size),
        }
    }

    /// Reads once.
    pub(super) fn read(&mut self, rd: &mut dyn Read) -> io::Result<usize> {
        let mut chunk = [0; READ_LEN];
        let len = rd.read(&mut chunk)?;
        self.received.drain(..self.done);
        self.done = 0;
        self.received
            .extend_from_slice(chunk.get(..len).unwrap_or_default());
        Ok(len)
    }

    /// Drops the refused early data that came, up to something else.
    pub(super) fn next(&mut self) -> Next<'_> {
        let Self {
            stage,
            received,
            done,
            budget,
        } = self;
        loop {
            let rest = received.get(*done..).unwrap_or_default();
            if let [_, _, _, high, low, ..] = rest
                && usize::from(u16::from_be_bytes([*high, *low])) > MAX_CIPHERTEXT_LEN
            {
                // rustls knows the right alert.
                return Next::Over(rest);
            }
            let Some((record, _)) = next_record(rest) else {
                return Next::Receive;
            };
            let len = record.whole.len();
            match stage.judge(&record) {
                Judgement::Pass => {
                    *done += len;
                    return Next::Record(record.whole);
                }
                Judgement::Drop if budget.spend(len) => *done += len,
                Judgement::Drop | Judgement::End => return Next::Over(rest),
            }
        }
    }

    /// Whether refused early data may still come, now that rustls has processed a record.
    pub(super) fn goes_on(
        &mut self,
        tls: &mut rustls::ServerConnection,
        hook: &ServerHook,
    ) -> bool {
        if !matches!(self.stage, Stage::Hello) {
            return true;
        }
        let answered = match tls.protocol_version() {
            // The rest of the hello is yet to come.
            None => return true,
            Some(ProtocolVersion::TLSv1_3) => tls.handshake_kind(),
            // TLS 1.2 has no early data.
            Some(_) => return false,
        };
        let stage = match answered {
            None => return true,
            Some(HandshakeKind::FullWithHelloRetryRequest) => Some(Stage::Retry),
            Some(HandshakeKind::Full | HandshakeKind::Resumed) => hook
                .take_decrypter()
                .filter(|_| tls.early_data().is_none())
                .map(Stage::Refused),
        };
        stage.map(|stage| self.stage = stage).is_some()
    }

    /// What was received and rustls has not seen.
    pub(super) fn into_rest(mut self) -> Vec<u8> {
        self.received.drain(..self.done);
        self.received
    }
}

enum Judgement {
    /// It is for rustls.
    Pass,
    /// It is refused early data.
    Drop,
    /// It is for rustls, and no refused early data follows.
    End,
}

impl Stage {
    fn judge(&self, record: &Record<'_>) -> Judgement {
        match (self, record.kind) {
            (Self::Hello, _) => Judgement::Pass,
            (Self::Retry, HANDSHAKE) => Judgement::End,
            (Self::Refused(decrypter), APPLICATION_DATA)
                if decrypter.opens_first(record.fragment) =>
            {
                Judgement::End
            }
            (Self::Retry | Self::Refused(_), APPLICATION_DATA) => Judgement::Drop,
            (Self::Retry | Self::Refused(_), _) => Judgement::Pass,
        }
    }
}

/// How much is still dropped.
struct Budget {
    records: u32,
    bytes: usize,
}

impl Budget {
    fn new(max_early_data_size: u32) -> Self {
        let records = max_early_data_size.max(LEAST_RECORDS);
        let bytes = usize::try_from(records).unwrap_or(usize::MAX);
        Self {
            records,
            bytes: bytes.saturating_mul(SMALLEST_RECORD_LEN),
        }
    }

    /// Takes a record of `len` bytes out of the budget, if that has room for it.
    fn spend(&mut self, len: usize) -> bool {
        let left = self.records.checked_sub(1).zip(self.bytes.checked_sub(len));
        left.map(|(records, bytes)| *self = Self { records, bytes })
            .is_some()
    }
}

/// Leaves keys and data out.
impl fmt::Debug for EarlyDataFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlyDataFilter").finish_non_exhaustive()
    }
}
