//! `demo-forwarder trial`: two fronts, two nodes and a client, each a process of its own.
//!
//! A download goes on while its connection moves from front to front; then the front that it is on is killed. Nothing here
//! judges what happened; the report does.

mod client;
mod programs;
mod report;

use std::net::SocketAddr;

use demo_server::program::Failure;

use self::client::Client;
use self::programs::Group;
use self::report::Report;
use crate::options;

/// Advertisements of one front at most. One can fail on a connection at full speed: the documentation of quinn-migration
/// says why, under its limits. And a client goes back where its new front gets no processor time for long.
const ADVERTISEMENTS: u32 = 10;
/// What must arrive on a new path before the next move, in bytes.
const PROGRESS: u64 = 1 << 20;
/// Other connections, so that both nodes have some.
const OTHERS: usize = 8;

pub(crate) async fn run(options: &options::Trial) -> Result<(), Failure> {
    let mut group = Group::start().await?;
    let least = u64::from(options.mib) << 20;
    let moves = options.moves.saturating_mul(ADVERTISEMENTS);
    let mut client = Client::connect(&group.state_dir(), group.front(0), moves).await?;
    let node = group.accepted().await?;
    client.download(least).await?;
    let mut hops = Vec::new();
    for number in 1..=options.moves {
        client.progress(PROGRESS).await?;
        let front = usize::try_from(number % 2).unwrap_or_default();
        hops.push(hop(&mut group, node.number, &mut client, front).await?);
    }
    let killed = kill(&mut group, node.number, &mut client).await?;
    let received = client.finish().await?;
    let sent = group.sent(node.number).await?;
    let others = others(&mut group, &killed).await?;
    Report {
        first: node.seen,
        hops,
        killed,
        sent,
        received,
        others,
    }
    .print(options.json)
}

/// What one move showed.
#[derive(Debug, Clone)]
struct Hop {
    /// The front that the client went to.
    to: SocketAddr,
    /// The front that the node sees it at.
    seen_at: SocketAddr,
    /// Where the client's new path begins.
    client: SocketAddr,
    /// The client's address, as the node sees it.
    seen: SocketAddr,
    advertisements: u32,
}

async fn hop(
    group: &mut Group,
    node: usize,
    client: &mut Client,
    front: usize,
) -> Result<Hop, Failure> {
    let to = group.front(front);
    for advertisements in 1..=ADVERTISEMENTS {
        group.advertise(node, to).await?;
        client.progress(PROGRESS).await?;
        let seen = group.place(node).await?;
        if client.server() == Some(to) && seen.front == to {
            return Ok(Hop {
                to,
                seen_at: seen.front,
                client: client.address_to(to),
                seen: seen.client,
                advertisements,
            });
        }
    }
    Err(Failure::Wrong(format!("no advertisement led to {to}")))
}

/// Kills the front that the client is on, and waits until the client is on the other one.
async fn kill(group: &mut Group, node: usize, client: &mut Client) -> Result<Hop, Failure> {
    let on = group.place(node).await?.front;
    let front = usize::from(on != group.front(0));
    group.kill_front(front).await?;
    let other = group.front(1 - front);
    client.comes_to(other).await?;
    client.progress(PROGRESS).await?;
    let seen = group.place(node).await?;
    Ok(Hop {
        to: other,
        seen_at: seen.front,
        client: client.address_to(other),
        seen: seen.client,
        advertisements: 0,
    })
}

/// Downloads on other connections through the front that lives; answers with how many each node had.
async fn others(group: &mut Group, alive: &Hop) -> Result<[usize; 2], Failure> {
    let mut counts = [0, 0];
    for _ in 0..OTHERS {
        let mut client = Client::connect(&group.state_dir(), alive.to, 0).await?;
        let node = group.accepted().await?;
        client.download(PROGRESS).await?;
        let received = client.finish().await?;
        let sent = group.sent(node.number).await?;
        if received != sent || node.seen.client != client.address() {
            let (seen, is) = (node.seen.client, client.address());
            return Err(Failure::Wrong(format!(
                "{seen} was seen for {is}; {received:?} came of {sent:?}"
            )));
        }
        if let Some(count) = counts.get_mut(node.number) {
            *count += 1;
        }
    }
    Ok(counts)
}
