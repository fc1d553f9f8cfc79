//! The server's own challenges during a busy upload (fault 14; RFC 9000 section 8.2.2).

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn::{EndpointConfig, TransportConfig};
use quinn_migration::wire::next_frame;
use quinn_migration::{Codepoints, PerPathCongestion};

use crate::opened::{KeyLog, Opener};
use crate::paths::flood;
use crate::support::relay::Relay;
use crate::support::silence::undisturbed;
use crate::support::{Identity, Server, World, client_with, connect_with, tireless, until};

const PATH_RESPONSE: u64 = 0x1b;
const ID_LENGTH: usize = 8;
const MOVES: usize = 6;

/// A window that is always full and never changes: no queue overflows, and no packet has room to spare.
#[derive(Clone)]
struct Constant;

const WINDOW: u64 = 64 * 1024;

impl Controller for Constant {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        WINDOW
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl ControllerFactory for Constant {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(Constant)
    }
}

/// A connection through two lines, which begins at the first, and the log of its keys.
async fn uploading() -> (World, [Relay; 2], Arc<KeyLog>) {
    let identity = Identity::new();
    let log = Arc::new(KeyLog::default());
    let mut tls = identity.client_tls();
    tls.key_log = log.clone();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let relays = Relay::pair(&server, [Duration::from_millis(5); 2]).await;
    let client = client_with(tls, EndpointConfig::default(), "0.0.0.0:0");
    let mut config = client.client_config();
    let mut transport = TransportConfig::default();
    transport.congestion_controller_factory(Arc::new(PerPathCongestion::new(Constant)));
    config.transport_config(Arc::new(transport));
    let ends = connect_with(config, client.endpoint(), &server, relays[0].address).await;
    let world = World::of(server, client, ends, tireless());
    (world, relays, log)
}

/// How many of these datagrams of the client are answers to challenges that left the path in use: their packet numbers are
/// long.
fn answers(datagrams: &[Vec<u8>], opener: &Opener) -> usize {
    let is_answer = |datagram: &&Vec<u8>| {
        let short = datagram[0] & 0x80 == 0;
        if !short || opener.number_length(datagram, ID_LENGTH) < 4 {
            return false;
        }
        let payload = opener.open(datagram, ID_LENGTH).payload;
        let first = next_frame(&payload, 0, Codepoints::default().frame());
        first.is_some_and(|frame| frame.kind == PATH_RESPONSE)
    };
    datagrams.iter().filter(is_answer).count()
}

/// Moves there and back during an upload. Answers `false` when the client has gone back by itself: then it forgets challenges.
async fn answers_each_challenge_once() -> bool {
    let (mut world, relays, log) = uploading().await;
    flood(&world.ours, &world.theirs).await;
    until("packets are full", || {
        world.ours.stats().path.current_mtu == 1452
    })
    .await;
    let opener = Opener::of_client(&log.text());
    for hop in 1..=MOVES {
        let (left, next) = (&relays[(hop + 1) % 2], &relays[hop % 2]);
        left.up.copy();
        world.move_to(next.address).await;
        let answered = || answers(&left.up.copies(), &opener);
        let went_back = || world.client.stats().fell_back > 0;
        until("an answer leaves on the path that was left", || {
            answered() > 0 || went_back()
        })
        .await;
        let further = next.up.passed.load(Ordering::SeqCst) + 500;
        until("the upload goes on", || {
            next.up.passed.load(Ordering::SeqCst) > further || went_back()
        })
        .await;
        if went_back() {
            return false;
        }
        assert_eq!(answered(), 1, "move {hop}");
    }
    true
}

/// quinn's server asks the path that its client has left, and only once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_upload_answers_a_challenge_once_and_on_the_path_that_it_came_by() {
    undisturbed(answers_each_challenge_once).await;
}
