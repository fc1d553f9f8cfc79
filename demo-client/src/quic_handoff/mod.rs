//! `demo-client quic-handoff`: a QUIC server on 127.0.0.2 and 127.0.0.3 and a client in one process, over real sockets.
//!
//! The server moves the connection from address to address while data flows in both directions. Nothing here judges
//! what happened; the report does.

mod ends;
mod flow;
mod report;

use std::net::SocketAddr;
use std::time::Duration;

use demo_server::program::Failure;
use quinn_migration::{Alternate, Event, Failure as Reason, Outcome};

use self::ends::{Address, Ends};
use self::flow::Flow;
use self::report::Report;
use crate::options::QuicHandoff;

/// How long the data is watched before a move and after it.
const WINDOW: Duration = Duration::from_millis(100);
/// An address that was left is quiet when nothing passed it for so many windows: an answer to the server's challenge may come
/// late.
const QUIET_WINDOWS: u32 = 5;
/// It has this many to become so.
const WINDOWS_TO_SETTLE: u32 = 50;
/// What must arrive over the new address before the next move, in bytes in each direction.
const PROGRESS: u64 = 1 << 20;
/// Advertisements of one address at most. One can fail on a connection at full speed: the crate's documentation says
/// why, under its limits. And a client goes back where the new address gets no processor time for long.
const ADVERTISEMENTS: u32 = 10;

pub(crate) async fn run(options: &QuicHandoff) -> Result<(), Failure> {
    let mut ends = Ends::connect(
        options.hops.saturating_mul(ADVERTISEMENTS),
        options.common.key_log.as_deref(),
    )
    .await?;
    let flow = Flow::start(&ends.client_side, &ends.server_side).await?;
    let mut hops = Vec::new();
    for number in 0..options.hops {
        flow.progress(PROGRESS).await?;
        hops.push(hop(&mut ends, &flow, number).await?);
    }
    let transfer = flow.finish(u64::from(options.mib) << 20).await?;
    ends.close().await;
    Report { transfer, hops }.print(options.common.json)
}

/// What one move showed.
#[derive(Debug)]
struct Hop {
    from: SocketAddr,
    to: SocketAddr,
    /// The server sees the client at the new address.
    arrived: bool,
    /// Advertisements that it took.
    advertisements: u32,
    /// From the first challenge to its answer.
    validation: Duration,
    /// Longest time without data at the client, from the advertisement to the end of the window after the move.
    stall: Duration,
    /// The same in the window before the advertisement.
    stall_before: Duration,
    /// Datagrams in both directions at the address that was left, after it was quiet once.
    old_path_datagrams: u64,
}

async fn hop(ends: &mut Ends, flow: &Flow, number: u32) -> Result<Hop, Failure> {
    let [old, new] = match number % 2 {
        0 => ends.addresses,
        _ => [ends.addresses[1], ends.addresses[0]],
    };
    flow.longest_gap();
    tokio::time::sleep(WINDOW).await;
    let stall_before = flow.longest_gap();
    let mut advertisements = 0;
    loop {
        let (validation, more) = follow(ends, new).await?;
        advertisements += more;
        tokio::time::sleep(WINDOW).await;
        let stall = flow.longest_gap();
        let quiet_at = settle(ends, flow, old).await?;
        flow.progress(PROGRESS).await?;
        let arrived = ends.server_address_in_use() == new.id;
        if arrived || advertisements >= ADVERTISEMENTS {
            return Ok(Hop {
                from: old.socket,
                to: new.socket,
                arrived,
                advertisements,
                validation,
                stall,
                stall_before,
                old_path_datagrams: ends.datagrams(old).saturating_sub(quiet_at),
            });
        }
    }
}

/// Advertises an address until both ends have moved there; answers with the time of the validation and the number of
/// advertisements.
async fn follow(ends: &mut Ends, new: Address) -> Result<(Duration, u32), Failure> {
    for count in 1..=ADVERTISEMENTS {
        let advertised = ends
            .server
            .advertise(&ends.server_side, Alternate::from(new.socket))
            .await
            .map_err(|error| Failure::wrong(format!("advertising {}", new.socket), &error))?;
        let validation = validated(ends, new).await?;
        let lost = |error| Failure::wrong("the connection", &error);
        match (validation, advertised.outcome().await.map_err(lost)?) {
            (Some(validation), Outcome::Moved) => return Ok((validation, count)),
            (None, Outcome::Declined) => {}
            (_, other) => return Err(Failure::Wrong(format!("the server reports {other:?}"))),
        }
    }
    let to = new.socket;
    Err(Failure::Wrong(format!("no advertisement led to {to}")))
}

/// How long the validation of the new address took; `None` when the client got no answer.
async fn validated(ends: &mut Ends, new: Address) -> Result<Option<Duration>, Failure> {
    loop {
        match ends.migrator.next().await {
            // A client that goes back does so from an earlier move.
            Some(
                Event::Advertised { .. }
                | Event::Validating { .. }
                | Event::FellBack { .. }
                | Event::Stranded { .. },
            ) => {}
            Some(Event::Migrated { validation, to, .. }) if to == new.socket => {
                return Ok(Some(validation));
            }
            Some(Event::Failed {
                reason: Reason::Unreachable { .. },
                ..
            }) => return Ok(None),
            Some(other) => return Err(Failure::Wrong(format!("the client reports {other:?}"))),
            None => return Err(Failure::Wrong("the connection ended".to_owned())),
        }
    }
}

/// Waits until what was under way at an address has passed; answers with the datagrams that it has seen by then.
async fn settle(ends: &Ends, flow: &Flow, old: Address) -> Result<u64, Failure> {
    let (mut seen, mut quiet) = (ends.datagrams(old), 0);
    for _ in 0..WINDOWS_TO_SETTLE {
        tokio::time::sleep(WINDOW).await;
        // Where the whole process stood still, what had come would wait unread.
        flow.progress(PROGRESS).await?;
        let now = ends.datagrams(old);
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
        if quiet == QUIET_WINDOWS {
            break;
        }
    }
    Ok(seen)
}
