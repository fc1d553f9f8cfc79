//! Which stream a connection carries, and which of two arrivals of one stream may go on (`docs/protocol.md` sections 6 and 11,
//! `docs/recovery.md`): checkpoints that are presented twice, older ones after newer ones, and fencing in a shared store.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use migration_tests::memory::{Joined, deliver, sent, take_offer};
use migration_tests::{Service, server_name};
use migration_token::{MemoryNonceStore, NonceStore as _};
use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use rustls_migration::client::{Checkpoint, ClientConnection, MigrationClient, NoWider, Offer};
use rustls_migration::server::{
    Arrival, HelloAcceptor, MigrationServer, ServerConnection, Verdict,
};
use rustls_migration::{Connection as _, Lineage};

/// A node, and the store that knows what was spent at its address.
struct Place {
    address: SocketAddr,
    server: Arc<MigrationServer>,
    store: Arc<MemoryNonceStore>,
}

/// Nodes of a service, each at an address of its own but for the second and third, which share one and its store.
struct World {
    a: Place,
    b: Place,
    also_b: Place,
    c: Place,
    client: Arc<MigrationClient>,
}

impl World {
    fn new() -> Self {
        Self::with_suites(["", "", ""])
    }

    /// A, B and C have only suites whose names end like this.
    fn with_suites(suites: [&str; 3]) -> Self {
        let service = Service::default();
        let place = |ip: &str, store: &Arc<MemoryNonceStore>, suite: &str| {
            let address = format!("{ip}:443").parse().unwrap();
            let mut provider = CryptoProvider::clone(&service.provider);
            let ends =
                |found: &SupportedCipherSuite| format!("{:?}", found.suite()).ends_with(suite);
            provider.cipher_suites.retain(ends);
            let config = service.server_config_with(Arc::new(provider));
            let server = service.node_with(config).own_addresses([address]);
            let server = server.nonce_store(Arc::clone(store) as _).build();
            Place {
                address,
                server: Arc::new(server.unwrap()),
                store: Arc::clone(store),
            }
        };
        let [of_a, of_b, of_c] = [(); 3].map(|()| Arc::new(service.store(100)));
        let client = service.client_with(service.client_config()).build();
        Self {
            a: place("127.0.0.2", &of_a, suites[0]),
            b: place("127.0.0.3", &of_b, suites[1]),
            also_b: place("127.0.0.3", &of_b, suites[1]),
            c: place("127.0.0.4", &of_c, suites[2]),
            client: Arc::new(client.unwrap()),
        }
    }

    /// A new connection to A.
    fn at_a(&self) -> Joined {
        Joined::new(&self.client, &self.a.server, self.a.address)
    }

    /// Has a server make a checkpoint for another place, which the client takes.
    fn checkpoint(&self, joined: &mut Joined, to: &Place) -> Checkpoint {
        joined.server.checkpoint(to.address, b"state").unwrap();
        joined.exchange();
        let checkpoint = joined.client.take_checkpoint().unwrap();
        let policy = NoWider::any_port();
        let led = checkpoint.lead_to(to.address, self.a.address, &policy);
        led.unwrap()
    }

    /// A client that goes on by an offer, and its first flight.
    fn resume(&self, offer: Offer) -> (ClientConnection, Vec<u8>) {
        let resumed = ClientConnection::resume(&self.client, server_name(), offer, b"early");
        let mut client = resumed.unwrap();
        let flight = sent(&mut client);
        (client, flight)
    }

    /// How a place takes what the client of this checkpoint, or a copy of it, says.
    async fn go_on(&self, at: &Place, checkpoint: Checkpoint) -> ServerConnection {
        let (client, flight) = self.resume(checkpoint.into_offer(0).unwrap());
        let server = hear(at, &flight).await;
        complete(at, client, server).await
    }
}

/// A place hears a first flight.
async fn hear(at: &Place, flight: &[u8]) -> ServerConnection {
    let mut accepting = HelloAcceptor::new(Arc::clone(&at.server), None, Some(at.address));
    assert!(accepting.push(flight), "a hello in one flight");
    let examined = accepting.examine().unwrap();
    let answer = match examined.claim() {
        Some(claim) => Some(at.store.claim(claim).await),
        None => None,
    };
    examined.accept(answer).unwrap()
}

/// Client and server go on until neither says anything.
async fn complete(
    at: &Place,
    mut client: ClientConnection,
    mut server: ServerConnection,
) -> ServerConnection {
    loop {
        if let Some(claim) = server.commit() {
            let answer = Some(at.store.commit(claim).await);
            assert!(server.committed(&answer));
        }
        let (from_server, from_client) = (sent(&mut server), sent(&mut client));
        if from_server.is_empty() && from_client.is_empty() {
            return server;
        }
        deliver(&from_server, &mut client);
        deliver(&from_client, &mut server);
    }
}

fn is_recovered(server: &ServerConnection) -> bool {
    matches!(server.arrival(), Arrival::Recovered { .. })
}

fn lineage(server: &ServerConnection) -> Lineage {
    server.lineage().expect("a client that can be moved")
}

#[tokio::test]
async fn a_stream_keeps_its_lineage_wherever_it_goes_on_and_a_conversation_begins_one() {
    let world = World::new();
    let mut a = world.at_a();
    let begun = lineage(&a.server);
    assert_eq!(begun.epoch(), 0);
    assert_ne!(lineage(&world.at_a().server).id(), begun.id());

    let checkpoint = world.checkpoint(&mut a, &world.b);
    let (client, flight) = world.resume(checkpoint.into_offer(0).unwrap());
    let server = hear(&world.b, &flight).await;
    let recovered = lineage(&server);
    assert!(server.is_handshaking(), "it is known at once");
    assert_eq!((recovered.id(), recovered.epoch()), (begun.id(), 1));
    let mut b = Joined { client, server };
    b.exchange();
    assert_eq!(lineage(&b.server), recovered);

    // Handed over, and then the session alone.
    b.server.offer(world.c.address, Some(b"state")).unwrap();
    b.exchange();
    let offer = take_offer(&mut b.client, world.c.address);
    let mut c = Joined::resume(&world.client, &world.c.server, offer);
    let handed_over = lineage(&c.server);
    assert_eq!((handed_over.id(), handed_over.epoch()), (begun.id(), 2));
    c.server.offer(world.a.address, None).unwrap();
    c.exchange();
    let offer = take_offer(&mut c.client, world.a.address);
    let next = Joined::resume(&world.client, &world.a.server, offer);
    assert!(matches!(
        next.server.arrival(),
        Arrival::Migrated { state: None, .. }
    ));
    let conversation = lineage(&next.server);
    assert_ne!(conversation.id(), begun.id());
    assert_eq!(conversation.epoch(), 0);
}

#[tokio::test]
async fn a_checkpoint_that_is_not_accepted_begins_a_lineage() {
    // It is for C: presented at B, by mistake, or where its cipher is not enabled.
    let ciphers = ["AES_128_GCM_SHA256", "", "CHACHA20_POLY1305_SHA256"];
    for (suites, at_c, verdict) in [
        (["", "", ""], false, Verdict::WrongTarget),
        (ciphers, true, Verdict::NotResumed),
    ] {
        let world = World::with_suites(suites);
        let mut a = world.at_a();
        let begun = lineage(&a.server);
        let checkpoint = world.checkpoint(&mut a, &world.c);
        let (client, flight) = world.resume(checkpoint.into_offer(0).unwrap());
        let place = if at_c { &world.c } else { &world.b };
        let server = hear(place, &flight).await;
        assert_eq!(*server.arrival(), Arrival::Declined(verdict));
        assert_eq!(
            server.lineage(),
            None,
            "not before its handshake is complete"
        );
        let server = complete(place, client, server).await;
        assert_ne!(lineage(&server).id(), begun.id());
        assert_eq!(lineage(&server).epoch(), 0);
    }
}

#[tokio::test]
async fn a_checkpoint_that_is_presented_at_two_nodes_at_once_is_good_at_the_one_that_completes() {
    for completes_first in [true, false] {
        let world = World::new();
        let mut a = world.at_a();
        let checkpoint = world.checkpoint(&mut a, &world.b);
        let (client, flight) = world.resume(checkpoint.into_offer(0).unwrap());
        let first = hear(&world.b, &flight).await;
        let second = hear(&world.also_b, &flight).await;
        assert!(is_recovered(&first) && is_recovered(&second));
        let early_data = [&first, &second].map(|server| match server.arrival() {
            Arrival::Recovered { early_data, .. } => *early_data,
            other => panic!("{other:?}"),
        });
        assert_eq!(
            early_data,
            [true, false],
            "what it says again is heard once"
        );
        let (at, server, other) = match completes_first {
            true => (&world.b, first, second),
            false => (&world.also_b, second, first),
        };
        let server = complete(at, client, server).await;
        assert!(!server.is_handshaking() && is_recovered(&server));
        // Without the client's Finished it says nothing, and hears nothing that counts.
        assert!(other.is_handshaking());
        for place in [&world.b, &world.also_b] {
            let again = hear(place, &flight).await;
            assert_eq!(*again.arrival(), Arrival::Declined(Verdict::Replayed));
        }
    }
}

#[tokio::test]
async fn a_checkpoint_is_good_once_and_an_older_one_too() {
    let world = World::new();
    let mut a = world.at_a();
    let older = world.checkpoint(&mut a, &world.b);
    let newer = world.checkpoint(&mut a, &world.b);
    let (client, flight) = world.resume(newer.into_offer(0).unwrap());
    let server = hear(&world.b, &flight).await;
    let newest = complete(&world.b, client, server).await;
    assert!(is_recovered(&newest));
    let again = hear(&world.also_b, &flight).await;
    assert_eq!(*again.arrival(), Arrival::Declined(Verdict::Replayed));
    // A dishonest client goes back: the older one has not been spent.
    let back = world.go_on(&world.also_b, older).await;
    assert!(is_recovered(&back));
    assert_eq!(lineage(&back), lineage(&newest), "and can be told");
}

/// The shared store of `docs/recovery.md`: for each stream, the epoch that has it, and what was done.
#[derive(Default)]
struct Streams(HashMap<[u8; 16], (u64, Vec<&'static str>)>);

impl Streams {
    /// One transaction: whether this arrival has the stream now.
    fn take_over(&mut self, lineage: Lineage) -> bool {
        match self.0.get_mut(&lineage.id()) {
            Some((stored, _)) if *stored >= lineage.epoch() => false,
            Some((stored, _)) => {
                *stored = lineage.epoch();
                true
            }
            None => {
                self.0.insert(lineage.id(), (lineage.epoch(), Vec::new()));
                true
            }
        }
    }

    /// One transaction: whether it was done.
    fn work(&mut self, lineage: Lineage, what: &'static str) -> bool {
        match self.0.get_mut(&lineage.id()) {
            Some((stored, done)) if *stored == lineage.epoch() => {
                done.push(what);
                true
            }
            Some(_) | None => false,
        }
    }
}

#[tokio::test]
async fn a_store_that_compares_epochs_lets_one_server_at_a_time_have_a_stream() {
    let world = World::new();
    let mut streams = Streams::default();
    let mut a = world.at_a();
    let at_a = lineage(&a.server);
    assert!(streams.take_over(at_a));
    let older = world.checkpoint(&mut a, &world.c);
    assert!(streams.work(at_a, "at A"));
    let newer = world.checkpoint(&mut a, &world.b);

    // A is cut off, and lives. Its client goes on at B.
    let b = world.go_on(&world.b, newer).await;
    assert!(streams.take_over(lineage(&b)));
    assert!(!streams.work(at_a, "at A, cut off"));
    assert!(streams.work(lineage(&b), "at B"));

    // A dishonest client goes back to before, elsewhere.
    let back = world.go_on(&world.c, older).await;
    assert!(is_recovered(&back));
    assert!(!streams.take_over(lineage(&back)));
    assert_eq!(streams.0[&at_a.id()], (1, vec!["at A", "at B"]));
}
