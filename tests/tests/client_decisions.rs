//! What a client makes of offers: which it follows, how often, and where it lands when the target fails
//! (`docs/protocol.md` section 4).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use migration_tests::client::{Chosen, echoed, expect};
use migration_tests::node::echo;
use migration_tests::ports::unused;
use migration_tests::{Node, Service, TestClock, server_name};
use rustls::HandshakeKind;
use rustls_migration::client::{
    InvalidOfferError, MigrationClient, MigrationLimit, TargetPolicy, TargetRefused,
};
use rustls_migration::tokio::{
    ConnectError, DepartureOverdue, EarlyDataOutcome, Event, MigrateError, MigrationConnector,
    MigrationStream,
};
use rustls_migration::{Codepoints, ExperimentalCodepoints};
use time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A client at a node A whose tokens name `target`.
async fn offered(service: &Service, target: SocketAddr) -> (MigrationStream, Node) {
    offered_to(&service.connector(), service, target).await
}

async fn offered_to(
    connector: &MigrationConnector,
    service: &Service,
    target: SocketAddr,
) -> (MigrationStream, Node) {
    let mut a = Node::bind("127.0.0.2").await;
    a.serve_echo(service.node().target(target));
    let connector = connector.clone().target_resolver(Chosen(vec![target]));
    let stream = connector.connect(server_name(), a.address()).await.unwrap();
    (stream, a)
}

/// The stream refuses the server's token for this reason, says so once, and goes on.
async fn refuses(mut stream: MigrationStream, why: InvalidOfferError) {
    let mut events = stream.events();
    echoed(&mut stream, b"hello").await;
    match events.try_next() {
        Some(Event::OfferRefused(found)) => assert_eq!(found, why),
        // It does not say where it leads before it is asked for.
        Some(Event::Marked { .. }) => {
            let refused = stream.migrate(b"lost?").await.unwrap_err();
            assert!(matches!(refused, MigrateError::OfferRefused(found) if found == why));
        }
        other => panic!("unexpected: {other:?}"),
    }
    let refused = stream.migrate(b"lost?").await.unwrap_err();
    assert!(matches!(refused, MigrateError::NoOffer));
    echoed(&mut stream, b"goes on").await;
}

#[tokio::test]
async fn a_target_outside_the_policy_is_refused() {
    let service = Service::default();
    let target = "10.0.0.1:443".parse().unwrap();
    let (stream, _a) = offered(&service, target).await;
    refuses(stream, InvalidOfferError::Target(TargetRefused::Narrower)).await;
    let target = "169.254.1.1:443".parse().unwrap();
    let (stream, _a) = offered(&service, target).await;
    refuses(
        stream,
        InvalidOfferError::Target(TargetRefused::NotConnectable),
    )
    .await;
}

#[tokio::test]
async fn another_port_is_followed_only_by_a_client_that_allows_it() {
    let service = Service::default();
    let client = MigrationClient::builder(service.client_config())
        .clock(service.clock.clone())
        .dialects(service.spoken.of_client());
    let connector = MigrationConnector::from(client.build().unwrap());
    let bystander = std::net::TcpListener::bind("127.0.0.3:0").unwrap();
    bystander.set_nonblocking(true).unwrap();
    let elsewhere = bystander.local_addr().unwrap();
    let (stream, _a) = offered_to(&connector, &service, elsewhere).await;
    refuses(stream, InvalidOfferError::Target(TargetRefused::OtherPort)).await;
    let visit = bystander.accept().unwrap_err();
    assert_eq!(visit.kind(), std::io::ErrorKind::WouldBlock);

    // Another host, and the port where the client is.
    let mut a = Node::bind("127.0.0.2").await;
    let there = SocketAddr::new([127, 0, 0, 4].into(), a.address().port());
    let mut b = Node::bind_at(there).await;
    b.serve_echo(service.node());
    a.serve_echo(service.node().target(there));
    let connector = connector.target_resolver(Chosen(vec![there]));
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    echoed(&mut stream, b"hello").await;
    let landing = stream.migrate(b"early").await.unwrap();
    assert_eq!(landing.at, there);
    assert_eq!(landing.handshake, HandshakeKind::Resumed);
}

#[derive(Debug)]
struct Nowhere;

impl TargetPolicy for Nowhere {
    fn allow(&self, _: SocketAddr, _: SocketAddr) -> Result<(), TargetRefused> {
        Err(TargetRefused::ByApplication)
    }
}

#[tokio::test]
async fn an_application_can_bring_its_own_policy() {
    let service = Service::default();
    let client = service.client_with(service.client_config());
    let connector = client.target_policy(Nowhere).build().unwrap().into();
    let target = "127.0.0.3:443".parse().unwrap();
    let (stream, _a) = offered_to(&connector, &service, target).await;
    refuses(
        stream,
        InvalidOfferError::Target(TargetRefused::ByApplication),
    )
    .await;
}

/// A client whose clock is its own.
fn client_by(service: &Service, clock: &TestClock) -> MigrationConnector {
    let mut config = service.client_config();
    config.time_provider = Arc::new(clock.clone());
    let client = service.client_with(config).clock(clock.clone());
    client.build().unwrap().into()
}

#[tokio::test]
async fn an_offer_is_not_followed_once_its_tickets_life_is_over() {
    let service = Service::default();
    let target = "127.0.0.3:443".parse().unwrap();
    let (mut stream, _a) = offered(&service, target).await;
    echoed(&mut stream, b"hello").await;
    service.clock.advance(Duration::HOUR - Duration::SECOND);
    assert_eq!(
        stream.open_target().is_ok(),
        stream.offered_target().is_some()
    );
    service.clock.advance(Duration::SECOND);
    let refused = stream.migrate(&[]).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Expired));
    echoed(&mut stream, b"goes on").await;
}

#[tokio::test]
async fn a_client_whose_clock_is_wrong_or_is_set_moves_with_early_data() {
    for (wrong, set) in [
        (Duration::hours(2), Duration::ZERO),
        (-Duration::hours(2), Duration::ZERO),
        (Duration::ZERO, Duration::hours(2)),
        (Duration::ZERO, -Duration::hours(2)),
    ] {
        let service = Service::default();
        let mut b = Node::bind("127.0.0.3").await;
        b.serve_echo(service.node());
        let clock = TestClock::new();
        clock.step(wrong);
        let connector = client_by(&service, &clock);
        let (mut stream, _a) = offered_to(&connector, &service, b.address()).await;
        echoed(&mut stream, b"hello").await;
        clock.step(set);
        let landing = stream.migrate(b"early").await.unwrap();
        assert_eq!(landing.handshake, HandshakeKind::Resumed, "{wrong} {set}");
        assert_eq!(landing.early_data, EarlyDataOutcome::Accepted);
        echoed(&mut stream, b"early").await;
    }
}

#[tokio::test]
async fn a_malformed_token_is_an_event_and_the_connection_goes_on() {
    let service = Service::default();
    // To this client the four bytes of a ticket's early_data extension are the token, or the mark.
    let codepoints = Codepoints {
        migration_token: 42,
        experimental: ExperimentalCodepoints {
            migration_allowed: 42,
            ..ExperimentalCodepoints::default()
        },
        ..Codepoints::default()
    };
    let client = service.client_with(service.client_config());
    let connector = client.codepoints(codepoints).build().unwrap().into();
    let mut a = Node::bind("127.0.0.2").await;
    a.serve_echo(service.node());
    let connector: MigrationConnector = connector;
    let stream = connector.connect(server_name(), a.address()).await.unwrap();
    refuses_malformed(stream).await;
}

async fn refuses_malformed(mut stream: MigrationStream) {
    let mut events = stream.events();
    echoed(&mut stream, b"hello").await;
    let event = events.try_next();
    assert!(
        matches!(
            event,
            Some(Event::OfferRefused(
                InvalidOfferError::Malformed(_) | InvalidOfferError::MalformedMark
            ))
        ),
        "{event:?}"
    );
    echoed(&mut stream, b"goes on").await;
}

#[tokio::test]
async fn a_stream_migrates_five_times_in_300_seconds_and_then_stays() {
    let service = Service::default();
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    a.serve_echo(service.node().target(b.address()));
    b.serve_echo(service.node().target(a.address()));
    let mut stream = service
        .connector()
        .target_resolver(Chosen(vec![a.address(), b.address()]))
        .connect(server_name(), a.address())
        .await
        .unwrap();
    for _ in 0..MigrationLimit::default().count {
        echoed(&mut stream, b"hello").await;
        let landing = stream.migrate(b"again").await.unwrap();
        assert_eq!(landing.handshake, HandshakeKind::Resumed);
        expect(&mut stream, b"again").await;
    }
    echoed(&mut stream, b"hello").await;
    let refused = stream.migrate(b"lost?").await.unwrap_err();
    assert!(matches!(refused, MigrateError::TooOften));
    // No time passes when a clock is set.
    service.clock.step(Duration::minutes(30));
    let refused = stream.migrate(b"lost?").await.unwrap_err();
    assert!(matches!(refused, MigrateError::TooOften));
    service.clock.step(-Duration::minutes(30));
    echoed(&mut stream, b"stays").await;
    service.clock.advance(Duration::seconds(300));
    let landing = stream.migrate(b"again").await.unwrap();
    assert_eq!(landing.handshake, HandshakeKind::Resumed);
}

#[tokio::test]
async fn a_stream_does_not_leave_its_server_for_a_target_that_cannot_be_reached() {
    let service = Service::default();
    let target = unused("127.0.0.3");
    let (mut stream, mut a) = offered(&service, target).await;
    echoed(&mut stream, b"hello").await;
    a.arrival().await;
    // An attempt that does not leave is no migration: it does not count against the limit.
    for _ in 0..=MigrationLimit::default().count {
        let why = stream.migrate(b"go on").await.unwrap_err();
        assert!(matches!(why, MigrateError::Unreachable(_)), "{why:?}");
        echoed(&mut stream, b"still here").await;
    }
    assert_eq!(stream.peer_addr(), a.address());
    // The offer is still there for a target that comes later.
    let mut late = Node::bind_at(target).await;
    late.serve_echo(service.node());
    let outcome = stream.migrate(b"at last").await.unwrap();
    assert_eq!(outcome.at, target);
    expect(&mut stream, b"at last").await;
}

/// A target that takes TCP connections and does `what` with them.
async fn broken_target<F>(what: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.3:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            what(tcp).await;
        }
    });
    address
}

#[tokio::test]
async fn a_target_that_closes_or_stays_silent_leads_back_and_nothing_is_sent_twice() {
    let service = Service::default();
    let closes = broken_target(|tcp| async { drop(tcp) }).await;
    let silent = broken_target(|mut tcp| async move {
        // Reads for as long as the client waits.
        let mut ignored = [0; 1024];
        while tcp.read(&mut ignored).await.is_ok_and(|len| len > 0) {}
    })
    .await;
    for target in [closes, silent] {
        let connector = service
            .connector()
            .connect_timeout(StdDuration::from_secs(3));
        let (mut stream, a) = offered_to(&connector, &service, target).await;
        echoed(&mut stream, b"hello").await;
        let landing = stream.migrate(b"maybe").await.unwrap();
        assert_eq!(landing.at, a.address());
        // The target may have acted upon it, so the client does not send it again by itself.
        assert_eq!(landing.early_data, EarlyDataOutcome::Unknown);
        let reason = landing.fell_back.unwrap();
        assert!(matches!(reason.error(), ConnectError::Handshake { .. }));
        echoed(&mut stream, b"fresh").await;
    }
}

#[tokio::test]
async fn a_stream_that_loses_both_addresses_says_so() {
    let service = Service::default();
    let closes = broken_target(|tcp| async { drop(tcp) }).await;
    let (mut stream, mut a) = offered(&service, closes).await;
    echoed(&mut stream, b"hello").await;
    a.stop_listening().await;
    let lost = stream.migrate(b"anyone?").await.unwrap_err();
    let MigrateError::Lost { target, origin } = &lost else {
        panic!("{lost:?}");
    };
    // Both reasons are there: the target's failure is why the stream left its server in vain.
    assert!(matches!(**target, ConnectError::Handshake { address, .. } if address == closes));
    assert!(matches!(**origin, ConnectError::Dial { address, .. } if address == a.address()));
    assert!(lost.to_string().contains(&target.to_string()), "{lost}");
    // Every call says why from now on.
    for _ in 0..2 {
        let error = stream.write_all(b"hello").await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
        let why = error.get_ref().unwrap().downcast_ref();
        assert!(matches!(why, Some(MigrateError::Lost { .. })));
    }
}

#[tokio::test]
async fn what_was_not_read_before_a_migration_is_counted() {
    let service = Service::default();
    let mut b = Node::bind("127.0.0.3").await;
    b.serve_echo(service.node());
    let (mut stream, _a) = offered(&service, b.address()).await;
    stream.write_all(b"0123456789").await.unwrap();
    expect(&mut stream, b"0123").await;
    let landing = stream.migrate(b"go on").await.unwrap();
    assert_eq!(landing.unread, 6);
    expect(&mut stream, b"go on").await;
}

#[tokio::test]
async fn a_client_that_ignores_the_notice_is_given_up_at_the_deadline() {
    let service = Service::default();
    let mut a = Node::bind("127.0.0.2").await;
    let target = "127.0.0.3:443".parse().unwrap();
    let settings = service
        .node()
        .target(target)
        .departure_deadline(StdDuration::from_millis(50));
    let (sender, mut ended) = tokio::sync::mpsc::unbounded_channel();
    a.serve(settings, move |mut stream| {
        let sender = sender.clone();
        async move {
            stream.notify().await?;
            sender.send(echo(stream).await).unwrap();
            Ok(())
        }
    });
    let mut stream = service
        .connector()
        .connect(server_name(), a.address())
        .await
        .unwrap();
    // No application has ended the stream, so the client sees no end of it.
    let mut rest = Vec::new();
    let error = stream.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(rest.is_empty() && stream.is_notified());
    let error = ended.recv().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(error.get_ref().unwrap().is::<DepartureOverdue>());
}

#[tokio::test]
async fn a_client_that_left_in_time_has_left_however_late_its_server_looks() {
    let service = Service::default();
    let mut a = Node::bind("127.0.0.2").await;
    let target = "127.0.0.3:443".parse().unwrap();
    let settings = service
        .node()
        .target(target)
        .departure_deadline(StdDuration::from_millis(1));
    let (sender, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let (gone, left) = tokio::sync::watch::channel(false);
    a.serve(settings, move |mut stream| {
        let (sender, mut left) = (sender.clone(), left.clone());
        async move {
            stream.notify().await?;
            left.wait_for(|gone| *gone).await.unwrap();
            // Well past the deadline, with what the client sent waiting in the socket.
            tokio::time::sleep(StdDuration::from_millis(20)).await;
            let mut all = Vec::new();
            let end = stream.read_to_end(&mut all).await;
            sender
                .send((end.map_err(|error| error.kind()), all))
                .unwrap();
            Ok(())
        }
    });
    let mut stream = service
        .connector()
        .connect(server_name(), a.address())
        .await
        .unwrap();
    stream.write_all(b"goodbye").await.unwrap();
    stream.shutdown().await.unwrap();
    gone.send(true).unwrap();
    let (end, all) = ended.recv().await.unwrap();
    assert_eq!((end, &all[..]), (Ok(7), &b"goodbye"[..]));
}
