//! The two kinds of move: what the server's application consented to is what the client is told and what the target
//! gets to know, and nothing that a client does changes it (`docs/protocol.md` section 4).

use std::net::SocketAddr;
use std::sync::Arc;

use migration_tests::memory::{Joined, expect_offers};
use migration_tests::{Service, server_name};
use rustls_migration::client::{
    ClientConnection, ConnectError, InvalidOfferError, MigrationClient, Update,
};
use rustls_migration::server::{Arrival, MigrationServer};
use rustls_migration::{Codepoints, Connection as _, MoveKind};
use time::Duration;

/// Where the two nodes are.
fn places() -> [SocketAddr; 2] {
    ["127.0.0.2:443", "127.0.0.3:443"].map(|place| place.parse().unwrap())
}

fn nodes(service: &Service) -> [Arc<MigrationServer>; 2] {
    let [_, at_b] = places();
    places().map(|here| {
        let server = service.node().own_addresses([here]).target(at_b);
        Arc::new(server.build().unwrap())
    })
}

fn client(service: &Service) -> Arc<MigrationClient> {
    let client = service.client_with(service.client_config()).build();
    Arc::new(client.unwrap())
}

fn updates(client: &mut ClientConnection) -> Vec<Update> {
    std::iter::from_fn(|| client.next_update()).collect()
}

#[test]
fn the_target_learns_the_kind_and_the_state_that_the_client_was_offered() {
    let offers: [Option<&[u8]>; 3] = [None, Some(b""), Some(&[7; 8192])];
    for state in offers {
        let service = Service::default();
        let ([a, b], client) = (nodes(&service), client(&service));
        let [at_a, at_b] = places();
        let mut here = Joined::new(&client, &a, at_a);
        // What is offered at the handshake is nobody's consent.
        expect_offers(&updates(&mut here.client), at_b, MoveKind::Connection);
        here.server.offer(at_b, state).unwrap();
        here.exchange();
        let kind = match state {
            None => MoveKind::Connection,
            Some(_) => MoveKind::Stream,
        };
        expect_offers(&updates(&mut here.client), at_b, kind);

        let offer = here.take_offer(at_b);
        assert_eq!(offer.kind(), kind);
        let there = Joined::resume(&client, &b, offer);
        let Arrival::Migrated { state: arrived, .. } = there.server.arrival() else {
            panic!("{:?}", there.server.arrival());
        };
        assert_eq!(arrived.as_deref().map(Vec::as_slice), state);
    }
}

#[test]
fn a_token_of_the_handshake_begins_a_conversation_at_the_target() {
    let service = Service::default();
    let ([a, b], client) = (nodes(&service), client(&service));
    let [at_a, at_b] = places();
    let mut here = Joined::new(&client, &a, at_a);
    let offer = here.take_offer(at_b);
    let there = Joined::resume(&client, &b, offer);
    let arrival = there.server.arrival();
    assert!(
        matches!(arrival, Arrival::Migrated { state: None, .. }),
        "{arrival:?}"
    );
}

#[test]
fn an_offer_that_is_too_old_makes_no_connection() {
    let service = Service::default();
    let ([a, _], client) = (nodes(&service), client(&service));
    let [at_a, at_b] = places();
    let mut here = Joined::new(&client, &a, at_a);
    let offer = here.take_offer(at_b);
    service.clock.advance(Duration::HOUR);
    let refused = ClientConnection::resume(&client, server_name(), offer, &[]);
    assert!(matches!(refused, Err(ConnectError::OfferExpired)));
}

#[test]
fn only_the_offer_of_a_stream_hands_it_over() {
    let last_words: [Option<Option<&[u8]>>; 3] = [None, Some(None), Some(Some(b""))];
    for last_word in last_words {
        let service = Service::default();
        let ([a, _], client) = (nodes(&service), client(&service));
        let [at_a, at_b] = places();
        let mut joined = Joined::new(&client, &a, at_a);
        joined.server.offer(at_b, Some(b"first")).unwrap();
        joined.server.notify().unwrap();
        joined.exchange();
        joined.client.send_close_notify();
        joined.exchange();
        if let Some(state) = last_word {
            joined.server.offer(at_b, state).unwrap();
        }
        joined.server.send_close_notify();
        joined.exchange();
        let handed_over = last_word.flatten().map(|_| Ok(()));
        assert_eq!(joined.client.handed_over(), handed_over, "{last_word:?}");
    }
}

#[test]
fn a_malformed_mark_is_no_offer_and_the_connection_goes_on() {
    let service = Service::default();
    let [a, _] = nodes(&service);
    let [at_a, at_b] = places();
    // To this client the four bytes of a ticket's early_data extension are the mark.
    let codepoints = Codepoints {
        migration_stream: 42,
        ..Codepoints::default()
    };
    let client = service.client_with(service.client_config());
    let client = Arc::new(client.codepoints(codepoints).build().unwrap());
    let mut joined = Joined::new(&client, &a, at_a);
    joined.server.offer(at_b, None).unwrap();
    joined.exchange();
    let refused = Update::OfferRefused(InvalidOfferError::MalformedStream);
    assert_eq!(updates(&mut joined.client), [refused, refused]);
    assert!(joined.client.offer().is_none());

    joined.server.write(b"goes on").unwrap();
    joined.exchange();
    assert_eq!(joined.client.fill_buf().unwrap(), b"goes on");
}

#[test]
fn a_client_that_knows_no_mark_moves_as_the_draft_says() {
    let service = Service::default();
    let ([a, b], [at_a, at_b]) = (nodes(&service), places());
    let codepoints = Codepoints {
        migration_stream: 0xFFAA,
        ..Codepoints::default()
    };
    let client = service.client_with(service.client_config());
    let client = Arc::new(client.codepoints(codepoints).build().unwrap());
    let mut here = Joined::new(&client, &a, at_a);
    here.server.offer(at_b, Some(b"state")).unwrap();
    here.exchange();
    let offer = here.take_offer(at_b);
    assert_eq!(offer.kind(), MoveKind::Connection);
    let there = Joined::resume(&client, &b, offer);
    let Arrival::Migrated { state, .. } = there.server.arrival() else {
        panic!("{:?}", there.server.arrival());
    };
    let state = state.as_deref().map(Vec::as_slice);
    assert_eq!(state, Some(&b"state"[..]), "what the server sealed");
}
