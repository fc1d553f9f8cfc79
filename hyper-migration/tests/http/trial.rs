//! Many clients of three nodes behind one name, which are drained in turn: what becomes of requests, and of connections. Beside it the same
//! with tokio-rustls, hyper-rustls and the graceful shutdown of hyper-util.
//!
//! A third of the requests upload 300 KB, a third have long answers. The environment's `HTTP_TRIAL_SECONDS` makes it longer: with 180, nodes
//! are drained every five seconds for three minutes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::extract::Path;
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use migration_tests::{NAME, Service, stock};
use rustls_migration::tokio::DrainPlan;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::TlsAcceptor;

use crate::cluster::{Body, HttpNode, MovingClient, OneName, Protocol, client, http_connector};

const UPLOAD: usize = 300_000;
const LONG: usize = 400_000;

/// How a trial goes.
#[derive(Clone, Copy)]
struct Pace {
    clients: usize,
    lasts: Duration,
    /// From the beginning of one node's drain to that of the next.
    every: Duration,
    /// Over how long a drain is spread.
    spread: Duration,
    /// Between two of the twenty pieces of an upload or of a long answer.
    pause: Duration,
}

fn pace() -> Pace {
    match std::env::var("HTTP_TRIAL_SECONDS") {
        Ok(seconds) => Pace {
            clients: 200,
            lasts: Duration::from_secs(seconds.parse().unwrap()),
            every: Duration::from_secs(5),
            spread: Duration::from_secs(1),
            pause: Duration::from_millis(60),
        },
        Err(_) => Pace {
            clients: 40,
            lasts: Duration::from_secs(6),
            every: Duration::from_millis(2000),
            spread: Duration::from_millis(200),
            pause: Duration::from_millis(10),
        },
    }
}

/// What nodes executed, by the requests' numbers.
#[derive(Default)]
struct Executed(Mutex<HashMap<u64, u32>>);

impl Executed {
    fn execute(&self, number: u64) {
        *self.0.lock().unwrap().entry(number).or_default() += 1;
    }

    fn twice(&self) -> usize {
        self.0
            .lock()
            .unwrap()
            .values()
            .filter(|times| **times > 1)
            .count()
    }
}

/// The service, which is the same at each node.
fn router(executed: &Arc<Executed>, pause: Duration) -> Router {
    let (first, second, third) = (
        Arc::clone(executed),
        Arc::clone(executed),
        Arc::clone(executed),
    );
    let upload = async move |Path(number): Path<u64>, body: Bytes| {
        first.execute(number);
        body.len().to_string()
    };
    let short = async move |Path(number): Path<u64>| {
        second.execute(number);
        "short"
    };
    let long = async move |Path(number): Path<u64>| {
        third.execute(number);
        AxumBody::new(slowly(LONG, pause))
    };
    Router::new()
        .route("/upload/{number}", post(upload))
        .route("/short/{number}", get(short))
        .route("/long/{number}", get(long))
}

/// A body that comes in twenty pieces.
fn slowly(len: usize, pause: Duration) -> Channel<Bytes> {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        for _ in 0..20 {
            sleep(pause).await;
            if sender.send_data(vec![7; len / 20].into()).await.is_err() {
                return;
            }
        }
    });
    body
}

/// What clients got.
#[derive(Default)]
struct Tally {
    next: AtomicU64,
    done: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

/// Either client.
trait Ask: Clone + Send + 'static {
    fn ask(
        &self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<hyper::Response<Incoming>, legacy::Error>> + Send;
}

impl Ask for MovingClient {
    async fn ask(
        &self,
        request: Request<Body>,
    ) -> Result<hyper::Response<Incoming>, legacy::Error> {
        self.request(request).await
    }
}

type StockClient = legacy::Client<HttpsConnector<HttpConnector<OneName>>, Body>;

impl Ask for StockClient {
    async fn ask(
        &self,
        request: Request<Body>,
    ) -> Result<hyper::Response<Incoming>, legacy::Error> {
        self.request(request).await
    }
}

/// Sends one request after the other until `end`.
/// Asks again and again until it is stopped.
async fn run(
    client: impl Ask,
    mut kind: usize,
    tally: Arc<Tally>,
    pace: Pace,
    stop: watch::Receiver<bool>,
) {
    while !*stop.borrow() {
        let number = tally.next.fetch_add(1, Ordering::Relaxed);
        kind += 1;
        match one(&client, kind % 3, number, pace).await {
            Ok(()) => {
                tally.done.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => tally.failed.lock().unwrap().push(error),
        }
    }
}

async fn one(client: &impl Ask, kind: usize, number: u64, pace: Pace) -> Result<(), String> {
    let uri = |path: &str| format!("https://{NAME}/{path}/{number}");
    let (request, expected) = match kind {
        0 => {
            let request = Request::post(uri("upload")).header("content-length", UPLOAD);
            let request = request.body(slowly(UPLOAD, pace.pause).boxed());
            (request, UPLOAD.to_string().len())
        }
        1 => (Request::get(uri("long")).body(Empty::new().boxed()), LONG),
        _ => (Request::get(uri("short")).body(Empty::new().boxed()), 5),
    };
    let failed = |error: &dyn std::error::Error| {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            why = format!("{why}: {error}");
            source = error.source();
        }
        format!("request {number} of kind {kind}: {why}")
    };
    let response = client
        .ask(request.unwrap())
        .await
        .map_err(|error| failed(&error))?;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|error| failed(&error))?;
    match body.to_bytes().len() == expected && status == 200 {
        true => Ok(()),
        false => Err(format!("request {number} of kind {kind}: {status}")),
    }
}

/// What came of a trial, for one protocol.
struct Outcome {
    done: usize,
    failed: Vec<String>,
    twice: usize,
    /// Connections that were there when their nodes were drained, and had to go.
    told: usize,
    /// Those of them whose clients resumed at the target.
    resumed: usize,
}

impl Outcome {
    fn of(tally: &Tally, executed: &Executed, told: usize, resumed: usize) -> Self {
        Self {
            done: tally.done.load(Ordering::Relaxed),
            failed: tally.failed.lock().unwrap().clone(),
            twice: executed.twice(),
            told,
            resumed,
        }
    }

    fn report(&self, what: &str, protocol: Protocol) {
        let failed = self.failed.len();
        println!(
            "{what}, {protocol:?}: {} requests done, {failed} failed, {} executed twice; {} connections had to go, {} of them resumed",
            self.done, self.twice, self.told, self.resumed
        );
        for why in self.failed.iter().take(5) {
            println!("    {why}");
        }
    }
}

const PLACES: [&str; 3] = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];

/// The nodes that take new clients while `drained` is drained.
fn others(addresses: &[SocketAddr], drained: usize) -> impl Iterator<Item = SocketAddr> {
    let drained = addresses[drained];
    addresses
        .iter()
        .copied()
        .filter(move |address| *address != drained)
}

async fn migrating(protocol: Protocol, pace: Pace) -> Outcome {
    let service = Service::default();
    let (executed, tally, name) = (Arc::default(), Arc::default(), OneName::default());
    let mut nodes = Vec::new();
    for place in PLACES {
        let mut node = HttpNode::new(&service, Some(protocol), place).await;
        node.serve(router(&executed, pace.pause));
        nodes.push(node);
    }
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
    name.leads_to(addresses.clone());
    let end = Instant::now() + pace.lasts;
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for number in 0..pace.clients / 2 {
        let client = client(&service, protocol, &name);
        clients.spawn(run(
            client,
            number,
            Arc::clone(&tally),
            pace,
            stopped.clone(),
        ));
    }
    let (mut at, mut told) = (Instant::now(), 0);
    for turn in 0.. {
        at += pace.every;
        sleep_until(at).await;
        if at >= end {
            break;
        }
        let node = turn % nodes.len();
        name.leads_to(others(&addresses, node));
        let plan = DrainPlan::to(others(&addresses, node).map(|target| (target, 1)));
        let plan = plan
            .spread_over(pace.spread)
            .deadline(Duration::from_secs(60));
        let drained = nodes[node].acceptor.drain(plan).finished().await.progress;
        assert_eq!(drained.forced, 0, "{drained:?}");
        told += drained.notified;
        name.leads_to(addresses.clone());
    }
    let resumed = || {
        let counts = nodes.iter().map(|node| node.acceptor.stats().migrated());
        usize::try_from(counts.sum::<u64>()).unwrap()
    };
    // Who was told last has the time to follow, on a busy machine too.
    let late = Instant::now() + Duration::from_secs(30);
    while resumed() + 1 < told && Instant::now() < late {
        sleep(Duration::from_millis(50)).await;
    }
    stop.send_replace(true);
    clients.join_all().await;
    let resumed = resumed();
    Outcome::of(&tally, &executed, told, resumed)
}

/// A node as it is built today.
struct StockNode {
    address: SocketAddr,
    drain: Arc<Notify>,
    drained: tokio::sync::mpsc::Receiver<usize>,
    _serving: JoinSet<()>,
}

impl StockNode {
    async fn new(service: &Service, protocol: Protocol, place: &str, router: Router) -> Self {
        let listener = TcpListener::bind((place, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = service.server_config_with(Arc::new(stock::provider()));
        config.alpn_protocols = protocol.alpn();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let drain = Arc::new(Notify::new());
        let (sender, drained) = tokio::sync::mpsc::channel(1);
        let mut serving = JoinSet::new();
        serving.spawn(serve_stock(
            listener,
            acceptor,
            router,
            Arc::clone(&drain),
            sender,
        ));
        Self {
            address,
            drain,
            drained,
            _serving: serving,
        }
    }
}

/// Serves; ends all connections gracefully whenever it is drained, and says how many there were.
async fn serve_stock(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    drain: Arc<Notify>,
    drained: tokio::sync::mpsc::Sender<usize>,
) {
    let mut connections = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (tcp, _) = accepted.unwrap();
                tcp.set_nodelay(true).unwrap();
                let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), connections.watcher());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let http = Builder::new(TokioExecutor::new());
                    let service = TowerToHyperService::new(router);
                    let connection = http.serve_connection(TokioIo::new(stream), service);
                    let _ = watcher.watch(connection.into_owned()).await;
                });
            }
            () = drain.notified() => {
                let ending = std::mem::take(&mut connections);
                let count = ending.count();
                let drained = drained.clone();
                tokio::spawn(async move {
                    ending.shutdown().await;
                    let _ = drained.send(count).await;
                });
            }
        }
    }
}

async fn stock(protocol: Protocol, pace: Pace) -> Outcome {
    let service = Service::default();
    let (executed, tally, name) = (Arc::default(), Arc::default(), OneName::default());
    let mut nodes = Vec::new();
    for place in PLACES {
        nodes.push(StockNode::new(&service, protocol, place, router(&executed, pace.pause)).await);
    }
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
    name.leads_to(addresses.clone());
    let end = Instant::now() + pace.lasts;
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for number in 0..pace.clients / 2 {
        let mut config = service.client_config_with(Arc::new(stock::provider()));
        config.enable_early_data = false;
        let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config);
        let builder = builder.https_only();
        let connector = match protocol {
            Protocol::H1 => builder.enable_http1().wrap_connector(http_connector(&name)),
            Protocol::H2 => builder.enable_http2().wrap_connector(http_connector(&name)),
        };
        let client = legacy::Client::builder(TokioExecutor::new()).build(connector);
        clients.spawn(run(
            client,
            number,
            Arc::clone(&tally),
            pace,
            stopped.clone(),
        ));
    }
    let (mut at, mut told) = (Instant::now(), 0);
    for turn in 0.. {
        at += pace.every;
        sleep_until(at).await;
        if at >= end {
            break;
        }
        let node = turn % nodes.len();
        name.leads_to(others(&addresses, node));
        nodes[node].drain.notify_one();
        told += nodes[node].drained.recv().await.unwrap();
        name.leads_to(addresses.clone());
    }
    stop.send_replace(true);
    clients.join_all().await;
    Outcome::of(&tally, &executed, told, 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_or_is_executed_twice_while_nodes_are_drained_in_turn() {
    let pace = pace();
    let (h1, h2) = tokio::join!(migrating(Protocol::H1, pace), migrating(Protocol::H2, pace));
    for (protocol, outcome) in [(Protocol::H1, h1), (Protocol::H2, h2)] {
        outcome.report("migrating", protocol);
        assert_eq!((outcome.failed.len(), outcome.twice), (0, 0));
        assert!(outcome.done > 0 && outcome.told > 0);
        // hyper's pool may have opened another connection meanwhile, and follows no offer then. In a short trial one is many.
        let missed = outcome.told.saturating_sub(outcome.resumed + 1);
        assert!(missed * 100 < outcome.told * 5);
    }
    let (h1, h2) = tokio::join!(stock(Protocol::H1, pace), stock(Protocol::H2, pace));
    for (protocol, outcome) in [(Protocol::H1, h1), (Protocol::H2, h2)] {
        outcome.report("stock", protocol);
        assert!(outcome.done > 0 && outcome.told > 0);
        assert_eq!(outcome.twice, 0);
    }
}
