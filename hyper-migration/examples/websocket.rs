//! A WebSocket that moves in its middle. It begins in axum, and goes on at the next node before HTTP sees a byte of it.

mod common;

use axum::extract::Extension;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::{Router, response::Response, routing::any};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper_migration::server::{ConnectionInfo, ServerIo, serve};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, protocol::Role};

/// Answers each text with its number. The state, which travels, is how many there have been.
fn answer(info: &ConnectionInfo, count: &mut u64, text: &str) -> String {
    *count += 1;
    // Consent: the stream may go on elsewhere from behind this answer.
    let _ = info.handle().set_state(&count.to_be_bytes());
    format!("{count}: {text}")
}

pub(crate) async fn begin(
    upgrade: WebSocketUpgrade,
    Extension(info): Extension<ConnectionInfo>,
) -> Response {
    upgrade.on_upgrade(async move |mut socket: WebSocket| {
        let mut count = 0;
        let _ = info.handle().set_state(&[0; 8]);
        while let Some(Ok(Message::Text(text))) = socket.next().await {
            let said = answer(&info, &mut count, &text);
            if socket.send(Message::text(said)).await.is_err() {
                break;
            }
        }
        // The client has ended its side: it goes on elsewhere, or is done.
        let _ = info.hand_over(socket).await;
    })
}

pub(crate) async fn go_on(io: ServerIo<tokio::net::TcpStream>) {
    let info = io.info().clone();
    let Some(state) = info.state() else { return };
    let mut count = u64::from_be_bytes(state.try_into().unwrap_or_default());
    let _ = info.handle().set_state(state);
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    while let Some(Ok(tungstenite::Message::Text(text))) = socket.next().await {
        let said = answer(&info, &mut count, &text);
        if socket.send(tungstenite::Message::text(said)).await.is_err() {
            break;
        }
    }
    let _ = info.hand_over(socket).await;
}

#[tokio::main]
async fn main() -> Result<(), common::Error> {
    let (listener, acceptor) = common::node().await?;
    let router = Router::new().route("/", any(begin));
    serve(listener, acceptor, router).resumed(go_on).await;
    Ok(())
}
