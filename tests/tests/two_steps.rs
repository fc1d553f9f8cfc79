//! A token is spent in two steps, claim and commit (`docs/protocol.md` section 7, steps 12 and 13): what holds when an answer
//! of the store is lost or late, and that nothing but early data passes before the commit.

use std::io;
use std::sync::Arc;

use migration_tests::peer::{Peer, Setting, acceptor};
use migration_tests::{AnswerLosingStore, FailingStore};
use migration_token::{Claim, ClaimOutcome, CommitOutcome, NonceKey, NonceStore as _, StoreError};
use rustls_migration::Clock as _;
use rustls_migration::server::{Arrival, ExaminedHello, HelloAcceptor, MigrationServer, Verdict};
use rustls_migration::tokio::{MigrationAcceptor, TlsStream};
use time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

/// How a node answers a copy of a first flight.
async fn answer_to_a_copy(at: &MigrationAcceptor, flight: &[u8]) -> Arrival {
    let (mut racer, io) = duplex(1 << 20);
    racer.write_all(flight).await.unwrap();
    at.start(io, None, None).await.unwrap().arrival().clone()
}

fn is_migrated(arrival: &Arrival, with_early_data: bool) -> bool {
    matches!(arrival, Arrival::Migrated { early_data, .. } if *early_data == with_early_data)
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_costs_the_early_data_and_the_session_and_nobody_else_gets_them()
 {
    let setting = Setting::new();
    let store = AnswerLosingStore::of_a_claim(setting.store());
    let at_b = acceptor(setting.node().nonce_store(Arc::new(store)));
    let (mut victim, io) = setting.moved(b"first").await;
    let flight = victim.send().await;
    let start = at_b.start(io, None, None).await.unwrap();
    assert_eq!(
        *start.arrival(),
        Arrival::Declined(Verdict::StoreUnavailable)
    );
    let (stream, ()) = tokio::join!(start.into_stream(), victim.say(b" and more"));
    let mut read = [0; 14];
    stream.unwrap().read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"first and more");

    // The claim that nobody waits for any more is still the first.
    assert!(is_migrated(&answer_to_a_copy(&at_b, &flight).await, false));
    let counts = at_b.stats();
    assert_eq!(
        (counts.migrated_with_early_data(), counts.committed()),
        (0, 0)
    );
}

/// How an application goes on after early data.
#[derive(Clone, Copy, Debug)]
enum Then {
    Reads,
    CompletesTheHandshake,
    Writes,
    Answers,
    Shuts,
}

/// What an application reads after early data.
async fn goes_on(mut stream: TlsStream<DuplexStream>, then: Then) -> io::Result<usize> {
    let mut early = [0; 5];
    stream.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"first");
    match then {
        Then::Reads => {}
        Then::CompletesTheHandshake => stream.handshake().await?,
        Then::Writes => stream.write_all(b"answer").await?,
        Then::Answers => {
            stream.write_all(b"answer").await?;
            stream.flush().await?;
        }
        Then::Shuts => stream.shutdown().await?,
    }
    stream.read(&mut [0; 100]).await
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_was_lost_ends_the_connection_before_it_gets_data_and_the_token_is_spent()
 {
    for then in [
        Then::Reads,
        Then::CompletesTheHandshake,
        Then::Writes,
        Then::Answers,
        Then::Shuts,
    ] {
        let setting = Setting::new();
        let store = AnswerLosingStore::of_a_commit(setting.store());
        let at_b = acceptor(setting.node().nonce_store(Arc::new(store)));
        let (mut client, io) = setting.moved(b"first").await;
        let flight = client.send().await;
        let stream = at_b.accept(io).await.unwrap();
        assert!(is_migrated(stream.arrival(), true));
        client.say(b" and more").await;
        let read = goes_on(stream, then).await;
        let error = read.expect_err("the commit is not answered").kind();
        assert_eq!(error, io::ErrorKind::ConnectionAborted, "{then:?}");
        assert_eq!(
            (at_b.stats().commits_failed(), at_b.stats().committed()),
            (1, 0)
        );
        assert_eq!(
            answer_to_a_copy(&at_b, &flight).await,
            Arrival::Declined(Verdict::Replayed)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_lost_its_token_to_another_gets_no_successor_of_it() {
    let setting = Setting::new();
    let c = "127.0.0.4:443".parse().unwrap();
    let store = Arc::new(FailingStore::LostToAnother);
    let at_b = acceptor(setting.node().target(c).nonce_store(store));
    let (mut loser, io) = setting.moved(b"first").await;
    let (accepted, ()) = tokio::join!(at_b.accept(io), loser.say(b" and more"));
    let error = accepted.expect_err("the commit is lost");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    let mut rest = Vec::new();
    loser.io.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"", "nothing after the handshake");
}

fn examined(server: &Arc<MigrationServer>, flight: &[u8]) -> ExaminedHello {
    let mut accepting = HelloAcceptor::new(Arc::clone(server), None, None);
    assert!(accepting.push(flight));
    accepting.examine().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_came_when_the_nonce_may_have_been_forgotten_admits_nobody() {
    let setting = Setting::new();
    let store = setting.store();
    let server = Arc::new(setting.node().build().unwrap());
    let (mut peer, _io): (Peer, _) = setting.moved(b"first").await;
    let flight = peer.send().await;
    let spent = examined(&server, &flight).claim().unwrap();
    assert_eq!(store.claim(spent).await.unwrap(), ClaimOutcome::First);
    assert_eq!(store.commit(spent).await.unwrap(), CommitOutcome::Won);

    // Copies are examined in time, and then the node stands still for two hours.
    let copies = [examined(&server, &flight), examined(&server, &flight)];
    setting.service.clock.advance(Duration::hours(2));
    let now = setting.service.clock.now();
    let beside = Claim {
        nonce: NonceKey::new(&[0; 32], &[0; 32], &[0; 16]),
        keep_until: now + Duration::HOUR,
        now,
        ..spent
    };
    store.claim(beside).await.unwrap();
    let answer = store.claim(copies[0].claim().unwrap()).await;
    assert!(matches!(answer, Err(StoreError::Forgotten)), "{answer:?}");
    // So it is when the answer was given before the nonce's time was over.
    for (copy, answer) in copies.into_iter().zip([answer, Ok(ClaimOutcome::First)]) {
        let mut connection = copy.accept(Some(answer)).unwrap();
        assert_eq!(*connection.arrival(), Arrival::Declined(Verdict::Expired));
        assert!(!connection.early_data_accepted());
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_restarts_while_its_clock_is_slow_refuses_what_was_spent_when_the_clock_is_set()
{
    const SLOW: Duration = Duration::minutes(10);
    let setting = Setting::new();
    let clock = &setting.service.clock;
    let before = Arc::new(setting.node().build().unwrap());
    let (mut peer, _io): (Peer, _) = setting.moved(b"first").await;
    let flight = peer.send().await;
    let spent = examined(&before, &flight).claim().unwrap();
    let store = before.nonce_store();
    assert_eq!(store.claim(spent).await.unwrap(), ClaimOutcome::First);
    assert_eq!(store.commit(spent).await.unwrap(), CommitOutcome::Won);

    clock.advance(Duration::minutes(1));
    clock.step(-SLOW);
    let node = acceptor(setting.node());
    // While the clock is slow the token seems to come from the future.
    let expired = Arrival::Declined(Verdict::Expired);
    assert_eq!(answer_to_a_copy(&node, &flight).await, expired);
    clock.step(SLOW);
    // Admission believes the store's beginning; the store has seen the clock jump.
    assert_eq!(answer_to_a_copy(&node, &flight).await, expired);
}
