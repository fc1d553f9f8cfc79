//! `demo-forwarder node`: sends each client bytes until the client has had enough, and moves its clients when told to.
//!
//! What it says on standard output, a line each: `ready`; `accepted CLIENT FRONT`; `moved CLIENT FRONT` or `stayed CLIENT
//! FRONT` for each client after `move FRONT`; `at CLIENT FRONT` for each client, and `all`, after `where`; `sent BYTES
//! SHA256` when a download ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use demo_server::authority::Authority;
use demo_server::program::Failure;
use parking_lot::Mutex;
use quic_forwarder::{FrontSocket, RoutableIds, ServerId};
use quinn::{Connection, EndpointConfig, RecvStream, SendStream};
use quinn_migration::{Alternate, Codepoints, MigrationServer, Outcome};
use rustls::crypto::ring::default_provider;
use rustls::version::TLS13;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::front::{bind, load_keys, say};
use crate::options;

const CHUNK: usize = 64 * 1024;

struct Node {
    server: MigrationServer,
    /// What each `AddressId` of the server stands for.
    fronts: Vec<(quinn_migration::AddressId, SocketAddr)>,
    connections: Mutex<Vec<Connection>>,
}

pub(crate) async fn run(options: &options::Node) -> Result<(), Failure> {
    let node = Arc::new(Node::new(options)?);
    say("ready")?;
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            incoming = node.server.endpoint().accept() => match incoming {
                Some(incoming) => {
                    tokio::spawn(Arc::clone(&node).serve(incoming));
                }
                None => return Ok(()),
            },
            line = commands.next_line() => match line {
                Ok(Some(line)) => node.obey(line.trim())?,
                Ok(None) | Err(_) => return Ok(()),
            },
        }
    }
}

impl Node {
    fn new(options: &options::Node) -> Result<Self, Failure> {
        let keys = load_keys(&options.keys)?;
        let id = ServerId::from(options.number);
        let ids = RoutableIds::new(&keys, id).map_err(|e| Failure::wrong("the node", &e))?;
        let mut config = EndpointConfig::default();
        config.cid_generator(move || Box::new(ids.clone()));
        // Clients come through fronts alone.
        let own = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let tls = Arc::new(tls(options)?);
        let server = MigrationServer::bind(tls, Codepoints::default(), config, own)
            .map_err(|error| Failure::wrong("the node", &error))?;
        let mut fronts = Vec::new();
        for link in &options.fronts {
            let name = |error: &dyn std::error::Error| {
                Failure::usage(format!("--front {}", link.front.public), error)
            };
            let socket = FrontSocket::new(&keys, id, link.front, bind(link.listen)?)
                .map_err(|error| name(&error))?;
            let added = server.add_socket(Arc::new(socket)).map_err(|e| name(&e))?;
            fronts.push((added, link.front.public));
        }
        Ok(Self {
            server,
            fronts,
            connections: Mutex::default(),
        })
    }

    async fn serve(self: Arc<Self>, incoming: quinn::Incoming) {
        let Ok(connection) = incoming.await else {
            return;
        };
        self.connections.lock().push(connection.clone());
        let _ = say(&format!("accepted {}", self.place(&connection)));
        while let Ok((out, enough)) = connection.accept_bi().await {
            tokio::spawn(async move {
                if let Err(error) = send(out, enough).await {
                    tracing::warn!(%error, "a download ended early");
                }
            });
        }
        let mut connections = self.connections.lock();
        connections.retain(|open| open.stable_id() != connection.stable_id());
    }

    /// The client's address and the front that it is on.
    fn place(&self, connection: &Connection) -> String {
        let seen = self.server.client_of(connection);
        let front = self.fronts.iter().find(|(id, _)| *id == seen.server);
        let front = front.map_or("nowhere".to_owned(), |(_, front)| front.to_string());
        format!("{} {front}", seen.client)
    }

    fn obey(self: &Arc<Self>, command: &str) -> Result<(), Failure> {
        let connections = self.connections.lock().clone();
        match command.split_once(' ') {
            Some(("move", to)) => {
                let to: SocketAddr = to.parse().map_err(|e| Failure::usage("move", &e))?;
                for connection in connections {
                    tokio::spawn(Arc::clone(self).move_to(connection, to));
                }
                Ok(())
            }
            None if command == "where" => {
                for connection in connections {
                    say(&format!("at {}", self.place(&connection)))?;
                }
                say("all")
            }
            Some(_) | None => Err(Failure::Usage(format!("what is `{command}`?"))),
        }
    }

    async fn move_to(self: Arc<Self>, connection: Connection, to: SocketAddr) {
        let alternate = Alternate::forwarded(to);
        let outcome = match self.server.advertise(&connection, alternate).await {
            Ok(advertised) => advertised.outcome().await.ok(),
            Err(error) => {
                tracing::warn!(%error, %to, "not advertised");
                None
            }
        };
        let word = match outcome {
            Some(Outcome::Moved) => "moved",
            _ => "stayed",
        };
        let _ = say(&format!("{word} {}", self.place(&connection)));
    }
}

/// Sends bytes, at least as many as the client asks for in its first eight, until the client has finished its side.
async fn send(mut out: SendStream, mut enough: RecvStream) -> Result<(), Failure> {
    let lost = |error: &dyn std::error::Error| Failure::wrong("a download", error);
    let mut least = [0; 8];
    enough.read_exact(&mut least).await.map_err(|e| lost(&e))?;
    let least = u64::from_be_bytes(least);
    let finished = enough.read_to_end(0);
    tokio::pin!(finished);
    let (mut sum, mut bytes, mut enough, mut state) = (Sha256::new(), 0u64, false, 1u64);
    let mut chunk = vec![0; CHUNK];
    while !enough || bytes < least {
        for byte in &mut chunk {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = state.to_be_bytes()[0];
        }
        sum.update(&chunk);
        let write = out.write_all(&chunk);
        tokio::pin!(write);
        let written = tokio::select! {
            ended = &mut finished, if !enough => {
                ended.map_err(|error| lost(&error))?;
                enough = true;
                write.await
            }
            written = &mut write => written,
        };
        written.map_err(|error| lost(&error))?;
        bytes = bytes.saturating_add(u64::try_from(CHUNK).unwrap_or_default());
    }
    let _ = out.finish();
    out.stopped().await.map_err(|error| lost(&error))?;
    let sum = base16ct::lower::encode_string(&sum.finalize());
    say(&format!("sent {bytes} {sum}"))
}

fn tls(options: &options::Node) -> Result<rustls::ServerConfig, Failure> {
    let authority = Authority::open(&options.state_dir);
    let issued = authority.and_then(|authority| authority.issue());
    let (certificate, key) = issued.map_err(|e| Failure::wrong("the certificate", &e))?;
    rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)
        })
        .map_err(|error| Failure::wrong("TLS settings", &error))
}
