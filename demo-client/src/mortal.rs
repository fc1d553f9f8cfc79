//! Nodes that are processes of their own, to be killed in the middle of what they do.
//!
//! They have nothing in common with the others but a folder with keys, a certificate authority and the upload.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use clap::Args;
use demo_server::authority::Authority;
use demo_server::connections::Connections;
use demo_server::dialect::DialectChoice;
use demo_server::files::Files;
use demo_server::node::Node;
use demo_server::program::Failure;
use demo_server::service::{self, Identity};
use demo_server::state;
use demo_server::sync::Exchanges;
use demo_server::trigger::Trigger;
use demo_server::upload::Upload;
use demo_server::web;
use rustls_migration::provider;
use rustls_migration::tokio::MigrationAcceptor;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// The file of the ticket keys, and that of the upload, in the folder that the nodes share.
const TICKET_KEYS: &str = "ticket.keys";
const UPLOAD: &str = "upload";

/// The settings of one.
#[derive(Debug, Args)]
pub(crate) struct MortalNode {
    /// Folder that the nodes share.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,

    /// Folder whose files are served.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,

    /// Where to listen, at a port of its own.
    #[arg(long, value_name = "IP")]
    listen: IpAddr,

    /// Where clients go on when this node is dead.
    #[arg(long, value_name = "ADDR")]
    next: SocketAddr,
}

/// The ticket keys in a folder that nodes share; they are made on first use.
pub(crate) fn ticket_keys(state: &Path) -> Result<rustls_migration::TicketKeys, Failure> {
    state::ticket_keys(&state.join(TICKET_KEYS), provider::ring().secure_random)
        .map_err(|error| Failure::wrong("the ticket keys", &error))
}

/// The certificate authority in a folder that nodes share; it is made on first use.
pub(crate) fn authority(state: &Path) -> Result<Authority, Failure> {
    Authority::open(state).map_err(|error| Failure::wrong("the development authority", &error))
}

/// The upload in a folder that nodes share.
pub(crate) fn upload(state: &Path) -> Result<Upload, Failure> {
    Upload::at(&state.join(UPLOAD)).map_err(|error| Failure::wrong("the upload", &error))
}

/// Listens at a port of its own at `ip`.
pub(crate) async fn bind(ip: IpAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |error| Failure::usage(format!("cannot listen on {ip}"), &error);
    let listener = TcpListener::bind((ip, 0)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Is such a node, until its input ends or it is killed.
pub(crate) async fn run(options: &MortalNode) -> Result<(), Failure> {
    let identity = Identity::issued_by(&authority(&options.state)?)
        .map_err(|error| Failure::wrong("a node's certificate", &error))?;
    let (listener, address) = bind(options.listen).await?;
    let server = service::node(identity, ticket_keys(&options.state)?, None)
        .map_err(|error| Failure::wrong("a node's TLS settings", &error))?
        .own_addresses([address])
        // The client chooses, by what it offers.
        .dialects(DialectChoice::Both.dialects())
        .build()
        .map_err(|error| Failure::wrong("a node's migration settings", &error))?;
    let files = Files::below(&options.root).map_err(|error| Failure::wrong("the files", &error))?;
    let files = Arc::new(files);
    let node = Arc::new(Node {
        acceptor: MigrationAcceptor::from(server),
        http: web::server(Arc::clone(&files)),
        files,
        target: None,
        connections: Connections::default(),
        trigger: Trigger::default(),
        migrate_after: None,
        exchanges: Some(Exchanges {
            upload: upload(&options.state)?,
            next: None,
            survivor: Some(options.next),
        }),
        reports: None,
    });
    let failed = |error| Failure::wrong("cannot print", &error);
    let mut output = tokio::io::stdout();
    let line = format!("{address}\n");
    output.write_all(line.as_bytes()).await.map_err(failed)?;
    output.flush().await.map_err(failed)?;
    let (mut input, mut nothing) = (tokio::io::stdin(), Vec::new());
    tokio::select! {
        () = node.serve(listener, std::future::pending()) => {}
        _ = input.read_to_end(&mut nothing) => {}
    }
    Ok(())
}

/// Nodes that are processes, in the order in which a client comes to them.
pub(crate) struct Mortals {
    nodes: Vec<Child>,
    /// How much of the file each is meant to serve, in bytes.
    share: u64,
}

impl Mortals {
    /// Starts `count` nodes, each of whose clients go on at the one after it, and at `last` in the end. Returns where they are, too.
    pub(crate) async fn start(
        (state, root): (&Path, &Path),
        count: u8,
        last: SocketAddr,
        share: u64,
    ) -> Result<(Self, Vec<SocketAddr>), Failure> {
        let failed = |error| Failure::wrong("a node's process", &error);
        let program = std::env::current_exe().map_err(failed)?;
        let (mut nodes, mut way) = (Vec::new(), vec![last]);
        let mut next = last;
        for index in (0..count).rev() {
            let ip = Ipv4Addr::new(127, 0, 0, index.saturating_add(2));
            let mut node = Command::new(&program)
                .arg("mortal-node")
                .args([Path::new("--state"), state, Path::new("--root"), root])
                .args(["--listen", &ip.to_string(), "--next", &next.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(failed)?;
            let mut line = String::new();
            if let Some(output) = node.stdout.take() {
                let read = BufReader::new(output).read_line(&mut line).await;
                read.map_err(failed)?;
            }
            next = line
                .trim()
                .parse()
                .map_err(|error| Failure::wrong("a node's address", &error))?;
            way.push(next);
            nodes.push(node);
        }
        nodes.reverse();
        way.reverse();
        Ok((Self { nodes, share }, way))
    }

    /// Kills the node where the client is, which has come to it after so many deaths, when that has served half of its share.
    pub(crate) fn kill_if_due(&mut self, deaths: u64, received: u64) {
        let Some(node) = usize::try_from(deaths)
            .ok()
            .and_then(|index| self.nodes.get_mut(index))
        else {
            return;
        };
        if received >= deaths * self.share + self.share / 2 {
            // It may be dead already.
            let _ = node.start_kill();
        }
    }
}
