//! Server-sent events that survive a move: the answer ends behind an event when the client is to move, and the client asks the next node
//! for the rest (`Last-Event-ID`). A token stream of a language model is served so.

mod common;

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::Extension;
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::Event;
use axum::{Router, routing::get};
use futures_util::{Stream, stream};
use hyper_migration::server::{ConnectionInfo, serve};

/// Says a token every few milliseconds, from behind the last that the client has.
pub(crate) async fn tokens(
    Extension(connection): Extension<ConnectionInfo>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let last = headers.get("last-event-id");
    let last = last.and_then(|id| id.to_str().ok()?.parse().ok());
    let next: u64 = last.map_or(1, |last: u64| last + 1);
    Sse::new(stream::unfold(
        (next, connection),
        async |(number, connection)| {
            tokio::select! {
                biased;
                // The next connection goes to another node, and asks there.
                _ = connection.told() => None,
                () = tokio::time::sleep(Duration::from_millis(2)) => {
                    let event = Event::default().id(number.to_string());
                    let event = event.data(format!("token {number}"));
                    Some((Ok(event), (number + 1, connection)))
                }
            }
        },
    ))
}

#[tokio::main]
async fn main() -> Result<(), common::Error> {
    let (listener, acceptor) = common::node().await?;
    serve(listener, acceptor, Router::new().route("/", get(tokens))).await;
    Ok(())
}
