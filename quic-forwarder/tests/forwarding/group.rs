//! Two fronts and two nodes in this process, and a client.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use quic_forwarder::{
    Front, FrontAddress, FrontSocket, Node, RoutableIds, ServerId, SharedKey, SharedKeys,
};
use quinn::{Connection, EndpointConfig};
use quinn_migration::{AddressId, MigrationClient};
use tokio::task::JoinHandle;

use crate::support::{Identity, Server, bind, within};

/// Two fronts and two nodes, each with the other.
pub struct Group {
    pub fronts: Vec<Arc<Front>>,
    pub running: Vec<JoinHandle<()>>,
    pub nodes: Vec<Server>,
    /// By node and front.
    pub ids: Vec<Vec<AddressId>>,
    /// Where the fronts' envelopes come and go.
    pub inside: [SocketAddr; 2],
    /// The same at the nodes, by node and front.
    pub at_nodes: Vec<Vec<SocketAddr>>,
}

/// What fronts and nodes share, and its number.
pub const SECRET: (u8, [u8; 32]) = (3, [0x5a; 32]);

impl Group {
    pub fn new(identity: &Identity) -> Self {
        let keys = SharedKeys::new(SharedKey::new(SECRET.0, SECRET.1).unwrap());
        let fronts = [1, 2].map(|number| {
            let public = bind(&format!("127.0.2.{number}:0"));
            let inside = bind(&format!("127.0.3.{number}:0"));
            let address = FrontAddress {
                public: public.local_addr().unwrap(),
                inside: inside.local_addr().unwrap(),
            };
            (public, inside, address)
        });
        let inside = [0, 1].map(|front| fronts[front].2.inside);
        let mut nodes = Vec::new();
        let mut ids = Vec::new();
        let mut at_nodes = Vec::new();
        let mut behind: [Vec<Node>; 2] = Default::default();
        for number in [1u64, 2] {
            let id = ServerId::from(number);
            let generator = RoutableIds::new(&keys, id).unwrap();
            let mut config = EndpointConfig::default();
            config.cid_generator(move || Box::new(generator.clone()));
            let node = Server::with(identity.server_tls(), config, &["127.0.0.1:0"]);
            let (mut added, mut at_node) = (Vec::new(), Vec::new());
            for ((_, _, front), behind) in fronts.iter().zip(&mut behind) {
                let inside = bind(&format!("127.0.4.{number}:0"));
                behind.push(Node {
                    id,
                    address: inside.local_addr().unwrap(),
                    takes_new: true,
                });
                at_node.push(inside.local_addr().unwrap());
                let socket = FrontSocket::new(&keys, id, *front, inside).unwrap();
                added.push(node.inner.add_socket(Arc::new(socket)).unwrap());
            }
            nodes.push(node);
            ids.push(added);
            at_nodes.push(at_node);
        }
        let front = |((public, inside, _), nodes)| {
            Arc::new(Front::new(keys.clone(), public, inside, nodes).unwrap())
        };
        let fronts: Vec<_> = fronts.into_iter().zip(behind).map(front).collect();
        let running = fronts.iter().map(|front| {
            let front = Arc::clone(front);
            tokio::spawn(async move { front.run().await.unwrap() })
        });
        Self {
            running: running.collect(),
            fronts,
            nodes,
            ids,
            inside,
            at_nodes,
        }
    }

    /// Connects to a front; answers with the number of the node, too.
    pub async fn connect(
        &self,
        client: &MigrationClient,
        front: usize,
    ) -> (Connection, Connection, usize) {
        self.connect_to(client, self.fronts[front].address()).await
    }

    /// The same, to an address that leads to a front.
    pub async fn connect_to(
        &self,
        client: &MigrationClient,
        to: SocketAddr,
    ) -> (Connection, Connection, usize) {
        let connecting = client.endpoint().connect(to, "localhost").unwrap();
        let (ours, (theirs, node)) = within(async {
            tokio::join!(connecting, async {
                tokio::select! {
                    theirs = self.nodes[0].accept() => (theirs, 0),
                    theirs = self.nodes[1].accept() => (theirs, 1),
                }
            })
        })
        .await;
        (ours.unwrap(), theirs, node)
    }
}

/// A client on 127.0.0.1 that writes down where its paths begin.
pub struct Client {
    pub inner: MigrationClient,
    local: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Client {
    pub fn new(identity: &Identity) -> Self {
        let first = bind("127.0.0.1:0");
        let local = Arc::new(Mutex::new(vec![first.local_addr().unwrap()]));
        let paths = Arc::clone(&local);
        let inner = MigrationClient::builder(Arc::new(identity.client_tls()), first)
            .path_sockets(move |_| {
                let socket = bind("127.0.0.1:0");
                paths.lock().unwrap().push(socket.local_addr()?);
                Ok(socket)
            })
            .bind()
            .unwrap();
        Self { inner, local }
    }

    /// The first datagram of a connection attempt, which goes nowhere.
    pub async fn first_flight(&self) -> Vec<u8> {
        let sink = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = sink.local_addr().unwrap();
        let connecting = self.inner.endpoint().connect(to, "localhost").unwrap();
        let mut buffer = vec![0; 2000];
        let length = within(sink.recv(&mut buffer)).await.unwrap();
        drop(connecting);
        buffer.truncate(length);
        buffer
    }

    /// Where its latest path begins.
    pub fn address(&self) -> SocketAddr {
        *self.local.lock().unwrap().last().unwrap()
    }
}
