//! A used token, presented again: a copy of the client's first flight, sent by somebody who has none of its keys.
//!
//! What became of it is read from the wire and asked of the node; neither is taken for the other.

use std::net::SocketAddr;
use std::time::Duration;

use demo_server::node::{End, Event, Report};
use demo_server::program::Failure;
use rustls_migration::server::{Arrival, Verdict};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use crate::record::Flight;
use crate::server_hello;

/// How long a node may take to answer or to report.
const LIMIT: Duration = Duration::from_secs(10);

/// What became of a used token.
pub(crate) struct Replay {
    /// Whether the node's ServerHello resumes the session.
    pub(crate) resumed: bool,
    /// What the node's application was told.
    pub(crate) arrival: Arrival,
}

impl Replay {
    /// Whether the token was refused, and for the reason that it was used.
    pub(crate) fn is_refused(&self) -> bool {
        !self.resumed && self.arrival == Arrival::Declined(Verdict::Replayed)
    }
}

/// Sends `flight` once more to where it went. Waits first until the node that reports to `reports` has served the
/// client to its end.
pub(crate) async fn present_again(
    flight: &Flight,
    reports: &mut UnboundedReceiver<Report>,
) -> Result<Replay, Failure> {
    let failed = |error| Failure::wrong("presenting the token again", &error);
    wait_for(reports, |report| {
        matches!(report.event, Event::Ended(End::Answered)).then_some(())
    })
    .await?;
    let mut tcp = TcpStream::connect(flight.to).await.map_err(failed)?;
    let own: SocketAddr = tcp.local_addr().map_err(failed)?;
    tcp.write_all(&flight.bytes).await.map_err(failed)?;
    let resumed = timeout(LIMIT, server_hello::read_resumes(&mut tcp))
        .await
        .map_err(|_| silent())?
        .map_err(failed)?;
    let arrival = wait_for(reports, |report| match report.event {
        Event::Arrived(arrival) if report.peer == own => Some(arrival),
        Event::Arrived(_) | Event::Ended(_) | Event::Failed(_) => None,
    })
    .await?;
    Ok(Replay { resumed, arrival })
}

/// The first report that `wanted` makes something of.
async fn wait_for<T>(
    reports: &mut UnboundedReceiver<Report>,
    wanted: impl Fn(Report) -> Option<T>,
) -> Result<T, Failure> {
    let search = async {
        loop {
            let report = reports.recv().await?;
            if let Some(found) = wanted(report) {
                return Some(found);
            }
        }
    };
    timeout(LIMIT, search)
        .await
        .ok()
        .flatten()
        .ok_or_else(silent)
}

fn silent() -> Failure {
    Failure::Wrong("the node says nothing about its connection".to_owned())
}
