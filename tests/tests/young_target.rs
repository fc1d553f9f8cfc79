//! A target that has just started: from when on it admits tokens, it says itself. And what it counts of early data.

use std::sync::Arc;
use std::time::Duration as StdDuration;

use migration_tests::peer::{Setting, acceptor};
use migration_token::MemoryNonceStore;
use rustls_migration::Clock as _;
use rustls_migration::server::{Arrival, Verdict};
use rustls_migration::tokio::MigrationAcceptor;
use time::Duration;
use tokio::io::AsyncReadExt as _;

#[tokio::test]
async fn a_node_admits_tokens_from_the_moment_that_it_names() {
    let setting = Setting::new();
    let clock = &setting.service.clock;
    let store = MemoryNonceStore::with_monotonic(10, clock.now(), Arc::new(clock.clone()));
    let settings = setting
        .node()
        .nonce_store(Arc::new(store))
        .clock_skew(StdDuration::from_secs(5));
    let server = Arc::new(settings.build().unwrap());
    let at_b = MigrationAcceptor::from(Arc::clone(&server));
    let since = server.admits_tokens_since().unwrap();
    assert_eq!(since, clock.now() + Duration::seconds(5));

    clock.advance(since - clock.now() - Duration::SECOND);
    let (mut peer, io) = setting.moved(b"early").await;
    peer.send().await;
    let start = at_b.start(io, None, None).await.unwrap();
    assert_eq!(*start.arrival(), Arrival::Declined(Verdict::Expired));

    clock.advance(Duration::SECOND);
    let (mut peer, io) = setting.moved(b"early").await;
    peer.send().await;
    let start = at_b.start(io, None, None).await.unwrap();
    assert!(matches!(start.arrival(), Arrival::Migrated { .. }));
}

#[tokio::test]
async fn a_store_that_remembers_for_ever_makes_no_node_wait() {
    let setting = Setting::new();
    let store = Arc::new(migration_tests::FailingStore::LostToAnother);
    let server = setting.node().nonce_store(store).build().unwrap();
    assert_eq!(server.admits_tokens_since(), None);
}

#[tokio::test]
async fn early_data_counts_when_it_comes() {
    let setting = Setting::new();
    let at_b = acceptor(setting.node());
    for (early_data, counted) in [(&b""[..], 0), (b"early", 1)] {
        let (mut peer, io) = setting.moved(early_data).await;
        peer.send().await;
        let mut stream = at_b.accept(io).await.unwrap();
        let Arrival::Migrated {
            early_data: true, ..
        } = stream.arrival()
        else {
            panic!("early data is accepted, if it comes");
        };
        let (done, ()) = tokio::join!(stream.handshake(), peer.say(b" later"));
        done.unwrap();
        let mut read = vec![0; early_data.len() + 6];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(read, [early_data, b" later"].concat());
        assert_eq!(at_b.stats().migrated_with_early_data(), counted);
    }
    assert_eq!((at_b.stats().migrated(), at_b.stats().committed()), (2, 2));
}
