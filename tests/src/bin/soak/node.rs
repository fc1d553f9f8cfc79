//! A node of a long run: it serves every plan, is drained, is away now and then, and comes back.
//!
//! It judges every byte that it reads by its position.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::session::Random;
use rustls_migration::server::{Arrival, MigrationServer};
use rustls_migration::tokio::{
    ConnectionHandle, DepartureOverdue, DepartureStatus, DrainPlan, MigrationAcceptor, TlsStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::step::{Out, Step, step};
use super::wire::{Direction, Mode, Position, Service, at_most, content, number};
use super::world::{World, in_full};

/// What a node is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Move all clients to `targets`, and come back.
    Drain {
        targets: Vec<(SocketAddr, u32)>,
        deadline: Duration,
        done: oneshot::Sender<()>,
    },
    /// Do not listen for a while.
    Away(Duration),
    /// End, when nobody is connected any more.
    Stop,
}

/// Serves at `address` until it is told to stop.
pub(crate) async fn run(
    world: Arc<World>,
    address: SocketAddr,
    server: Arc<MigrationServer>,
    mut orders: mpsc::Receiver<Order>,
) -> io::Result<()> {
    loop {
        let acceptor = MigrationAcceptor::from(Arc::clone(&server));
        match listen(&world, address, &acceptor, &mut orders).await? {
            Order::Drain {
                targets,
                deadline,
                done,
            } => {
                let plan = DrainPlan::to(targets)
                    .spread_over(Duration::from_millis(500))
                    .deadline(deadline);
                let progress = acceptor.drain(plan).finished().await.progress;
                let mut figures = world.figures();
                for (what, count) in [
                    ("drains", 1),
                    ("connections at drained nodes", progress.total),
                    ("told to move by a drain", progress.notified),
                    ("given up by a drain", progress.forced),
                ] {
                    *figures.events.entry(what.to_owned()).or_default() += number(count);
                }
                drop(figures);
                let _ = done.send(());
            }
            Order::Away(time) => sleep(time).await,
            Order::Stop => {
                let gone = async {
                    while acceptor.connections() > 0 {
                        sleep(Duration::from_millis(20)).await;
                    }
                };
                if timeout(Duration::from_secs(20), gone).await.is_err() {
                    let left = acceptor.connections();
                    world.fault(format!("{address} still has {left} connections"));
                }
                return Ok(());
            }
        }
    }
}

/// Accepts until there is an order that needs the port closed.
async fn listen(
    world: &Arc<World>,
    address: SocketAddr,
    acceptor: &MigrationAcceptor,
    orders: &mut mpsc::Receiver<Order>,
) -> io::Result<Order> {
    let listener = TcpListener::bind(address).await?;
    world.set_away(address, false);
    let order = loop {
        tokio::select! {
            accepted = listener.accept() => serve(world, acceptor, accepted?, address)?,
            order = orders.recv() => break order.unwrap_or(Order::Stop),
        }
    };
    world.set_away(address, true);
    // Who has connected by now is served.
    while let Ok(accepted) = timeout(Duration::ZERO, listener.accept()).await {
        serve(world, acceptor, accepted?, address)?;
    }
    Ok(order)
}

fn serve(
    world: &Arc<World>,
    acceptor: &MigrationAcceptor,
    (tcp, peer): (TcpStream, SocketAddr),
    local: SocketAddr,
) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let (world, acceptor) = (Arc::clone(world), acceptor.clone());
    tokio::spawn(async move {
        let stream = match acceptor.accept_from(tcp, Some(peer), Some(local)).await {
            Ok(stream) => stream,
            Err(error) => return world.event(format!("not accepted: {}", in_full(&error))),
        };
        if let Arrival::Declined(verdict) = stream.arrival() {
            world.event(format!(
                "arrived with a token that was refused: {verdict:?}"
            ));
        }
        let mut talk = Talk {
            handle: stream.handle(),
            stream,
            world: Arc::clone(&world),
        };
        if let Err(error) = talk.run().await {
            // The client says what it means for the stream.
            world.event(format!("at a node: {}", in_full(&error)));
        }
    });
    Ok(())
}

struct Talk {
    world: Arc<World>,
    stream: TlsStream<TcpStream>,
    handle: ConnectionHandle,
}

impl Talk {
    async fn run(&mut self) -> io::Result<()> {
        let at = self.begin().await?;
        let id = at.plan.id;
        let ended = self.converse(at).await;
        if let Err(error) = &ended
            && let Some(inside) = error.get_ref()
            && inside.downcast_ref::<DepartureOverdue>().is_some()
        {
            self.world.cut(id);
        }
        ended
    }

    /// Where the stream goes on: its state says so, or its client.
    async fn begin(&mut self) -> io::Result<Position> {
        if let Arrival::Migrated {
            state: Some(state), ..
        } = self.stream.arrival()
            && let Some(at) = Position::decode(state)
            && at.plan.mode == Mode::Drain
        {
            self.world.take_up(at);
            return Ok(at);
        }
        let mut header = [0; Position::LEN];
        self.stream.read_exact(&mut header).await?;
        Position::decode(&header).ok_or_else(|| {
            self.world
                .fault(format!("a node read what is no header: {header:?}"));
            io::ErrorKind::InvalidData.into()
        })
    }

    async fn converse(&mut self, mut at: Position) -> io::Result<()> {
        let plan = at.plan;
        let mut random = Random::new(plan.id ^ at.up ^ at.down);
        // A client that has been told before moves its connection, not this stream.
        let consented = plan.consent && self.handle.status() == DepartureStatus::Staying;
        if consented {
            self.stream.set_state(&at.encode())?;
        }
        let (mut out, mut pause) = (Vec::new(), Instant::now());
        let mut buf = vec![0; 16_384];
        loop {
            if out.is_empty() {
                let left = plan.down_after(at.up).saturating_sub(at.down);
                let len = at_most(left, 1 + random.below(16_384));
                out = content(plan.id, Direction::Down, at.down, len);
            }
            let paused = Instant::now() < pause;
            let next = match out.is_empty() || paused {
                true => Out::Nothing,
                false => Out::Bytes(&out),
            };
            let stepped = tokio::select! {
                stepped = step(&mut self.stream, next, &mut buf) => stepped?,
                () = sleep_until(pause), if paused => continue,
            };
            match stepped {
                Step::Read(len) => {
                    self.check(at, &buf[..len]);
                    at.up += number(len);
                }
                Step::Wrote(len) => {
                    out.drain(..len);
                    at.down += number(len);
                    if plan.service == Service::Download {
                        pause = Instant::now() + Duration::from_millis(number(random.below(12)));
                    }
                }
                Step::End | Step::Closed => return self.end(at, consented, &mut random).await,
            }
        }
    }

    fn check(&self, at: Position, read: &[u8]) {
        let plan = at.plan;
        if at.up + number(read.len()) > plan.up
            || read != content(plan.id, Direction::Up, at.up, read.len())
        {
            self.world.fault(format!(
                "a node read {} bytes that are not at {at:?}",
                read.len()
            ));
        }
    }

    /// The client has closed its side.
    async fn end(&mut self, at: Position, consented: bool, random: &mut Random) -> io::Result<()> {
        let plan = at.plan;
        let left = self.handle.status() == DepartureStatus::Left;
        let complete = at.up == plan.up;
        if !left && !complete {
            self.world
                .fault(format!("a client's clean end in the middle, {at:?}"));
        }
        if left && consented && plan.mode == Mode::Drain && !(complete && random.once_in(2)) {
            self.stream.set_state(&at.encode())?;
            self.world.hand_over(at);
            return self.stream.shutdown().await;
        }
        // A client that has left at once reads nothing more. One that is done may only have been told too late.
        if complete || !(left && plan.mode == Mode::Manual) {
            let left = plan.down_after(at.up).saturating_sub(at.down);
            let rest = content(plan.id, Direction::Down, at.down, at_most(left, usize::MAX));
            self.stream.write_all(&rest).await?;
        }
        if complete {
            self.stream.withdraw_state();
            self.world.finish(plan.id);
        }
        self.stream.shutdown().await
    }
}
