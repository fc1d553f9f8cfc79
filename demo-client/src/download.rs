//! A download that goes on where the server sends it.
//!
//! Where to go on is the client's own count: no byte is asked for twice or left out, whatever was lost on the way.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use demo_server::program::Failure;
use demo_server::protocol::{Header, LineReader, Request};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use rustls_migration::tokio::{
    EarlyDataOutcome, Event, Events, MigrateError, MigrationConnector, MigrationOutcome,
    MigrationStream,
};
use serde::Serialize;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::{sleep, timeout};

use crate::legs::{Landing, Leg, Legs, Trigger};
use crate::output::Output;

/// How much is read at a time, in bytes.
const READ_LEN: usize = 64 * 1024;
/// How much is read of a server that goes on sending after it has asked to move, in bytes. What came before is less.
const READ_ON: usize = 1 << 20;
/// How long a server may take to close after its last byte.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// How long a node that cannot be reached is tried again, and how often. Its server has stopped sending meanwhile.
pub(crate) const PATIENCE: Duration = Duration::from_secs(6);
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What to download, and from where.
pub(crate) struct Job {
    pub(crate) connector: MigrationConnector,
    pub(crate) server_name: ServerName<'static>,
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// Move once this many bytes have been received.
    pub(crate) migrate_after: Option<u64>,
    /// The stream moves by itself.
    pub(crate) follows: bool,
}

/// A download that came to its end.
pub(crate) struct Download {
    /// What the first server said of the file.
    pub(crate) header: Header,
    /// The SHA-256 of what was received.
    pub(crate) sha256: String,
    /// The connections that it took; at least one.
    pub(crate) legs: Vec<Leg>,
    /// What was uploaded meanwhile.
    pub(crate) uploaded: Option<Uploaded>,
    /// How it survived its servers, if they were killed.
    pub(crate) recoveries: Option<Recoveries>,
    /// When the last byte was there, from the beginning.
    pub(crate) took: Duration,
}

/// How a stream survived its servers.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Recoveries {
    /// How often.
    pub(crate) recovered: u64,
    /// How many bytes were sent again.
    pub(crate) resent: usize,
    /// How many bytes the next servers left out, since they had come already.
    pub(crate) discarded: u64,
}

/// An upload, as it was sent and as it is at the nodes.
pub(crate) struct Uploaded {
    /// How many bytes the nodes have taken.
    pub(crate) bytes: u64,
    /// How many there were.
    pub(crate) bytes_expected: u64,
    pub(crate) sha256: String,
    pub(crate) sha256_expected: String,
}

impl Uploaded {
    /// Whether each byte came once and is where it belongs.
    pub(crate) fn is_intact(&self) -> bool {
        self.bytes == self.bytes_expected && self.sha256 == self.sha256_expected
    }
}

impl Download {
    /// Bytes received of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.legs.iter().map(|leg| leg.bytes).sum()
    }

    /// Whether the checksum is the one that the first server named.
    pub(crate) fn is_intact(&self) -> bool {
        self.sha256.eq_ignore_ascii_case(&self.header.sha256)
    }
}

/// What comes next of a stream.
enum Next {
    Data(usize),
    End,
    /// The server wants the client to move, and everything it sent before has been read.
    Move,
}

impl Job {
    /// Downloads into `output`.
    pub(crate) async fn run(self, output: Output) -> Result<Download, Failure> {
        let began = Instant::now();
        let failed = |error| Failure::wrong(format!("{} failed", self.address), &error);
        let mut stream = self
            .connector
            .connect(self.server_name.clone(), self.address)
            .await
            .map_err(|error| Failure::wrong("cannot connect", &error))?;
        let handshake = stream.get_ref().and_then(|tls| tls.handshake_kind());
        let handshake = handshake.unwrap_or(HandshakeKind::Full);
        let mut transfer = Transfer {
            connector: self.connector,
            server_name: self.server_name,
            address: self.address,
            path: self.path,
            migrate_after: self.migrate_after,
            follows: self.follows,
            read_since: 0,
            events: stream.events(),
            output,
            line: LineReader::default(),
            leg_header: None,
            header: None,
            received: 0,
            legs: Legs::new(began, self.address, handshake),
        };
        let request = transfer.request();
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        transfer.receive(&mut stream).await?;
        close(&mut stream).await;
        transfer.finish().await
    }
}

/// A download under way.
struct Transfer {
    connector: MigrationConnector,
    server_name: ServerName<'static>,
    /// Where it began.
    address: SocketAddr,
    path: String,
    migrate_after: Option<u64>,
    /// The stream moves by itself.
    follows: bool,
    /// How much has been read since the server asked to move, in bytes.
    read_since: usize,
    events: Events,
    output: Output,
    line: LineReader,
    /// What the present server said of the file.
    leg_header: Option<Header>,
    /// What the first server said of the file.
    header: Option<Header>,
    /// Bytes of the file so far: the offset at which to go on.
    received: u64,
    legs: Legs,
}

impl Transfer {
    async fn receive(&mut self, stream: &mut MigrationStream) -> Result<(), Failure> {
        let mut buf = vec![0; READ_LEN];
        loop {
            let next = self.next(stream, &mut buf).await.map_err(|error| {
                Failure::wrong(format!("{} failed", self.legs.server()), &error)
            })?;
            match next {
                Next::Data(len) => {
                    if self.take(buf.get(..len).unwrap_or_default()).await? {
                        return Ok(());
                    }
                    if stream.is_notified() && !self.follows {
                        self.read_since += len;
                    }
                    if self.read_since > READ_ON {
                        self.migrate(stream, self.legs.asks_by()).await?;
                    } else if self.migrate_after.is_some_and(|due| self.received >= due) {
                        self.migrate(stream, Trigger::Client).await?;
                    }
                }
                Next::Move => self.migrate(stream, self.legs.asks_by()).await?,
                Next::End => {
                    return Err(Failure::Wrong(format!(
                        "{} closed after {} bytes, before the end",
                        self.legs.server(),
                        self.received
                    )));
                }
            }
        }
    }

    /// Reads, and turns to the server's wish to move once there is nothing left to read.
    async fn next(&mut self, stream: &mut MigrationStream, buf: &mut [u8]) -> io::Result<Next> {
        std::future::poll_fn(|cx| {
            let mut buf = ReadBuf::new(buf);
            let read = Pin::new(&mut *stream).poll_read(cx, &mut buf);
            while let Some(event) = self.events.try_next() {
                match self.follows {
                    true => self.legs.event(&event),
                    false if matches!(event, Event::Notified { .. }) => self.legs.notified(),
                    false => self.legs.marked(&event),
                }
            }
            match read {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    Poll::Ready(Ok(Next::Data(buf.filled().len())))
                }
                // However the server ends after that, the client knows where to go.
                _ if stream.is_notified() && !self.follows => Poll::Ready(Ok(Next::Move)),
                Poll::Ready(read) => Poll::Ready(read.map(|()| Next::End)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Takes what the server sent. `true` when the file is complete.
    async fn take(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        self.legs.heard();
        let mut body = bytes;
        if self.leg_header.is_none() {
            match self.line.push(bytes) {
                Ok(None) => return Ok(false),
                Ok(Some((line, rest))) => {
                    self.take_header(&line)?;
                    body = rest;
                }
                Err(error) => return Err(Failure::wrong(self.legs.server(), &error)),
            }
        }
        let size = self.header.as_ref().map_or(0, |header| header.size);
        let len = u64::try_from(body.len()).unwrap_or(u64::MAX);
        if len > size.saturating_sub(self.received) {
            return Err(Failure::Wrong(format!(
                "{} sent more than the file's {size} bytes",
                self.legs.server()
            )));
        }
        self.output
            .take(body, size)
            .await
            .map_err(|error| Failure::wrong("the output cannot be written", &error))?;
        self.received += len;
        self.legs.count(len);
        Ok(self.received == size)
    }

    fn take_header(&mut self, line: &str) -> Result<(), Failure> {
        let header = Header::parse(line).map_err(|error| {
            Failure::usage(format!("{} from {}", self.path, self.legs.server()), &error)
        })?;
        if self.header.get_or_insert_with(|| header.clone()) != &header {
            return Err(Failure::Wrong(format!(
                "{} has another file",
                self.legs.server()
            )));
        }
        self.leg_header = Some(header);
        Ok(())
    }

    /// Goes on at the next server.
    async fn migrate(
        &mut self,
        stream: &mut MigrationStream,
        trigger: Trigger,
    ) -> Result<(), Failure> {
        let triggered = self.legs.triggered();
        let request = self.request();
        let landing = match move_on(stream, &request).await {
            Ok(outcome) => {
                if outcome.early_data == EarlyDataOutcome::Unknown {
                    // Asking again for a part of a file does no harm.
                    let asked = stream.write_all(request.as_bytes()).await;
                    asked.map_err(|error| {
                        Failure::wrong(format!("{} failed", outcome.at), &error)
                    })?;
                }
                Landing::from(&outcome)
            }
            Err(MigrateError::Unreachable(why)) => {
                self.start_again(stream, &request, why.to_string()).await?
            }
            Err(error) => {
                let what = format!("cannot move from {}", self.legs.server());
                return Err(Failure::wrong(what, &error));
            }
        };
        self.migrate_after = None;
        self.read_since = 0;
        self.line = LineReader::default();
        self.leg_header = None;
        self.legs.moved(trigger, triggered, landing);
        Ok(())
    }

    /// Asks the first server for the rest, in a new connection: the present server has stopped sending.
    async fn start_again(
        &mut self,
        stream: &mut MigrationStream,
        request: &str,
        why: String,
    ) -> Result<Landing, Failure> {
        let connected = self
            .connector
            .connect(self.server_name.clone(), self.address)
            .await;
        let fresh = connected
            .map_err(|error| Failure::wrong(format!("{why}, and there is no way back"), &error))?;
        self.events = fresh.events();
        let mut left = std::mem::replace(stream, fresh);
        // However its server takes it, the stream is of no use any more.
        let _ = left.shutdown().await;
        let asked = stream.write_all(request.as_bytes()).await;
        asked.map_err(|error| Failure::wrong(format!("{} failed", self.address), &error))?;
        let handshake = stream.get_ref().and_then(|tls| tls.handshake_kind());
        Ok(Landing {
            at: self.address,
            handshake: handshake.unwrap_or(HandshakeKind::Full),
            early_data: false,
            fell_back: Some(why),
        })
    }

    fn request(&self) -> String {
        let request = Request::Get {
            path: self.path.clone(),
            offset: self.received,
        };
        request.to_string()
    }

    async fn finish(self) -> Result<Download, Failure> {
        let (legs, took) = self.legs.finish();
        let header = self
            .header
            .ok_or_else(|| Failure::Wrong("there was no answer".to_owned()))?;
        let sha256 = self
            .output
            .finish()
            .await
            .map_err(|error| Failure::wrong("the output cannot be written", &error))?;
        Ok(Download {
            header,
            sha256,
            legs,
            uploaded: None,
            recoveries: None,
            took,
        })
    }
}

/// Moves to where the newest offer leads, also when nobody is there before a short while is over.
async fn move_on(
    stream: &mut MigrationStream,
    request: &str,
) -> Result<MigrationOutcome, MigrateError> {
    let started = Instant::now();
    loop {
        match stream.open_target()?.await {
            Ok(target) => return stream.migrate_over(target, request.as_bytes()).await,
            Err(error) if started.elapsed() > PATIENCE => {
                return Err(MigrateError::Unreachable(Arc::new(error)));
            }
            Err(_) => sleep(RETRY_PAUSE).await,
        }
    }
}

/// Closes in order. The file is complete, so it does not matter how the server does.
pub(crate) async fn close(stream: &mut MigrationStream) {
    let mut ignored = [0; 64];
    let _ = stream.shutdown().await;
    let _ = timeout(CLOSE_LIMIT, stream.read(&mut ignored)).await;
}
