//! The conversation that is measured: an echo, without a pause, before and after a change of servers.
//!
//! It counts time between answers; what the answers are is tested elsewhere.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::{HandshakeKind, ServerConfig};
use rustls_migration::client::{MigrationClient, NoWider};
use rustls_migration::provider;
use rustls_migration::server::MigrationServer;
use rustls_migration::tokio::{
    Event, Events, HandOff, MigrationAcceptor, MigrationConnector, MigrationStream, Preconnected,
    TlsStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::Change;
use super::line::{End, Line};
use super::moment::Exactness;
use crate::error::BenchError;
use crate::peers::Service;

const MESSAGE: [u8; 64] = [0x6d; 64];

/// Between two messages.
const PERIOD: Duration = Duration::from_millis(1);

/// After so many messages the client is told to move.
const MESSAGES_BEFORE: usize = 50;

/// So many answers are awaited after the change.
const ANSWERS_AFTER: usize = 50;

const A: ([u8; 4], u16) = ([127, 0, 0, 2], 1);
const B: ([u8; 4], u16) = ([127, 0, 0, 3], 1);

/// The longest time without an answer.
pub(super) async fn run(
    service: &Service,
    change: Change,
    round_trip: Duration,
    exactness: Exactness,
) -> Result<Duration, BenchError> {
    let line = Line::new(round_trip, exactness);
    let (a, b) = (SocketAddr::from(A), SocketAddr::from(B));
    let config = service.server_config(provider::wrap(service.stock_provider()), true)?;
    for (here, next) in [(a, Some(b)), (b, None)] {
        let acceptor = node(service, config.clone(), here)?;
        let mut incoming = line.listen(here);
        tokio::spawn(async move {
            while let Some(io) = incoming.recv().await {
                let acceptor = acceptor.clone();
                // A client that leaves without a word is no failure here.
                tokio::spawn(async move { serve(acceptor.accept(io).await?, next).await });
            }
        });
    }
    let connector = connector(service, change)?.dialer(line.clone());
    let stream = connector.connect(service.name()?, a).await?;
    // A connector of its own knows no session.
    let again = match change {
        Change::ReconnectFull => self::connector(service, change)?.dialer(line),
        Change::Nothing
        | Change::Overlap
        | Change::Drain
        | Change::ImmediateOpened
        | Change::Immediate
        | Change::ReconnectResumed => connector,
    };
    let client = Client {
        change,
        connector: again,
        name: service.name()?,
        events: stream.events(),
        stream,
        gap: Gap::default(),
        messages: Messages::new(exactness),
    };
    client.run(b).await
}

fn node(
    service: &Service,
    config: ServerConfig,
    here: SocketAddr,
) -> Result<MigrationAcceptor, BenchError> {
    let server = MigrationServer::builder(config, "bench", service.ticket_keys())
        .own_addresses([here])
        .nonce_store(Service::nonce_store())
        .build()?;
    Ok(server.into())
}

fn connector(service: &Service, change: Change) -> Result<MigrationConnector, BenchError> {
    let config = service.client_config(provider::wrap(service.stock_provider()), true)?;
    let client = MigrationClient::builder(config).target_policy(NoWider::any_port());
    let client = client.build()?;
    let mode = match change {
        Change::Overlap => HandOff::Overlap,
        Change::Drain => HandOff::Drain,
        Change::Nothing
        | Change::ImmediateOpened
        | Change::Immediate
        | Change::ReconnectResumed
        | Change::ReconnectFull => HandOff::Manual,
    };
    Ok(MigrationConnector::from(client).hand_off(mode))
}

async fn serve(mut stream: TlsStream<End>, next: Option<SocketAddr>) -> io::Result<()> {
    let (mut buf, mut heard) = ([0; 4096], 0);
    let mut next = next;
    loop {
        let len = stream.read(&mut buf).await?;
        if len == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(buf.get(..len).unwrap_or_default()).await?;
        stream.flush().await?;
        heard += len;
        if heard >= MESSAGES_BEFORE * MESSAGE.len()
            && let Some(target) = next.take()
        {
            stream.migrate_to(target, Some(&[])).await?;
        }
    }
}

/// The longest time between two answers.
#[derive(Default)]
struct Gap {
    last: Option<Instant>,
    longest: Duration,
    /// Bytes of answers since the change.
    since: usize,
}

impl Gap {
    fn answer(&mut self, len: usize) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
        self.since += len;
    }
}

/// When messages are sent.
struct Messages {
    exactness: Exactness,
    next: Instant,
}

impl Messages {
    fn new(exactness: Exactness) -> Self {
        Self {
            exactness,
            next: Instant::now(),
        }
    }

    /// Waits for the time of the next one.
    async fn tick(&mut self) {
        self.exactness.wait_until(self.next).await;
        self.reset();
    }

    /// The next one comes after a period, however late the last one was.
    fn reset(&mut self) {
        self.next = Instant::now() + PERIOD;
    }
}

struct Client {
    change: Change,
    /// For a connection that begins anew.
    connector: MigrationConnector,
    name: rustls::pki_types::ServerName<'static>,
    stream: MigrationStream,
    events: Events,
    gap: Gap,
    messages: Messages,
}

impl Client {
    async fn run(mut self, target: SocketAddr) -> Result<Duration, BenchError> {
        let mut buf = [0; 4096];
        let mut landed = false;
        while !landed || self.gap.since < ANSWERS_AFTER * MESSAGE.len() {
            tokio::select! {
                biased;
                event = self.events.next() => {
                    let event = event.ok_or(BenchError::Unexpected("the stream is gone"))?;
                    landed |= self.note(event, target).await?;
                }
                read = self.stream.read(&mut buf) => match read? {
                    0 => return Err(BenchError::Unexpected("the stream ended")),
                    len => self.gap.answer(len),
                },
                _ = self.messages.tick() => self.stream.write_all(&MESSAGE).await?,
            }
        }
        Ok(self.gap.longest)
    }

    /// Changes servers when it is time. `true` when that is done.
    async fn note(&mut self, event: Event, target: SocketAddr) -> Result<bool, BenchError> {
        match (event, self.change) {
            (Event::Ready { .. }, Change::Overlap) => {
                self.stream
                    .switch()
                    .map_err(|_| BenchError::Unexpected("no target is ready"))?;
                Ok(false)
            }
            (Event::Offered { .. }, Change::ImmediateOpened) => {
                let opened = self.converse_until_opened().await?;
                self.migrate(Some(opened)).await
            }
            (Event::Notified { .. }, Change::Immediate) => self.migrate(None).await,
            (Event::Notified { .. }, Change::ReconnectResumed | Change::ReconnectFull) => {
                self.reconnect(target).await
            }
            (Event::Migrated(_), Change::Overlap | Change::Drain)
            | (Event::Notified { .. }, Change::Nothing) => {
                self.gap.since = 0;
                Ok(true)
            }
            (Event::Stayed { .. } | Event::Refused { .. }, _) => {
                Err(BenchError::Unexpected("the client did not move"))
            }
            _ => Ok(false),
        }
    }

    /// Goes on while a connection to the target is opened.
    async fn converse_until_opened(&mut self) -> Result<Preconnected, BenchError> {
        let unmoved = |_| BenchError::Unexpected("there is no offer");
        let mut opened = Box::pin(self.stream.open_target().map_err(unmoved)?);
        let mut buf = [0; 4096];
        loop {
            tokio::select! {
                biased;
                read = self.stream.read(&mut buf) => self.gap.answer(read?),
                opened = &mut opened => return Ok(opened?),
                _ = self.messages.tick() => self.stream.write_all(&MESSAGE).await?,
            }
        }
    }

    async fn migrate(&mut self, opened: Option<Preconnected>) -> Result<bool, BenchError> {
        let landing = self
            .stream
            .migrate_over(opened, &MESSAGE)
            .await
            .map_err(|_| BenchError::Unexpected("the client did not move"))?;
        if landing.fell_back.is_some() || landing.handshake != HandshakeKind::Resumed {
            return Err(BenchError::Unexpected("the client fell back"));
        }
        self.gap.since = 0;
        self.messages.reset();
        Ok(true)
    }

    async fn reconnect(&mut self, target: SocketAddr) -> Result<bool, BenchError> {
        let expected = match self.change == Change::ReconnectFull {
            true => HandshakeKind::Full,
            false => HandshakeKind::Resumed,
        };
        self.stream.shutdown().await?;
        self.stream = self.connector.connect(self.name.clone(), target).await?;
        let kind = self.stream.get_ref().and_then(|tls| tls.handshake_kind());
        if kind != Some(expected) {
            return Err(BenchError::Unexpected("the handshake is of another kind"));
        }
        self.events = self.stream.events();
        self.stream.write_all(&MESSAGE).await?;
        self.gap.since = 0;
        self.messages.reset();
        Ok(true)
    }
}
