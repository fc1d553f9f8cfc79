//! The way of a stream from server to server, with its times.
//!
//! It watches; it decides nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustls::HandshakeKind;
use rustls_migration::tokio::{EarlyDataOutcome, Event, MigrationOutcome, RecoveryOutcome};

/// One connection of a download.
pub(crate) struct Leg {
    pub(crate) server: SocketAddr,
    pub(crate) handshake: HandshakeKind,
    /// Whether what the client said first went as early data and was accepted.
    pub(crate) early_data: bool,
    /// Bytes of the file, not of its header.
    pub(crate) bytes: u64,
    /// When its handshake was complete, from the download's beginning.
    pub(crate) connected: Duration,
    /// What brought the stream here; `None` for the first connection.
    pub(crate) migration: Option<Migration>,
}

/// A move from one connection to the next.
pub(crate) struct Migration {
    pub(crate) trigger: Trigger,
    /// When the client learned of it or decided it, from the download's beginning.
    pub(crate) triggered: Duration,
    /// When the first byte of the next server's answer was there, from the download's beginning.
    pub(crate) first_byte: Option<Duration>,
    /// The longest time without a byte from the trigger to the first byte of the next server's answer. It began with the
    /// last byte before the trigger.
    pub(crate) stall: Duration,
    /// Why the stream is not where the server sent it.
    pub(crate) fell_back: Option<String>,
}

impl Migration {
    /// From the trigger to the first byte of the next server's answer.
    pub(crate) fn waited(&self) -> Option<Duration> {
        Some(self.first_byte?.saturating_sub(self.triggered))
    }
}

/// Where a move ended.
pub(crate) struct Landing {
    pub(crate) at: SocketAddr,
    pub(crate) handshake: HandshakeKind,
    /// Whether what the client said first went as early data and was accepted.
    pub(crate) early_data: bool,
    /// Why that is not where the server sent the stream.
    pub(crate) fell_back: Option<String>,
}

impl From<&MigrationOutcome> for Landing {
    fn from(outcome: &MigrationOutcome) -> Self {
        Self {
            at: outcome.at,
            handshake: outcome.handshake,
            early_data: outcome.early_data == EarlyDataOutcome::Accepted,
            fell_back: outcome.fell_back.as_ref().map(ToString::to_string),
        }
    }
}

impl From<&RecoveryOutcome> for Landing {
    fn from(outcome: &RecoveryOutcome) -> Self {
        Self {
            at: outcome.at,
            handshake: HandshakeKind::Resumed,
            early_data: outcome.early_data == EarlyDataOutcome::Accepted,
            fell_back: None,
        }
    }
}

/// Who wanted a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// The server, by the alert of draft -01.
    Notify,
    /// The server, by the message of draft -03.
    Request,
    Client,
    /// The server was lost.
    Death,
}

impl Trigger {
    /// How reports call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Notify => "migrate_notify",
            Self::Request => "migrate_request",
            Self::Client => "client",
            Self::Death => "death",
        }
    }
}

/// The connections so far.
pub(crate) struct Legs {
    began: Instant,
    done: Vec<Leg>,
    leg: Leg,
    /// When the present server's wish to move the client was seen.
    notified: Option<Duration>,
    /// How the present server asks: tickets are marked in draft -03 alone, and one comes before each request.
    asks_by: Trigger,
    /// When the last byte came, and the longest time without one since the trigger.
    last_byte: Duration,
    stall: Duration,
}

impl Legs {
    /// The first connection, which is complete now.
    pub(crate) fn new(began: Instant, server: SocketAddr, handshake: HandshakeKind) -> Self {
        let connected = began.elapsed();
        Self {
            began,
            done: Vec::new(),
            leg: Leg {
                server,
                handshake,
                early_data: false,
                bytes: 0,
                connected,
                migration: None,
            },
            notified: None,
            asks_by: Trigger::Notify,
            last_byte: connected,
            stall: Duration::ZERO,
        }
    }

    /// Where the stream is.
    pub(crate) fn server(&self) -> SocketAddr {
        self.leg.server
    }

    /// The server's wish to move the client was seen.
    pub(crate) fn notified(&mut self) {
        self.notified.get_or_insert(self.began.elapsed());
    }

    /// How the present server asks the client to move.
    pub(crate) fn asks_by(&self) -> Trigger {
        self.asks_by
    }

    /// Takes an event of a stream that moves by itself.
    pub(crate) fn event(&mut self, event: &Event) {
        self.marked(event);
        if matches!(event, Event::Notified { .. } | Event::Recovering { .. }) {
            self.notified();
        }
        if let Event::Recovered(outcome) = event {
            let triggered = self.triggered();
            self.moved(Trigger::Death, triggered, outcome.into());
        }
        if let Event::Migrated(outcome) = event {
            let triggered = self.triggered();
            self.moved(self.asks_by, triggered, outcome.into());
        }
    }

    /// Learns from an event of any stream how the present server asks.
    pub(crate) fn marked(&mut self, event: &Event) {
        if matches!(event, Event::Marked { .. }) {
            self.asks_by = Trigger::Request;
        }
    }

    /// When the present server's wish was seen, else now.
    pub(crate) fn triggered(&mut self) -> Duration {
        let notified = self.notified.take();
        notified.unwrap_or_else(|| self.began.elapsed())
    }

    /// The stream is at the next server.
    pub(crate) fn moved(&mut self, trigger: Trigger, triggered: Duration, landing: Landing) {
        let next = Leg {
            server: landing.at,
            handshake: landing.handshake,
            early_data: landing.early_data,
            bytes: 0,
            connected: self.began.elapsed(),
            migration: Some(Migration {
                trigger,
                triggered,
                first_byte: None,
                stall: Duration::ZERO,
                fell_back: landing.fell_back,
            }),
        };
        self.asks_by = Trigger::Notify;
        self.done.push(std::mem::replace(&mut self.leg, next));
    }

    /// Bytes came, of whatever kind.
    pub(crate) fn heard(&mut self) {
        let now = self.began.elapsed();
        let gap = now.saturating_sub(std::mem::replace(&mut self.last_byte, now));
        let landed = self.leg.migration.as_mut();
        let landed = landed.filter(|migration| migration.first_byte.is_none());
        if self.notified.is_some() || landed.is_some() {
            self.stall = self.stall.max(gap);
        }
        if let Some(migration) = landed {
            migration.first_byte = Some(now);
            migration.stall = std::mem::take(&mut self.stall);
        }
    }

    /// Bytes of the file came.
    pub(crate) fn count(&mut self, bytes: u64) {
        self.leg.bytes += bytes;
    }

    /// All connections, and how long they took together.
    pub(crate) fn finish(mut self) -> (Vec<Leg>, Duration) {
        let took = self.began.elapsed();
        self.done.push(self.leg);
        (self.done, took)
    }
}
