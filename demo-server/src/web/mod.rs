//! The node as an axum service, by HTTP/1.1 and HTTP/2 at the same port as the line protocol. ALPN says who speaks what.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | a page that names the node and its files |
//! | `GET /node` | the same as JSON |
//! | `GET /files/PATH` | a file, or a part of it (`Range`); with its SHA-256 (`Repr-Digest`) if `Want-Repr-Digest` asks for it (RFC 9530) |
//! | `POST /upload` | the length of what was sent, and its SHA-256 |
//! | `GET /events` | server-sent events, numbered; they end behind one when the client is to move, and go on after `Last-Event-ID` |

mod files;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::Event;
use axum::response::{Html, IntoResponse as _, Response, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, stream};
use http_body_util::BodyExt as _;
use hyper_migration::server::{ConnectionInfo, ConnectionServer};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use crate::files::Files;
use crate::node;

/// What ALPN calls HTTP/2 and HTTP/1.1.
pub const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How long after one event the next one comes.
const EVENT_PAUSE: Duration = Duration::from_millis(250);

/// Serves `files` to connections that speak HTTP.
pub fn server(files: Arc<Files>) -> ConnectionServer<Router> {
    ConnectionServer::new(
        Router::new()
            .route("/", get(Html(include_str!("index.html"))))
            .route("/node", get(about))
            .route("/files/{*path}", get(files::file))
            .route("/upload", post(upload))
            .route("/events", get(events))
            .with_state(files),
    )
}

/// What a client is told of the node and of its own connection.
#[derive(Serialize)]
struct About {
    node: Option<SocketAddr>,
    client: Option<SocketAddr>,
    protocol: String,
    /// How the client came.
    arrival: String,
    /// The names of the files in the root.
    files: Vec<String>,
}

async fn about(
    State(files): State<Arc<Files>>,
    Extension(connection): Extension<ConnectionInfo>,
    request: Request,
) -> Result<Json<About>, StatusCode> {
    let names = files.names().await;
    Ok(Json(About {
        node: connection.local_addr(),
        client: connection.peer_addr(),
        protocol: format!("{:?}", request.version()),
        arrival: node::Event::Arrived(connection.arrival().clone()).to_string(),
        files: names.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?,
    }))
}

async fn upload(mut body: Body) -> Response {
    let (mut hash, mut len) = (Sha256::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        if let Ok(bytes) = frame.into_data() {
            len += bytes.len();
            hash.update(&bytes);
        }
    }
    let sha256 = base16ct::lower::encode_string(&hash.finalize());
    format!("{len} {sha256}\n").into_response()
}

async fn events(
    Extension(connection): Extension<ConnectionInfo>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let last = headers.get("last-event-id");
    let last = last.and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let from = (last.map_or(0, |last| last.saturating_add(1)), connection);
    Sse::new(stream::unfold(from, async |(number, connection)| {
        let node = connection.local_addr()?;
        tokio::select! {
            biased;
            _ = connection.told() => None,
            () = sleep(EVENT_PAUSE) => {
                let event = Event::default().id(number.to_string());
                let event = event.data(format!("{node} is here"));
                Some((Ok(event), (number.saturating_add(1), connection)))
            }
        }
    }))
}
