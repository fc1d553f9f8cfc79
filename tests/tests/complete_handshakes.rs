//! What comes with the client's Finished, and when: the commit, the alert of a client that does wrong in the same breath, and
//! early data at an acceptor that takes complete handshakes only.
//!
//! Time is tokio's: it passes only when nobody has anything left to do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::HeldStore;
use migration_tests::peer::{Peer, Setting, acceptor};
use rustls::AlertDescription;
use rustls_migration::Connection as _;
use rustls_migration::server::{Arrival, Verdict};
use rustls_migration::tokio::{HandshakeTimeout, MigrationAcceptor, TlsStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// While this passes, what can happen happens.
const MOMENT: Duration = Duration::from_millis(100);

fn accepting(
    at: &MigrationAcceptor,
    io: DuplexStream,
) -> JoinHandle<io::Result<TlsStream<DuplexStream>>> {
    let at = at.clone();
    tokio::spawn(async move { at.accept(io).await })
}

/// How a node answers a copy of a first flight.
async fn answer_to_a_copy(at: &MigrationAcceptor, flight: &[u8]) -> Arrival {
    let (mut racer, io) = duplex(1 << 20);
    racer.write_all(flight).await.unwrap();
    at.start(io, None, None).await.unwrap().arrival().clone()
}

/// Sends what completes the handshake, and a record in the same write that nobody can open.
async fn finish_badly(peer: &mut Peer) {
    while peer.connection.is_handshaking() {
        peer.receive().await;
    }
    let mut last = Vec::new();
    while peer.connection.wants_write() {
        peer.connection.write_tls(&mut last).unwrap();
    }
    last.extend([23, 3, 3, 0, 53]);
    last.extend([7; 53]);
    peer.io.write_all(&last).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_wrong_with_its_finished_learns_so_when_its_token_is_spent() {
    for reads in [true, false] {
        let setting = Setting::new();
        let store = Arc::new(HeldStore::of_commits(setting.store()));
        let at_b = acceptor(setting.node().nonce_store(store.clone()));
        let (mut peer, io) = setting.moved(b"early").await;
        let flight = peer.send().await;
        let mut stream = at_b.accept(io).await.unwrap();
        finish_badly(&mut peer).await;
        if reads {
            stream.read_exact(&mut [0; 5]).await.unwrap();
            timeout(MOMENT, stream.read(&mut [0; 1])).await.unwrap_err();
        } else {
            sleep(MOMENT).await;
        }
        let nothing = timeout(MOMENT, peer.receive_some(100)).await;
        assert!(nothing.is_err(), "nothing is said before the commit");

        store.answer();
        let alert = loop {
            if let Err(alert) = peer.receive_some(100).await {
                break alert;
            }
        };
        let bad_record = AlertDescription::BadRecordMac;
        assert_eq!(alert, rustls::Error::AlertReceived(bad_record));
        let copy = answer_to_a_copy(&at_b, &flight).await;
        assert_eq!(copy, Arrival::Declined(Verdict::Replayed));
        for _ in 0..2 {
            let error = stream.write(b"more").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_nobody_waits_for_any_more_is_finished_and_leaves_its_place() {
    for dropped in [true, false] {
        let setting = Setting::new();
        let store = Arc::new(HeldStore::of_commits(setting.store()));
        let settings = setting.node().nonce_store(store.clone());
        let at_b = acceptor(settings.max_nonce_store_requests(1));
        let (mut peer, io) = setting.moved(b"early").await;
        let flight = peer.send().await;
        let mut stream = at_b.accept(io).await.unwrap();
        peer.say(b"later").await;
        // It loses interest when the store has been asked.
        timeout(MOMENT, stream.handshake()).await.unwrap_err();
        let held = (!dropped).then_some(stream);
        store.answer();
        sleep(MOMENT).await;
        let copy = answer_to_a_copy(&at_b, &flight).await;
        assert_eq!(copy, Arrival::Declined(Verdict::Replayed), "{dropped}");

        let (mut next, io) = setting.moved(b"early").await;
        next.send().await;
        let mut stream = at_b.accept(io).await.unwrap();
        store.answer();
        next.say(b"later").await;
        stream.handshake().await.unwrap();
        drop(held);
    }
}

#[tokio::test(start_paused = true)]
async fn who_requires_the_handshake_sees_early_data_when_its_sender_is_known() {
    let setting = Setting::new();
    let store = Arc::new(HeldStore::of_commits(setting.store()));
    let at_b = acceptor(setting.node().nonce_store(store.clone())).require_handshake();
    let (mut peer, io) = setting.moved(b"early").await;
    peer.send().await;
    let accepted = accepting(&at_b, io);
    sleep(MOMENT).await;
    assert!(!accepted.is_finished(), "the Finished has not come");
    peer.say(b"later").await;
    sleep(MOMENT).await;
    assert!(!accepted.is_finished(), "the token has not been spent");
    store.answer();
    let mut stream = accepted.await.unwrap().unwrap();
    assert_eq!(at_b.stats().committed(), 1);
    assert!(!stream.get_ref().tls().is_handshaking());
    let mut all = [0; 10];
    stream.read_exact(&mut all).await.unwrap();
    assert_eq!(&all, b"earlylater");
}

#[tokio::test(start_paused = true)]
async fn a_copied_first_flight_never_reaches_who_requires_the_handshake() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node()).require_handshake();
    let (mut victim, original) = setting.moved(b"early").await;
    let flight = victim.send().await;
    let (mut racer, io) = duplex(1 << 20);
    racer.write_all(&flight).await.unwrap();
    let copied = accepting(&at_b, io);
    sleep(MOMENT).await;
    let (stream, ()) = tokio::join!(at_b.accept(original), victim.say(b" and more"));
    let mut read = [0; 14];
    stream.unwrap().read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"early and more");
    let refused = copied.await.unwrap().unwrap_err();
    assert!(refused.get_ref().unwrap().is::<HandshakeTimeout>());
    let counts = at_b.stats();
    assert_eq!((counts.committed(), counts.handshakes_timed_out()), (1, 1));
}
