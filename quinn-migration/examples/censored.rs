//! Both ends of `tools/censor`: a download from a server whose addresses are blocked, each a while after its first packet.
//!
//! `censored MODE server DIRECTORY ADDRESS...` and `censored MODE client DIRECTORY ADDRESS BYTES PATHS`. With MODE `home` the first
//! address stays open, and whenever the client is there, the server sends it to one that has not been used. With `all` that one is
//! blocked too; the server tells the next address in time, and the client goes there when its path is silent. The client ends
//! with status 0 when at least so many bytes have come, so many paths have died under it, and every byte was right.
#![allow(
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "the command shows what happens and what it found"
)]

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use quinn::Connection;
use quinn_migration::{
    AddressId, AdvertiseError, Event, FollowPolicy, MigrationClient, MigrationServer, Policy,
};
use rustls::pki_types::PrivatePkcs8KeyDer;

const CHUNK: usize = 16 * 1024;
/// Written when the server is ready.
const CERTIFICATE: &str = "certificate.der";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        [mode, "server", directory, ref addresses @ ..] => {
            server(mode == "all", Path::new(directory), addresses).await
        }
        [mode, "client", directory, server, bytes, paths] => {
            let (directory, server) = (Path::new(directory), server.parse()?);
            let goal = (bytes.parse()?, paths.parse()?);
            client(mode == "all", directory, server, goal).await
        }
        _ => anyhow::bail!("see tools/censor"),
    }
}

async fn server(all: bool, directory: &Path, addresses: &[&str]) -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    let (first, others) = addresses.split_first().context("no address")?;
    let server = MigrationServer::builder(Arc::new(tls), UdpSocket::bind(first)?).bind()?;
    let mut unused = Vec::new();
    for address in others {
        unused.push(server.add_address(UdpSocket::bind(address)?)?);
    }
    std::fs::write(directory.join(CERTIFICATE), made.cert.der())?;
    let incoming = server.endpoint().accept().await;
    let connection = incoming.context("the endpoint is closed")?.await?;
    let sending = tokio::spawn(send(connection.clone()));
    tokio::select! {
        ended = supply(all, &server, &connection, unused) => ended?,
        _ = connection.closed() => {}
    }
    sending.await?
}

/// Tells the client one address after the other: when it has come back from the one before or, when `all` are blocked, when it
/// has gone to that.
async fn supply(
    all: bool,
    server: &MigrationServer,
    connection: &Connection,
    unused: Vec<AddressId>,
) -> anyhow::Result<()> {
    for next in unused {
        while !all && server.client_of(connection).server != AddressId::FIRST {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let advertised = loop {
            match server.advertise(connection, next).await {
                Ok(advertised) => break advertised,
                Err(AdvertiseError::Closed(_)) => return Ok(()),
                Err(error) => println!("server: {error}"),
            }
        };
        // The client closes the connection when it has had enough.
        if advertised.outcome().await.is_err() {
            return Ok(());
        }
    }
    std::future::pending().await
}

/// The bytes of the download: each says its position modulo 251.
fn fill(chunk: &mut [u8], position: u64) {
    for (byte, value) in chunk.iter_mut().zip(position..) {
        *byte = u8::try_from(value % 251).unwrap_or_default();
    }
}

async fn send(connection: Connection) -> anyhow::Result<()> {
    let mut stream = connection.open_uni().await?;
    let (mut chunk, mut position) = ([0; CHUNK], 0);
    loop {
        fill(&mut chunk, position);
        if stream.write_all(&chunk).await.is_err() {
            return Ok(());
        }
        position += u64::try_from(CHUNK)?;
    }
}

async fn client(
    all: bool,
    directory: &Path,
    server: SocketAddr,
    (bytes, paths): (u64, u64),
) -> anyhow::Result<()> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(std::fs::read(directory.join(CERTIFICATE))?.into())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = MigrationClient::builder(Arc::new(tls), UdpSocket::bind("0.0.0.0:0")?).bind()?;
    let connection = client
        .endpoint()
        .connect(server, "localhost")?
        .await
        .context("connecting")?;
    let mut policy = Policy::default();
    policy.moves = u32::MAX;
    if all {
        policy.follow = FollowPolicy::OnSilence;
    }
    let mut migrator = client.attach(&connection, policy)?;
    let died = Arc::new(AtomicU64::new(0));
    let (counter, start) = (Arc::clone(&died), Instant::now());
    tokio::spawn(async move {
        while let Some(event) = migrator.next().await {
            let at = start.elapsed().as_secs_f32();
            match event {
                Event::Migrated { to, .. } if !all => println!("{at:6.2} s: went to {to}"),
                Event::FellBack { from, to, .. } | Event::Migrated { from, to, .. } => {
                    let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                    println!("{at:6.2} s: {from} is blocked, now at {to} ({number})");
                }
                Event::Advertised { .. } | Event::Validating { .. } | Event::Kept { .. } => {}
                other => println!("{at:6.2} s: {other:?}"),
            }
        }
    });
    let mut stream = connection.accept_uni().await?;
    let (mut chunk, mut expected, mut position) = ([0; CHUNK], [0; CHUNK], 0);
    while position < bytes || died.load(Ordering::SeqCst) < paths {
        let length = stream.read(&mut chunk).await?.context("the server ended")?;
        fill(&mut expected, position);
        ensure!(
            chunk.get(..length) == expected.get(..length),
            "a byte is wrong"
        );
        position += u64::try_from(length)?;
    }
    connection.close(0u32.into(), b"enough");
    client.endpoint().wait_idle().await;
    let (died, time) = (died.load(Ordering::SeqCst), start.elapsed().as_secs_f32());
    println!("{position} bytes, all right; {died} paths died; {time:.1} s");
    Ok(())
}
