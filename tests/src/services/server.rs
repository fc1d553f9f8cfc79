//! The nodes' side: an application that says what it consents to, and tells the client to move.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustls_migration::MoveKind;
use rustls_migration::server::{Arrival, OfferError};
use rustls_migration::tokio::{
    ConnectionHandle, DepartureOverdue, DepartureStatus, MigrationAcceptor, TlsStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::plan::{AtNode, Consent, Plan, Tells, rest_of_message};
use crate::habits::{Done, Hand, Wish, bytes};
use crate::network::End;
use crate::session::{Content, Progress};

/// How a node's part of the conversation ended.
#[derive(Debug, Default)]
pub enum NodesEnd {
    #[default]
    None,
    /// Its application ended the stream.
    Ended,
    HandedOver(Progress),
    Failed(io::Error),
}

/// What became of the conversation at one node.
#[derive(Debug, Default)]
pub struct Noted {
    pub arrived: Option<Progress>,
    pub reached: Progress,
    /// Up to where it has tried to write. A write that failed may have sent all of it.
    pub tried: usize,
    pub told: Option<MoveKind>,
    pub end: NodesEnd,
}

/// What the nodes noted.
#[derive(Debug, Default)]
pub struct Log {
    pub nodes: Vec<Noted>,
    /// What must never happen.
    pub violations: Vec<String>,
}

/// One conversation's nodes.
pub struct Nodes {
    plan: Arc<Plan>,
    addresses: Vec<SocketAddr>,
    /// Makes a node refuse connections, or accept them again.
    set_away: Arc<dyn Fn(SocketAddr, bool) + Send + Sync>,
    log: Mutex<Log>,
}

impl Nodes {
    pub fn new(
        plan: Arc<Plan>,
        addresses: Vec<SocketAddr>,
        set_away: impl Fn(SocketAddr, bool) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let log = Log {
            nodes: addresses.iter().map(|_| Noted::default()).collect(),
            violations: Vec::new(),
        };
        Arc::new(Self {
            plan,
            addresses,
            set_away: Arc::new(set_away),
            log: Mutex::new(log),
        })
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    fn violation(&self, here: usize, what: &str) {
        self.log().violations.push(format!("node {here}: {what}"));
    }

    /// Serves node `here` until nobody connects any more.
    pub async fn serve(
        self: Arc<Self>,
        here: usize,
        acceptor: MigrationAcceptor,
        mut incoming: mpsc::UnboundedReceiver<End>,
    ) {
        let mut tasks = JoinSet::new();
        while let Some(io) = incoming.recv().await {
            let (nodes, acceptor) = (Arc::clone(&self), acceptor.clone());
            tasks.spawn(async move {
                // Who opens a connection and says nothing concerns no conversation.
                let Ok(mut stream) = acceptor.accept(io).await else {
                    return;
                };
                if nodes.plan.overlaps && here > 0 {
                    let read = stream.read_to_end(&mut Vec::new()).await;
                    if read.is_ok_and(|len| len > 0) {
                        nodes.violation(here, "spoken to by a client that has not gone over");
                    }
                    return;
                }
                let Some(progress) = nodes.arrive(here, stream.arrival()) else {
                    return;
                };
                let end = Serving::new(&nodes, here, stream, progress)
                    .converse()
                    .await;
                let mut log = nodes.log();
                log.nodes[here].end = end.unwrap_or_else(NodesEnd::Failed);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    }

    /// Where the conversation is when it comes here, if it may come.
    fn arrive(&self, here: usize, arrival: &Arrival) -> Option<Progress> {
        let progress = match arrival {
            Arrival::Fresh if here == 0 => Some(Progress::default()),
            Arrival::Migrated {
                state: Some(state), ..
            } if here > 0 => Progress::decode(state),
            _ => None,
        };
        let mut log = self.log();
        let handed_over = match here.checked_sub(1).map(|before| &log.nodes[before].end) {
            None => Some(Progress::default()),
            Some(NodesEnd::HandedOver(progress)) => Some(*progress),
            Some(_) => None,
        };
        if progress.is_none() || progress != handed_over || log.nodes[here].arrived.is_some() {
            let what = format!("node {here}: {arrival:?}, but {handed_over:?} was handed over");
            log.violations.push(what);
            return None;
        }
        log.nodes[here].arrived = progress;
        progress
    }
}

/// One node's application, in the middle of the conversation.
struct Serving<'a> {
    nodes: &'a Nodes,
    here: usize,
    at_node: &'a AtNode,
    handle: ConnectionHandle,
    stream: Mutex<TlsStream<End>>,
    hand: Hand,
    progress: Progress,
    consents: bool,
    client_closed: bool,
    flushed: bool,
    /// What is still to be done, the next thing last.
    to_do: Vec<(Instant, Action)>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Tell,
    ThinkAgain,
    /// The target goes away, and comes back after so long.
    TargetGoes(Duration),
}

impl<'a> Serving<'a> {
    fn new(nodes: &'a Nodes, here: usize, stream: TlsStream<End>, progress: Progress) -> Self {
        let at_node = &nodes.plan.nodes[here];
        let notice = Instant::now() + at_node.notice;
        let mut to_do = Vec::new();
        if here + 1 < nodes.addresses.len() {
            to_do.push((notice, Action::Tell));
            to_do.push((notice + at_node.second_thought, Action::ThinkAgain));
            if let Some((from, time)) = at_node.target_away {
                let from = notice + from - Duration::from_millis(20);
                to_do.push((from, Action::TargetGoes(time)));
            }
        }
        to_do.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let seed = nodes.plan.seed ^ u64::try_from(here).unwrap();
        Self {
            nodes,
            here,
            at_node,
            handle: stream.handle(),
            stream: Mutex::new(stream),
            hand: Hand::new(&at_node.habits, seed),
            progress,
            consents: matches!(
                at_node.consent,
                Consent::FromTheStart
                    | Consent::WithdrawnBeforeTheNotice
                    | Consent::WithdrawnAfterTheNotice
            ),
            client_closed: false,
            flushed: true,
            to_do,
        }
    }

    fn stream(&mut self) -> &mut TlsStream<End> {
        self.stream.get_mut().unwrap()
    }

    fn target(&self) -> SocketAddr {
        self.nodes.addresses[self.here + 1]
    }

    fn told(&self) -> Option<MoveKind> {
        self.handle.told_to_move()
    }

    async fn converse(mut self) -> io::Result<NodesEnd> {
        loop {
            self.note()?;
            while self
                .to_do
                .last()
                .is_some_and(|(at, _)| *at <= Instant::now())
            {
                let (_, action) = self.to_do.pop().unwrap();
                self.act(action).await?;
            }
            if let Some(end) = self.end() {
                return self.finish(end).await;
            }
            let piece = rest_of_message(
                &self.nodes.plan.down,
                Content::FromServer,
                self.progress.sent,
            );
            let wish = Wish {
                read: !self.client_closed,
                write: piece,
                flush: !self.flushed,
                shutdown: false,
                until: self.to_do.last().map(|(at, _)| *at),
            };
            match self.hand.step(&self.stream, wish).await {
                Done::Read(len) => self.read(len?),
                Done::Wrote(len) => {
                    self.nodes.log().nodes[self.here].tried = self.progress.sent + piece.len();
                    self.progress.sent += len?;
                    self.flushed = false;
                }
                Done::Flushed(done) => {
                    done?;
                    self.flushed = true;
                }
                Done::ShutDown(_) | Done::Time => {}
            }
        }
    }

    /// The state is what has been reached.
    fn note(&mut self) -> io::Result<()> {
        if self.consents {
            let state = self.progress.encode();
            let set = self.stream().set_state(&state);
            set.map_err(io::Error::other)?;
        }
        let told = self.told();
        let node = &mut self.nodes.log().nodes[self.here];
        (node.reached, node.told) = (self.progress, told);
        Ok(())
    }

    fn read(&mut self, len: usize) {
        let at = self.progress.received;
        if len == 0 {
            self.client_closed = true;
        } else if self.hand.buf[..len] != bytes(Content::FromClient)[at..at + len] {
            self.nodes
                .violation(self.here, &format!("what was read is not at {at}"));
        }
        self.progress.received += len;
    }

    async fn act(&mut self, action: Action) -> io::Result<()> {
        let target = self.target();
        match action {
            Action::TargetGoes(time) => {
                let set_away = Arc::clone(&self.nodes.set_away);
                set_away(target, true);
                tokio::spawn(async move {
                    sleep(time).await;
                    set_away(target, false);
                });
            }
            // Too late: it is on its way already.
            Action::Tell | Action::ThinkAgain if self.client_closed => {}
            Action::Tell => {
                if self.at_node.consent == Consent::WithdrawnBeforeTheNotice {
                    self.consents = false;
                    self.stream().withdraw_state();
                }
                self.tell(self.at_node.tells).await?;
            }
            Action::ThinkAgain => match self.at_node.consent {
                Consent::Late { told_again } => {
                    self.consents = true;
                    self.note()?;
                    if told_again {
                        self.tell(Tells::Stream).await?;
                    }
                }
                Consent::WithdrawnAfterTheNotice => {
                    self.consents = false;
                    self.stream().withdraw_state();
                }
                Consent::Never | Consent::FromTheStart | Consent::WithdrawnBeforeTheNotice => {}
            },
        }
        Ok(())
    }

    async fn tell(&mut self, tells: Tells) -> io::Result<()> {
        let (target, state) = (self.target(), self.progress.encode());
        let told = match tells {
            Tells::Stream => {
                let state = self.consents.then_some(&state[..]);
                self.stream().migrate_to(target, state).await
            }
            Tells::Handle => {
                self.handle.migrate_to(target);
                Ok(())
            }
        };
        match told {
            // The client has closed its side, and the application has yet to read that.
            Err(error) if is_closed(&error) => Ok(()),
            told => told,
        }
    }

    /// How this part of the conversation ends, if it does now.
    fn end(&self) -> Option<NodesEnd> {
        let plan = &self.nodes.plan;
        let all = self.progress.sent == plan.pushed();
        let complete = all && self.progress.received == plan.uploaded();
        let told = self.told();
        if told == Some(MoveKind::Connection) && self.at_node.ends_early {
            return Some(NodesEnd::Ended);
        }
        if !self.client_closed {
            return None;
        }
        if complete {
            return Some(NodesEnd::Ended);
        }
        // A client that gets ready at a target closes its side when it has said all, and not to go there.
        let moves = told == Some(MoveKind::Stream) && !plan.overlaps;
        match self.consents {
            true if moves => Some(NodesEnd::HandedOver(self.progress)),
            // It is finished here, whatever is missing.
            false if moves => Some(NodesEnd::Ended),
            _ if self.progress.received < plan.uploaded() => {
                self.nodes
                    .violation(self.here, "closed in the middle of an upload");
                Some(NodesEnd::Ended)
            }
            _ => None,
        }
    }

    async fn finish(mut self, end: NodesEnd) -> io::Result<NodesEnd> {
        if let NodesEnd::Ended = end {
            self.stream().withdraw_state();
        }
        // Noted before it happens: the client may be quick.
        let handed_over = match end {
            NodesEnd::HandedOver(progress) => NodesEnd::HandedOver(progress),
            NodesEnd::None | NodesEnd::Ended | NodesEnd::Failed(_) => NodesEnd::Ended,
        };
        let told = self.told();
        {
            let node = &mut self.nodes.log().nodes[self.here];
            (node.end, node.told) = (handed_over, told);
        }
        self.stream().shutdown().await?;
        let left = self.handle.status() == DepartureStatus::HandedOver;
        if left != matches!(end, NodesEnd::HandedOver(_)) {
            self.nodes
                .violation(self.here, &format!("{:?} at {end:?}", self.handle.status()));
        }
        if !self.client_closed {
            // A transport that is dropped with something unread may destroy what it sent.
            let mut rest = Vec::new();
            let _ = self.stream().read_to_end(&mut rest).await;
        }
        Ok(end)
    }
}

fn is_closed(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(OfferError::Closed))
}

/// Whether a node gave its client up.
pub fn is_overdue(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner.is_some_and(|inner| inner.is::<DepartureOverdue>())
}
