//! Opaque targets of draft -03: the application resolves them, the newest counts, and who cannot resume the session is told
//! nothing (`docs/protocol.md` section 10).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use migration_tests::client::{echoed, until};
use migration_tests::node::{ServerStream, echo, movable_echo};
use migration_tests::{Node, Service, Spoken, server_name};
use migration_token::BoxFuture;
use rustls::HandshakeKind;
use rustls_migration::client::InvalidOfferError;
use rustls_migration::server::{Arrival, Verdict};
use rustls_migration::tokio::{
    ConnectError, Event, HandOff, MigrateError, MigrationConnector, MigrationStream, ResolveTarget,
};
use rustls_migration::{MoveKind, TicketKeys};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

fn service() -> Service {
    Service::speaking(Spoken::Draft03)
}

/// Knows names, and says what they stand for when it may.
#[derive(Clone, Debug)]
struct Directory {
    names: Arc<Mutex<HashMap<Vec<u8>, SocketAddr>>>,
    open: watch::Sender<bool>,
}

impl Directory {
    fn new(open: bool) -> Self {
        Self {
            names: Arc::default(),
            open: watch::Sender::new(open),
        }
    }

    fn add(&self, name: &str, address: SocketAddr) {
        let mut names = self.names.lock().unwrap();
        names.insert(name.as_bytes().to_vec(), address);
    }
}

impl ResolveTarget for Directory {
    fn resolve<'a>(
        &'a self,
        target: &'a [u8],
        _: SocketAddr,
    ) -> BoxFuture<'a, io::Result<SocketAddr>> {
        let found = self.names.lock().unwrap().get(target).copied();
        let mut open = self.open.subscribe();
        Box::pin(async move {
            open.wait_for(|open| *open).await.unwrap();
            found.ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }
}

/// What a name of a node begins with.
fn name(address: SocketAddr) -> Vec<u8> {
    format!("edge {}", address.ip()).into_bytes()
}

/// Moves its client to each of these, and goes on as an echo.
async fn move_to(
    mut stream: ServerStream,
    targets: Vec<SocketAddr>,
    consents: bool,
) -> io::Result<()> {
    for target in targets {
        stream
            .migrate_to(target, consents.then_some(&[][..]))
            .await?;
    }
    echo(stream).await
}

struct World {
    service: Service,
    a: Node,
    b: Node,
    c: Node,
}

impl World {
    /// A moves its clients to each of these nodes.
    async fn new(targets: [usize; 2], consents: bool) -> Self {
        let service = service();
        let mut a = Node::bind("127.0.0.2").await;
        let (mut b, mut c) = (Node::bind("127.0.0.3").await, Node::bind("127.0.0.4").await);
        let addresses = [b.address(), c.address()];
        let targets = targets.map(|target| addresses[target]).to_vec();
        a.serve(service.node().name_targets(name), move |stream| {
            move_to(stream, targets.clone(), consents)
        });
        for node in [&mut b, &mut c] {
            node.serve(service.node(), movable_echo);
        }
        Self { service, a, b, c }
    }

    fn directory(&self, open: bool) -> Directory {
        let directory = Directory::new(open);
        for node in [&self.b, &self.c] {
            let name = name(node.address());
            directory.add(std::str::from_utf8(&name).unwrap(), node.address());
        }
        directory
    }

    async fn connect(&self, connector: MigrationConnector) -> MigrationStream {
        let connected = connector.connect(server_name(), self.a.address()).await;
        connected.unwrap()
    }
}

#[tokio::test]
async fn a_named_target_is_followed_when_the_application_has_resolved_it() {
    let mut world = World::new([0, 0], true).await;
    let directory = world.directory(false);
    let connector = world.service.connector().hand_off(HandOff::Drain);
    let mut stream = world
        .connect(connector.target_resolver(directory.clone()))
        .await;
    let mut events = stream.events();
    echoed(&mut stream, b"at A, whatever the directory says").await;
    assert!(!stream.is_notified() && stream.offered_target().is_none());
    directory.open.send_replace(true);
    until(&mut stream, &mut events, |event| {
        matches!(event, Event::Migrated(_))
    })
    .await;
    assert_eq!(stream.peer_addr(), world.b.address());
    echoed(&mut stream, b"at B").await;
    let arrival = world.b.arrival().await;
    assert!(matches!(arrival, Arrival::Migrated { state: Some(_), .. }));
}

#[tokio::test]
async fn the_newest_target_counts_also_while_an_older_one_is_resolved() {
    let mut world = World::new([0, 1], true).await;
    let directory = world.directory(false);
    let connector = world.service.connector().hand_off(HandOff::Drain);
    let mut stream = world
        .connect(connector.target_resolver(directory.clone()))
        .await;
    let mut events = stream.events();
    echoed(&mut stream, b"at A").await;
    directory.open.send_replace(true);
    until(&mut stream, &mut events, |event| {
        matches!(event, Event::Migrated(_))
    })
    .await;
    assert_eq!(stream.peer_addr(), world.c.address());
    let arrival = world.c.arrival().await;
    assert!(matches!(arrival, Arrival::Migrated { .. }));
}

#[tokio::test]
async fn a_target_that_nobody_knows_leaves_the_client_where_it_is_and_it_says_so() {
    let world = World::new([0, 0], true).await;
    let connector = world.service.connector().hand_off(HandOff::Drain);
    let mut stream = world
        .connect(connector.target_resolver(Directory::new(true)))
        .await;
    let mut events = stream.events();
    echoed(&mut stream, b"hello").await;
    let refused =
        |event: &Event| matches!(event, Event::OfferRefused(InvalidOfferError::Unresolved));
    until(&mut stream, &mut events, refused).await;
    until(&mut stream, &mut events, |event| {
        matches!(event, Event::Notified { .. })
    })
    .await;
    echoed(&mut stream, b"stays at A").await;
    assert_eq!(stream.peer_addr(), world.a.address());
}

#[tokio::test]
async fn a_successor_resolves_what_its_stream_had_no_time_for() {
    let mut world = World::new([0, 0], false).await;
    let directory = world.directory(false);
    let connector = world.service.connector();
    let mut stream = world
        .connect(connector.target_resolver(directory.clone()))
        .await;
    let handle = stream.handle();
    echoed(&mut stream, b"hello").await;
    drop(stream);
    directory.open.send_replace(true);
    let mut next = handle.successor().await.unwrap();
    assert_eq!(next.peer_addr(), world.b.address());
    let kind = next.get_ref().unwrap().handshake_kind();
    assert_eq!(kind, Some(HandshakeKind::Resumed));
    echoed(&mut next, b"at B").await;
    let arrival = world.b.arrival().await;
    assert!(matches!(arrival, Arrival::Migrated { state: None, .. }));
    let none = handle.successor().await.unwrap_err();
    assert!(matches!(none, MigrateError::NoOffer));
}

/// Moves its client's connection to B, and to C when it says something: with the stream, or without.
async fn change_of_mind(
    mut stream: ServerStream,
    [b, c]: [SocketAddr; 2],
    consents: bool,
) -> io::Result<()> {
    stream.migrate_to(b, None).await?;
    stream.write_all(b"first").await?;
    let mut word = [0; 4];
    stream.read_exact(&mut word).await?;
    stream.migrate_to(c, consents.then_some(&[][..])).await?;
    stream.write_all(&word).await?;
    echo(stream).await
}

#[tokio::test]
async fn a_successor_goes_where_the_newest_request_leads_and_takes_no_stream_that_is_to_move_meanwhile()
 {
    for consents in [false, true] {
        let service = service();
        let mut a = Node::bind("127.0.0.2").await;
        let (mut b, mut c) = (Node::bind("127.0.0.3").await, Node::bind("127.0.0.4").await);
        let targets = [b.address(), c.address()];
        a.serve(service.node().name_targets(name), move |stream| {
            change_of_mind(stream, targets, consents)
        });
        for node in [&mut b, &mut c] {
            node.serve(service.node(), movable_echo);
        }
        let world = World { service, a, b, c };
        let directory = world.directory(false);
        let connector = world.service.connector();
        let mut stream = world
            .connect(connector.target_resolver(directory.clone()))
            .await;
        migration_tests::client::expect(&mut stream, b"first").await;
        let handle = stream.handle();
        let succeeding = tokio::spawn(async move { handle.successor().await });
        // It has begun to resolve B.
        while directory.open.receiver_count() < 2 {
            tokio::task::yield_now().await;
        }
        echoed(&mut stream, b"word").await;
        directory.open.send_replace(true);
        let succeeded = succeeding.await.unwrap();
        match consents {
            false => assert_eq!(succeeded.unwrap().peer_addr(), world.c.address()),
            true => assert!(matches!(succeeded.unwrap_err(), MigrateError::StreamOffer)),
        }
    }
}

/// Reads what a client says, and tells.
async fn listens(
    mut stream: ServerStream,
    heard: tokio::sync::mpsc::UnboundedSender<Vec<u8>>,
) -> io::Result<()> {
    let mut all = Vec::new();
    // A client that leaves without a word resets the connection, or ends it without `close_notify`.
    let _ = stream.read_to_end(&mut all).await;
    heard.send(all).unwrap();
    Ok(())
}

/// A, whose clients are sent to B, which does not resume their session: what B hears of them.
async fn to_a_stranger(
    consents: bool,
    foreign: bool,
) -> (
    World,
    SocketAddr,
    tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>,
) {
    let service = service();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let target = b.address();
    a.serve(service.node(), move |stream| {
        move_to(stream, vec![target], consents)
    });
    let keys = match foreign {
        true => TicketKeys::generate(service.provider.secure_random).unwrap(),
        false => service.keys.clone(),
    };
    let (heard, hearing) = tokio::sync::mpsc::unbounded_channel();
    // It answers for no address.
    let settings = service.node_of(service.server_config(), "files", keys);
    b.serve_as_is(settings, move |stream| listens(stream, heard.clone()));
    let c = Node::bind("127.0.0.4").await;
    (World { service, a, b, c }, target, hearing)
}

#[tokio::test]
async fn a_target_that_does_not_resume_hears_nothing_and_the_client_is_back_at_the_first_address() {
    for foreign in [true, false] {
        let (mut world, target, mut heard) = to_a_stranger(false, foreign).await;
        let mut stream = world.connect(world.service.connector()).await;
        migration_tests::client::until_notified(&mut stream).await;
        let landing = stream.migrate(b"for B alone").await.unwrap();
        assert_eq!(landing.at, world.a.address());
        let why = landing.fell_back.unwrap();
        assert!(
            matches!(why.error(), ConnectError::SessionRefused { address } if *address == target)
        );
        assert_eq!(heard.recv().await.unwrap(), b"");
        migration_tests::client::expect(&mut stream, b"for B alone").await;
        let expected = match foreign {
            true => Arrival::Fresh,
            false => Arrival::Declined(Verdict::WrongTarget),
        };
        assert_eq!(world.b.arrival().await, expected);
    }
}

#[tokio::test]
async fn a_successor_or_an_overlap_at_a_stranger_is_an_error_and_the_stream_stays() {
    let (world, target, mut heard) = to_a_stranger(false, true).await;
    let mut stream = world.connect(world.service.connector()).await;
    migration_tests::client::until_notified(&mut stream).await;
    let refused = stream.handle().successor().await.unwrap_err();
    let MigrateError::Unreachable(why) = &refused else {
        panic!("{refused:?}");
    };
    assert!(matches!(&**why, ConnectError::SessionRefused { address } if *address == target));
    assert_eq!(heard.recv().await.unwrap(), b"");
    echoed(&mut stream, b"still at A").await;

    let (world, _, mut heard) = to_a_stranger(true, true).await;
    let connector = world.service.connector().hand_off(HandOff::Overlap);
    let mut stream = world.connect(connector).await;
    let mut events = stream.events();
    let stayed = until(&mut stream, &mut events, |event| {
        matches!(event, Event::Stayed { .. })
    })
    .await;
    let Event::Stayed { why, .. } = stayed else {
        panic!("{stayed:?}");
    };
    assert!(matches!(&*why, ConnectError::SessionRefused { .. }));
    assert_eq!(heard.recv().await.unwrap(), b"");
    echoed(&mut stream, b"still at A").await;
}

#[tokio::test]
async fn a_notice_says_what_is_to_move() {
    for consents in [true, false] {
        let world = World::new([0, 0], consents).await;
        let connector = world.service.connector();
        let mut stream = world
            .connect(connector.target_resolver(world.directory(true)))
            .await;
        let mut events = stream.events();
        let expected = match consents {
            true => MoveKind::Stream,
            false => MoveKind::Connection,
        };
        let notified = until(&mut stream, &mut events, |event| {
            matches!(event, Event::Notified { .. })
        });
        let Event::Notified { kind } = notified.await else {
            panic!("not notified");
        };
        assert_eq!(kind, expected);
        assert_eq!(stream.offered_target(), Some(world.b.address()));
    }
}
