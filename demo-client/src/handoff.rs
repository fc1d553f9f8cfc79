//! `demo-client handoff`: two nodes and a client in one process, over real connections on loopback.
//!
//! The nodes share what the nodes of a service share (ticket keys, a nonce store, the files), and no connection's state.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use demo_server::authority::{self, Authority};
use demo_server::files::Files;
use demo_server::node::{Node, Report as NodeReport};
use demo_server::program::Failure;
use demo_server::service::{self, Identity};
use demo_server::trigger::Trigger as NodeTrigger;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use rustls_migration::migration_token::{MemoryNonceStore, NonceStore};
use rustls_migration::server::MigrationServerBuilder;
use rustls_migration::tokio::MigrationAcceptor;
use rustls_migration::{TicketKeys, provider};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::connect;
use crate::download::{Download, Job};
use crate::options::Handoff;
use crate::output::Output;
use crate::record::Recorder;
use crate::replay;
use crate::report::Report;

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

pub(crate) async fn run(options: &Handoff) -> Result<(), Failure> {
    let file = match &options.file {
        Some(file) => file.clone(),
        None => std::env::current_exe()
            .map_err(|error| Failure::wrong("this program's own file", &error))?,
    };
    let service = Service::new(&file)?;
    let (a, at_a) = bind(A).await?;
    let (b, at_b) = bind(B).await?;
    let to_b = service.settings()?.answers_for([at_a]).target(at_b);
    service.start(a, to_b, Some(service.size / 2), None)?;
    let (reports, mut b_reports) = unbounded_channel();
    let at_the_end = service.settings()?.answers_for([at_b]);
    service.start(b, at_the_end, None, Some(reports))?;

    let recorder = Recorder::default();
    let connector = connect::connector(service.roots()?, options.common.key_log.as_deref())?;
    let job = Job {
        connector: connector.dialer(recorder.clone()),
        server_name: ServerName::try_from(authority::NAMES[0])
            .map_err(|error| Failure::wrong("the demo's name", &error))?,
        address: at_a,
        path: service.name.clone(),
        migrate_after: None,
    };
    let download = job.run(Output::create(None).await?).await?;
    finish(&download, &recorder, at_b, &mut b_reports, options).await
}

/// Presents the used token again, and reports.
async fn finish(
    download: &Download,
    recorder: &Recorder,
    at_b: SocketAddr,
    b_reports: &mut UnboundedReceiver<NodeReport>,
    options: &Handoff,
) -> Result<(), Failure> {
    let mut problems = Vec::new();
    if !matches!(download.legs.as_slice(), [_, second] if second.server == at_b) {
        problems.push(format!("the way was not from one node to {at_b}"));
    }
    let replay = match recorder.flight_to(at_b) {
        Some(flight) => Some(replay::present_again(&flight, b_reports).await?),
        None => {
            problems.push("there is no used token to present again".to_owned());
            None
        }
    };
    let report = Report {
        download,
        replay: replay.as_ref(),
        problems,
    };
    report.print(options.common.json)
}

/// What the two nodes have in common.
struct Service {
    authority: Authority,
    ticket_keys: TicketKeys,
    nonce_store: Arc<dyn NonceStore>,
    files: Arc<Files>,
    /// The file's name, below the root.
    name: String,
    /// The file's length in bytes.
    size: u64,
}

impl Service {
    fn new(file: &Path) -> Result<Self, Failure> {
        let name = file.display();
        let unusable = |error| Failure::usage(format!("--file {name}"), &error);
        let path: PathBuf = file.canonicalize().map_err(unusable)?;
        let metadata = path.metadata().map_err(unusable)?;
        let (Some(folder), Some(below)) = (path.parent(), path.file_name()) else {
            return Err(Failure::Usage(format!("--file {name}: not a file")));
        };
        if !metadata.is_file() || metadata.len() < 2 {
            return Err(Failure::Usage(format!(
                "--file {name}: not a file of at least 2 bytes, one for each node"
            )));
        }
        let below = below.to_str().filter(|below| !below.contains('\n'));
        let below = below.ok_or_else(|| {
            Failure::Usage(format!("--file {name}: the name must be one line of UTF-8"))
        })?;
        let now = OffsetDateTime::now_utc();
        let capacity = MemoryNonceStore::DEFAULT_CAPACITY;
        Ok(Self {
            authority: Authority::generate()
                .map_err(|error| Failure::wrong("the development authority", &error))?,
            ticket_keys: TicketKeys::generate(provider::ring().secure_random)
                .map_err(|error| Failure::wrong("the ticket keys", &error))?,
            nonce_store: Arc::new(MemoryNonceStore::new(capacity, now)),
            files: Arc::new(Files::below(folder).map_err(unusable)?),
            name: below.to_owned(),
            size: metadata.len(),
        })
    }

    /// A node's settings, as each of the two has them.
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
        reports: Option<UnboundedSender<NodeReport>>,
    ) -> Result<(), Failure> {
        let server = settings
            .build()
            .map_err(|error| Failure::wrong("a node's migration settings", &error))?;
        let node = Arc::new(Node {
            acceptor: MigrationAcceptor::from(server),
            files: Arc::clone(&self.files),
            trigger: NodeTrigger::default(),
            migrate_after,
            reports,
        });
        tokio::spawn(node.serve(listener));
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

async fn bind(ip: IpAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |error| Failure::usage(format!("cannot listen on {ip}"), &error);
    let listener = TcpListener::bind((ip, 0)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
