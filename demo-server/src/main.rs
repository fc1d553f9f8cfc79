//! `demo-server`: a node that serves files and moves its clients to another.
//!
//! It only puts the library's parts together.

mod commands;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use demo_server::authority::Authority;
use demo_server::connections::Connections;
use demo_server::files::Files;
use demo_server::key_log::KeyLogWriter;
use demo_server::leave::{self, Draining, Target};
use demo_server::node::Node;
use demo_server::operator::Operator;
use demo_server::operator::page::Page;
use demo_server::options::{Command, Options};
use demo_server::program::{self, Failure};
use demo_server::service::{self, Identity};
use demo_server::state::{self, TicketKeysError};
use demo_server::trigger::Trigger;
use demo_server::web;
use rustls::KeyLog;
use rustls_migration::provider;
use rustls_migration::server::MigrationServerBuilder;
use rustls_migration::tokio::{MigrationAcceptor, listen};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::commands::{Commands, Requests, Stop};

/// How long the operator is waited for who reads the last of the drain.
const LAST_WORDS: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> ExitCode {
    let options: Options = match program::parse() {
        Ok(options) => options,
        Err(status) => return status,
    };
    let _log = program::log("info");
    program::end(match &options.command {
        None => serve(&options).await,
        Some(Command::Keys(command)) => command
            .run()
            .map_err(|error| Failure::usage("ticket keys", &error)),
    })
}

async fn serve(options: &Options) -> Result<(), Failure> {
    // Keys may be rotated while it starts.
    let requests = Requests::catch()?;
    let operator = operator(options).await?;
    let files = Files::below(&options.root)
        .map(Arc::new)
        .map_err(|error| Failure::usage(format!("--root {}", options.root.display()), &error))?;
    let mut settings = migration_settings(options).await?;

    let listeners = listen_at(&options.listen)?;
    let bound = || listeners.iter().map(|(address, _)| *address);
    settings = match options.own_addresses.is_empty() {
        true => settings.own_addresses(bound()),
        false => settings.own_addresses(options.own_addresses.iter().copied()),
    };
    if options.own_addresses.is_empty() && bound().any(|address| address.ip().is_unspecified()) {
        tracing::warn!("no token names an unspecified address: say --answers-for to be moved to");
    }
    let server = settings
        .build()
        .map_err(|error| Failure::usage("migration settings", &error))?;

    let trigger = Trigger::default();
    let commands = commands::listen(requests, trigger.clone(), server.ticket_keys().clone())?;
    let _watcher = options
        .watch_ticket_keys
        .then(|| server.ticket_keys().watch(commands::tell_of_reload))
        .transpose()
        .map_err(|error| Failure::wrong("cannot watch the ticket keys", &error))?;
    announce(bound(), operator.as_ref());
    let node = Arc::new(Node {
        acceptor: MigrationAcceptor::from(server),
        http: web::server(Arc::clone(&files)),
        files,
        target: options.migrate_to,
        connections: Connections::default(),
        trigger,
        migrate_after: options.migrate_after,
        exchanges: None,
        reports: None,
    });
    let draining = watch::Sender::default();
    // Whether it accepts nobody any more.
    let stop = watch::Sender::new(false);
    let operating = operator.map(|operator| {
        let page = Page {
            addresses: bound().collect(),
            acceptor: node.acceptor.clone(),
            connections: node.connections.clone(),
            targets: options.drain_to.clone(),
            peers: options.operator_peer.clone(),
            draining: draining.subscribe(),
            drain: commands.drainer(),
        };
        Operating::begin(operator, page, stop.subscribe())
    });
    let listeners = listeners.into_iter().map(|(_, listener)| listener);
    let drained = run(&node, listeners, commands, options, (&stop, &draining)).await;
    if drained && let Some(operating) = operating {
        operating.end().await;
    }
    Ok(())
}

/// Serves until the node is told to stop, and stops as it is told. Returns whether it has been drained.
async fn run(
    node: &Arc<Node>,
    listeners: impl Iterator<Item = TcpListener>,
    mut commands: Commands,
    options: &Options,
    (stop, draining): (&watch::Sender<bool>, &watch::Sender<Option<Draining>>),
) -> bool {
    let mut serving = JoinSet::new();
    for listener in listeners {
        serving.spawn(Arc::clone(node).serve(listener, true_in(stop.subscribe())));
    }
    let Stop::Drained(typed) = commands.until_told_to_stop().await else {
        return false;
    };
    // Who waits is accepted, and the listeners are closed, when this is done.
    stop.send_replace(true);
    while serving.join_next().await.is_some() {}
    let targets = typed.as_ref().unwrap_or(&options.drain_to);
    tokio::select! {
        () = drain(node, targets, options, draining) => true,
        () = commands.interrupted() => false,
    }
}

/// The operator's address, which is served.
struct Operating {
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Operating {
    fn begin(operator: Operator, page: Page, leaving: watch::Receiver<bool>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let acceptor = page.acceptor.clone();
        let serving =
            tokio::spawn(operator.serve(acceptor, leaving, page.router(), true_in(stopped)));
        Self { stop, serving }
    }

    /// Lets those who watch see the end.
    async fn end(self) {
        self.stop.send_replace(true);
        // Who does not read is not waited for.
        let _ = timeout(LAST_WORDS, self.serving).await;
    }
}

/// Resolves when it is so.
async fn true_in(mut flag: watch::Receiver<bool>) {
    // Without a sender the program is about to end.
    let _ = flag.wait_for(|is| *is).await;
}

/// Listens at each address. Returns where that is, with the port that it got.
fn listen_at(addresses: &[SocketAddr]) -> Result<Vec<(SocketAddr, TcpListener)>, Failure> {
    let mut listeners = Vec::new();
    for address in addresses {
        let failed = |error| Failure::usage(format!("cannot listen on {address}"), &error);
        let listener = listen(*address).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        listeners.push((bound, listener));
    }
    Ok(listeners)
}

/// Empties the node, and leaves time to read what came of it.
async fn drain(
    node: &Node,
    targets: &[Target],
    options: &Options,
    draining: &watch::Sender<Option<Draining>>,
) {
    let (over, deadline) = (seconds(options.drain_over), seconds(options.drain_deadline));
    leave::drain(&node.acceptor, targets, over, deadline, draining).await;
    sleep(seconds(options.operator_linger)).await;
}

/// The operator's listener, if there is to be one.
async fn operator(options: &Options) -> Result<Option<Operator>, Failure> {
    let Some(address) = options.operator else {
        return Ok(None);
    };
    let random = provider::ring().secure_random;
    let operator = Operator::listen(address, options.operator_anywhere, random).await;
    let operator = operator.map_err(|error| Failure::usage("--operator", &error))?;
    Ok(Some(operator))
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(number.into())
}

/// All settings but for the addresses at which clients arrive.
async fn migration_settings(options: &Options) -> Result<MigrationServerBuilder, Failure> {
    let key_log = match &options.key_log {
        None => None,
        Some(path) => {
            let writer = KeyLogWriter::open(path)
                .map_err(|error| Failure::usage(format!("--key-log {}", path.display()), &error))?;
            let key_log: Arc<dyn KeyLog> = Arc::new(writer);
            Some(key_log)
        }
    };
    let default_keys = || options.state_dir.join("ticket.keys");
    let path = options.ticket_keys.clone().unwrap_or_else(default_keys);
    let keys = state::ticket_keys(&path, provider::ring().secure_random).map_err(|error| {
        let what = match &error {
            // It says which file.
            TicketKeysError::Keys(_) => "ticket keys".to_owned(),
            TicketKeysError::Create(_) => format!("ticket keys {}", path.display()),
        };
        Failure::usage(what, &error)
    })?;
    let nonce_store = options
        .nonce_store
        .open(&options.redis, OffsetDateTime::now_utc())
        .await
        .map_err(|error| Failure::usage("--nonce-store", &error))?;
    let mut settings = service::node(identity(options)?, keys, key_log)
        .map_err(|error| Failure::usage("certificate and key", &error))?
        .nonce_store(nonce_store)
        .dialects(options.dialect.dialects())
        .clock_skew(seconds(options.clock_skew));
    if let Some(target) = options.migrate_to {
        settings = settings.target(target);
    }
    Ok(settings)
}

fn identity(options: &Options) -> Result<Identity, Failure> {
    if let (Some(chain), Some(key)) = (&options.cert, &options.key) {
        return Identity::read(chain, key)
            .map_err(|error| Failure::usage("certificate and key", &error));
    }
    Authority::open(&options.state_dir)
        .and_then(|authority| Identity::issued_by(&authority))
        .map_err(|error| Failure::usage(options.state_dir.display(), &error))
}

/// Tells whoever started the node where it listens.
fn announce(addresses: impl Iterator<Item = SocketAddr>, operator: Option<&Operator>) {
    let mut out = io::stdout().lock();
    for address in addresses {
        // A node that nobody reads serves all the same.
        let _ = writeln!(out, "listening {address}");
    }
    if let Some(operator) = operator {
        let _ = writeln!(out, "operator {}", operator.url());
    }
    let _ = out.flush();
}
