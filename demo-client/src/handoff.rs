//! `demo-client handoff`: some nodes and a client in one process, over real connections on loopback.
//!
//! The nodes share what the nodes of a service share (ticket keys, a nonce store, the files), and no connection's state.

use std::env;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use demo_server::authority::{self, Authority};
use demo_server::connections::Connections;
use demo_server::dialect::DialectChoice;
use demo_server::files::Files;
use demo_server::node::{Node, Report as NodeReport};
use demo_server::program::Failure;
use demo_server::protocol;
use demo_server::service::{self, Identity};
use demo_server::sync::{Exchanges, Next};
use demo_server::trigger::Trigger as NodeTrigger;
use demo_server::upload::Upload;
use demo_server::web;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use rustls_migration::migration_token::{MemoryNonceStore, NonceStore};
use rustls_migration::server::MigrationServerBuilder;
use rustls_migration::tokio::MigrationAcceptor;
use rustls_migration::{TicketKeys, provider};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::connect;
use crate::download::{Download, Job};
use crate::mortal::{self, Mortals};
use crate::options::{Handoff, Mode};
use crate::output::Output;
use crate::record::Recorder;
use crate::replay::{self, Replay};
use crate::report::Report;
use crate::sync;

pub(crate) async fn run(options: &Handoff) -> Result<(), Failure> {
    let file = file(options)?;
    let nodes = u64::from(options.hops) + 1;
    let shortest = match options.mode {
        Mode::Immediate => nodes,
        Mode::Drain | Mode::Overlap => sync::shortest(nodes),
    };
    let service = Service::new(&file, shortest, options.kill)?;
    let share = service.size / nodes;
    let upload = service.upload()?;
    let (way, mut reports, mortals) = match options.kill {
        false => service.start_all(options, share, &upload).await?,
        true => service.start_mortals(options.hops, share, &upload).await?,
    };
    let (Some(first), Some(last)) = (way.first(), way.last()) else {
        return Err(Failure::Wrong("there is no node".to_owned()));
    };

    let recorder = Recorder::default();
    let key_log = options.common.key_log.as_deref();
    let connector = connect::connector(
        protocol::ALPN,
        service.roots()?,
        key_log,
        options.dialect,
        way.len(),
    )?;
    let connector = connector.dialer(recorder.clone());
    let server_name = server_name()?;
    let output = Output::create(None).await?;
    let download = if options.mode == Mode::Immediate {
        let job = Job {
            connector,
            server_name,
            address: *first,
            path: service.name.clone(),
            migrate_after: None,
            follows: false,
        };
        job.run(output).await?
    } else {
        let job = sync::Job {
            connector: connector
                .hand_off(options.mode.hand_off())
                .recover_from_start(),
            server_name,
            address: *first,
            path: service.name.clone(),
            source: inverted(&file).await?,
            share,
            upload,
            mortals,
        };
        job.run(output).await?
    };
    let replay = match recorder.flight_to(*last) {
        Some(flight) => Some(replay::present_again(&flight, &mut reports).await?),
        None => None,
    };
    report(&download, &way, replay.as_ref(), options)
}

fn server_name() -> Result<ServerName<'static>, Failure> {
    ServerName::try_from(authority::NAMES[0])
        .map_err(|error| Failure::wrong("the demo's name", &error))
}

/// What is downloaded.
fn file(options: &Handoff) -> Result<PathBuf, Failure> {
    let own = || std::env::current_exe();
    let file = options.file.clone().map_or_else(own, Ok);
    file.map_err(|error| Failure::wrong("this program's own file", &error))
}

/// What is uploaded: the file with all its bits inverted, so that no direction can be taken for the other.
async fn inverted(file: &Path) -> Result<Vec<u8>, Failure> {
    let content = tokio::fs::read(file).await;
    let mut content = content.map_err(|error| Failure::wrong(file.display(), &error))?;
    content.iter_mut().for_each(|byte| *byte = !*byte);
    Ok(content)
}

fn report(
    download: &Download,
    way: &[SocketAddr],
    replay: Option<&Replay>,
    options: &Handoff,
) -> Result<(), Failure> {
    let mut problems = Vec::new();
    if !download
        .legs
        .iter()
        .map(|leg| leg.server)
        .eq(way.iter().copied())
    {
        problems.push("the way was not from node to node".to_owned());
    }
    if replay.is_none() {
        problems.push("there is no used token to present again".to_owned());
    }
    let report = Report {
        download,
        mode: Some(options.mode),
        // In an overlap there is nothing to say before the next node is ready.
        // When a node dies there may be nothing to say again.
        early_data: options.mode != Mode::Overlap && !options.kill,
        replay,
        problems,
    };
    report.print(options.common.json)
}

/// Where nodes are, what the last one reports, and those that are to be killed.
type Started = (
    Vec<SocketAddr>,
    UnboundedReceiver<NodeReport>,
    Option<Mortals>,
);

/// It is all that the nodes write to.
fn no_temporary_files(error: &io::Error) -> Failure {
    let folder = env::temp_dir();
    let what = format!("temporary files in {} (TMPDIR)", folder.display());
    Failure::usage(what, error)
}

/// What the nodes have in common.
struct Service {
    authority: Authority,
    ticket_keys: TicketKeys,
    nonce_store: Arc<dyn NonceStore>,
    files: Arc<Files>,
    /// The folder of the files.
    root: PathBuf,
    /// What it has on disk, for nodes that are processes of their own.
    state: Option<TempDir>,
    /// The file's name, below the root.
    name: String,
    /// The file's length in bytes.
    size: u64,
}

impl Service {
    fn new(file: &Path, shortest: u64, on_disk: bool) -> Result<Self, Failure> {
        let name = file.display();
        let unusable = |error| Failure::usage(format!("--file {name}"), &error);
        let path: PathBuf = file.canonicalize().map_err(unusable)?;
        let metadata = path.metadata().map_err(unusable)?;
        let (Some(folder), Some(below)) = (path.parent(), path.file_name()) else {
            return Err(Failure::Usage(format!("--file {name}: not a file")));
        };
        if !metadata.is_file() || metadata.len() < shortest {
            return Err(Failure::Usage(format!(
                "--file {name}: not a file of at least {shortest} bytes"
            )));
        }
        let below = below.to_str().filter(|below| !below.contains('\n'));
        let below = below.ok_or_else(|| {
            Failure::Usage(format!("--file {name}: the name must be one line of UTF-8"))
        })?;
        let now = OffsetDateTime::now_utc();
        let capacity = MemoryNonceStore::DEFAULT_CAPACITY;
        let state = on_disk.then(tempfile::tempdir).transpose();
        let state = state.map_err(|error| no_temporary_files(&error))?;
        let (authority, ticket_keys) = match &state {
            Some(state) => (
                mortal::authority(state.path())?,
                mortal::ticket_keys(state.path())?,
            ),
            None => (
                Authority::generate()
                    .map_err(|error| Failure::wrong("the development authority", &error))?,
                TicketKeys::generate(provider::ring().secure_random)
                    .map_err(|error| Failure::wrong("the ticket keys", &error))?,
            ),
        };
        Ok(Self {
            authority,
            ticket_keys,
            root: folder.to_owned(),
            state,
            nonce_store: Arc::new(MemoryNonceStore::new(capacity, now)),
            files: Arc::new(Files::below(folder).map_err(unusable)?),
            name: below.to_owned(),
            size: metadata.len(),
        })
    }

    fn upload(&self) -> Result<Upload, Failure> {
        match &self.state {
            Some(state) => mortal::upload(state.path()),
            None => Upload::new().map_err(|error| no_temporary_files(&error)),
        }
    }

    /// Starts nodes that are to be killed, and the last one, which is not.
    async fn start_mortals(
        &self,
        count: u8,
        share: u64,
        upload: &Upload,
    ) -> Result<Started, Failure> {
        let folders = match &self.state {
            Some(state) => (state.path(), self.root.as_path()),
            None => return Err(Failure::Wrong("there is nothing on disk".to_owned())),
        };
        let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 0, count.saturating_add(2)));
        let (listener, last) = mortal::bind(ip).await?;
        let (mortals, way) = Mortals::start(folders, count, last, share).await?;
        let (sender, reports) = unbounded_channel();
        let exchanges = Exchanges {
            upload: upload.clone(),
            next: None,
            survivor: None,
        };
        let settings = self.settings()?.own_addresses([last]);
        let settings = settings.dialects(DialectChoice::Both.dialects());
        self.start(listener, settings, None, Some(exchanges), Some(sender))?;
        Ok((way, reports, Some(mortals)))
    }

    /// Starts the nodes that a client walks over. Returns where they are, and what the last one reports.
    async fn start_all(
        &self,
        options: &Handoff,
        share: u64,
        upload: &Upload,
    ) -> Result<Started, Failure> {
        let mut listeners = Vec::new();
        let mut way = Vec::new();
        for index in 0..=options.hops {
            let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 0, index.saturating_add(2)));
            let (listener, address) = mortal::bind(ip).await?;
            listeners.push(listener);
            way.push(address);
        }
        let (sender, reports) = unbounded_channel();
        for (index, listener) in (0u64..).zip(listeners) {
            let mut after = way
                .iter()
                .skip(usize::try_from(index).unwrap_or(usize::MAX));
            let (own, next) = (after.next().copied(), after.next().copied());
            let settings = self.settings()?.own_addresses(own);
            let settings = settings.dialects(options.dialect.dialects());
            let (settings, migrate_after, exchanges) = match (options.mode, next) {
                (Mode::Immediate, Some(next)) => (settings.target(next), Some(share), None),
                (Mode::Immediate, None) => (settings, None, None),
                (Mode::Drain | Mode::Overlap, next) => {
                    let next = next.map(|node| Next {
                        node,
                        notice_at: index * share + share / 2,
                        wait_at: (index + 1) * share,
                    });
                    let upload = upload.clone();
                    let survivor = None;
                    let exchanges = Exchanges {
                        upload,
                        next,
                        survivor,
                    };
                    (settings, None, Some(exchanges))
                }
            };
            let reports = next.is_none().then(|| sender.clone());
            self.start(listener, settings, migrate_after, exchanges, reports)?;
        }
        Ok((way, reports, None))
    }

    /// A node's settings, as each of them has them.
    fn settings(&self) -> Result<MigrationServerBuilder, Failure> {
        let identity = Identity::issued_by(&self.authority)
            .map_err(|error| Failure::wrong("a node's certificate", &error))?;
        let settings = service::node(identity, self.ticket_keys.clone(), None)
            .map_err(|error| Failure::wrong("a node's TLS settings", &error))?;
        Ok(settings.nonce_store(Arc::clone(&self.nonce_store)))
    }

    fn start(
        &self,
        listener: TcpListener,
        settings: MigrationServerBuilder,
        migrate_after: Option<u64>,
        exchanges: Option<Exchanges>,
        reports: Option<UnboundedSender<NodeReport>>,
    ) -> Result<(), Failure> {
        let server = settings
            .build()
            .map_err(|error| Failure::wrong("a node's migration settings", &error))?;
        let node = Arc::new(Node {
            acceptor: MigrationAcceptor::from(server),
            files: Arc::clone(&self.files),
            http: web::server(Arc::clone(&self.files)),
            target: None,
            connections: Connections::default(),
            trigger: NodeTrigger::default(),
            migrate_after,
            exchanges,
            reports,
        });
        tokio::spawn(node.serve(listener, std::future::pending()));
        Ok(())
    }

    fn roots(&self) -> Result<RootCertStore, Failure> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.authority.certificate().clone())
            .map_err(|error| Failure::wrong("the development authority", &error))?;
        Ok(roots)
    }
}
