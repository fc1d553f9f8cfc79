//! A download and an upload at once, over one stream that goes from node to node.
//!
//! It asks for each block once and sends each byte once, whatever happens to the stream.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use demo_server::blocks::Block;
use demo_server::program::Failure;
use demo_server::protocol::{Header, LineReader, Request};
use demo_server::upload::Upload;
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use rustls_migration::tokio::{Event, Events, MigrationConnector, MigrationStream};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use crate::download::{Download, Recoveries, Uploaded, close};
use crate::legs::Legs;
use crate::mortal::Mortals;
use crate::output::Output;

/// How many messages may wait for their answers.
const WINDOW: u64 = 8;
/// The most that a message asks for and uploads, in bytes.
const MAX_BLOCK: u64 = 16 * 1024;
/// How many messages each node gets at least. A client has something left to say in each of its hand-offs then.
const MESSAGES: u64 = 4 * WINDOW;
const READ_LEN: usize = 64 * 1024;

/// The shortest file for so many nodes, in bytes.
pub(crate) fn shortest(nodes: u64) -> u64 {
    nodes * MESSAGES
}

/// What to exchange, and with whom.
pub(crate) struct Job {
    pub(crate) connector: MigrationConnector,
    pub(crate) server_name: ServerName<'static>,
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// What is uploaded; as long as the file.
    pub(crate) source: Vec<u8>,
    /// How much of the file each node is meant to serve, in bytes.
    pub(crate) share: u64,
    /// Where the nodes keep the upload.
    pub(crate) upload: Upload,
    /// The nodes that are killed on the way.
    pub(crate) mortals: Option<Mortals>,
}

impl Job {
    /// Downloads into `output`.
    pub(crate) async fn run(self, output: Output) -> Result<Download, Failure> {
        let began = Instant::now();
        let stream = self
            .connector
            .connect(self.server_name.clone(), self.address)
            .await
            .map_err(|error| Failure::wrong("cannot connect", &error))?;
        let handshake = stream.get_ref().and_then(|tls| tls.handshake_kind());
        let handshake = handshake.unwrap_or(HandshakeKind::Full);
        let mut exchange = Exchange {
            events: stream.events(),
            stream,
            legs: Legs::new(began, self.address, handshake),
            outbox: Request::Sync { path: self.path }.to_string().into_bytes(),
            block: (self.share / MESSAGES).clamp(1, MAX_BLOCK),
            asked: 0,
            received: 0,
            source: self.source,
            switch: false,
            recoveries: self.mortals.is_some().then(Recoveries::default),
            mortals: self.mortals,
            trouble: None,
        };
        let (header, sha256) = exchange.run(output).await?;
        close(&mut exchange.stream).await;
        let failed = |error| Failure::wrong("the upload", &error);
        let uploaded = Uploaded {
            bytes: self.upload.received().map_err(failed)?,
            bytes_expected: exchange.size(),
            sha256: self.upload.sha256().map_err(failed)?,
            sha256_expected: base16ct::lower::encode_string(&Sha256::digest(&exchange.source)),
        };
        let (legs, took) = exchange.legs.finish();
        Ok(Download {
            header,
            sha256,
            legs,
            uploaded: Some(uploaded),
            recoveries: exchange.recoveries,
            took,
        })
    }
}

struct Exchange {
    stream: MigrationStream,
    events: Events,
    legs: Legs,
    /// What is being sent: the rest of a message.
    outbox: Vec<u8>,
    /// The length of a block.
    block: u64,
    /// How much of the file has been asked for, and how much of it has come.
    asked: u64,
    received: u64,
    source: Vec<u8>,
    /// The next node is ready, and gets the next message.
    switch: bool,
    /// How the stream has survived its nodes, if they are killed.
    recoveries: Option<Recoveries>,
    mortals: Option<Mortals>,
    /// What keeps the stream from following.
    trouble: Option<String>,
}

impl Exchange {
    fn size(&self) -> u64 {
        u64::try_from(self.source.len()).unwrap_or(u64::MAX)
    }

    async fn run(&mut self, mut output: Output) -> Result<(Header, String), Failure> {
        let mut buf = vec![0; READ_LEN];
        let (mut line, mut header) = (LineReader::default(), None);
        while header.is_none() || self.received < self.size() {
            let read = std::future::poll_fn(|cx| self.poll_next(cx, &mut buf)).await;
            let len = read.map_err(|error| self.failed(&error))?;
            if len == 0 {
                return Err(self.failed(&io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
            self.legs.heard();
            let mut bytes = buf.get(..len).unwrap_or_default();
            if header.is_none() {
                let invalid = |error| Failure::wrong("the answer", &error);
                let Some((first, rest)) = line.push(bytes).map_err(invalid)? else {
                    continue;
                };
                header = Some(Header::parse(&first).map_err(invalid)?);
                bytes = rest;
            }
            let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            self.received += len;
            self.legs.count(len);
            if let (Some(mortals), Some(recoveries)) = (&mut self.mortals, &self.recoveries) {
                mortals.kill_if_due(recoveries.recovered, self.received);
            }
            if self.received > self.asked {
                return Err(Failure::Wrong("more came than was asked for".to_owned()));
            }
            let taken = output.take(bytes, self.size()).await;
            taken.map_err(|error| Failure::wrong("the output", &error))?;
        }
        let sha256 = output.finish().await;
        let sha256 = sha256.map_err(|error| Failure::wrong("the output", &error))?;
        let header = header.ok_or_else(|| Failure::Wrong("there was no answer".to_owned()))?;
        Ok((header, sha256))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        let trouble = self.trouble.as_deref().unwrap_or_default();
        let (server, received) = (self.legs.server(), self.received);
        Failure::wrong(
            format!("{server} failed after {received} bytes{trouble}"),
            error,
        )
    }

    /// Sends what may be sent, and then reads. The order matters: what a client has to say when its side of the old
    /// connection is closed goes with the hello to the next node.
    fn poll_next(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut progress = self.take_events();
            if self.switch && self.outbox.is_empty() {
                self.switch = false;
                self.stream.switch().map_err(io::Error::other)?;
            }
            self.ask();
            if !self.outbox.is_empty()
                && let Poll::Ready(sent) =
                    Pin::new(&mut self.stream).poll_write(cx, &self.outbox)?
            {
                self.outbox.drain(..sent);
                progress = true;
            }
            let mut buf = ReadBuf::new(buf);
            if Pin::new(&mut self.stream)
                .poll_read(cx, &mut buf)?
                .is_ready()
            {
                self.take_events();
                return Poll::Ready(Ok(buf.filled().len()));
            }
            if !self.take_events() && !progress {
                return Poll::Pending;
            }
        }
    }

    /// Begins a message if the last one is gone and there are not too many without an answer.
    fn ask(&mut self) {
        let waiting = self.asked - self.received;
        let len = self.block.min(self.size() - self.asked);
        if !self.outbox.is_empty() || len == 0 || waiting > self.block * (WINDOW - 1) {
            return;
        }
        let block = Block {
            offset: self.asked,
            len,
            upload_offset: self.asked,
            upload_len: len,
        };
        let range = |at| usize::try_from(at).unwrap_or(usize::MAX);
        let upload = self.source.get(range(self.asked)..range(self.asked + len));
        self.outbox.extend_from_slice(block.to_string().as_bytes());
        self.outbox.extend_from_slice(upload.unwrap_or_default());
        self.asked += len;
    }

    /// Notices what happened to the stream; `false` when nothing did.
    fn take_events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.events.try_next() {
            any = true;
            self.legs.event(&event);
            if matches!(event, Event::Ready { .. }) {
                self.switch = true;
            }
            if let (Event::Recovered(outcome), Some(recoveries)) = (&event, &mut self.recoveries) {
                recoveries.recovered += 1;
                recoveries.resent += outcome.resent;
                recoveries.discarded += outcome.received;
            }
            if let Event::Stayed { .. } | Event::Refused { .. } | Event::OfferRefused(_) = event {
                self.trouble = Some(format!(" ({event:?})"));
            }
        }
        any
    }
}
