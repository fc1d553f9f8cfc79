//! A download and an upload at the same time, which go on at the next node where this one stops.
//!
//! What is handed over is what the next node must read first to stand where this one stood: the request, and the message
//! that was cut. A node answers all that it was asked.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use rustls_migration::tokio::TlsStream;
use rustls_migration::tokio::conversation::{Checkpointed, Checkpoints};
use tokio::fs::File;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncSeekExt as _, AsyncWrite, AsyncWriteExt as _, SeekFrom,
};

use crate::blocks::{Block, BlockReader, MAX_BLOCK, Piece};
use crate::files::Opened;
use crate::protocol::Request;
use crate::serve::End;
use crate::upload::Upload;

/// How much is read from the client at a time, in bytes.
const READ_LEN: usize = 64 * 1024;

/// What a node takes uploads into, and when it moves those who upload.
#[derive(Clone, Debug)]
pub struct Exchanges {
    /// Where uploads are kept.
    pub upload: Upload,
    /// Where clients go on; `None` at the last node.
    pub next: Option<Next>,
    /// Where clients go on if this node dies; `None` when it makes no checkpoints.
    pub survivor: Option<SocketAddr>,
}

/// The node that clients go on at.
#[derive(Clone, Copy, Debug)]
pub struct Next {
    /// Its address.
    pub node: SocketAddr,
    /// A client is told to move when it asks for this byte of the file or one behind it.
    pub notice_at: u64,
    /// What a client asks for from this byte on it gets only when it has left: the next node has its share, too.
    pub wait_at: u64,
}

/// One client's exchange at this node.
pub(crate) struct Sync<'a, IO> {
    stream: Checkpointed<'a, IO>,
    exchanges: &'a Exchanges,
    path: String,
    file: File,
    reader: BlockReader,
    /// Asked for, and not answered until the client has left.
    waiting: VecDeque<Block>,
    told: bool,
    sent: u64,
}

impl<'a, IO> Sync<'a, IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    pub(crate) fn new(
        stream: &'a mut TlsStream<IO>,
        exchanges: &'a Exchanges,
        path: String,
        opened: Opened,
    ) -> Self {
        let survivor = exchanges.survivor;
        let checkpoints = survivor.map_or_else(Checkpoints::none, Checkpoints::to);
        Self {
            stream: Checkpointed::new(stream, checkpoints),
            exchanges,
            path,
            file: opened.file,
            reader: BlockReader::default(),
            waiting: VecDeque::new(),
            told: false,
            sent: 0,
        }
    }

    /// How many bytes of the file have been sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Serves until the client closes its side, and answers all that it asked by then. `received` was read before.
    pub(crate) async fn run(&mut self, received: &[u8]) -> io::Result<End> {
        self.take(received).await?;
        self.settle().await?;
        let mut buf = vec![0; READ_LEN];
        loop {
            let len = self.stream.read(&mut buf).await?;
            if len == 0 {
                break;
            }
            self.take(buf.get(..len).unwrap_or_default()).await?;
            self.settle().await?;
        }
        while let Some(block) = self.waiting.pop_front() {
            self.answer(block).await?;
        }
        let state = self.state();
        self.stream.tls().set_state(&state)?;
        Ok(match self.told {
            true => End::Moved,
            false => End::Answered,
        })
    }

    /// What the next node must read first.
    fn state(&self) -> Vec<u8> {
        let request = Request::Sync {
            path: self.path.clone(),
        };
        [request.to_string().as_bytes(), &self.reader.rest()].concat()
    }

    /// All that was read has been answered, or is in the state, and what was uploaded is kept where the survivor finds it.
    async fn settle(&mut self) -> io::Result<()> {
        let state = self.state();
        self.stream.settle(&state).await
    }

    async fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let refused = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        while let Some(piece) = self.reader.next(&mut bytes).map_err(refused)? {
            match piece {
                Piece::Upload(offset, bytes) => self.exchanges.upload.keep(offset, bytes).await?,
                Piece::Asked(block) => self.asked(block).await?,
            }
        }
        self.stream.flush().await
    }

    async fn asked(&mut self, block: Block) -> io::Result<()> {
        let Some(next) = self.exchanges.next else {
            return self.answer(block).await;
        };
        if !self.told && block.offset >= next.notice_at {
            self.told = true;
            let request = Request::Sync {
                path: self.path.clone(),
            };
            self.stream
                .tls()
                .migrate_to(next.node, Some(request.to_string().as_bytes()))
                .await?;
            tracing::info!(sent = self.sent, to = %next.node, "told to move");
        }
        if block.offset >= next.wait_at {
            self.waiting.push_back(block);
            return Ok(());
        }
        self.answer(block).await
    }

    async fn answer(&mut self, block: Block) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(block.len.min(MAX_BLOCK)).unwrap_or_default()];
        self.file.seek(SeekFrom::Start(block.offset)).await?;
        self.file.read_exact(&mut bytes).await?;
        self.stream.write_all(&bytes).await?;
        self.sent += block.len;
        Ok(())
    }
}
