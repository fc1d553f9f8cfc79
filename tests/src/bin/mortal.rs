//! `mortal FOLDER STORE HERE LISTEN NEXT SCRIPT...`: one node of a chain, with the keys and the certificate in FOLDER, which has one
//! conversation at a port of LISTEN and makes checkpoints for NEXT, unless that is empty. SCRIPT is as `Script::arguments` says it.
//!
//! It prints where it listens, and `violation` and what it was if the conversation is not as it must be. It ends when it is
//! killed. STORE is `memory`, `file:PATH` or `redis://HOST:PORT`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use migration_tests::mortal::VIOLATION;
use migration_tests::session::{Nodes, Script};
use migration_tests::{folder, named_store};
use rustls_migration::Dialect;
use rustls_migration::tokio::MigrationAcceptor;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ([folder, store, here, listen, next], said) =
        arguments.split_first_chunk().expect("a place");
    let here = here.parse().unwrap();
    let script = Script::from_arguments(said).expect("a script");
    let listen: IpAddr = listen.parse().unwrap();
    let listener = TcpListener::bind((listen, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = folder::node(Path::new(folder))
        .dialects([Dialect::Draft01, Dialect::Draft03])
        .own_addresses([address])
        .nonce_store(named_store::open(store).await.expect("a store"))
        .build();
    let acceptor = MigrationAcceptor::from(server.unwrap());
    let mut addresses: Vec<SocketAddr> = vec![address; here + 1];
    addresses.extend(next.parse::<SocketAddr>());
    let nodes = Nodes::new(script, addresses);
    nodes.come_from_elsewhere(here);
    let (sender, incoming) = mpsc::unbounded_channel();
    tokio::spawn(std::sync::Arc::clone(&nodes).serve(here, acceptor, incoming));
    println!("listening {address}");
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (tcp, _) = accepted.unwrap();
                tcp.set_nodelay(true).unwrap();
                sender.send(tcp).unwrap();
            }
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                for violation in nodes.log().violations.drain(..) {
                    println!("{VIOLATION} {violation}");
                }
            }
        }
    }
}
