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
use demo_server::files::Files;
use demo_server::key_log::KeyLogWriter;
use demo_server::leave;
use demo_server::node::Node;
use demo_server::options::{Command, Options};
use demo_server::program::{self, Failure};
use demo_server::service::{self, Identity};
use demo_server::state;
use demo_server::trigger::Trigger;
use rustls::KeyLog;
use rustls_migration::provider;
use rustls_migration::server::MigrationServerBuilder;
use rustls_migration::tokio::MigrationAcceptor;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::commands::Stop;

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
    let files = Files::below(&options.root)
        .map_err(|error| Failure::usage(format!("--root {}", options.root.display()), &error))?;
    let mut settings = migration_settings(options).await?;

    let mut listeners = Vec::new();
    for address in &options.listen {
        let failed = |error| Failure::usage(format!("cannot listen on {address}"), &error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        listeners.push((bound, listener));
    }
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
    let mut commands = commands::listen(trigger.clone(), server.ticket_keys().clone())
        .map_err(|error| Failure::wrong("cannot wait for signals", &error))?;
    let _watcher = options
        .watch_ticket_keys
        .then(|| server.ticket_keys().watch(commands::tell_of_reload))
        .transpose()
        .map_err(|error| Failure::wrong("cannot watch the ticket keys", &error))?;
    announce(bound());
    let node = Arc::new(Node {
        acceptor: MigrationAcceptor::from(server),
        files: Arc::new(files),
        trigger,
        migrate_after: options.migrate_after,
        exchanges: None,
        reports: None,
    });
    let (stop, stopped) = watch::channel(false);
    let mut serving = JoinSet::new();
    for (_, listener) in listeners {
        let mut stopped = stopped.clone();
        let stop = async move {
            // Without a sender the program is about to end.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        serving.spawn(Arc::clone(&node).serve(listener, stop));
    }
    if let Stop::Drained(typed) = commands.until_told_to_stop().await {
        // Who waits is accepted, and the listeners are closed, when this is done.
        stop.send_replace(true);
        while serving.join_next().await.is_some() {}
        let targets = typed.as_ref().unwrap_or(&options.drain_to);
        let (over, deadline) = (seconds(options.drain_over), seconds(options.drain_deadline));
        tokio::select! {
            _ = leave::drain(&node.acceptor, targets, over, deadline) => {}
            () = commands.interrupted() => {}
        }
    }
    Ok(())
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
    let keys = state::ticket_keys(&path, provider::ring().secure_random)
        .map_err(|error| Failure::usage("ticket keys", &error))?;
    let nonce_store = options
        .nonce_store
        .open(&options.redis, OffsetDateTime::now_utc())
        .await
        .map_err(|error| Failure::usage("--nonce-store", &error))?;
    let mut settings = service::node(identity(options)?, keys, key_log)
        .map_err(|error| Failure::usage("certificate and key", &error))?
        .nonce_store(nonce_store)
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
fn announce(addresses: impl Iterator<Item = SocketAddr>) {
    let mut out = io::stdout().lock();
    for address in addresses {
        // A node that nobody reads serves all the same.
        let _ = writeln!(out, "listening {address}");
    }
    let _ = out.flush();
}
