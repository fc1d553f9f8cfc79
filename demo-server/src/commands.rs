//! What a running node is told: by signals, and by lines on standard input.
//!
//! The end of standard input means nothing, and a node in the background does not read its terminal.

use std::io;

use demo_server::leave::Target;
use demo_server::program::{Failure, chain};
use demo_server::trigger::Trigger;
use rustix::process::getpgrp;
use rustix::termios::{isatty, tcgetpgrp};
use rustls_migration::{TicketKeyError, TicketKeys};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Where clients go in a drain: to these nodes, or wherever the node is used to send them.
type Drain = Option<Vec<Target>>;

/// How a node is told to stop.
#[derive(Debug)]
pub(crate) enum Stop {
    /// At once.
    Now,
    /// When its clients are gone.
    Drained(Drain),
}

/// The signals that a node waits for.
pub(crate) struct Commands {
    trigger: Trigger,
    ticket_keys: TicketKeys,
    migrate: Signal,
    reload: Signal,
    interrupt: Signal,
    terminate: Signal,
    drain: UnboundedReceiver<Drain>,
    /// Keeps `drain` open when nobody types.
    drainer: UnboundedSender<Drain>,
}

/// Signals that ask for something, and would end a process that does not wait for them.
pub(crate) struct Requests {
    migrate: Signal,
    reload: Signal,
}

impl Requests {
    /// From here on they wait for [`listen`].
    pub(crate) fn catch() -> Result<Self, Failure> {
        Ok(Self {
            migrate: awaited(SignalKind::user_defined1())?,
            reload: awaited(SignalKind::hangup())?,
        })
    }
}

fn awaited(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::wrong("cannot wait for signals", &error))
}

/// Begins to listen.
pub(crate) fn listen(
    requests: Requests,
    trigger: Trigger,
    ticket_keys: TicketKeys,
) -> Result<Commands, Failure> {
    let (typed, drain) = unbounded_channel();
    let commands = Commands {
        trigger: trigger.clone(),
        ticket_keys,
        migrate: requests.migrate,
        reload: requests.reload,
        interrupt: awaited(SignalKind::interrupt())?,
        terminate: awaited(SignalKind::terminate())?,
        drain,
        drainer: typed.clone(),
    };
    if may_read(&io::stdin()) {
        // A thread does not keep the process alive, as a task that reads standard input would.
        let reader = std::thread::Builder::new();
        reader
            .spawn(move || read_lines(&trigger, &typed))
            .map_err(|error| Failure::wrong("cannot read commands", &error))?;
    }
    Ok(commands)
}

impl Commands {
    /// For others who have the node drained.
    pub(crate) fn drainer(&self) -> UnboundedSender<Drain> {
        self.drainer.clone()
    }

    /// Resolves at SIGINT. Keys are still read again: clients that leave are given tickets.
    pub(crate) async fn interrupted(&mut self) {
        loop {
            tokio::select! {
                _ = self.reload.recv() => reload(&self.ticket_keys),
                _ = self.interrupt.recv() => return,
            }
        }
    }

    /// Obeys until it is time to stop.
    pub(crate) async fn until_told_to_stop(&mut self) -> Stop {
        loop {
            tokio::select! {
                _ = self.migrate.recv() => migrate(&self.trigger),
                _ = self.reload.recv() => reload(&self.ticket_keys),
                _ = self.interrupt.recv() => return Stop::Now,
                _ = self.terminate.recv() => return Stop::Drained(None),
                Some(targets) = self.drain.recv() => return Stop::Drained(targets),
            }
        }
    }
}

/// A process in the background that reads its terminal is stopped by the system.
fn may_read(stdin: &io::Stdin) -> bool {
    !isatty(stdin) || tcgetpgrp(stdin).is_ok_and(|foreground| foreground == getpgrp())
}

fn migrate(trigger: &Trigger) {
    let live = trigger.pull();
    tracing::info!(live, "moving all live connections");
}

fn reload(ticket_keys: &TicketKeys) {
    tell_of_reload(ticket_keys.reload());
}

pub(crate) fn tell_of_reload(reloaded: Result<(), TicketKeyError>) {
    match reloaded {
        Ok(()) => tracing::info!("ticket keys reloaded"),
        Err(error) => tracing::warn!(reason = chain(&error), "ticket keys stay as they were"),
    }
}

fn read_lines(trigger: &Trigger, typed: &UnboundedSender<Drain>) {
    for line in io::stdin().lines() {
        let Ok(line) = line else { return };
        let mut words = line.split_whitespace();
        match words.next() {
            Some("migrate") => migrate(trigger),
            Some("drain") => match words.map(str::parse).collect::<Result<Vec<_>, _>>() {
                Ok(targets) if !targets.is_empty() => {
                    // A node that stops already needs no further order.
                    let _ = typed.send(Some(targets));
                }
                Ok(_) => tracing::warn!("drain to where? drain ADDR[=WEIGHT]..."),
                Err(error) => tracing::warn!(%error, "not drained"),
            },
            None => {}
            Some(_) => tracing::warn!("the commands are: migrate, and drain ADDR[=WEIGHT]..."),
        }
    }
}
