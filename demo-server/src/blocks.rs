//! The demo's second protocol: a download and an upload at the same time, in blocks, over one stream.
//!
//! After `SYNC <path>`, which is answered by a [`Header`](crate::protocol::Header) line, the client sends messages: a
//! [`Block`] line, and the bytes that it uploads with it. Each is answered by the bytes of the file that it asks for, in
//! order. A message says all that its answer needs, so the next one can go to another node. A message that was cut can be
//! [said again](BlockReader::rest) from where it was cut. No message is ever answered in part.

use std::fmt;

use crate::protocol::{LineReader, ProtocolError};

/// The most that one message asks for or uploads, in bytes.
pub const MAX_BLOCK: u64 = 64 * 1024;

/// A message's line: what is asked for, and what is uploaded with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first byte that is wanted, in bytes from the file's beginning.
    pub offset: u64,
    /// How many bytes are wanted.
    pub len: u64,
    /// Where in the upload the bytes belong that follow the line.
    pub upload_offset: u64,
    /// How many bytes follow the line.
    pub upload_len: u64,
}

impl Block {
    /// Reads a line without its end.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::Block`].
    pub fn parse(line: &str) -> Result<Self, ProtocolError> {
        let numbers = line.strip_prefix("BLOCK ").ok_or(ProtocolError::Block)?;
        let numbers: Vec<u64> = numbers
            .split(' ')
            .map(crate::protocol::decimal)
            .collect::<Option<_>>()
            .ok_or(ProtocolError::Block)?;
        match numbers.as_slice() {
            &[offset, len, upload_offset, upload_len]
                if len <= MAX_BLOCK
                    && upload_len <= MAX_BLOCK
                    && offset.checked_add(len).is_some()
                    && upload_offset.checked_add(upload_len).is_some() =>
            {
                Ok(Self {
                    offset,
                    len,
                    upload_offset,
                    upload_len,
                })
            }
            _ => Err(ProtocolError::Block),
        }
    }
}

/// The line, with its end.
impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            offset,
            len,
            upload_offset,
            upload_len,
        } = self;
        writeln!(f, "BLOCK {offset} {len} {upload_offset} {upload_len}")
    }
}

/// Something that a client said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes of its upload, and where they belong.
    Upload(u64, &'a [u8]),
    /// A message is complete: what it asks for. Its upload is none any more.
    Asked(Block),
}

/// Reads messages, however they are cut.
#[derive(Debug, Default)]
pub struct BlockReader {
    line: LineReader,
    /// The message under way, without the bytes of its upload that have come.
    block: Option<Block>,
}

impl BlockReader {
    /// Takes the next piece from `bytes`, which it shortens; `None` when there is none in it.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`].
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Piece<'a>>, ProtocolError> {
        loop {
            let Some(block) = &mut self.block else {
                if bytes.is_empty() {
                    return Ok(None);
                }
                let line = self.line.push(bytes)?;
                *bytes = line.as_ref().map_or(&[], |(_, rest)| *rest);
                self.block = line.map(|(line, _)| Block::parse(&line)).transpose()?;
                continue;
            };
            if block.upload_len == 0 {
                return Ok(self.block.take().map(Piece::Asked));
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            let want = usize::try_from(block.upload_len).unwrap_or(usize::MAX);
            let (upload, rest) = bytes.split_at(want.min(bytes.len()));
            *bytes = rest;
            let at = block.upload_offset;
            let len = u64::try_from(upload.len()).unwrap_or(u64::MAX);
            block.upload_offset += len;
            block.upload_len -= len;
            return Ok(Some(Piece::Upload(at, upload)));
        }
    }

    /// What another reader must be given to go on in this one's place.
    pub fn rest(&self) -> Vec<u8> {
        match &self.block {
            Some(block) => block.to_string().into_bytes(),
            None => self.line.partial().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The byte of an upload at `i`.
    fn numbered(i: u64) -> u8 {
        u8::try_from(i % 251).unwrap()
    }

    fn pieces(reader: &mut BlockReader, mut bytes: &[u8]) -> (Vec<u8>, Vec<Block>) {
        let (mut upload, mut asked) = (Vec::new(), Vec::new());
        while let Some(piece) = reader.next(&mut bytes).unwrap() {
            match piece {
                Piece::Upload(at, bytes) => {
                    assert_eq!(at, u64::try_from(upload.len()).unwrap());
                    upload.extend_from_slice(bytes);
                }
                Piece::Asked(block) => asked.push(block),
            }
        }
        (upload, asked)
    }

    #[test]
    fn malformed_messages_are_refused() {
        for line in [
            "",
            "BLOCK",
            "BLOCK 1 2 3",
            "BLOCK 1 2 3 4 5",
            "BLOCK 1 2 3 -4",
            "BLOCK 1 65537 0 0",
            "BLOCK 18446744073709551615 1 0 0",
        ] {
            assert_eq!(Block::parse(line), Err(ProtocolError::Block), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn a_conversation_that_is_cut_goes_on_in_another_reader(
            lens in prop::collection::vec((0..100u64, 0..30u64), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let (mut sent, mut blocks, mut uploaded) = (Vec::new(), Vec::new(), 0);
            for (len, upload_len) in lens {
                let block = Block { offset: 7, len, upload_offset: uploaded, upload_len };
                sent.extend(block.to_string().into_bytes());
                sent.extend((uploaded..uploaded + upload_len).map(numbered));
                uploaded += upload_len;
                blocks.push((block.offset, block.len));
            }
            let (first, second) = sent.split_at(cut.index(sent.len() + 1));
            let mut reader = BlockReader::default();
            let (mut upload, mut asked) = pieces(&mut reader, first);
            let mut next = BlockReader::default();
            let rest = [reader.rest().as_slice(), second].concat();
            let mut rest = rest.as_slice();
            while let Some(piece) = next.next(&mut rest).unwrap() {
                match piece {
                    Piece::Upload(at, bytes) => {
                        prop_assert_eq!(at, u64::try_from(upload.len()).unwrap());
                        upload.extend_from_slice(bytes);
                    }
                    Piece::Asked(block) => asked.push(block),
                }
            }
            prop_assert_eq!(upload, (0..uploaded).map(numbered).collect::<Vec<_>>());
            let asked: Vec<_> = asked.iter().map(|block| (block.offset, block.len)).collect();
            prop_assert_eq!(asked, blocks);
        }
    }
}
