//! A guard around a message: while it lives no hand-off begins, so that no half-close falls into the message, and as soon as it
//! is dropped the hand-off begins, by whomever.

use std::time::Duration;

use migration_tests::client::{expect, until};
use migration_tests::direct::{Direct, PLACES};
use migration_tests::{Service, server_name};
use rustls_migration::server::Arrival;
use rustls_migration::tokio::{
    Cork, DepartureStatus, Event, HandOff, MigrationAcceptor, MigrationStream, TlsStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

type ServerStream = TlsStream<DuplexStream>;

/// A corked client that has been told to move, and whose target has answered.
struct Corked {
    stream: MigrationStream,
    cork: Cork,
    a: ServerStream,
    acceptor_b: MigrationAcceptor,
    to_b: UnboundedReceiver<DuplexStream>,
}

async fn corked(mode: HandOff) -> Corked {
    let (service, network) = (Service::default(), Direct::default());
    let acceptor = |at| {
        let settings = service.node().own_addresses([at]);
        let settings = settings.departure_deadline(Duration::from_secs(3600));
        MigrationAcceptor::from(settings.build().unwrap())
    };
    let [at_a, at_b] = PLACES;
    let (mut to_a, to_b) = (network.listen(at_a), network.listen(at_b));
    let connector = service.connector().hand_off(mode);
    let connector = connector.dialer(network.clone());
    let (stream, a) = tokio::join!(connector.connect(server_name(), at_a), async {
        acceptor(at_a).accept(to_a.recv().await.unwrap()).await
    });
    let (mut stream, mut a) = (stream.unwrap(), a.unwrap());
    let cork = stream.cork();
    a.migrate_to(at_b, Some(b"")).await.unwrap();
    let mut events = stream.events();
    until(&mut stream, &mut events, |event| {
        matches!(event, Event::Notified { .. })
    })
    .await;
    stays(&mut stream).await;
    // It goes no further than to dial.
    assert_eq!(network.dialled(at_b), 1);
    Corked {
        stream,
        cork,
        a,
        acceptor_b: acceptor(at_b),
        to_b,
    }
}

/// Reads for a while, in which nothing happens.
async fn stays(stream: &mut MigrationStream) {
    let read = timeout(Duration::from_secs(5), stream.read_u8()).await;
    assert!(read.is_err(), "{read:?}");
    assert_eq!(stream.peer_addr(), PLACES[0]);
}

/// The client writes a message in two pieces with a pause, and A gets it whole.
async fn message_in_pieces(stream: &mut MigrationStream, a: &mut ServerStream) {
    stream.write_all(b"mes").await.unwrap();
    stays(stream).await;
    stream.write_all(b"sage").await.unwrap();
    stream.flush().await.unwrap();
    let mut message = [0; 7];
    a.read_exact(&mut message).await.unwrap();
    assert_eq!(&message, b"message");
    // No half-close.
    assert_eq!(a.handle().status(), DepartureStatus::Told);
    a.write_all(b"heard").await.unwrap();
    a.flush().await.unwrap();
    expect(stream, b"heard").await;
}

/// A has nothing more to read, and hands over.
async fn ends(a: &mut ServerStream) {
    assert_eq!(a.read(&mut [0; 8]).await.unwrap(), 0);
    a.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_half_close_falls_into_a_message_and_the_drain_goes_on_after_it() {
    let mut corked = corked(HandOff::Drain).await;
    message_in_pieces(&mut corked.stream, &mut corked.a).await;
    // A second one keeps it up.
    let second = corked.stream.handle().cork();
    drop(corked.cork);
    message_in_pieces(&mut corked.stream, &mut corked.a).await;
    drop(second);
    // What is written now is for the target: the hand-off has begun with the first thing that is done.
    let mut events = corked.stream.events();
    let (acceptor, mut to_b) = (corked.acceptor_b, corked.to_b);
    let (moved, (), b) = tokio::join!(
        async {
            corked.stream.write_all(b"at B").await.unwrap();
            until(&mut corked.stream, &mut events, |event| {
                matches!(event, Event::Migrated(_))
            })
            .await
        },
        ends(&mut corked.a),
        async {
            // What was opened ahead has grown old meanwhile, so B gets another connection.
            let _old = to_b.recv().await.unwrap();
            acceptor.accept(to_b.recv().await.unwrap()).await
        }
    );
    assert!(matches!(moved, Event::Migrated(_)));
    let mut b = b.unwrap();
    assert!(matches!(b.arrival(), Arrival::Migrated { .. }));
    let mut heard = [0; 4];
    b.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"at B");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_goes_on_when_another_task_drops_the_cork() {
    for mode in [HandOff::Drain, HandOff::Overlap] {
        let mut corked = corked(mode).await;
        let cork = corked.cork;
        let mut events = corked.stream.events();
        // The reader is alone with its stream, and waits.
        let reader = tokio::spawn(async move {
            let _ = corked.stream.read_u8().await;
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(events.try_next().is_none());
        // No half-close at A, and no hello at B.
        assert_eq!(corked.a.handle().status(), DepartureStatus::Told);
        let mut at_b = corked.to_b.recv().await.unwrap();
        let hello = timeout(Duration::from_millis(1), at_b.read_u8()).await;
        assert!(hello.is_err(), "{hello:?}");
        let goes_on = |event: &Event| matches!(event, Event::Migrated(_) | Event::Ready { .. });
        tokio::spawn(async move { drop(cork) }).await.unwrap();
        // What was opened ahead has grown old meanwhile, so B gets another connection.
        let (acceptor_b, mut to_b) = (corked.acceptor_b, corked.to_b);
        let b = async { acceptor_b.accept(to_b.recv().await.unwrap()).await };
        let event = async {
            let goes_on = async {
                loop {
                    // A server that hands over makes an offer first.
                    match events.next().await.unwrap() {
                        Event::Offered { .. } | Event::Marked { .. } => {}
                        other => break other,
                    }
                }
            };
            timeout(Duration::from_secs(1), goes_on).await
        };
        let event = match mode {
            HandOff::Overlap => tokio::join!(event, b).0,
            _ => tokio::join!(event, b, ends(&mut corked.a)).0,
        };
        let event = event.expect("the hand-off goes on at once");
        assert!(goes_on(&event), "{event:?}");
        reader.abort();
    }
}
