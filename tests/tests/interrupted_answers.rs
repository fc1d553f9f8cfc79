//! Answers that a drain's deadline interrupts, on sockets: a client that knows nothing of this project must see that it has
//! not got the whole, whatever the application does then. Only the application itself says that a stream has ended.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::node::ServerStream;
use migration_tests::{Node, RecordingDialer, Service, server_name, stock};
use rustls_migration::tokio::{DepartureOverdue, DepartureStatus, DrainPlan, HandOff};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};

/// Past all buffers between the two.
const LONG: usize = 64 << 20;

/// What an application does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Application {
    /// It drops the stream when a call fails.
    Drops,
    /// It ends the stream when a call fails.
    ShutsDown,
    /// It has answered in part, and does nothing more with the stream.
    DoesNothing,
}

fn assert_overdue(result: io::Result<()>) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(error.get_ref().unwrap().is::<DepartureOverdue>());
}

async fn answer(
    mut stream: ServerStream,
    application: Application,
    failed: mpsc::UnboundedSender<DepartureStatus>,
) -> io::Result<()> {
    stream.read_exact(&mut [0; 7]).await?;
    if application == Application::DoesNothing {
        stream.write_all(b"a part of it").await?;
        stream.flush().await?;
        std::future::pending::<()>().await;
    }
    let answer = vec![7; LONG];
    assert_overdue(stream.write_all(&answer).await);
    assert_overdue(stream.write_all(&answer).await);
    assert_overdue(stream.flush().await);
    failed.send(stream.handle().status()).unwrap();
    match application {
        Application::ShutsDown => stream.shutdown().await,
        Application::Drops | Application::DoesNothing => Ok(()),
    }
}

/// A node whose application answers requests, and how a departure stood when its calls had failed.
fn serve(
    a: &mut Node,
    service: &Service,
    application: Application,
) -> (
    rustls_migration::tokio::MigrationAcceptor,
    mpsc::UnboundedReceiver<DepartureStatus>,
) {
    let (sender, failed) = mpsc::unbounded_channel();
    let acceptor = a.serve(service.node(), move |stream| {
        let answering = answer(stream, application, sender.clone());
        async move {
            answering.await.unwrap();
            Ok(())
        }
    });
    (acceptor, failed)
}

fn at_once() -> DrainPlan {
    DrainPlan::to([("127.0.0.4:443".parse().unwrap(), 1)])
        .spread_over(Duration::ZERO)
        .deadline(Duration::from_millis(300))
}

#[tokio::test]
async fn a_stock_client_sees_that_its_answer_was_interrupted() {
    for application in [
        Application::Drops,
        Application::ShutsDown,
        Application::DoesNothing,
    ] {
        let service = Service::default();
        let mut a = Node::bind("127.0.0.2").await;
        let (acceptor, mut failed) = serve(&mut a, &service, application);
        let config = service.client_config_with(Arc::new(stock::provider()));
        let dialer = RecordingDialer::default();
        let client = stock::connect(&Arc::new(config), a.address(), &dialer).await;
        let mut client = client.unwrap();
        client.write_all(b"request").await.unwrap();
        client.flush().await.unwrap();
        let mut first = [0; 12];
        client.read_exact(&mut first).await.unwrap();
        // It stays in the middle until the deadline has come.
        let drain = acceptor.drain(at_once());
        if application != Application::DoesNothing {
            assert_eq!(failed.recv().await, Some(DepartureStatus::Overdue));
        }
        let mut rest = Vec::new();
        let end = client.read_to_end(&mut rest).await;
        assert!(rest.len() < LONG, "{application:?}");
        match application {
            Application::ShutsDown => assert!(end.is_ok(), "its own word: {end:?}"),
            Application::Drops | Application::DoesNothing => {
                let error = end.expect_err("it is not the whole");
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            }
        }
        let progress = drain.finished().await.progress;
        assert_eq!((progress.not_movable, progress.forced), (0, 1));
    }
}

#[tokio::test]
async fn a_client_that_waits_for_its_answer_sees_that_none_will_come() {
    for mode in [HandOff::Manual, HandOff::Drain, HandOff::Overlap] {
        let service = Service::default();
        let mut a = Node::bind("127.0.0.2").await;
        let asked = Arc::new(Notify::new());
        let told = Arc::clone(&asked);
        let acceptor = a.serve(service.node(), move |mut stream| {
            let told = Arc::clone(&told);
            async move {
                stream.read_exact(&mut [0; 7]).await?;
                told.notify_one();
                // It thinks, for longer than it has.
                std::future::pending().await
            }
        });
        let connector = service.connector().hand_off(mode);
        let stream = connector.connect(server_name(), a.address()).await;
        let mut stream = stream.unwrap();
        stream.write_all(b"request").await.unwrap();
        stream.flush().await.unwrap();
        asked.notified().await;
        let drain = acceptor.drain(at_once());
        let error = stream.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(
            error.kind(),
            io::ErrorKind::UnexpectedEof,
            "{mode:?}: {error:?}"
        );
        assert_eq!(drain.finished().await.progress.forced, 1);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up_at_the_deadline() {
    let service = Service::default();
    let mut a = Node::bind("127.0.0.2").await;
    let (acceptor, mut failed) = serve(&mut a, &service, Application::Drops);
    let connector = service.connector();
    let stream = connector.connect(server_name(), a.address()).await;
    let mut stream = stream.unwrap();
    stream.write_all(b"request").await.unwrap();
    stream.flush().await.unwrap();
    a.arrival().await;
    let progress = acceptor.drain(at_once()).finished().await.progress;
    assert_eq!((progress.forced, progress.remaining), (1, 0));
    assert_eq!(failed.recv().await, Some(DepartureStatus::Overdue));
}
