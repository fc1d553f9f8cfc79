//! Traces: each connection is a span, its moves are events in it, and a client's way over several nodes is found by the lineage in
//! them, which is not on the wire. In every dialect.

use std::net::SocketAddr;

use migration_tests::client::{echoed, until};
use migration_tests::metrics::Observed;
use migration_tests::node::{ServerStream, movable_echo};
use migration_tests::{Node, RecordingDialer, Service, Spoken, server_name};
use rustls_migration::tokio::{Event, HandOff};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Sends each client on to `target` when it says something.
async fn send_on(mut stream: ServerStream, target: SocketAddr) -> std::io::Result<()> {
    let mut word = [0; 5];
    stream.read_exact(&mut word).await?;
    stream.write_all(&word).await?;
    stream.migrate_to(target, Some(b"")).await?;
    migration_tests::node::echo(stream).await
}

/// The value of a span's or an event's field in a line of the log.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!("{name}="))?;
    rest.split([' ', '}']).next()
}

/// The one line with all these words.
fn line<'a>(log: &'a str, words: &[&str]) -> &'a str {
    let mut found = log
        .lines()
        .filter(|line| words.iter().all(|word| line.contains(word)));
    let line = found
        .next()
        .unwrap_or_else(|| panic!("no {words:?} in\n{log}"));
    assert_eq!(found.next(), None, "one {words:?} in\n{log}");
    line
}

#[tokio::test]
async fn the_way_of_a_stream_over_three_nodes_is_found_in_their_logs_and_in_its_own() {
    let observed = Observed::begin();
    let mut names = Vec::new();
    for spoken in [Spoken::Draft01, Spoken::Draft03, Spoken::Mixed] {
        let from = observed.log().len();
        names.push(one_name(spoken, || observed.log().split_off(from)).await);
    }
    names.dedup();
    assert_eq!(names.len(), 3, "a name for each stream");
}

/// The name of a stream that moves twice, in the log of what happens now.
async fn one_name(spoken: Spoken, log: impl Fn() -> String) -> String {
    let service = Service::speaking(spoken);
    let mut nodes = Vec::new();
    for ip in ["127.0.0.2", "127.0.0.3", "127.0.0.4"] {
        nodes.push(Node::bind(ip).await);
    }
    let [a, b, c] = nodes.as_mut_slice() else {
        panic!("three nodes");
    };
    let (to_b, to_c) = (b.address(), c.address());
    a.serve(service.node(), move |stream| send_on(stream, to_b));
    b.serve(service.node(), move |stream| send_on(stream, to_c));
    c.serve(service.node(), movable_echo);
    let dialer = RecordingDialer::default();
    let connector = service
        .connector()
        .hand_off(HandOff::Drain)
        .dialer(dialer.clone());
    let mut stream = connector.connect(server_name(), a.address()).await.unwrap();
    let mut events = stream.events();
    for target in [to_b, to_c] {
        echoed(&mut stream, b"hello").await;
        until(&mut stream, &mut events, |event| {
            matches!(event, Event::Migrated(_))
        })
        .await;
        assert_eq!(stream.peer_addr(), target);
    }
    echoed(&mut stream, b"hello").await;

    let log = log();
    let at = |target: SocketAddr| format!("to={target}");
    let told_b = line(&log, &["told to move", "kind=\"stream\"", &at(to_b)]);
    let told_c = line(&log, &["told to move", "kind=\"stream\"", &at(to_c)]);
    let id = field(told_b, "id").unwrap();
    assert_eq!(id.len(), 32);
    for (told, epoch, from) in [(told_b, "0", None), (told_c, "1", Some(id))] {
        let said = [field(told, "id"), field(told, "epoch"), field(told, "from")];
        assert_eq!(said, [Some(id), Some(epoch), from], "{log}");
    }
    // At B and at C it arrives with its name.
    let from = format!("from={id}");
    let arrived = |line: &&str| line.contains("verdict=\"Migrated\"") && line.contains(&from);
    let arrivals: Vec<_> = log.lines().filter(arrived).collect();
    assert_eq!(arrivals.len(), 2, "{log}");
    assert!(
        arrivals
            .iter()
            .all(|line| line.contains("connection{peer="))
    );
    for epoch in ["epoch=0", "epoch=1"] {
        let handed_over = ["departure=\"handed_over\"", &format!("id={id}"), epoch];
        line(&log, &handed_over);
    }
    // The client knows the same name.
    let client = ["stream{server=", "Notified", &format!("id={id}")];
    let notified = log
        .lines()
        .filter(|line| client.iter().all(|word| line.contains(word)));
    assert_eq!(notified.count(), 2, "{log}");
    let bytes = base16ct::lower::decode_vec(id).unwrap();
    let on_the_wire = dialer.all();
    let flights = on_the_wire
        .iter()
        .flat_map(|one| [&one.sent, &one.received]);
    let mut windows = flights.flat_map(|flight| flight.windows(bytes.len()));
    assert!(
        !windows.any(|window| window == bytes),
        "{id} is on the wire"
    );
    id.to_owned()
}
