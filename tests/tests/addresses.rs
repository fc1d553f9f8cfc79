//! Dual-stack nodes: a client that comes by IPv4 has a mapped IPv6 address there, which is the same address.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use migration_tests::client::{echoed, expect};
use migration_tests::node::echo;
use migration_tests::{Service, server_name};
use rustls::HandshakeKind;
use rustls_migration::server::{Arrival, MigrationServerBuilder};
use rustls_migration::tokio::MigrationAcceptor;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Listens on both stacks; returns the port.
async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Serves an echo, and tells how each client came.
fn serve(
    listener: TcpListener,
    settings: MigrationServerBuilder,
) -> mpsc::UnboundedReceiver<Arrival> {
    let acceptor = MigrationAcceptor::from(settings.build().unwrap());
    let (sender, arrivals) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, peer)) = listener.accept().await {
            let local = tcp.local_addr().unwrap();
            assert!(local.is_ipv6() && peer.is_ipv6(), "the listener is of IPv6");
            let accepted = acceptor.accept_from(tcp, Some(peer), Some(local)).await;
            let stream = accepted.unwrap();
            // Not every test wants to know.
            let _ = sender.send(stream.arrival().clone());
            tokio::spawn(echo(stream));
        }
    });
    arrivals
}

fn v4(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn mapped(port: u16) -> SocketAddr {
    let ip = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x7f00, 1);
    // What is not of the address does not count either.
    SocketAddrV6::new(ip, port, 7, 0).into()
}

#[tokio::test]
async fn a_client_is_not_offered_a_move_to_where_it_is() {
    for spell in [v4, mapped] {
        let service = Service::default();
        let (listener, port) = listener().await;
        let (seen, mut incoming) = mpsc::unbounded_channel();
        let settings = service.node().choose_target(move |incoming| {
            let both = (incoming.peer.unwrap(), incoming.local.unwrap());
            seen.send(both).unwrap();
            Some(spell(port))
        });
        serve(listener, settings);
        let connector = service.connector();
        let mut stream = connector.connect(server_name(), v4(port)).await.unwrap();
        echoed(&mut stream, b"hello").await;
        assert!(stream.offer().is_none(), "{}", spell(port));
        let (peer, local) = incoming.recv().await.unwrap();
        assert_eq!((peer.ip(), local), (v4(0).ip(), v4(port)));
    }
}

#[tokio::test]
async fn a_target_is_the_same_however_it_is_spelled() {
    for (named, answered) in [(v4 as fn(_) -> _, mapped as fn(_) -> _), (mapped, v4)] {
        let service = Service::default();
        let ((at_a, a), (at_b, b)) = (listener().await, listener().await);
        serve(at_a, service.node().target(named(b)));
        let mut arrivals = serve(at_b, service.node().own_addresses([answered(b)]));
        let connector = service.connector();
        let mut stream = connector.connect(server_name(), v4(a)).await.unwrap();
        echoed(&mut stream, b"at A").await;
        assert_eq!(stream.offered_target().unwrap(), v4(b));
        let landing = stream.migrate(b"early").await.unwrap();
        assert_eq!(landing.handshake, HandshakeKind::Resumed);
        expect(&mut stream, b"early").await;
        let arrival = arrivals.recv().await;
        assert!(matches!(arrival, Some(Arrival::Migrated { .. })));
    }
}

#[tokio::test]
async fn an_offer_names_its_target_in_the_one_form() {
    let service = Service::default();
    let ((at_a, a), (at_b, b)) = (listener().await, listener().await);
    let acceptor = MigrationAcceptor::from(service.node().build().unwrap());
    tokio::spawn(async move {
        let (tcp, _) = at_a.accept().await.unwrap();
        let mut stream = acceptor.accept(tcp).await.unwrap();
        stream.migrate_to(mapped(b), Some(b"state")).await.unwrap();
        echo(stream).await
    });
    serve(at_b, service.node().own_addresses([v4(b)]));
    let connector = service.connector();
    let mut stream = connector.connect(server_name(), v4(a)).await.unwrap();
    echoed(&mut stream, b"at A").await;
    assert_eq!(stream.offered_target().unwrap(), v4(b));
    let landing = stream.migrate(b"early").await.unwrap();
    assert_eq!(landing.handshake, HandshakeKind::Resumed);
    expect(&mut stream, b"early").await;
}
