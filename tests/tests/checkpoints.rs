//! Checkpoints, byte by byte: positions, what a hello may say of them, and what ends and withdrawals mean (`docs/protocol.md`
//! section 11).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use migration_tests::memory::{Joined, sent, take_offer};
use migration_tests::simulated::{Pair, run};
use migration_tests::{Service, server_name};
use rustls_migration::client::{
    Checkpoint, InvalidOfferError, MigrationClient, NoWider, Offer, Update,
};
use rustls_migration::server::{
    Arrival, MigrationServer, OfferError, Positions, ServerConnection, Verdict,
};
use rustls_migration::tokio::{EndsTooEarly, Event, Events, HandOff, MigrationStream, TlsStream};
use rustls_migration::{Connection as _, MoveKind};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// Three nodes of a service, and a client.
struct World {
    nodes: [Arc<MigrationServer>; 3],
    places: [SocketAddr; 3],
    client: Arc<MigrationClient>,
}

impl World {
    fn new() -> Self {
        let service = Service::default();
        let places = ["127.0.0.2:443", "127.0.0.3:443", "127.0.0.4:443"];
        let places = places.map(|place| place.parse().unwrap());
        let client = service.client_with(service.client_config()).build();
        Self {
            nodes: places.map(|here| {
                let server = service.node().own_addresses([here]);
                Arc::new(server.build().unwrap())
            }),
            places,
            client: Arc::new(client.unwrap()),
        }
    }

    fn at_a(&self) -> Joined {
        Joined::new(&self.client, &self.nodes[0], self.places[0])
    }

    /// Has node `from` make a checkpoint for node `to`, which the client takes.
    fn checkpoint(&self, joined: &mut Joined, from: usize, to: usize) -> Checkpoint {
        let made = joined.server.checkpoint(self.places[to], b"state");
        made.unwrap();
        self.taken(joined, from, to)
    }

    /// The client takes the checkpoint that has been made.
    fn taken(&self, joined: &mut Joined, from: usize, to: usize) -> Checkpoint {
        joined.exchange();
        let updates = std::iter::from_fn(|| joined.client.next_update());
        assert!(
            updates
                .into_iter()
                .any(|update| update == Update::Checkpoint)
        );
        let checkpoint = joined.client.take_checkpoint().unwrap();
        match checkpoint.target() {
            Some(_) => checkpoint,
            None => {
                let named = checkpoint.unresolved().map(<[u8]>::to_vec);
                assert_eq!(named, Some(self.places[to].to_string().into_bytes()));
                let policy = NoWider::any_port();
                let led = checkpoint.lead_to(self.places[to], self.places[from], &policy);
                led.unwrap()
            }
        }
    }

    fn resume(&self, at: usize, offer: Offer, early_data: &[u8]) -> Joined {
        Joined::resume_with(&self.client, &self.nodes[at], offer, early_data)
    }
}

fn write(connection: &mut impl rustls_migration::Connection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // What is discarded is taken by itself.
        bytes = &bytes[connection.write(bytes).unwrap()..];
    }
}

/// Reads all that is there.
fn read(connection: &mut impl rustls_migration::Connection) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(bytes @ [_, ..]) = connection.fill_buf() {
        all.extend_from_slice(bytes);
        let len = bytes.len();
        connection.consume(len);
    }
    all
}

#[test]
fn positions_are_what_the_application_has_read_and_what_the_client_has_received() {
    let world = World::new();
    let mut a = world.at_a();
    write(&mut a.client, b"0123456789");
    a.exchange();
    // The application has read four of the ten bytes.
    assert!(a.server.fill_buf().unwrap().starts_with(b"0123"));
    a.server.consume(4);
    write(&mut a.server, b"abc");
    let checkpoint = world.checkpoint(&mut a, 0, 1);
    assert_eq!((checkpoint.written(), checkpoint.received()), (4, 3));
    write(&mut a.server, b"defg");
    a.exchange();
    assert_eq!(read(&mut a.client), b"abcdefg");

    let mut b = world.resume(1, checkpoint.into_offer(4).unwrap(), b"456789");
    let expected = Arrival::Recovered {
        early_data: true,
        state: b"state".to_vec().into(),
        received: 4,
    };
    assert_eq!(*b.server.arrival(), expected);
    assert_eq!(read(&mut b.server), b"456789");
    // It writes again what A wrote, and more.
    write(&mut b.server, b"def");
    assert_eq!(b.server.still_to_discard(), 1);
    write(&mut b.server, b"ghij");
    b.exchange();
    assert_eq!(read(&mut b.client), b"hij");
    assert_eq!(world.nodes[1].stats().recovered(), 1);
    assert_eq!(world.nodes[0].stats().checkpoints(), 1);
}

#[test]
fn a_checkpoint_may_stand_behind_what_its_state_accounts_for() {
    let world = World::new();
    let mut a = world.at_a();
    write(&mut a.client, b"0123456789");
    a.exchange();
    assert_eq!(read(&mut a.server), b"0123456789");
    write(&mut a.server, b"abcdef");
    a.exchange();
    assert_eq!(read(&mut a.client), b"abcdef");
    let made = |server: &mut ServerConnection, read, written, at: usize| {
        let positions = Positions { read, written };
        server.checkpoint_at(world.places[at], positions, b"state")
    };
    for (read, written) in [(11, 6), (10, 7), (u64::MAX, 6), (10, u64::MAX)] {
        let refused = made(&mut a.server, read, written, 1);
        assert_eq!(refused, Err(OfferError::BadPosition));
    }
    made(&mut a.server, 7, 2, 1).unwrap();
    assert_eq!(made(&mut a.server, 6, 6, 1), Err(OfferError::BadPosition));
    let checkpoint = world.taken(&mut a, 0, 1);
    assert_eq!((checkpoint.written(), checkpoint.received()), (7, 6));
    write(&mut a.server, b"g");
    a.exchange();

    // The client has "cdefg" of what is written at B, which makes the next one of when it has written "c".
    let mut b = world.resume(1, checkpoint.into_offer(1).unwrap(), b"789");
    assert_eq!(b.server.still_to_discard(), 5);
    assert_eq!(read(&mut b.server), b"789");
    write(&mut b.server, b"cde");
    let positions = Positions {
        read: 3,
        written: 3,
    };
    assert_eq!(b.server.positions(), positions);
    made(&mut b.server, 2, 1, 2).unwrap();
    let checkpoint = world.taken(&mut b, 1, 2);
    let mut c = world.resume(2, checkpoint.into_offer(0).unwrap(), b"9");
    assert_eq!(c.server.still_to_discard(), 4);
    write(&mut c.server, b"defgh");
    c.exchange();
    assert_eq!(read(&mut c.client), b"h");
}

/// Else each checkpoint would cost a record and a write of its own for as much as it is long.
#[test]
fn a_checkpoint_that_waits_takes_no_room_from_what_the_application_writes() {
    const ROOM: usize = 64 * 1024;
    let world = World::new();
    let mut a = world.at_a();
    for waiting in [0, 1, 20, 0] {
        for _ in 0..waiting {
            a.server.checkpoint(world.places[1], b"state").unwrap();
        }
        let taken = [(); 2].map(|()| a.server.write(&[7; 2 * ROOM]).unwrap());
        assert!(
            (ROOM..ROOM + 128 * (waiting + 1)).contains(&taken[0]),
            "{waiting}: {taken:?}"
        );
        assert_eq!(taken[1], 0, "it is no larger than it was");
        sent(&mut a.server);
    }
}

#[test]
fn checkpoints_to_a_slow_client_do_not_make_a_server_keep_more() {
    const ROOM: usize = 64 * 1024;
    let world = World::new();
    let mut a = world.at_a();
    for _ in 0..500 {
        a.server.checkpoint(world.places[1], b"state").unwrap();
        a.server.write(&[7; 2 * ROOM]).unwrap();
        // There is always something left.
        let mut line = [0; ROOM / 2];
        let written = a.server.write_tls(&mut &mut line[..]).unwrap();
        assert_eq!(written, line.len());
    }
    let kept = sent(&mut a.server).len();
    assert!(kept < 2 * ROOM, "{kept}");
}

#[test]
fn an_application_that_takes_the_number_begins_behind_it() {
    let world = World::new();
    let mut a = world.at_a();
    let checkpoint = world.checkpoint(&mut a, 0, 1);
    let mut b = world.resume(1, checkpoint.into_offer(1000).unwrap(), &[]);
    assert_eq!(
        (b.server.take_received(), b.server.take_received()),
        (1000, 0)
    );
    write(&mut b.server, b"first");
    b.exchange();
    assert_eq!(read(&mut b.client), b"first");
}

#[test]
fn a_checkpoint_that_is_made_before_all_was_discarded_says_what_is_left() {
    let world = World::new();
    let mut a = world.at_a();
    let checkpoint = world.checkpoint(&mut a, 0, 1);
    let mut b = world.resume(1, checkpoint.into_offer(10).unwrap(), &[]);
    write(&mut b.server, b"0123");
    let checkpoint = world.checkpoint(&mut b, 1, 2);
    // B dies before it writes what the client has not had.
    let mut c = world.resume(2, checkpoint.into_offer(0).unwrap(), &[]);
    assert_eq!(c.server.still_to_discard(), 6);
    write(&mut c.server, b"456789ab");
    c.exchange();
    assert_eq!(read(&mut c.client), b"ab");
}

#[test]
fn a_number_that_overflows_is_declined_and_a_conversation_begins() {
    let world = World::new();
    let mut a = world.at_a();
    let checkpoint = world.checkpoint(&mut a, 0, 1);
    let mut b = world.resume(1, checkpoint.into_offer(u64::MAX).unwrap(), &[]);
    let checkpoint = world.checkpoint(&mut b, 1, 2);
    // All that B has to leave out, and one more byte, is more than there can be.
    let mut c = world.resume(2, checkpoint.into_offer(1).unwrap(), b"resent");
    assert_eq!(*c.server.arrival(), Arrival::Declined(Verdict::Malformed));
    write(&mut c.server, b"a new conversation");
    assert_eq!(c.server.still_to_discard(), 0);
}

#[test]
fn a_checkpoint_is_no_offer_and_hands_nothing_over() {
    let world = World::new();
    let mut a = world.at_a();
    a.server.checkpoint(world.places[1], b"state").unwrap();
    a.exchange();
    assert!(a.client.take_offer().is_none(), "nothing to follow");
    assert!(a.client.handed_over().is_none());
    // The client closes its side; a checkpoint that comes then hands nothing over.
    a.server.offer(world.places[1], Some(b"state")).unwrap();
    a.server.notify().unwrap();
    a.exchange();
    a.client.send_close_notify();
    a.exchange();
    a.server.checkpoint(world.places[1], b"state").unwrap();
    a.exchange();
    assert!(a.client.handed_over().is_none());
    a.server.hand_over(world.places[1], b"last").unwrap();
    a.exchange();
    assert_eq!(a.client.handed_over(), Some(Ok(())));
}

#[test]
fn an_offer_is_not_lost_to_checkpoints_that_come_with_it() {
    let world = World::new();
    for before in 0..6 {
        let mut a = world.at_a();
        while a.client.next_update().is_some() {}
        for number in 0..6_u8 {
            if number == before {
                a.server.offer(world.places[2], Some(b"state")).unwrap();
            }
            a.server.checkpoint(world.places[1], &[number]).unwrap();
        }
        let all = sent(&mut a.server);
        let mut rest = &*all;
        while !rest.is_empty() {
            a.client.read_tls(&mut rest).unwrap();
        }
        a.client.process_new_packets().unwrap();
        let offer = take_offer(&mut a.client, world.places[2]);
        assert_eq!(offer.target(), world.places[2], "{before}");
        let newest = world.taken(&mut a, 0, 1).into_offer(0).unwrap();
        let there = world.resume(1, newest, &[]);
        assert!(
            matches!(there.server.arrival(), Arrival::Recovered { state, .. } if **state == [5]),
            "{:?}",
            there.server.arrival()
        );
    }
}

#[test]
fn a_checkpoint_that_follows_one_that_was_taken_back_counts_although_both_come_at_once() {
    let world = World::new();
    let mut a = world.at_a();
    a.server.checkpoint(world.places[1], b"first").unwrap();
    a.server.offer(world.places[1], None).unwrap();
    a.server.checkpoint(world.places[1], b"second").unwrap();
    a.exchange();
    let updates: Vec<_> = std::iter::from_fn(|| a.client.next_update()).collect();
    let (newest, before) = updates.split_last().unwrap();
    assert_eq!(*newest, Update::Checkpoint);
    assert!(!before.contains(&Update::Checkpoint), "{updates:?}");
    assert!(a.client.take_checkpoint().is_some());
}

#[test]
fn a_checkpoint_is_refused_like_an_offer_and_leads_nowhere_before_it_is_led() {
    let world = World::new();
    let mut a = world.at_a();
    let too_long = a.server.checkpoint(world.places[1], &[0; 8193]);
    assert_eq!(too_long, Err(OfferError::StateTooLong { len: 8193 }));
    a.server.checkpoint(world.places[1], &[0; 8192]).unwrap();
    a.exchange();
    let checkpoint = a.client.take_checkpoint().unwrap();
    if checkpoint.target().is_none() {
        let nowhere = checkpoint.into_offer(0).map(|_| ());
        assert_eq!(nowhere, Err(InvalidOfferError::Unresolved));
    }
    a.server.send_close_notify();
    let closed = a.server.checkpoint(world.places[1], b"");
    assert_eq!(closed, Err(OfferError::Closed));
}

/// Node A makes a checkpoint and writes `said`; then `ends` says how it ends.
async fn at_a<IO>(mut stream: TlsStream<IO>, b: SocketAddr, ends: Ends) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    stream.checkpoint(b, b"state").await?;
    stream.write_all(b"said").await?;
    stream.flush().await?;
    match ends {
        Ends::Dies => Ok(()),
        Ends::Cleanly => stream.shutdown().await,
        Ends::TakesItBack => stream.offer(b, None).await,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Dies,
    Cleanly,
    TakesItBack,
}

/// What a client reads until the end, and how that comes, where B says `at_b` and shuts down.
async fn read_to_end(ends: Ends, mode: HandOff, at_b: &'static [u8]) -> (Vec<u8>, bool, bool) {
    let pair = Pair::new(65_536);
    let b = pair.b;
    pair.serve(pair.a, pair.service.node(), move |stream| {
        at_a(stream, b, ends)
    });
    pair.serve(b, pair.service.node(), move |mut stream| async move {
        assert!(matches!(stream.arrival(), Arrival::Recovered { .. }));
        stream.write_all(at_b).await?;
        let ended = stream.shutdown().await;
        if at_b.len() < b"said".len() {
            let error = ended.unwrap_err();
            let inside = error.get_ref().and_then(|inside| inside.downcast_ref());
            assert_eq!(inside, Some(&EndsTooEarly { missing: 2 }));
            return Ok(());
        }
        ended
    });
    let mut stream = pair.connect(mode).await;
    let mut events = stream.events();
    let mut read = Vec::new();
    let ended = stream.read_to_end(&mut read).await.is_ok();
    drop(stream);
    let mut recovered = false;
    while let Some(event) = events.next().await {
        recovered |= matches!(event, Event::Recovered(_));
    }
    (read, ended, recovered)
}

#[test]
fn a_server_that_dies_is_survived_and_one_that_has_ended_the_stream_has_ended_it() {
    for mode in [HandOff::Drain, HandOff::Overlap] {
        let died = run(read_to_end(Ends::Dies, mode, b"said, and the rest"));
        assert_eq!(
            died,
            (b"said, and the rest".to_vec(), true, true),
            "{mode:?}"
        );
        let ended = run(read_to_end(Ends::Cleanly, mode, b"said twice"));
        assert_eq!(ended, (b"said".to_vec(), true, false), "{mode:?}");
    }
}

#[test]
fn a_checkpoint_that_was_taken_back_is_not_used() {
    let taken_back = run(read_to_end(
        Ends::TakesItBack,
        HandOff::Drain,
        b"said twice",
    ));
    assert_eq!(taken_back, (b"said".to_vec(), false, false));
}

#[test]
fn a_stream_that_does_not_move_by_itself_does_not_recover_by_itself() {
    let died = run(read_to_end(Ends::Dies, HandOff::Manual, b"said twice"));
    assert_eq!(died, (b"said".to_vec(), false, false));
}

#[test]
fn an_application_that_ends_the_stream_before_what_the_client_has_of_it_ends_it_for_nobody() {
    let (read, ended, recovered) = run(read_to_end(Ends::Dies, HandOff::Drain, b"sa"));
    assert_eq!(
        (read.as_slice(), ended, recovered),
        (&b"said"[..], false, true)
    );
}

#[test]
fn a_checkpoint_is_no_consent_to_a_hand_over() {
    run(async {
        let pair = Pair::new(65_536);
        let b = pair.b;
        pair.serve(pair.a, pair.service.node(), move |mut stream| async move {
            stream.checkpoint(b, b"state").await?;
            stream.migrate_to(b, None).await?;
            stream.shutdown().await
        });
        let mut stream = pair.connect(HandOff::Drain).await;
        let mut events = stream.events();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        drop(stream);
        let mut kinds = Vec::new();
        while let Some(event) = events.next().await {
            if let Event::Notified { kind } = event {
                kinds.push(kind);
            }
        }
        assert_eq!(kinds, [MoveKind::Connection]);
    });
}

#[test]
fn a_server_that_has_nothing_to_say_answers_probes_and_is_not_dead() {
    run(async {
        let pair = Pair::new(65_536);
        let b = pair.b;
        pair.serve(pair.a, pair.service.node(), move |mut stream| async move {
            stream.checkpoint(b, b"state").await?;
            let mut byte = [0];
            tokio::select! {
                read = stream.read(&mut byte) => panic!("unexpected: {read:?}"),
                () = tokio::time::sleep(Duration::from_secs(1800)) => {}
            }
            stream.write_all(b"said").await?;
            stream.shutdown().await
        });
        let connector = pair.connector(HandOff::Drain);
        let connector = connector.probe(Duration::from_secs(5), Duration::from_secs(1));
        let mut stream = connector.connect(server_name(), pair.a).await.unwrap();
        let mut events = stream.events();
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"said");
        drop(stream);
        while let Some(event) = events.next().await {
            assert!(!matches!(event, Event::Recovering { .. }));
        }
        // What it asked and was told: a client's records beside the handshake's are KeyUpdates.
        let delivered = pair.network.delivered()[0];
        assert!(
            delivered.to_server >= 24 && delivered.to_client >= 24,
            "{delivered:?}"
        );
    });
}

#[test]
fn a_checkpoint_that_is_queued_leaves_with_what_is_written_flushed_or_read_next() {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Then {
        Write,
        Flush,
        Read,
    }
    for then in [Then::Write, Then::Flush, Then::Read] {
        run(async {
            let pair = Pair::new(65_536);
            let b = pair.b;
            pair.serve(pair.a, pair.service.node(), move |mut stream| async move {
                assert!(stream.queue_checkpoint(b, &[0; 8193]).is_err());
                stream.queue_checkpoint(b, b"state").unwrap();
                tokio::time::sleep(Duration::from_secs(60)).await;
                match then {
                    Then::Write => stream.write_all(b"said").await?,
                    Then::Flush => stream.flush().await?,
                    Then::Read => {}
                }
                stream.read_to_end(&mut Vec::new()).await.map(drop)
            });
            let mut stream = pair.connect(HandOff::Drain).await;
            let mut events = stream.events();
            let told = async |events: &mut Events, stream: &mut MigrationStream, secs| {
                let _ = timeout(Duration::from_secs(secs), stream.read(&mut [0; 4])).await;
                let mut all = std::iter::from_fn(|| events.try_next());
                all.any(|event| matches!(event, Event::Checkpoint { usable: true, .. }))
            };
            assert!(!told(&mut events, &mut stream, 59).await, "{then:?}");
            assert!(told(&mut events, &mut stream, 2).await, "{then:?}");
        });
    }
}
