//! What a conversation does for its application, rule by rule (`docs/recovery.md`): when checkpoints are made, which requests it can carry
//! elsewhere, and what ends it with which error.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migration_tests::network::End as Io;
use migration_tests::session::Content;
use migration_tests::simulated::{Pair, run};
use migration_tests::{Node, Service, server_name};
use migration_token::BoxFuture;
use rustls_migration::server::{MigrationServerBuilder, OfferError};
use rustls_migration::tokio::conversation::{
    Checkpointed, Checkpoints, Conversation, ConversationError, End, RequestTooLong,
    length_delimited, lines,
};
use rustls_migration::tokio::{
    DrainPlan, EndsTooEarly, Event, HandOff, MigrationAcceptor, MigrationStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// An application, as long as it answers.
type Answer = for<'c> fn(&'c mut Conversation<'_, Io>) -> BoxFuture<'c, io::Result<()>>;

type Ended = mpsc::UnboundedReceiver<io::Result<End>>;

/// A node with an application. It dies so long after its client has come, or not at all.
struct At {
    address: SocketAddr,
    checkpoints: Checkpoints,
    dies: Option<Duration>,
}

impl At {
    fn serve(self, pair: &Pair, answer: Answer) -> (MigrationAcceptor, Ended) {
        self.serve_with(pair, pair.service.node(), answer)
    }

    fn serve_with(
        self,
        pair: &Pair,
        settings: MigrationServerBuilder,
        answer: Answer,
    ) -> (MigrationAcceptor, Ended) {
        let (sender, ended) = mpsc::unbounded_channel();
        let acceptor = pair.serve(self.address, settings, move |mut stream| {
            let sender = sender.clone();
            async move {
                let served = async {
                    let mut conversation =
                        Conversation::begin(&mut stream, self.checkpoints).await?;
                    let answered = answer(&mut conversation).await;
                    conversation.finish(answered).await
                };
                tokio::select! {
                    end = served => drop(sender.send(end)),
                    () = sleep(self.dies.unwrap_or(Duration::MAX)) => {}
                }
                Ok(())
            }
        });
        (acceptor, ended)
    }
}

/// Node A, whose clients go on at B, and B.
fn nodes(pair: &Pair, dies: Option<Duration>) -> [At; 2] {
    let to_b = Checkpoints::to(pair.b).every(10_000, Duration::from_secs(10));
    [(pair.a, to_b, dies), (pair.b, Checkpoints::none(), None)].map(
        |(address, checkpoints, dies)| At {
            address,
            checkpoints,
            dies,
        },
    )
}

async fn connect(pair: &Pair) -> MigrationStream {
    let connector = pair.connector(HandOff::Drain).recover_from_start();
    connector.connect(server_name(), pair.a).await.unwrap()
}

/// What is said until the end.
async fn read_to_end(stream: &mut MigrationStream) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await.map(|_| read)
}

/// What an error is.
fn inside<E: std::error::Error + 'static>(error: &io::Error) -> Option<&E> {
    error.get_ref()?.downcast_ref()
}

/// Answers each line by the line.
fn echo<'c>(conversation: &'c mut Conversation<'_, Io>) -> BoxFuture<'c, io::Result<()>> {
    Box::pin(async move {
        while let Some(line) = conversation.request(lines(100)).await? {
            conversation.write_all(&line).await?;
        }
        Ok(())
    })
}

#[test]
fn checkpoints_come_at_once_after_bytes_or_time_and_before_an_old_one_is_too_old() {
    run(async {
        let pair = Pair::new(65_536);
        let [a, _] = nodes(&pair, None);
        let settings = pair.service.node().token_lifetime(Duration::from_secs(60));
        a.serve_with(&pair, settings, echo);
        let mut stream = connect(&pair).await;
        let made = Arc::new(Mutex::new(0));
        let (mut events, counter) = (stream.events(), Arc::clone(&made));
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                *counter.lock().unwrap() += usize::from(matches!(event, Event::Checkpoint { .. }));
            }
        });
        let mut buf = [0; 100];
        // So many seconds later, and after so many lines of 100 bytes, there are so many checkpoints.
        for (lines, seconds, expected) in [
            (0, 1, 1),
            (1, 1, 2),
            (0, 8, 2),
            (0, 2, 3),
            (0, 300, 13),
            (100, 1, 15),
        ] {
            for _ in 0..lines {
                stream
                    .write_all(&[b"x".repeat(99), b"\n".to_vec()].concat())
                    .await
                    .unwrap();
                stream.flush().await.unwrap();
                stream.read_exact(&mut buf).await.unwrap();
            }
            let nothing = timeout(Duration::from_secs(seconds), stream.read(&mut buf)).await;
            assert!(nothing.is_err());
            assert_eq!(
                *made.lock().unwrap(),
                expected,
                "{lines} lines, {seconds} s"
            );
        }
    });
}

#[test]
fn an_idle_client_of_a_server_that_dies_after_long_goes_on() {
    run(async {
        let pair = Pair::new(65_536);
        let [a, b] = nodes(&pair, Some(Duration::from_secs(1000)));
        let settings = || pair.service.node().token_lifetime(Duration::from_secs(60));
        a.serve_with(&pair, settings(), echo);
        let (_, mut ended) = b.serve_with(&pair, settings(), echo);
        let mut stream = connect(&pair).await;
        // The service's clock goes with the time.
        let clock = pair.service.clock.clone();
        tokio::spawn(async move {
            loop {
                sleep(Duration::from_secs(1)).await;
                clock.advance(time::Duration::SECOND);
            }
        });
        stream.write_all(b"one\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut line = [0; 4];
        stream.read_exact(&mut line).await.unwrap();
        // It is waiting when its server dies.
        let nothing = timeout(Duration::from_secs(1500), stream.read(&mut line)).await;
        assert!(nothing.is_err());
        stream.write_all(b"two\n").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut stream).await.unwrap(), b"two\n");
        assert_eq!(ended.recv().await.unwrap().unwrap(), End::Ended);
    });
}

#[tokio::test]
async fn a_client_that_knows_nothing_of_checkpoints_is_served_without() {
    let service = Service::default();
    let mut node = Node::bind("127.0.0.2").await;
    let (sender, mut not_made) = mpsc::unbounded_channel();
    let checkpoints = Checkpoints::to("127.0.0.3:1".parse().unwrap());
    node.serve(service.node(), move |mut stream| {
        let sender = sender.clone();
        async move {
            let mut conversation = Conversation::begin(&mut stream, checkpoints).await?;
            while let Some(line) = conversation.request(lines(100)).await? {
                conversation.write_all(&line).await?;
            }
            sender.send(conversation.not_made()).unwrap();
            conversation.finish(Ok(())).await.map(drop)
        }
    });
    let connector = tokio_rustls::TlsConnector::from(Arc::new(service.client_config()));
    let tcp = TcpStream::connect(node.address()).await.unwrap();
    let mut stream = connector.connect(server_name(), tcp).await.unwrap();
    stream.write_all(b"a line\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"a line\n");
    assert_eq!(
        not_made.recv().await.unwrap(),
        Some(OfferError::NotSupported)
    );
}

/// Answers each request by its length and its last byte.
fn measure<'c>(conversation: &'c mut Conversation<'_, Io>) -> BoxFuture<'c, io::Result<()>> {
    Box::pin(async move {
        while let Some(request) = conversation.request(length_delimited(1 << 20)).await? {
            let answer = format!("{} {:?}\n", request.len(), request.last());
            conversation.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    })
}

/// Requests of these lengths, and their answers.
fn requests(lens: &[usize]) -> (Vec<u8>, Vec<u8>) {
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    for (place, len) in lens.iter().enumerate() {
        requests.extend(u32::try_from(*len).unwrap().to_be_bytes());
        requests.extend(Content::FromClient.piece(place, *len));
        let last = requests.last();
        answers.extend(format!("{} {last:?}\n", len + 4).into_bytes());
    }
    (requests, answers)
}

#[test]
fn requests_of_any_length_come_whole_at_a_server_that_goes_on() {
    run(async {
        // A large request takes A as long as the network takes to bring it.
        for milliseconds in [40, 200, 1000] {
            let pair = Pair::new(4096);
            let [a, b] = nodes(&pair, Some(Duration::from_millis(milliseconds)));
            a.serve(&pair, measure);
            let (_, mut ended) = b.serve(&pair, measure);
            let (said, expected) = requests(&[1, 100_000, 1, 0, 1 << 20, 7]);
            let connector = pair.connector(HandOff::Drain).recover_from_start();
            let window = 2 << 20;
            let connector =
                connector.recovery_window(window, rustls_migration::tokio::PastWindow::GiveUp);
            let stream = connector.connect(server_name(), pair.a).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            let writing = tokio::spawn(async move {
                writer.write_all(&said).await?;
                writer.shutdown().await
            });
            let mut read = Vec::new();
            reader.read_to_end(&mut read).await.unwrap();
            writing.await.unwrap().unwrap();
            assert_eq!(read, expected, "{milliseconds} ms");
            assert_eq!(ended.recv().await.unwrap().unwrap(), End::Ended);
        }
    });
}

/// What A's application has for an error, and the client for an answer, when the client is to move in the middle of a request that
/// is too long for a state.
async fn moved_in_a_long_request(checkpoints: bool) -> (io::Error, io::Result<Vec<u8>>) {
    let pair = Pair::new(4096);
    let [mut a, b] = nodes(&pair, None);
    if !checkpoints {
        a.checkpoints = Checkpoints::none();
    }
    let (acceptor, mut ended) = a.serve(&pair, measure);
    b.serve(&pair, measure);
    let (mut reader, mut writer) = tokio::io::split(connect(&pair).await);
    let (said, expected) = requests(&[100_000]);
    let (first, second) = said.split_at(50_000);
    writer.write_all(first).await.unwrap();
    writer.flush().await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let plan = DrainPlan::to([(pair.b, 1)]).spread_over(Duration::ZERO);
    let drain = acceptor.drain(plan);
    let mut answer = vec![0; expected.len()];
    let finishing = async {
        // The client has left by then.
        sleep(Duration::from_secs(5)).await;
        writer.write_all(second).await?;
        writer.flush().await
    };
    let (_, answered) = tokio::join!(finishing, reader.read_exact(&mut answer));
    let answered = answered.map(|_| answer);
    drop((reader, writer));
    drain.finished().await;
    assert!(answered.as_ref().is_ok_and(|answer| *answer == expected) || answered.is_err());
    (ended.recv().await.unwrap().unwrap_err(), answered)
}

#[test]
fn a_request_that_is_too_long_to_be_handed_over_goes_on_from_the_checkpoint_before_it() {
    for checkpoints in [true, false] {
        let (error, answered) = run(moved_in_a_long_request(checkpoints));
        let error = inside::<OfferError>(&error);
        assert!(
            matches!(error, Some(OfferError::StateTooLong { .. })),
            "{error:?}"
        );
        // Else it is an error, and no end.
        assert_eq!(answered.is_ok(), checkpoints, "{answered:?}");
    }
}

#[test]
fn an_upload_without_a_length_ends_with_the_client_and_goes_on_when_that_moves() {
    run(async {
        let pair = Pair::new(4096);
        let [a, b] = nodes(&pair, None);
        let to_end: Answer = |conversation| {
            Box::pin(async move {
                // No request comes before the upload.
                let none = |_: &[u8]| Ok::<_, RequestTooLong>(Some(0));
                let _ = conversation.request(none).await?;
                let sink = async |at| {
                    // What was kept at the other server is there already.
                    assert!(at == 0 || at > 10_000, "{at}");
                    Ok(tokio::io::sink())
                };
                let len = conversation.receive_to_end(sink).await?;
                conversation.write_all(format!("{len}").as_bytes()).await
            })
        };
        let (acceptor, mut ended) = a.serve(&pair, to_end);
        let (_, mut ended_at_b) = b.serve(&pair, to_end);
        let stream = connect(&pair).await;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let writing = tokio::spawn(async move {
            for _ in 0..100 {
                writer.write_all(&[7; 1000]).await?;
                sleep(Duration::from_millis(10)).await;
            }
            writer.shutdown().await
        });
        sleep(Duration::from_millis(500)).await;
        let plan = DrainPlan::to([(pair.b, 1)]).spread_over(Duration::ZERO);
        let drain = acceptor.drain(plan);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"100000");
        writing.await.unwrap().unwrap();
        drain.finished().await;
        assert_eq!(ended.recv().await.unwrap().unwrap(), End::HandedOver);
        assert_eq!(ended_at_b.recv().await.unwrap().unwrap(), End::Ended);
    });
}

/// What B's application has for an error when it takes up what A's had begun. A's dies; the client sees no end.
async fn error_at_b(said: &[u8], at_a: Answer, at_b: Answer) -> io::Error {
    let pair = Pair::new(65_536);
    let [a, b] = nodes(&pair, Some(Duration::from_secs(5)));
    a.serve(&pair, at_a);
    let (_, mut ended) = b.serve(&pair, at_b);
    let mut stream = connect(&pair).await;
    stream.write_all(said).await.unwrap();
    stream.flush().await.unwrap();
    read_to_end(&mut stream).await.unwrap_err();
    ended.recv().await.unwrap().unwrap_err()
}

#[test]
fn an_application_that_writes_less_than_before_ends_the_stream_for_nobody() {
    let short: Answer = |conversation| {
        Box::pin(async move {
            let _ = conversation.request(lines(100)).await?;
            conversation.write_all(b"li").await
        })
    };
    let error = run(error_at_b(b"line\n", echo, short));
    assert_eq!(inside(&error), Some(&EndsTooEarly { missing: 3 }));
}

#[test]
fn an_application_that_takes_less_of_an_upload_than_before_is_told_so() {
    /// Receives so many bytes behind a line.
    fn receive<'c>(
        conversation: &'c mut Conversation<'_, Io>,
        len: u64,
    ) -> BoxFuture<'c, io::Result<()>> {
        Box::pin(async move {
            while conversation.request(lines(100)).await?.is_some() {
                let sink = async |_| Ok(tokio::io::sink());
                conversation.receive(len, sink).await?;
            }
            Ok(())
        })
    }
    let said = [b"line\n".to_vec(), vec![7; 20_000]].concat();
    let error = run(error_at_b(
        &said,
        |conversation| receive(conversation, 20_001),
        |conversation| receive(conversation, 5),
    ));
    assert!(
        matches!(inside(&error), Some(ConversationError::Diverged)),
        "{error:?}"
    );
}

#[test]
fn a_state_that_no_conversation_made_is_refused() {
    run(async {
        let pair = Pair::new(65_536);
        let [_, b] = nodes(&pair, None);
        let to_b = pair.b;
        pair.serve(pair.a, pair.service.node(), move |mut stream| async move {
            let mut checkpointed = Checkpointed::new(&mut stream, Checkpoints::to(to_b));
            checkpointed.settle(b"another application's").await
        });
        // It fails before there is a conversation to end, so nothing is told but to the client.
        b.serve(&pair, echo);
        let mut stream = connect(&pair).await;
        read_to_end(&mut stream).await.unwrap_err();
    });
}

/// What an application has for an error when the client says this and nothing more.
async fn error_at_a(said: &'static [u8], answer: Answer) -> io::Error {
    let pair = Pair::new(65_536);
    let [a, _] = nodes(&pair, None);
    let (_, mut ended) = At {
        checkpoints: Checkpoints::none(),
        ..a
    }
    .serve(&pair, answer);
    let mut stream = connect(&pair).await;
    stream.write_all(said).await.unwrap();
    stream.shutdown().await.unwrap();
    read_to_end(&mut stream).await.unwrap_err();
    ended.recv().await.unwrap().unwrap_err()
}

#[test]
fn what_a_client_breaks_off_or_says_wrongly_is_an_error_that_can_be_told() {
    let error = run(error_at_a(b"line\nhalf", echo));
    assert!(
        matches!(inside(&error), Some(ConversationError::CutShort)),
        "{error:?}"
    );
    let error = run(error_at_a(&[b'x'; 200], echo));
    let Some(ConversationError::Malformed(why)) = inside(&error) else {
        panic!("{error:?}");
    };
    assert_eq!(why.downcast_ref(), Some(&RequestTooLong { max: 100 }));
    let upload: Answer = |conversation| {
        Box::pin(async move {
            let _ = conversation.request(lines(100)).await?;
            conversation
                .receive(10, async |_| Ok(tokio::io::sink()))
                .await
        })
    };
    let error = run(error_at_a(b"line\n123", upload));
    assert!(
        matches!(inside(&error), Some(ConversationError::CutShort)),
        "{error:?}"
    );
}

#[test]
fn what_an_application_asks_for_wrongly_is_an_error_that_can_be_told() {
    let ended: Answer = |conversation| {
        Box::pin(async move {
            let _ = conversation.request(lines(100)).await?;
            conversation.send(10, async |_| Ok(&b"seven b"[..])).await
        })
    };
    let error = run(error_at_a(b"line\n", ended));
    assert!(
        matches!(
            inside(&error),
            Some(ConversationError::SourceEnded { missing: 3 })
        ),
        "{error:?}"
    );
    let twice: Answer = |conversation| {
        Box::pin(async move {
            let log = rustls_migration::tokio::conversation::MemoryRequestLog::default();
            let _ = conversation.request(lines(100)).await?;
            conversation
                .answer_once(&log, async |_| Ok(b"1".to_vec()))
                .await?;
            conversation
                .answer_once(&log, async |_| Ok(b"2".to_vec()))
                .await
        })
    };
    let error = run(error_at_a(b"line\n", twice));
    assert!(
        matches!(inside(&error), Some(ConversationError::AnsweredAlready)),
        "{error:?}"
    );
    let long: Answer =
        |conversation| Box::pin(async move { Ok(conversation.set_state(&[0; 4097])?) });
    let error = run(error_at_a(b"line\n", long));
    assert_eq!(
        inside(&error),
        Some(&OfferError::StateTooLong { len: 4097 })
    );
}
