//! The future of `migrate` may be dropped at any time: the stream goes on by reads and writes, where it was or at the target,
//! and what is written next follows the early data, exactly once.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use migration_tests::client::until_notified;
use migration_tests::direct::{Direct, PLACES};
use migration_tests::{Service, server_name};
use rustls_migration::TicketKeys;
use rustls_migration::tokio::{MigrationAcceptor, MigrationStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const EARLY: &[u8] = b"early data, ";
const AFTER: &[u8] = b"what was written after it";

/// Whether the target takes up the session, and at once.
#[derive(Clone, Copy, Debug)]
enum Target {
    Willing,
    /// No early data.
    Careful,
    /// Full handshakes only.
    Stranger,
}

/// What each node has read.
type Heard = Arc<Mutex<[Vec<u8>; 2]>>;

fn serve(service: &Service, network: &Direct, target: Target) -> Heard {
    let heard = Heard::default();
    for (i, at) in PLACES.into_iter().enumerate() {
        let keys = match (i, target) {
            (1, Target::Stranger) => TicketKeys::generate(service.provider.secure_random).unwrap(),
            _ => service.keys.clone(),
        };
        let settings = service.node_of(service.server_config(), "files", keys);
        let mut acceptor = MigrationAcceptor::from(settings.own_addresses([at]).build().unwrap());
        if matches!(target, Target::Careful) {
            acceptor = acceptor.require_handshake();
        }
        let (heard, mut incoming) = (Arc::clone(&heard), network.listen(at));
        tokio::spawn(async move {
            while let Some(io) = incoming.recv().await {
                let mut stream = acceptor.accept(io).await.unwrap();
                if i == 0 {
                    stream.migrate_to(PLACES[1], None).await.unwrap();
                }
                let mut buf = [0; 1000];
                while let Ok(len @ 1..) = stream.read(&mut buf).await {
                    heard.lock().unwrap()[i].extend_from_slice(&buf[..len]);
                    stream.write_all(&buf[..len]).await.unwrap();
                    stream.flush().await.unwrap();
                }
                let _ = stream.shutdown().await;
            }
        });
    }
    heard
}

/// Polls `migrate` so often, and drops it. `true` when it was done before.
async fn dropped_after(stream: &mut MigrationStream, polls: usize) -> bool {
    let mut migration = pin!(stream.migrate(EARLY));
    for _ in 0..polls {
        let done = poll_fn(|cx| Poll::Ready(migration.as_mut().poll(cx).is_ready())).await;
        if done {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

/// Where the stream was at the end, and whether the migration was done before it was dropped.
async fn case(target: Target, polls: usize) -> (SocketAddr, bool) {
    let (service, network) = (Service::default(), Direct::default());
    let heard = serve(&service, &network, target);
    // In draft -03 a client goes to a stranger only when it may.
    let connector = service.lenient_connector().dialer(network);
    let mut stream = connector.connect(server_name(), PLACES[0]).await.unwrap();
    until_notified(&mut stream).await;
    let done = dropped_after(&mut stream, polls).await;
    stream.write_all(AFTER).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).await.unwrap();
    let all = [EARLY, AFTER].concat();
    let at = stream.peer_addr();
    let [at_a, at_b] = heard.lock().unwrap().clone();
    match at == PLACES[1] {
        true => {
            assert_eq!(echoed, all, "{target:?} after {polls}");
            assert_eq!((&*at_a, &*at_b), (&b""[..], &*all));
        }
        // It had not begun.
        false => {
            assert_eq!(echoed, AFTER, "{target:?} after {polls}");
            assert_eq!((&*at_a, &*at_b), (AFTER, &b""[..]));
        }
    }
    (at, done)
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_wherever_its_migration_is_dropped() {
    for target in [Target::Willing, Target::Careful, Target::Stranger] {
        let (mut polls, mut stayed, mut in_between) = (0, 0, 0);
        loop {
            let (at, done) = case(target, polls).await;
            stayed += usize::from(at == PLACES[0]);
            in_between += usize::from(at == PLACES[1] && !done);
            polls += 1;
            if done {
                break;
            }
        }
        assert!(stayed > 0, "{target:?}: never dropped before it began");
        assert!(in_between > 0, "{target:?}: never dropped in the middle");
    }
}
