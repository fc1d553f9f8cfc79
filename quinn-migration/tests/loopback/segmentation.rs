//! Devices that do not segment UDP (UDP_SEGMENT answers EIO): a connection goes on, as it does with stock quinn.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncTimer, AsyncUdpSocket, Connection, Endpoint, Runtime, TokioRuntime, TransportConfig,
    UdpPoller,
};
use quinn_migration::{AddressId, Alternate, Event, MigrationClient, MigrationServer, Outcome};

use crate::support::stock::{self, stock_client};
use crate::support::{Identity, Server, bind, client, connect, settled, tireless, until, within};

const BULK: usize = 4 << 20;

/// A runtime whose sockets lose the first batch that they are to segment, and segment no more, as quinn-udp does when
/// the kernel answers EIO to UDP_SEGMENT. The first `able` sockets are spared.
#[derive(Debug)]
struct Shim {
    able: AtomicUsize,
    refusals: Arc<AtomicU32>,
}

impl Shim {
    fn new(able: usize) -> Arc<Self> {
        Arc::new(Self {
            able: AtomicUsize::new(able),
            refusals: Arc::default(),
        })
    }

    fn refusals(&self) -> u32 {
        self.refusals.load(Ordering::SeqCst)
    }
}

impl Runtime for Shim {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        let spared = |left: usize| left.checked_sub(1);
        if self
            .able
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, spared)
            .is_ok()
        {
            return Ok(inner);
        }
        let segments = AtomicUsize::new(inner.max_transmit_segments().max(2));
        Ok(Arc::new(WithoutSegmentation {
            inner,
            segments,
            refusals: Arc::clone(&self.refusals),
        }))
    }
}

#[derive(Debug)]
struct WithoutSegmentation {
    inner: Arc<dyn AsyncUdpSocket>,
    segments: AtomicUsize,
    refusals: Arc<AtomicU32>,
}

impl AsyncUdpSocket for WithoutSegmentation {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if transmit
            .segment_size
            .is_some_and(|segment| segment < transmit.contents.len())
        {
            self.refusals.fetch_add(1, Ordering::SeqCst);
            self.segments.store(1, Ordering::SeqCst);
            return Ok(());
        }
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.segments.load(Ordering::SeqCst)
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

fn stock_server(identity: &Identity, runtime: Arc<dyn Runtime>) -> Endpoint {
    stock::stock_server(identity, TransportConfig::default(), runtime)
}

fn our_server(identity: &Identity, runtime: Arc<Shim>) -> Server {
    let first = bind("127.0.0.2:0");
    let address = first.local_addr().unwrap();
    let inner = MigrationServer::builder(Arc::new(identity.server_tls()), first)
        .runtime(runtime)
        .bind()
        .unwrap();
    Server {
        inner,
        addresses: vec![(AddressId::FIRST, address)],
    }
}

/// Sends [`BULK`] bytes; answers with the time until the last one has arrived.
async fn bulk(from: &Connection, to: &Connection) -> Duration {
    let start = Instant::now();
    let sending = async {
        let mut stream = from.open_uni().await.unwrap();
        stream.write_all(&vec![7; BULK]).await.unwrap();
        stream.finish().unwrap();
    };
    let receiving = async {
        let mut stream = to.accept_uni().await.unwrap();
        assert_eq!(stream.read_to_end(BULK).await.unwrap().len(), BULK);
    };
    within(async { tokio::join!(sending, receiving) }).await;
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_device_does_not_segment_serves_bulk_as_stock_quinn_does() {
    let identity = Identity::new();
    let shim = Shim::new(0);
    let endpoint = stock_server(&identity, shim.clone());
    let connecting = stock_client(&identity).connect(endpoint.local_addr().unwrap(), "localhost");
    let accepting = crate::support::accept(&endpoint);
    let (ours, theirs) = tokio::join!(connecting.unwrap(), accepting);
    let stock = bulk(&theirs, &ours.unwrap()).await;
    assert_eq!(shim.refusals(), 1, "stock quinn learns from the first one");

    let shim = Shim::new(0);
    let server = our_server(&identity, shim.clone());
    let plain = stock_client(&identity);
    let (ours, theirs) = connect(&plain, &server, server.address(0)).await;
    let never_moves = bulk(&theirs, &ours).await;
    let client = client(&identity);
    let (ours, theirs) = connect(client.endpoint(), &server, server.address(0)).await;
    let follows = bulk(&theirs, &ours).await;
    println!("stock server {stock:?}, this one {never_moves:?} to a stock client, {follows:?}");
    assert_eq!(shim.refusals(), 1, "and so does this crate's socket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_added_address_whose_device_does_not_segment_keeps_its_clients() {
    let identity = Identity::new();
    let shim = Shim::new(1);
    let mut server = our_server(&identity, shim.clone());
    let id = server.add("127.0.0.3:0");
    let client = client(&identity);
    let (ours, theirs) = connect(client.endpoint(), &server, server.address(0)).await;
    let mut migrator = client.attach(&ours, tireless()).unwrap();
    let to = server.address(1);
    let advertised = server.inner.advertise(&theirs, Alternate::from(to)).await;
    assert!(
        matches!(settled(&mut migrator).await, Event::Migrated { to: reached, .. } if reached == to)
    );
    assert_eq!(
        within(advertised.unwrap().outcome()).await.unwrap(),
        Outcome::Moved
    );
    bulk(&theirs, &ours).await;
    assert_eq!(shim.refusals(), 1);
    assert_eq!(server.inner.client_of(&theirs).server, id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_new_path_does_not_segment_stays_on_it() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let shim = Shim::new(1);
    let client = MigrationClient::builder(Arc::new(identity.client_tls()), bind("0.0.0.0:0"))
        .runtime(shim.clone())
        .bind()
        .unwrap();
    let (ours, theirs) = connect(client.endpoint(), &server, server.address(0)).await;
    let mut migrator = client.attach(&ours, tireless()).unwrap();
    let to = server.address(1);
    server
        .inner
        .advertise(&theirs, Alternate::from(to))
        .await
        .unwrap();
    let event = settled(&mut migrator).await;
    assert!(matches!(event, Event::Migrated { .. }), "{event:?}");
    bulk(&ours, &theirs).await;
    until("the new path was asked to segment", || shim.refusals() == 1).await;
    assert_eq!(migrator.server(), Some(to));
    ours.close(0u32.into(), b"");
    while let Some(event) = within(migrator.next()).await {
        assert!(!matches!(event, Event::FellBack { .. }), "{event:?}");
    }
}
