//! The task that drives a client's hook: sockets, timers and placeholders.
//!
//! Never outlives its connection or its [`Migrator`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep_until;

use crate::congestion::PerPathCongestion;
use crate::event::{Event, Failure};
use crate::hooks::client::{Action, ClientHook, Sizes};
use crate::session::Handle;
use crate::socket::Traffic;
use crate::stats::ClientCounters;

/// Events that wait for the application; further ones are counted and reported as [`Event::Missed`].
const EVENT_LIMIT: usize = 64;

/// Follows the server of one connection. Dropping it ends that: the connection stays on the address it is on.
#[derive(Debug)]
pub struct Migrator {
    events: mpsc::Receiver<Event>,
    task: AbortHandle,
    handle: Handle<ClientHook>,
}

impl Migrator {
    pub(crate) fn start(
        handle: Handle<ClientHook>,
        connection: quinn::Connection,
        counters: Arc<ClientCounters>,
    ) -> Self {
        let (sender, events) = mpsc::channel(EVENT_LIMIT);
        let driver = Driver {
            handle: handle.clone(),
            connection,
            events: sender,
            missed: 0,
            counters,
        };
        let task = tokio::spawn(driver.run()).abort_handle();
        Self {
            events,
            task,
            handle,
        }
    }

    /// The next event; `None` when the connection has ended. Events need not be read: migration goes on without.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The server address that the connection is on.
    pub fn server(&self) -> Option<SocketAddr> {
        self.handle.with_hook(|hook| hook.server())
    }
}

impl Drop for Migrator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Driver {
    handle: Handle<ClientHook>,
    connection: quinn::Connection,
    events: mpsc::Sender<Event>,
    missed: u64,
    counters: Arc<ClientCounters>,
}

impl Driver {
    async fn run(mut self) {
        let connection = self.connection.clone();
        let closed = connection.closed();
        tokio::pin!(closed);
        let mut wakes = self.handle.wakes();
        loop {
            wakes.mark_unchanged();
            // quinn's lock comes before the hook's, so ask quinn first.
            let (rtt, sizes) = (self.connection.rtt(), self.sizes());
            let datagrams = self.traffic().received;
            let action = self.handle.with_hook(|hook| {
                hook.on_datagrams(datagrams);
                hook.poll(Instant::now(), rtt, sizes)
            });
            self.handle.watch_other_paths();
            match action {
                Action::Report(event) => self.report(event),
                Action::Open(server) => self.open(server),
                Action::Close(path) => self
                    .with_routes(|routes| routes.close(path))
                    .unwrap_or_default(),
                Action::Send(placeholders) => self.send(placeholders),
                Action::Wait(until) => {
                    let now = Instant::now();
                    let held = self.with_routes(|routes| routes.release(Some(now)));
                    let until = until.into_iter().chain(held.flatten()).min();
                    let timer = async {
                        match until {
                            Some(until) => sleep_until(until.into()).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        _ = wakes.changed() => {}
                        () = timer => {}
                        _ = &mut closed => return,
                    }
                }
            }
        }
    }

    fn with_routes<T>(&self, work: impl FnOnce(&crate::socket::Routes) -> T) -> Option<T> {
        self.handle.routes().map(work)
    }

    fn open(&self, server: SocketAddr) {
        let believed = self.connection.remote_address();
        let opened = self.with_routes(|routes| routes.open(server, believed));
        match opened {
            Some(Ok(path)) => self
                .handle
                .with_hook(|hook| hook.opened(path, Instant::now())),
            Some(Err(error)) => self.handle.with_hook(|hook| hook.not_opened(error.kind())),
            None => self
                .handle
                .with_hook(|hook| hook.not_opened(std::io::ErrorKind::Unsupported)),
        }
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            mtu: self.connection.stats().path.current_mtu.into(),
            datagram: self.connection.max_datagram_size().unwrap_or(0),
            crowded: is_crowded(&self.connection),
        }
    }

    fn send(&self, placeholders: Vec<Bytes>) {
        for placeholder in placeholders {
            // In a full buffer it takes the place of the application's oldest datagram, which may be lost at any time.
            if let Err(error) = self.connection.send_datagram(placeholder) {
                tracing::debug!(%error, "placeholder not queued");
            }
        }
    }

    fn report(&mut self, event: Event) {
        let event = self.corrected(event);
        if matches!(event, Event::Migrated { .. } | Event::FellBack { .. }) {
            PerPathCongestion::reset(&self.connection);
        }
        tracing::debug!(?event);
        self.counters.count(&event);
        if self.missed > 0 && self.events.try_send(Event::Missed(self.missed)).is_ok() {
            self.missed = 0;
        }
        if self.events.try_send(event).is_err() {
            self.missed = self.missed.saturating_add(1);
        }
    }

    /// Datagrams on the path in use.
    fn traffic(&self) -> Traffic {
        let path = self.handle.with_hook(|hook| hook.active_path());
        let traffic = path.and_then(|path| self.with_routes(|routes| routes.traffic(path)));
        traffic.unwrap_or_default()
    }

    /// A validation that no datagram on the new path took part in: the endpoint does not use our socket any more.
    fn corrected(&self, event: Event) -> Event {
        let Event::Migrated { sequence, to, .. } = event else {
            return event;
        };
        // A path that has been left again meanwhile is not to be judged by the one in use.
        let in_use = self.handle.with_hook(|hook| hook.server()) == Some(to);
        if !in_use || self.traffic() != Traffic::default() {
            return event;
        }
        self.handle.with_hook(|hook| hook.socket_replaced());
        Event::Failed {
            sequence,
            target: to,
            reason: Failure::SocketReplaced,
        }
    }
}

/// Less room than this in quinn's datagram buffer, in bytes, and an application that fills it may push out what is queued.
const CROWDED: usize = 32 * 1024;

pub(crate) fn is_crowded(connection: &quinn::Connection) -> bool {
    connection.datagram_send_buffer_space() < CROWDED
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.with_routes(|routes| routes.release(None));
        let closing = self.handle.with_hook(|hook| hook.detach());
        for path in closing {
            self.with_routes(|routes| routes.close(path));
        }
    }
}
