//! Nodes behind one name, and clients of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper_migration::client::{Client, HttpsConnector};
use hyper_migration::server::{Serve, serve};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use migration_tests::Service;
use rustls_migration::client::MigrationLimit;
use rustls_migration::tokio::{DrainPlan, MigrationAcceptor, MigrationConnector};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(crate) type Body = BoxBody<Bytes, Infallible>;
pub(crate) type MovingClient = Client<HttpsConnector<HttpConnector<OneName>>, Body>;

/// A protocol, as ALPN calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    H1,
    H2,
}

impl Protocol {
    pub(crate) fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::H1 => vec![b"http/1.1".to_vec()],
            Self::H2 => vec![b"h2".to_vec()],
        }
    }
}

/// Resolves the service's name to the nodes that take new clients, the first of them first.
#[derive(Clone, Debug, Default)]
pub(crate) struct OneName(Arc<Mutex<Vec<SocketAddr>>>);

impl OneName {
    pub(crate) fn leads_to(&self, nodes: impl IntoIterator<Item = SocketAddr>) {
        *self.0.lock().unwrap() = nodes.into_iter().collect();
    }

    /// The nodes in turn.
    fn resolve(&self) -> Vec<SocketAddr> {
        let mut nodes = self.0.lock().unwrap();
        if !nodes.is_empty() {
            nodes.rotate_left(1);
        }
        nodes.clone()
    }
}

impl tower::Service<Name> for OneName {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        std::future::ready(Ok(self.resolve().into_iter()))
    }
}

/// hyper-util's connector for one name.
pub(crate) fn http_connector(name: &OneName) -> HttpConnector<OneName> {
    let mut http = HttpConnector::new_with_resolver(name.clone());
    http.enforce_http(false);
    http.set_nodelay(true);
    http
}

/// A node that serves HTTP.
pub(crate) struct HttpNode {
    pub(crate) address: SocketAddr,
    pub(crate) acceptor: MigrationAcceptor,
    listener: Option<TcpListener>,
    serving: JoinSet<()>,
}

impl HttpNode {
    pub(crate) async fn new(service: &Service, protocol: Option<Protocol>, ip: &str) -> Self {
        let ip: std::net::IpAddr = ip.parse().unwrap();
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = service.server_config();
        config.alpn_protocols = match protocol {
            Some(protocol) => protocol.alpn(),
            None => [Protocol::H2.alpn(), Protocol::H1.alpn()].concat(),
        };
        let settings = service.node_with(config).own_addresses([address]);
        Self {
            address,
            acceptor: MigrationAcceptor::from(settings.build().unwrap()),
            listener: Some(listener),
            serving: JoinSet::new(),
        }
    }

    /// Serves `router`, with the settings that `set` makes.
    pub(crate) fn serve_with(&mut self, router: Router, set: fn(Serve<Router>) -> Serve<Router>) {
        let listener = self.take_listener();
        let server = serve(listener, self.acceptor.clone(), router);
        self.serving.spawn(set(server).into_future());
    }

    /// For another server.
    pub(crate) fn take_listener(&mut self) -> TcpListener {
        self.listener.take().expect("a node serves once")
    }

    pub(crate) fn serve(&mut self, router: Router) {
        self.serve_with(router, |server| server);
    }
}

/// At once, and for as long as a test takes.
pub(crate) fn plan(target: SocketAddr) -> DrainPlan {
    DrainPlan::to([(target, 1)])
        .spread_over(Duration::ZERO)
        .deadline(Duration::from_secs(60))
}

/// A connector for streams that speak `protocol`.
pub(crate) fn tls_connector(service: &Service, protocol: Protocol) -> MigrationConnector {
    let mut config = service.client_config();
    config.alpn_protocols = protocol.alpn();
    // Nodes are drained more often here than clients put up with by default.
    let limit = MigrationLimit {
        count: 100,
        ..MigrationLimit::default()
    };
    let client = service.client_with(config).limit(limit);
    client.build().unwrap().into()
}

pub(crate) fn connector(
    service: &Service,
    protocol: Protocol,
    name: &OneName,
) -> HttpsConnector<HttpConnector<OneName>> {
    HttpsConnector::with_inner(http_connector(name), tls_connector(service, protocol))
}

/// A client with a pool of its own.
pub(crate) fn client(service: &Service, protocol: Protocol, name: &OneName) -> MovingClient {
    let connector = connector(service, protocol, name);
    legacy::Client::builder(TokioExecutor::new())
        .build(connector)
        .into()
}

/// A and B, both for the service, with a client's name that leads to A.
pub(crate) async fn two_nodes(
    protocol: Option<Protocol>,
) -> (Service, OneName, HttpNode, HttpNode) {
    let service = Service::default();
    let a = HttpNode::new(&service, protocol, "127.0.0.2").await;
    let b = HttpNode::new(&service, protocol, "127.0.0.3").await;
    let name = OneName::default();
    name.leads_to([a.address]);
    (service, name, a, b)
}
