//! Former checkpoints that are spent when the client has a newer one (`docs/protocol.md` section 11): never before it has, and what a
//! server learns by it.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::memory::{Joined, deliver, sent};
use migration_tests::network::End;
use migration_tests::simulated::{Pair, run};
use migration_tests::{FailingStore, Service, server_name};
use migration_token::{
    BoxFuture, Claim, ClaimOutcome, CommitOutcome, MemoryNonceStore, NonceStore, StoreError,
};
use rustls_migration::Connection as _;
use rustls_migration::client::{Checkpoint, ClientConnection, MigrationClient, NoWider};
use rustls_migration::server::{Arrival, HelloAcceptor, MigrationServer, Verdict};
use rustls_migration::tokio::{Event, GoesOnElsewhere, HandOff, TlsStream};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

/// Nodes A and B, which share a store, and a client at A.
struct World {
    b: Arc<MigrationServer>,
    places: [SocketAddr; 2],
    store: Arc<MemoryNonceStore>,
    client: Arc<MigrationClient>,
    joined: Joined,
}

impl World {
    fn new() -> Self {
        let service = Service::default();
        let store = Arc::new(service.store(1000));
        let places = ["127.0.0.2:443", "127.0.0.3:443"].map(|place| place.parse().unwrap());
        let [a, b] = places.map(|place| {
            let settings = service.node().own_addresses([place]);
            let settings = settings.nonce_store(Arc::clone(&store) as _);
            let settings = settings.supersede_checkpoints_in(Arc::clone(&store) as _);
            Arc::new(settings.build().unwrap())
        });
        let client = service.client_with(service.client_config()).build();
        let client = Arc::new(client.unwrap());
        Self {
            joined: Joined::new(&client, &a, places[0]),
            b,
            places,
            store,
            client,
        }
    }

    /// A makes a checkpoint, and says so. The client's answers are on their way.
    fn checkpoint(&mut self) -> Checkpoint {
        let Joined { client, server } = &mut self.joined;
        server.checkpoint(self.places[1], b"state").unwrap();
        deliver(&sent(server), client);
        let checkpoint = client.take_checkpoint().unwrap();
        let policy = NoWider::any_port();
        let led = checkpoint.lead_to(self.places[1], self.places[0], &policy);
        led.unwrap()
    }

    /// What is on its way comes, and A spends what it may. Returns how many checkpoints that were.
    async fn supersede(&mut self) -> usize {
        self.joined.exchange();
        let mut spent = 0;
        while let Some(former) = self.joined.server.take_superseded() {
            // Somebody may have tried it, who has not gone on by it.
            let claimed = self.store.claim(former).await.unwrap();
            assert_ne!(claimed, ClaimOutcome::Committed);
            assert_eq!(self.store.commit(former).await.unwrap(), CommitOutcome::Won);
            spent += 1;
        }
        spent
    }

    /// How B takes the client of this checkpoint.
    async fn arrival(&self, checkpoint: Checkpoint) -> Arrival {
        let offer = checkpoint.into_offer(0).unwrap();
        let resumed = ClientConnection::resume(&self.client, server_name(), offer, b"");
        let mut client = resumed.unwrap();
        let here = Some(self.places[1]);
        let mut accepting = HelloAcceptor::new(Arc::clone(&self.b), None, here);
        assert!(accepting.push(&sent(&mut client)));
        let examined = accepting.examine().unwrap();
        let answer = self.store.claim(examined.claim().unwrap()).await;
        examined.accept(Some(answer)).unwrap().arrival().clone()
    }
}

fn is_recovered(arrival: &Arrival) -> bool {
    matches!(arrival, Arrival::Recovered { .. })
}

#[tokio::test]
async fn a_former_checkpoint_is_spent_when_the_client_has_answered_and_the_newest_is_good() {
    let mut world = World::new();
    let first = world.checkpoint();
    assert!(!world.joined.server.awaits_answer(), "it is the only one");
    let second = world.checkpoint();
    let third = world.checkpoint();
    assert!(world.joined.server.awaits_answer());
    // The client has answered what stood behind the second one.
    assert_eq!(
        world.supersede().await,
        2,
        "that, and what it was asked then"
    );
    let replayed = Arrival::Declined(Verdict::Replayed);
    assert_eq!(world.arrival(first).await, replayed);
    assert_eq!(world.arrival(second).await, replayed);
    assert!(is_recovered(&world.arrival(third).await));
}

#[tokio::test]
async fn nothing_is_spent_while_the_newer_one_may_be_on_its_way() {
    let mut world = World::new();
    let first = world.checkpoint();
    let Joined { client, server } = &mut world.joined;
    server.checkpoint(world.places[1], b"state").unwrap();
    // The client writes, but has not heard of it.
    client.write(b"hello").unwrap();
    deliver(&sent(client), server);
    assert!(server.awaits_answer() && server.take_superseded().is_none());
    assert!(is_recovered(&world.arrival(first).await));
}

#[tokio::test]
async fn an_answer_to_somebody_else_is_none() {
    let mut world = World::new();
    let first = world.checkpoint();
    // The application wants new keys, and so does the client.
    world.joined.server.refresh_traffic_keys().unwrap();
    world.joined.client.refresh_traffic_keys().unwrap();
    let Joined { client, server } = &mut world.joined;
    deliver(&sent(server), client);
    let answer = sent(client);
    server.checkpoint(world.places[1], b"state").unwrap();
    assert!(!server.awaits_answer(), "one answer is on its way");
    deliver(&answer, server);
    assert!(server.take_superseded().is_none());
    assert!(server.awaits_answer(), "asked when that had come");
    assert!(is_recovered(&world.arrival(first).await));
    assert_eq!(world.supersede().await, 1);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_asked_eight_times_and_its_connection_goes_on() {
    let mut world = World::new();
    let mut spent = 0;
    for _ in 0..100 {
        drop(world.checkpoint());
        spent += world.supersede().await;
    }
    assert_eq!(spent, 8);
    // It says something, and is said something.
    for _ in 0..2 {
        world.joined.client.write(b"hello").unwrap();
        world.joined.server.write(b"hello").unwrap();
        drop(world.checkpoint());
        spent += world.supersede().await;
    }
    assert_eq!(spent, 8 + 92 + 1, "all that were left, and one");
    let newest = world.checkpoint();
    assert!(is_recovered(&world.arrival(newest).await));
}

/// A store that says of everything that another connection has spent it.
#[derive(Debug)]
struct Used;

impl NonceStore for Used {
    fn claim(&self, _: Claim) -> BoxFuture<'_, Result<ClaimOutcome, StoreError>> {
        Box::pin(ready(Ok(ClaimOutcome::Committed)))
    }

    fn commit(&self, _: Claim) -> BoxFuture<'_, Result<CommitOutcome, StoreError>> {
        Box::pin(ready(Ok(CommitOutcome::Lost)))
    }

    fn remembers_since(&self) -> Option<OffsetDateTime> {
        None
    }
}

/// What an application does when it has made its checkpoints.
#[derive(Clone, Copy, Debug)]
enum Does {
    Reads,
    Writes,
    Checkpoints,
    Nothing,
}

/// How the application, which says "said" and perhaps "more" and "more", learns that its stream goes on elsewhere. A state is how much it
/// has said.
async fn learns(mut stream: TlsStream<End>, b: SocketAddr, does: Does) -> io::Error {
    for _ in 0..2 {
        stream.checkpoint(b, &[0]).await.unwrap();
    }
    stream.write_all(b"said").await.unwrap();
    stream.flush().await.unwrap();
    loop {
        let done = match does {
            Does::Reads => stream.read_u8().await.map(|_| ()),
            Does::Writes => stream.write_all(b"more").await,
            Does::Checkpoints => stream.checkpoint(b, &[4]).await,
            Does::Nothing => {
                sleep(Duration::from_secs(5)).await;
                stream.write_all(b"more").await
            }
        };
        match done {
            Ok(()) => sleep(Duration::from_millis(1)).await,
            Err(error) => return error,
        }
    }
}

#[test]
fn a_server_whose_former_checkpoint_was_used_learns_so_whatever_it_does_and_its_client_goes_on() {
    for does in [Does::Reads, Does::Writes, Does::Checkpoints, Does::Nothing] {
        run(async move {
            let pair = Pair::new(65_536);
            let b = pair.b;
            let settings = pair.service.node().supersede_checkpoints_in(Arc::new(Used));
            let (learnt, mut learns_so) = tokio::sync::mpsc::channel(1);
            pair.serve(pair.a, settings, move |stream| {
                let learnt = learnt.clone();
                async move {
                    let error = learns(stream, b, does).await;
                    learnt.send(error).await.unwrap();
                    Ok(())
                }
            });
            pair.serve(b, pair.service.node(), move |mut stream| async move {
                let said = usize::from(stream.arrival().state().unwrap()[0]);
                let said = said + usize::try_from(stream.take_received()).unwrap();
                let all = [b"said".to_vec(), b"more".repeat(1000)].concat();
                stream.write_all(&all[said..]).await?;
                stream.shutdown().await
            });
            let mut stream = pair.connect(HandOff::Drain).await;
            let mut events = stream.events();
            let mut read = Vec::new();
            stream.read_to_end(&mut read).await.unwrap();
            let all = [b"said".to_vec(), b"more".repeat(1000)].concat();
            assert!(read == all, "{does:?}: {}", read.len());
            let error = learns_so.recv().await.unwrap();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{does:?}");
            let inside = error.get_ref().and_then(|inside| inside.downcast_ref());
            assert_eq!(inside, Some(&GoesOnElsewhere), "{does:?}");
            drop(stream);
            let mut recovered = false;
            while let Some(event) = events.next().await {
                recovered |= matches!(event, Event::Recovered(_));
            }
            assert!(recovered, "{does:?}");
        });
    }
}

#[test]
fn a_store_that_fails_costs_no_stream_and_no_time() {
    for store in [
        FailingStore::Broken,
        FailingStore::Hung,
        FailingStore::LostToAnother,
        FailingStore::FailingCommits,
    ] {
        run(async move {
            let pair = Pair::new(65_536);
            let b = pair.b;
            let settings = pair
                .service
                .node()
                .supersede_checkpoints_in(Arc::new(store));
            pair.serve(pair.a, settings, move |mut stream| async move {
                let mut byte = [0];
                while stream.read(&mut byte).await? > 0 {
                    stream.checkpoint(b, b"state").await?;
                    stream.write_all(&byte).await?;
                    stream.flush().await?;
                }
                stream.shutdown().await
            });
            let mut stream = pair.connect(HandOff::Drain).await;
            let begun = tokio::time::Instant::now();
            for byte in 0..100 {
                stream.write_all(&[byte]).await.unwrap();
                stream.flush().await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), byte);
            }
            // A round trip for each.
            assert_eq!(begun.elapsed(), Duration::from_secs(1), "{store:?}");
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        });
    }
}
