//! WebSockets that move in their middle, at message boundaries and with their state, from an axum service to another node and back. Both
//! directions flow meanwhile.

#[allow(dead_code, reason = "its main is not run")]
#[path = "../../examples/websocket.rs"]
mod example;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::extract::ws::{Message as AxumMessage, WebSocket, WebSocketUpgrade};
use axum::routing::any;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _, future};
use hyper_migration::server::{ConnectionInfo, ServerIo};
use migration_tests::{NAME, server_name};
use rustls_migration::tokio::{HandOff, MigrationConnector};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::interval;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::cluster::{HttpNode, Protocol, plan, tls_connector, two_nodes};

/// Where a session stands.
#[derive(Clone, Copy, Debug, Default)]
struct Session {
    /// How many messages it has answered.
    answered: u64,
    /// How many it has sent by itself.
    ticks: u64,
}

impl Session {
    fn encode(self) -> [u8; 16] {
        let mut state = [0; 16];
        state[..8].copy_from_slice(&self.answered.to_be_bytes());
        state[8..].copy_from_slice(&self.ticks.to_be_bytes());
        state
    }

    fn decode(state: &[u8]) -> Self {
        let number = |at: usize| u64::from_be_bytes(state[at..at + 8].try_into().unwrap());
        Self {
            answered: number(0),
            ticks: number(8),
        }
    }

    /// Answers each message with how many there have been, and ticks between them. Returns what it used when the client has ended
    /// its side.
    async fn run<T>(mut self, mut texts: T, info: &ConnectionInfo) -> T
    where
        T: Stream<Item = String> + Sink<String> + Unpin,
    {
        info.handle().set_state(&self.encode()).unwrap();
        let mut tick = interval(Duration::from_millis(3));
        loop {
            let say = tokio::select! {
                text = texts.next() => match text {
                    Some(text) => {
                        self.answered += 1;
                        format!("answer {} to {text}", self.answered)
                    }
                    None => return texts,
                },
                _ = tick.tick() => {
                    self.ticks += 1;
                    format!("tick {}", self.ticks)
                }
            };
            info.handle().set_state(&self.encode()).unwrap();
            if texts.send(say).await.is_err() {
                return texts;
            }
        }
    }
}

/// A session begins, in axum.
async fn begin(
    upgrade: WebSocketUpgrade,
    Extension(info): Extension<ConnectionInfo>,
) -> axum::response::Response {
    upgrade.on_upgrade(async move |socket: WebSocket| {
        // The client's end is the end of the messages.
        let texts =
            socket.take_while(|message| future::ready(matches!(message, Ok(AxumMessage::Text(_)))));
        let texts = texts.map(|message| message.unwrap().into_text().unwrap().to_string());
        let texts = texts.with(async |text: String| Ok::<_, axum::Error>(AxumMessage::text(text)));
        let texts = Session::default().run(Box::pin(texts), &info).await;
        info.hand_over(texts).await.unwrap();
    })
}

/// A session goes on, before HTTP sees anything.
async fn go_on(io: ServerIo<TcpStream>) {
    let info = io.info().clone();
    let session = Session::decode(info.state().unwrap());
    info.handle().set_state(&session.encode()).unwrap();
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    let texts = socket.take_while(|message| future::ready(matches!(message, Ok(Message::Text(_)))));
    let texts = texts.map(|message| message.unwrap().into_text().unwrap().to_string());
    let texts = texts.with(async |text: String| {
        Ok::<_, tokio_tungstenite::tungstenite::Error>(Message::text(text))
    });
    let texts = session.run(Box::pin(texts), &info).await;
    info.hand_over(texts).await.unwrap();
}

fn serve(node: &mut HttpNode) {
    let router = Router::new().route("/", any(begin));
    node.serve_with(router, |server| server.resumed(go_on));
}

/// Says numbers until `over`, and checks that each is answered once and in order, and that no tick is lost or repeated. Returns how
/// many answers and ticks there were.
async fn talk(
    connector: MigrationConnector,
    a: std::net::SocketAddr,
    over: watch::Receiver<bool>,
) -> (u64, u64) {
    let stream = connector.connect(server_name(), a).await.unwrap();
    let handle = stream.handle();
    let (mut socket, _) = tokio_tungstenite::client_async(format!("wss://{NAME}/"), stream)
        .await
        .unwrap();
    let (mut said, mut ticks) = (0, 0);
    while !*over.borrow() {
        said += 1;
        {
            // A hand-off does not begin in the middle of a message.
            let _cork = handle.cork();
            socket.send(Message::text(said.to_string())).await.unwrap();
        }
        loop {
            let heard = socket.next().await.unwrap().unwrap().into_text().unwrap();
            if heard == format!("answer {said} to {said}") {
                break;
            }
            ticks += 1;
            assert_eq!(heard, format!("tick {ticks}"));
        }
    }
    socket.close(None).await.unwrap();
    // What was on its way, and then the end.
    while let Some(Ok(_)) = socket.next().await {}
    (said, ticks)
}

#[tokio::test]
async fn the_example_counts_on_where_its_client_is_moved_to() {
    let (service, _, mut a, mut b) = two_nodes(Some(Protocol::H1)).await;
    for node in [&mut a, &mut b] {
        let router = Router::new().route("/", any(example::begin));
        node.serve_with(router, |server| server.resumed(example::go_on));
    }
    let connector = tls_connector(&service, Protocol::H1).hand_off(HandOff::Drain);
    let stream = connector.connect(server_name(), a.address).await.unwrap();
    let handle = stream.handle();
    let uri = format!("wss://{NAME}/");
    let (mut socket, _) = tokio_tungstenite::client_async(uri, stream).await.unwrap();
    let mut drain = None;
    for number in 1.. {
        let cork = handle.cork();
        socket.send(Message::text("word")).await.unwrap();
        drop(cork);
        let answer = socket.next().await.unwrap().unwrap();
        assert_eq!(answer, Message::text(format!("{number}: word")));
        if number == 3 {
            drain = Some(a.acceptor.drain(plan(b.address)));
        }
        if handle.peer_addr() == b.address {
            break;
        }
    }
    assert_eq!(handle.peer_addr(), b.address);
    assert_eq!(drain.unwrap().finished().await.progress.handed_over, 1);
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    drop(socket);
    while b.acceptor.connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_move_at_message_boundaries_with_their_state_and_lose_nothing() {
    let long = std::env::var("HTTP_TRIAL_SECONDS").is_ok();
    let (sessions, moves) = if long { (100, 20) } else { (20, 5) };
    let (service, _, mut a, mut b) = two_nodes(Some(Protocol::H1)).await;
    serve(&mut a);
    serve(&mut b);
    let connector = tls_connector(&service, Protocol::H1).hand_off(HandOff::Drain);
    let (over, is_over) = watch::channel(false);
    let mut talking = JoinSet::new();
    for _ in 0..sessions {
        talking.spawn(talk(connector.clone(), a.address, is_over.clone()));
    }
    let over = Arc::new(over);
    for turn in 0..moves {
        let (from, to) = if turn % 2 == 0 { (&a, &b) } else { (&b, &a) };
        while from.acceptor.connections() < sessions {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Each session has begun by then.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let drained = from
            .acceptor
            .drain(plan(to.address))
            .finished()
            .await
            .progress;
        assert_eq!(
            (drained.handed_over, drained.total),
            (sessions, sessions),
            "{drained:?}"
        );
    }
    over.send(true).unwrap();
    let (mut said, mut ticks) = (0, 0);
    while let Some(done) = talking.join_next().await {
        let (answers, heard) = done.unwrap();
        assert!(answers > 0 && heard > 0);
        said += answers;
        ticks += heard;
    }
    println!(
        "{sessions} sessions, {moves} moves each: {said} messages answered, {ticks} heard besides"
    );
}
