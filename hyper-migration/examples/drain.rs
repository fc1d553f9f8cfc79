//! The axum service of `axum_service.rs`, which empties itself to another node when it is to stop (SIGTERM), and ends when its last
//! client has gone. `drain LISTEN TARGET`

use std::net::SocketAddr;
use std::sync::Arc;

use axum::{Router, routing::get};
use hyper_migration::server::serve;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_migration::tokio::{DrainPlan, MigrationAcceptor};
use rustls_migration::{TicketKeys, server::MigrationServer};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it is a program")]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let mut address =
        || -> Result<SocketAddr, Error> { Ok(arguments.next().ok_or("ADDRESS")?.parse()?) };
    let chain = CertificateDer::pem_file_iter("server.pem")?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file("server.key")?;
    let (listen, target) = (address()?, address()?);
    let hello = async move || format!("hello from {listen}");
    let router = Router::new().route("/", get(hello));

    let provider = rustls_migration::provider::ring();
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = MigrationServer::builder(config, "hello", TicketKeys::load("ticket-keys")?)
        .own_addresses([listen]);
    let acceptor = MigrationAcceptor::from(server.build()?);
    let listener = rustls_migration::tokio::listen(listen)?;

    let mut terminate = signal(SignalKind::terminate())?;
    let (stop, mut stopped) = watch::channel(());
    let serving = serve(listener, acceptor.clone(), router).accept_until(async move {
        terminate.recv().await;
        stop.send_replace(());
    });
    let draining = async {
        // Whoever is accepted meanwhile is asked to move too.
        if stopped.changed().await.is_ok() {
            let drained = acceptor
                .drain(DrainPlan::to([(target, 1)]))
                .finished()
                .await;
            println!("{:?}", drained.progress);
        }
    };
    tokio::join!(serving.into_future(), draining);
    Ok(())
}
