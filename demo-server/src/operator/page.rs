//! The operator's page: the nodes of the service, their connections as they move, and a button that drains this node.
//!
//! It shows what the node says of itself, by server-sent events; the page asks its peers for the same.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::sse::Event;
use axum::response::{Html, IntoResponse, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, stream};
use rustls_migration::server::{Stats, Verdict};
use rustls_migration::tokio::MigrationAcceptor;
use serde::Serialize;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use url::Url;

use crate::connections::{Connections, Stands};
use crate::leave::{Draining, Target};

/// How often the page hears of what has changed.
const EVERY: Duration = Duration::from_millis(200);

/// How many connections are shown one by one; of the others, their number.
const SHOWN: usize = 1000;

/// A page of another node of the service may ask too. What it must know is in the URL.
const ANY_ORIGIN: (HeaderName, &str) = (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");

/// What the page shows and does.
#[derive(Debug)]
pub struct Page {
    /// Where clients arrive.
    pub addresses: Vec<SocketAddr>,
    /// Whose connections are shown.
    pub acceptor: MigrationAcceptor,
    /// These connections, one by one.
    pub connections: Connections,
    /// Where a drain sends them.
    pub targets: Vec<Target>,
    /// The pages of the other nodes.
    pub peers: Vec<Url>,
    /// How far the drain is, when there is one.
    pub draining: watch::Receiver<Option<Draining>>,
    /// Begins the drain, to the node's own targets.
    pub drain: UnboundedSender<Option<Vec<Target>>>,
}

/// What a page is told of a node.
#[derive(Debug, PartialEq, Serialize)]
struct View {
    addresses: Vec<SocketAddr>,
    /// Where a drain sends clients.
    targets: Vec<SocketAddr>,
    /// How many connections there are.
    live: usize,
    connections: Vec<(u64, Stands)>,
    arrivals: Arrivals,
    draining: Option<Draining>,
}

/// What became of arrivals.
#[derive(Debug, PartialEq, Serialize)]
struct Arrivals {
    new: u64,
    resumed: u64,
    moved: u64,
    with_early_data: u64,
    /// Tokens that were refused: why, and how often.
    refused: Vec<(String, u64)>,
}

impl From<Stats> for Arrivals {
    fn from(stats: Stats) -> Self {
        let refused = Verdict::ALL
            .into_iter()
            .map(|verdict| (verdict.to_string(), stats.declined(verdict)))
            .filter(|(_, count)| *count > 0);
        Self {
            new: stats.fresh().saturating_sub(stats.resumed()),
            resumed: stats.resumed(),
            moved: stats.migrated(),
            with_early_data: stats.migrated_with_early_data(),
            refused: refused.collect(),
        }
    }
}

impl Page {
    /// The page, and what it asks for.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", get(Html(include_str!("page.html"))))
            .route("/peers", get(peers))
            .route("/events", get(events))
            .route("/drain", post(drain))
            .with_state(Arc::new(self))
    }

    fn view(&self) -> View {
        let mut connections = self.connections.all();
        let live = connections.len();
        connections.truncate(SHOWN);
        let draining = self.draining.borrow().clone();
        let own = || self.targets.iter().map(|target| target.address).collect();
        View {
            targets: draining
                .as_ref()
                .map_or_else(own, |draining| draining.targets.clone()),
            addresses: self.addresses.clone(),
            live,
            connections,
            arrivals: self.acceptor.stats().into(),
            draining,
        }
    }
}

async fn peers(State(page): State<Arc<Page>>) -> impl IntoResponse {
    let peers = page.peers.iter().map(Url::as_str);
    Json(peers.map(str::to_owned).collect::<Vec<_>>())
}

async fn drain(State(page): State<Arc<Page>>) -> StatusCode {
    match page.drain.send(None) {
        Ok(()) => StatusCode::ACCEPTED,
        Err(_) => StatusCode::GONE,
    }
}

/// What has changed, and the end of the drain as the last.
async fn events(State(page): State<Arc<Page>>) -> impl IntoResponse {
    ([ANY_ORIGIN], Sse::new(views(page)))
}

fn views(page: Arc<Page>) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((page, ticks, None), async |(page, mut ticks, last)| {
        loop {
            ticks.tick().await;
            let view = page.view();
            if last.as_ref() != Some(&view) {
                let event = Event::default().json_data(&view).ok()?;
                return Some((Ok(event), (page, ticks, Some(view))));
            }
            // Nothing changes any more.
            if view.draining.is_some_and(|draining| draining.ended) {
                return None;
            }
        }
    })
}
