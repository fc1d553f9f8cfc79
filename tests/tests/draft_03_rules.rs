//! What draft -03 forbids, and what it asks of each side (its sections 5, 6 and 10; `docs/protocol.md` section 10). The suite of
//! moves runs in this dialect as well: `draft_03.rs`.

use std::net::SocketAddr;
use std::sync::Arc;

use migration_tests::memory::{Joined, deliver, sent, take_offer};
use migration_tests::{Service, Spoken, server_name};
use migration_token::ClaimOutcome;
use rustls::{AlertDescription, HandshakeKind};
use rustls_migration::client::{
    ClientConnection, InvalidOfferError, MigrationClient, Offer, Update,
};
use rustls_migration::server::{
    AcceptError, Arrival, HelloAcceptor, MigrationServer, MigrationServerBuilder, NotifyError,
    OfferError, ServerConnection, Verdict,
};
use rustls_migration::{Codepoints, Connection as _, Dialect, ExperimentalCodepoints, MoveKind};

fn places() -> [SocketAddr; 3] {
    ["127.0.0.2:443", "127.0.0.3:443", "127.0.0.4:443"].map(|place| place.parse().unwrap())
}

fn service() -> Service {
    Service::speaking(Spoken::Draft03)
}

fn client(service: &Service) -> Arc<MigrationClient> {
    let client = service.client_with(service.client_config());
    Arc::new(client.build().unwrap())
}

fn speaking(service: &Service, dialects: &[Dialect]) -> Arc<MigrationClient> {
    let client = service.client_with(service.client_config());
    Arc::new(client.dialects(dialects.to_vec()).build().unwrap())
}

fn built(settings: MigrationServerBuilder) -> Arc<MigrationServer> {
    Arc::new(settings.build().unwrap())
}

fn node(service: &Service, here: SocketAddr) -> Arc<MigrationServer> {
    built(service.node().own_addresses([here]))
}

fn updates(client: &mut ClientConnection) -> Vec<Update> {
    std::iter::from_fn(|| client.next_update()).collect()
}

/// A client at A with an offer of B.
fn offered(service: &Service, client: &Arc<MigrationClient>) -> Offer {
    let [at_a, at_b, _] = places();
    let mut here = Joined::new(client, &node(service, at_a), at_a);
    here.server.offer(at_b, None).unwrap();
    here.exchange();
    here.take_offer(at_b)
}

/// The first flight with which a client takes up the offer.
fn flight(client: &Arc<MigrationClient>, offer: Offer) -> Vec<u8> {
    let connection = ClientConnection::resume(client, server_name(), offer, b"early");
    sent(&mut connection.unwrap())
}

/// What a node makes of a hello whose ticket nobody has used.
fn accepted(server: &Arc<MigrationServer>, flight: &[u8]) -> ServerConnection {
    let mut accepting = HelloAcceptor::new(Arc::clone(server), None, None);
    assert!(accepting.push(flight));
    let examined = accepting.examine().unwrap();
    let answer = examined.claim().map(|_| Ok(ClaimOutcome::First));
    examined.accept(answer).unwrap()
}

/// Where `part` stands in `bytes`.
fn find(bytes: &[u8], part: &[u8]) -> usize {
    let mut windows = bytes.windows(part.len());
    windows.position(|window| window == part).unwrap()
}

#[test]
fn a_client_that_did_not_offer_gets_neither_mark_nor_request() {
    let service = service();
    let [at_a, at_b, _] = places();
    // It would take the mark for a token, and say so.
    let codepoints = Codepoints {
        migration_token: Codepoints::default().experimental.migration_allowed,
        ..Codepoints::default()
    };
    let client = service.client_with(service.client_config());
    let client = client.dialects([Dialect::Draft01]).codepoints(codepoints);
    let client = Arc::new(client.build().unwrap());
    let server = built(service.node().own_addresses([at_a]).target(at_b));
    let mut joined = Joined::new(&client, &server, at_a);
    assert_eq!(
        joined.server.offer(at_b, None),
        Err(OfferError::NotSupported)
    );
    assert_eq!(joined.server.notify(), Err(NotifyError::NoToken));
    joined.exchange();
    assert_eq!(updates(&mut joined.client), []);
    // The same client, had it offered.
    let client = service.client_with(service.client_config());
    let mut joined = Joined::new(&Arc::new(client.build().unwrap()), &server, at_a);
    let kind = MoveKind::Connection;
    assert_eq!(updates(&mut joined.client), [Update::Marked { kind }]);
}

#[test]
fn a_server_that_does_not_speak_it_is_not_made_to() {
    let service = service();
    let [at_a, at_b, _] = places();
    let server = built(
        service
            .node()
            .own_addresses([at_a])
            .dialects([Dialect::Draft01]),
    );
    let mut joined = Joined::new(&client(&service), &server, at_a);
    assert_eq!(
        joined.server.offer(at_b, None),
        Err(OfferError::NotSupported)
    );
    // Nor does it take a ticket of it.
    let client = client(&service);
    let there = service.node().own_addresses([at_b]);
    let there = built(there.dialects([Dialect::Draft01]));
    let arrived = accepted(&there, &flight(&client, offered(&service, &client)));
    assert_eq!(*arrived.arrival(), Arrival::Fresh);
    assert_eq!(arrived.tls().handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn a_request_to_a_client_that_did_not_offer_is_an_unexpected_message() {
    let service = service();
    let [at_a, at_b, _] = places();
    // This server takes draft -01's offer for the other's.
    let codepoints = Codepoints {
        migration_support: 0xFF99,
        experimental: ExperimentalCodepoints {
            migration_support: Codepoints::default().migration_support,
            ..ExperimentalCodepoints::default()
        },
        ..Codepoints::default()
    };
    let server = service.node().own_addresses([at_a]).codepoints(codepoints);
    let client = speaking(&service, &[Dialect::Draft01]);
    let mut joined = Joined::new(&client, &built(server), at_a);
    joined.server.offer(at_b, None).unwrap();
    joined.server.notify().unwrap();
    let bytes = sent(&mut joined.server);
    joined.client.read_tls(&mut &bytes[..]).unwrap();
    joined.client.process_new_packets().unwrap_err();
    let alert = sent(&mut joined.client);
    joined.server.read_tls(&mut &alert[..]).unwrap();
    let told = joined.server.process_new_packets().unwrap_err();
    let unexpected = AlertDescription::UnexpectedMessage;
    assert_eq!(told, rustls::Error::AlertReceived(unexpected));
}

#[test]
fn nobody_is_asked_before_the_handshake_ends() {
    let service = service();
    let [at_a, at_b, _] = places();
    let mut connection = ClientConnection::new(&client(&service), server_name(), at_a).unwrap();
    let server = built(service.node().own_addresses([at_a]).target(at_b));
    let mut here = accepted(&server, &sent(&mut connection));
    assert_eq!(here.notify(), Err(NotifyError::Handshaking));
    assert_eq!(here.offer(at_b, None), Err(OfferError::Handshaking));
    deliver(&sent(&mut here), &mut connection);
    assert!(!connection.is_handshaking() && updates(&mut connection).is_empty());
}

#[test]
fn the_newest_request_counts_and_changes_no_keys() {
    let service = service();
    let [at_a, at_b, at_c] = places();
    let mut joined = Joined::new(&client(&service), &node(&service, at_a), at_a);
    for (target, text) in [(at_b, "127.0.0.3:443"), (at_c, "127.0.0.4:443")] {
        joined.server.offer(target, None).unwrap();
        joined.server.notify().unwrap();
        joined.server.refresh_traffic_keys().unwrap();
        joined.server.write(b"between").unwrap();
        joined.client.refresh_traffic_keys().unwrap();
        joined.exchange();
        let kind = MoveKind::Connection;
        let expected = [Update::Marked { kind }, Update::Notified];
        assert_eq!(updates(&mut joined.client), expected);
        assert_eq!(joined.client.requested_target(), Some(text.as_bytes()));
        assert_eq!(joined.client.fill_buf().unwrap(), b"between");
        joined.client.consume(7);
    }
    joined.client.write(b"still here").unwrap();
    joined.exchange();
    assert_eq!(joined.server.fill_buf().unwrap(), b"still here");
}

#[test]
fn a_ticket_without_a_target_leads_where_the_client_chooses_and_its_policy_allows() {
    let service = service();
    let [at_a, at_b, _] = places();
    let client = client(&service);
    let server = built(service.node().own_addresses([at_a]).target(at_b));
    let mut joined = Joined::new(&client, &server, at_a);
    assert_eq!(joined.client.requested_target(), None);
    let refused = joined.client.lead_to("10.0.0.1:443".parse().unwrap());
    assert!(matches!(refused, Err(InvalidOfferError::Target(_))));
    let used = joined.client.lead_to(at_b).unwrap_err();
    assert_eq!(used, InvalidOfferError::NoMark, "it is used up");
    joined.server.offer(at_b, None).unwrap();
    joined.exchange();
    let offer = joined.take_offer(at_b);
    assert!(offer.token().is_none() && offer.dialect() == Dialect::Draft03);
    let there = Joined::resume(&client, &node(&service, at_b), offer);
    assert!(matches!(there.server.arrival(), Arrival::Migrated { .. }));
}

#[test]
fn out_of_its_scope_a_ticket_does_not_resume_not_even_at_its_issuer() {
    let service = service();
    let [at_a, at_b, at_c] = places();
    let client = client(&service);
    for (at, arrival) in [
        (at_a, Arrival::Declined(Verdict::WrongTarget)),
        (at_c, Arrival::Declined(Verdict::WrongTarget)),
    ] {
        let hello = flight(&client, offered(&service, &client));
        let arrived = accepted(&node(&service, at), &hello);
        assert_eq!(*arrived.arrival(), arrival, "{at}");
        assert_eq!(arrived.tls().handshake_kind(), Some(HandshakeKind::Full));
    }
    let hello = flight(&client, offered(&service, &client));
    let arrived = accepted(&node(&service, at_b), &hello);
    assert!(matches!(arrived.arrival(), Arrival::Migrated { .. }));
}

#[test]
fn a_hello_with_psk_ke_alone_does_not_resume() {
    let service = service();
    let [_, at_b, _] = places();
    let client = client(&service);
    let mut hello = flight(&client, offered(&service, &client));
    // psk_key_exchange_modes: one mode, psk_dhe_ke.
    let modes = find(&hello, &[0, 45, 0, 2, 1, 1]);
    hello[modes + 5] = 0;
    let arrived = accepted(&node(&service, at_b), &hello);
    assert_eq!(*arrived.arrival(), Arrival::Declined(Verdict::NoPsk));
    assert_eq!(arrived.tls().handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn a_changed_ticket_is_any_ticket_and_a_wrong_binder_spends_nothing() {
    let service = service();
    let [_, at_b, _] = places();
    let client = client(&service);
    let hello = flight(&client, offered(&service, &client));
    let ticket = migration_tests::hello::ticket(&hello).unwrap();
    let start = find(&hello, ticket);
    for at in [start, start + ticket.len() / 2, start + ticket.len() - 1] {
        let mut hello = hello.clone();
        hello[at] ^= 1;
        let arrived = accepted(&node(&service, at_b), &hello);
        assert_eq!(*arrived.arrival(), Arrival::Fresh, "byte {at}");
        assert_eq!(arrived.tls().handshake_kind(), Some(HandshakeKind::Full));
    }
    // Behind the ticket: its age, the length of the binders, and a binder.
    let mut wrong = hello.clone();
    wrong[start + ticket.len() + 4 + 2 + 1] ^= 1;
    let mut accepting = HelloAcceptor::new(node(&service, at_b), None, None);
    assert!(accepting.push(&wrong));
    assert!(matches!(accepting.examine(), Err(AcceptError::BadBinder)));
}

#[test]
fn a_ticket_is_spent_as_a_token_is() {
    let service = service();
    let [_, at_b, _] = places();
    let client = client(&service);
    let b = node(&service, at_b);
    let hello = flight(&client, offered(&service, &client));
    let examined = |hello: &[u8]| {
        let mut accepting = HelloAcceptor::new(Arc::clone(&b), None, None);
        assert!(accepting.push(hello));
        accepting.examine().unwrap()
    };
    let [first, second] = [examined(&hello), examined(&hello)];
    let [one, two] = [first.claim().unwrap(), second.claim().unwrap()];
    assert_eq!(one.nonce, two.nonce, "the ticket's digest");
    assert_ne!(one.id, two.id);
    let other = examined(&flight(&client, offered(&service, &client)));
    assert_ne!(other.claim().unwrap().nonce, one.nonce);
    let used = second.accept(Some(Ok(ClaimOutcome::Committed))).unwrap();
    assert_eq!(*used.arrival(), Arrival::Declined(Verdict::Replayed));
    let copied = first.accept(Some(Ok(ClaimOutcome::Pending))).unwrap();
    let Arrival::Migrated { early_data, .. } = copied.arrival() else {
        panic!("{:?}", copied.arrival());
    };
    assert!(!early_data, "a copy may have come first");
}

#[test]
fn the_authorisation_ends_with_the_tickets_life() {
    let service = service();
    let [_, at_b, _] = places();
    let client = client(&service);
    let hello = flight(&client, offered(&service, &client));
    service
        .clock
        .advance(time::Duration::HOUR + time::Duration::SECOND);
    let arrived = accepted(&node(&service, at_b), &hello);
    assert_eq!(*arrived.arrival(), Arrival::Declined(Verdict::Expired));
}

#[test]
fn the_server_chooses_among_the_dialects_that_a_client_offers() {
    let service = service();
    let [at_a, at_b, _] = places();
    let kind = MoveKind::Connection;
    let [old, new] = [
        Update::Offered { target: at_b, kind },
        Update::Marked { kind },
    ];
    let both = [Dialect::Draft03, Dialect::Draft01];
    for (server, client, expected) in [
        (&both[..], &both[..], new),
        (&[both[1], both[0]], &both, old),
        (&both, &both[1..], old),
        (&both[..1], &both, new),
        (&both[1..], &both, old),
    ] {
        let settings = service.node().own_addresses([at_a]).target(at_b);
        let settings = settings.dialects(server.to_vec());
        let mut joined = Joined::new(&speaking(&service, client), &built(settings), at_a);
        assert_eq!(
            updates(&mut joined.client),
            [expected],
            "{server:?} {client:?}"
        );
    }
}

#[test]
fn a_support_extension_that_is_not_empty_is_a_decode_error() {
    let service = service();
    let [at_a, ..] = places();
    // To this node, the client's supported_versions extension is migration_support.
    let codepoints = Codepoints {
        experimental: ExperimentalCodepoints {
            migration_support: 43,
            ..ExperimentalCodepoints::default()
        },
        ..Codepoints::default()
    };
    let server = built(service.node().codepoints(codepoints));
    let mut connection = ClientConnection::new(&client(&service), server_name(), at_a).unwrap();
    let mut accepting = HelloAcceptor::new(server, None, None);
    assert!(accepting.push(&sent(&mut connection)));
    let refused = accepting.examine().map(drop).unwrap_err();
    assert!(matches!(refused, AcceptError::MalformedSupport));
}

#[test]
fn a_foreign_server_gets_no_byte_of_application_data() {
    let service = service();
    let [_, at_b, _] = places();
    let client = client(&service);
    let keys = rustls_migration::TicketKeys::generate(service.provider.secure_random).unwrap();
    let foreign = service.node_of(service.server_config(), "files", keys);
    let foreign = built(foreign.own_addresses([at_b]));
    let offer = offered(&service, &client);
    let mut there = ClientConnection::resume(&client, server_name(), offer, b"early").unwrap();
    // What is written before it is known who it is would leave right behind the handshake.
    assert_eq!(there.write(b"too soon").unwrap(), 0);
    // Its certificate is right, and still it is not told anything.
    let mut there = Joined::join(there, &foreign, at_b);
    assert!(there.client.must_resume() && there.client.is_refused());
    there.client.write(b"late").unwrap_err();
    there.exchange();
    let nothing = there.server.fill_buf().unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);

    // A client that may go on there does, by its application's word.
    let lenient = service.client_with(service.client_config());
    let lenient = Arc::new(lenient.allow_full_handshakes().build().unwrap());
    let mut here = Joined::new(&lenient, &node(&service, places()[0]), places()[0]);
    here.server.offer(at_b, None).unwrap();
    here.exchange();
    let offer = take_offer(&mut here.client, at_b);
    let there = ClientConnection::resume(&lenient, server_name(), offer, b"early").unwrap();
    let mut there = Joined::join(there, &foreign, at_b);
    assert!(!there.client.is_refused());
    assert_eq!(there.server.fill_buf().unwrap(), b"early");
}
