//! The line protocol of the demo, over TLS. A connection carries one request:
//!
//! - `GET <path> <offset>`, answered by a [`Header`] line and the file's bytes from the offset on;
//! - `ECHO`, answered by everything that the client sends after it;
//! - `SYNC <path>`, which begins a download and an upload at once (see [`blocks`](crate::blocks)).
//!
//! A client that closes its sending side leaves: an answer under way stops. A request can be repeated anywhere without
//! harm, so it may travel as early data. What goes wrong is answered by a line that begins with `ERROR`.

use std::fmt;

/// What ALPN calls it. Who names no protocol speaks this one too.
pub const ALPN: &[u8] = b"migration-demo";

/// The longest line, in bytes, its end included. It fits into early data.
pub const MAX_LINE: usize = 4096;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A file from an offset on.
    Get {
        /// The file's path below the node's root.
        path: String,
        /// The first byte that is wanted, in bytes from the file's beginning.
        offset: u64,
    },
    /// Everything sent, back.
    Echo,
    /// A file in blocks, and an upload besides.
    Sync {
        /// The file's path below the node's root.
        path: String,
    },
}

/// The first line of an answer with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The whole file's length in bytes, whatever the offset.
    pub size: u64,
    /// The whole file's SHA-256, 64 hexadecimal digits.
    pub sha256: String,
}

/// Why a line or an answer is not of this protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The line is too long, or not UTF-8.
    #[error("a line must be UTF-8 and at most {MAX_LINE} bytes long")]
    Line,
    /// The request is none of this protocol's.
    #[error("the request must be GET <path> <offset>, SYNC <path>, or ECHO")]
    Request,
    /// The message is none of this protocol's.
    #[error("the message must be BLOCK <offset> <length> <offset> <length>")]
    Block,
    /// The first line of the answer is not of this protocol.
    #[error("the answer does not begin with a header")]
    Header,
    /// The server says that it cannot answer.
    #[error("the server answers: {0}")]
    Refused(String),
}

impl Request {
    /// Reads a line without its end.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::Request`].
    pub fn parse(line: &str) -> Result<Self, ProtocolError> {
        if line == "ECHO" {
            return Ok(Self::Echo);
        }
        if let Some(path) = line.strip_prefix("SYNC ") {
            let path = path.to_owned();
            return Ok(Self::Sync { path });
        }
        let rest = line.strip_prefix("GET ").ok_or(ProtocolError::Request)?;
        let (path, offset) = rest.rsplit_once(' ').ok_or(ProtocolError::Request)?;
        Ok(Self::Get {
            path: path.to_owned(),
            offset: decimal(offset).ok_or(ProtocolError::Request)?,
        })
    }
}

/// The line, with its end.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get { path, offset } => writeln!(f, "GET {path} {offset}"),
            Self::Echo => writeln!(f, "ECHO"),
            Self::Sync { path } => writeln!(f, "SYNC {path}"),
        }
    }
}

impl Header {
    /// Reads a line without its end.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::Refused`] when the server says why it has no file to send, [`ProtocolError::Header`].
    pub fn parse(line: &str) -> Result<Self, ProtocolError> {
        if let Some(reason) = line.strip_prefix("ERROR ") {
            let printable = reason.chars().filter(|c| !c.is_control()).collect();
            return Err(ProtocolError::Refused(printable));
        }
        let (size, sha256) = line
            .strip_prefix("OK ")
            .and_then(|rest| rest.split_once(' '))
            .ok_or(ProtocolError::Header)?;
        let is_digest = sha256.len() == 64 && sha256.bytes().all(|c| c.is_ascii_hexdigit());
        match decimal(size) {
            Some(size) if is_digest => Ok(Self {
                size,
                sha256: sha256.to_owned(),
            }),
            Some(_) | None => Err(ProtocolError::Header),
        }
    }
}

/// The line, with its end.
impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "OK {} {}", self.size, self.sha256)
    }
}

/// The line that says why there is no answer, with its end.
pub fn refusal(reason: &impl fmt::Display) -> String {
    format!("ERROR {reason}\n")
}

/// Digits alone, no sign.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|c| c.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Collects the first line of what a peer sends, however it is cut.
#[derive(Debug, Default)]
pub struct LineReader(Vec<u8>);

impl LineReader {
    /// What has come of a line that is not complete.
    pub fn partial(&self) -> &[u8] {
        &self.0
    }

    /// Takes what came next. `Some` when the line is complete: the line without its end, and what came after it.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::Line`].
    pub fn push<'a>(
        &mut self,
        bytes: &'a [u8],
    ) -> Result<Option<(String, &'a [u8])>, ProtocolError> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        if self.0.len() + line.len() >= MAX_LINE {
            return Err(ProtocolError::Line);
        }
        self.0.extend_from_slice(line);
        let Some((_end, rest)) = rest.split_first() else {
            return Ok(None);
        };
        let line =
            String::from_utf8(std::mem::take(&mut self.0)).map_err(|_| ProtocolError::Line)?;
        let line = line.strip_suffix('\r').map(str::to_owned).unwrap_or(line);
        Ok(Some((line, rest)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn malformed_requests_are_refused() {
        for line in [
            "", "GET", "GET ", "GET a", "GET a -1", "GET a +1", "GET a 1 ", "get a 0", "ECHO ",
        ] {
            assert_eq!(
                Request::parse(line),
                Err(ProtocolError::Request),
                "{line:?}"
            );
        }
        let too_much = format!("GET a {}0", u64::MAX);
        assert_eq!(Request::parse(&too_much), Err(ProtocolError::Request));
    }

    #[test]
    fn a_line_without_end_is_refused_at_the_limit() {
        let mut reader = LineReader::default();
        assert_eq!(reader.push(&[b'a'; MAX_LINE - 1]), Ok(None));
        assert_eq!(reader.push(b"a"), Err(ProtocolError::Line));
    }

    #[test]
    fn a_refusal_says_why() {
        let line = refusal(&"no such file");
        let refused = Header::parse(line.trim_end()).unwrap_err();
        assert_eq!(refused.to_string(), "the server answers: no such file");
    }

    proptest! {
        #[test]
        fn a_request_reads_back(path in "[^\n\r]{0,80}", offset in any::<u64>()) {
            let request = Request::Get { path, offset };
            let line = request.to_string();
            prop_assert_eq!(Request::parse(line.strip_suffix('\n').unwrap()).unwrap(), request);
        }

        #[test]
        fn a_header_reads_back(size in any::<u64>(), sha256 in "[0-9a-f]{64}") {
            let header = Header { size, sha256 };
            prop_assert_eq!(Header::parse(header.to_string().trim_end()).unwrap(), header);
        }

        #[test]
        fn any_line_is_read_or_refused(line in "\\PC*") {
            let _ = Request::parse(&line);
            let _ = Header::parse(&line);
        }

        #[test]
        fn a_line_is_the_same_however_it_is_cut(
            line in "[^\n\r]{0,80}",
            rest in prop::collection::vec(any::<u8>(), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut sent = line.clone().into_bytes();
            sent.push(b'\n');
            let (first, second) = sent.split_at(cut.index(sent.len()));
            let second = [second, &rest].concat();
            let mut reader = LineReader::default();
            prop_assert_eq!(reader.push(first).unwrap(), None);
            prop_assert_eq!(reader.push(&second).unwrap(), Some((line, &rest[..])));
        }
    }
}
