//! `cautious FOLDER ADDRESS STORE`: a node that answers for ADDRESS with the keys and the certificate in FOLDER, and prints
//! each message that its application sees. It acts on early data only when the handshake is complete.
//!
//! A message has 8 bytes. For each the node prints `early` when it came as early data, `confirmed` when the handshake
//! behind it came to be complete, and `late` when the message came after the handshake. At the end of its input
//! it prints what it has counted, and ends. STORE is `memory`, `file:PATH` or `redis://HOST:PORT`.

use std::io::{self, Write as _};
use std::path::Path;

use migration_tests::node::echo;
use migration_tests::{folder, named_store};
use rustls_migration::Dialect;
use rustls_migration::server::{Arrival, Verdict};
use rustls_migration::tokio::{MigrationAcceptor, TlsStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, address, store] = &arguments[..] else {
        panic!("FOLDER ADDRESS STORE");
    };
    let server = folder::node(Path::new(folder))
        .dialects([Dialect::Draft01, Dialect::Draft03])
        .own_addresses([address.parse().unwrap()])
        .nonce_store(named_store::open(store).await.expect("a store"))
        .build();
    let acceptor = MigrationAcceptor::from(server.unwrap());
    let listener = TcpListener::bind("127.0.0.4:0").await.unwrap();
    say(format_args!("listening {}", listener.local_addr().unwrap()));
    tokio::spawn(listen(acceptor.clone(), listener));
    tokio::io::stdin()
        .read_to_end(&mut Vec::new())
        .await
        .unwrap();
    let counts = acceptor.stats();
    let replayed = counts.declined(Verdict::Replayed);
    let (committed, lost) = (counts.committed(), counts.commits_lost());
    say(format_args!("replayed {replayed}"));
    say(format_args!("committed {committed}"));
    say(format_args!("lost {lost}"));
}

async fn listen(acceptor: MigrationAcceptor, listener: TcpListener) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Who does not complete the handshake is not served.
            if let Ok(stream) = acceptor.accept(tcp).await {
                let _ = serve(stream).await;
            }
        });
    }
}

/// Reads one message, acts on it when it is sure who sent it, and goes on as an echo.
async fn serve(mut stream: TlsStream<TcpStream>) -> io::Result<()> {
    let message = stream.read_u64().await?;
    // Not whether the handshake is complete by now: it goes on by itself.
    let early = matches!(
        stream.arrival(),
        Arrival::Migrated {
            early_data: true,
            ..
        }
    );
    if early {
        say(format_args!("early {message}"));
        stream.handshake().await?;
        say(format_args!("confirmed {message}"));
    } else {
        say(format_args!("late {message}"));
    }
    stream.write_u64(message).await?;
    stream.flush().await?;
    echo(stream).await
}

fn say(line: std::fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}
