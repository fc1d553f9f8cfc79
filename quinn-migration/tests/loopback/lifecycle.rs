//! Sockets, routes and state end with the paths and connections that they belong to.

use quinn_migration::{Alternate, Event};

use crate::support::{Identity, Server, client, connect, tireless, until, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_during_a_validation_frees_its_socket() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0"]);
    let client = client(&identity);
    let (ours, theirs) = connect(client.endpoint(), &server, server.address(0)).await;
    let mut migrator = client.attach(&ours, tireless()).unwrap();
    let nobody: std::net::SocketAddr = "127.0.0.77:9".parse().unwrap();
    server
        .inner
        .advertise(&theirs, Alternate::forwarded(nobody))
        .await
        .unwrap();
    while !matches!(
        within(migrator.next()).await,
        Some(Event::Validating { .. })
    ) {}
    assert_eq!(client.open_sockets(), 2);
    ours.close(0u32.into(), b"");
    drop((ours, theirs));
    while within(migrator.next()).await.is_some() {}
    drop(migrator);
    until("the socket is closed", || client.open_sockets() == 1).await;
    until("the state is freed", || client.tracked_connections() == 0).await;
}
