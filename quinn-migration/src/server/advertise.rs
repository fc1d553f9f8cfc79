//! Sending a client SERVER_ALTERNATE_ADDRESS until it is acknowledged, and what came of it.
//!
//! Never sends a client anything that it did not offer to understand.

use std::time::{Duration, Instant};

use quinn::{ConnectionError, SendDatagramError};
use quinn_proto::VarInt;
use tokio::time::{timeout, timeout_at};

use super::alternate::Alternate;
use super::core::Core;
use crate::error::AdvertiseError;
use crate::hooks::server::{AdvertStep, CannotBegin, Outcome, ServerHook};
use crate::migrator::is_crowded;
use crate::session::Handle;

/// How long an advertisement waits for quinn to issue a connection ID. A client of this crate that has moved holds on to the one
/// of the path before for 10 s at most.
const SPARE_CID_PATIENCE: Duration = Duration::from_secs(12);
/// The same for one of many connections, the next of which may wait for this one.
const SHORT_SPARE_CID_PATIENCE: Duration = Duration::from_secs(2);

/// How an attempt to move a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MoveEnd {
    Moved,
    /// The client gave the advertisement back, did not acknowledge it, or took too long.
    Declined,
    /// The client cannot be told.
    NotMovable,
    /// The connection ended.
    Gone,
}

impl Core {
    pub(super) async fn advertise(
        &self,
        connection: &quinn::Connection,
        alternate: Alternate,
    ) -> Result<Advertised, AdvertiseError> {
        self.advertise_within(SPARE_CID_PATIENCE, connection, alternate)
            .await
    }

    /// The same, and waits so long for a connection ID.
    async fn advertise_within(
        &self,
        patience: Duration,
        connection: &quinn::Connection,
        alternate: Alternate,
    ) -> Result<Advertised, AdvertiseError> {
        let alternate = alternate.resolve(&self.socket, connection.local_ip())?;
        let handle = self
            .handles
            .find(connection)
            .ok_or(AdvertiseError::UnknownConnection)?;
        let to = [alternate.v4.map(Into::into), alternate.v6.map(Into::into)];
        let from = self.client_of(connection).server;
        self.socket.expect(from.0, to.into_iter().flatten());
        let started = Instant::now();
        let sequence = begin(&handle, connection, alternate, patience).await?;
        let end = EndOnDrop {
            handle: &handle,
            sequence,
        };
        let packets = deliver(&handle, connection, sequence).await?;
        drop(end);
        let acknowledged_after = started.elapsed();
        Ok(Advertised {
            sequence,
            packets,
            acknowledged_after,
            handle,
            connection: connection.clone(),
        })
    }

    /// Advertises, and waits so long for the acknowledgement, and again for what comes of it. `told` is called when the client
    /// has acknowledged it.
    pub(super) async fn move_connection(
        &self,
        connection: &quinn::Connection,
        alternate: Alternate,
        patience: Duration,
        told: impl FnOnce(),
    ) -> MoveEnd {
        let advertising = self.advertise_within(SHORT_SPARE_CID_PATIENCE, connection, alternate);
        let advertised = match timeout(patience, advertising).await {
            Ok(Ok(advertised)) => advertised,
            Ok(Err(AdvertiseError::Closed(_))) => return MoveEnd::Gone,
            Ok(Err(AdvertiseError::Busy | AdvertiseError::NotAcknowledged)) | Err(_) => {
                return MoveEnd::Declined;
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "not told to move");
                return MoveEnd::NotMovable;
            }
        };
        told();
        match timeout(patience, advertised.outcome()).await {
            Ok(Ok(Outcome::Moved)) => MoveEnd::Moved,
            Ok(Ok(Outcome::Declined | Outcome::Superseded)) | Err(_) => MoveEnd::Declined,
            Ok(Err(_)) => MoveEnd::Gone,
        }
    }
}

/// Waits for a spare connection ID: quinn issues them right after the handshake, and again when the client has
/// retired one.
async fn begin(
    handle: &Handle<ServerHook>,
    connection: &quinn::Connection,
    alternate: Alternate,
    patience: Duration,
) -> Result<VarInt, AdvertiseError> {
    let deadline = tokio::time::Instant::now() + patience;
    let mut wakes = handle.wakes();
    loop {
        wakes.mark_unchanged();
        match handle.with_hook(|hook| hook.begin(alternate.v4, alternate.v6)) {
            Ok(sequence) => return Ok(sequence),
            Err(CannotBegin::NotNegotiated) => return Err(AdvertiseError::NotNegotiated),
            Err(CannotBegin::Busy) => return Err(AdvertiseError::Busy),
            Err(CannotBegin::Never) => return Err(AdvertiseError::NoConnectionId),
            Err(CannotBegin::NoSpareCid) => {}
        }
        tokio::select! {
            error = connection.closed() => return Err(error.into()),
            woken = timeout_at(deadline, wakes.changed()) => {
                woken.map_err(|_| AdvertiseError::NoConnectionId)?.map_err(|_| AdvertiseError::NoConnectionId)?;
            }
        }
    }
}

/// Queues placeholders as the hook asks for them. Answers with the number of packets that it took.
async fn deliver(
    handle: &Handle<ServerHook>,
    connection: &quinn::Connection,
    sequence: VarInt,
) -> Result<u32, AdvertiseError> {
    let mut wakes = handle.wakes();
    loop {
        wakes.mark_unchanged();
        let rtt = connection.rtt();
        match handle.with_hook(|hook| hook.poll(sequence, Instant::now(), rtt)) {
            AdvertStep::Send(placeholders) => {
                let copies = if is_crowded(connection) {
                    placeholders.len()
                } else {
                    1
                };
                for placeholder in placeholders.into_iter().take(copies) {
                    queue(connection, placeholder)?;
                }
            }
            AdvertStep::Acknowledged(packets) => return Ok(packets),
            AdvertStep::Lost => return Err(AdvertiseError::NotAcknowledged),
            AdvertStep::Wait(until) => tokio::select! {
                error = connection.closed() => return Err(error.into()),
                _ = timeout_at(until.into(), wakes.changed()) => {}
            },
        }
    }
}

fn queue(connection: &quinn::Connection, placeholder: bytes::Bytes) -> Result<(), AdvertiseError> {
    // In a full buffer it takes the place of the application's oldest datagram, which may be lost at any time.
    match connection.send_datagram(placeholder) {
        Ok(()) => Ok(()),
        Err(SendDatagramError::ConnectionLost(error)) => Err(error.into()),
        Err(
            SendDatagramError::Disabled
            | SendDatagramError::UnsupportedByPeer
            | SendDatagramError::TooLarge,
        ) => Err(AdvertiseError::DatagramsOff),
    }
}

struct EndOnDrop<'a> {
    handle: &'a Handle<ServerHook>,
    sequence: VarInt,
}

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.handle.with_hook(|hook| hook.end(self.sequence));
    }
}

/// An advertisement that the client has acknowledged.
#[derive(Debug)]
pub struct Advertised {
    sequence: VarInt,
    packets: u32,
    acknowledged_after: Duration,
    handle: Handle<ServerHook>,
    connection: quinn::Connection,
}

impl Advertised {
    /// Sequence number of the frame: that of the connection ID in it.
    pub fn sequence(&self) -> u64 {
        self.sequence.into_inner()
    }

    /// Packets that carried the frame; more than one when some were lost.
    pub fn packets(&self) -> u32 {
        self.packets
    }

    /// Time from the call to the acknowledgement.
    pub fn acknowledged_after(&self) -> Duration {
        self.acknowledged_after
    }

    /// Resolves when the client has moved, or has given the connection ID back without moving.
    ///
    /// A client that does neither leaves this open until the connection ends or another address is advertised.
    ///
    /// # Errors
    ///
    /// The connection ended first.
    pub async fn outcome(&self) -> Result<Outcome, ConnectionError> {
        let mut wakes = self.handle.wakes();
        loop {
            wakes.mark_unchanged();
            if let Some(outcome) = self.handle.with_hook(|hook| hook.outcome(self.sequence)) {
                return Ok(outcome);
            }
            tokio::select! {
                error = self.connection.closed() => return Err(error),
                _ = wakes.changed() => {}
            }
        }
    }
}
