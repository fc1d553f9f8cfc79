//! Clients that talk to an echo without end, and check each byte, while they are moved.

use std::net::SocketAddr;
use std::time::Duration;

use migration_tests::place::Place;
use rustls_migration::tokio::{Event, HandOff, MigrationConnector, MigrationStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How much a client says at once, in bytes, and how long it waits before it says more.
const CHUNK: usize = 256;
const PAUSE: Duration = Duration::from_millis(10);

/// What came of one client.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    /// How often it has moved.
    pub(crate) moves: usize,
    /// How many bytes it has said, and heard again.
    pub(crate) bytes: u64,
    /// The longest time between a word and its echo.
    pub(crate) longest_wait: Duration,
    /// What went wrong.
    pub(crate) failure: Option<String>,
}

/// All clients.
pub(crate) struct Clients {
    talks: JoinSet<Talk>,
    stop: watch::Sender<bool>,
}

impl Clients {
    /// Connects so many clients, to the nodes by turns.
    pub(crate) async fn start(
        place: &Place,
        nodes: impl Iterator<Item = SocketAddr> + Clone,
        count: usize,
    ) -> Self {
        let connector = place.connector().hand_off(HandOff::Drain);
        let (stop, stopped) = watch::channel(false);
        let mut talks = JoinSet::new();
        for node in nodes.cycle().take(count) {
            let stream = connect(&connector, node).await;
            talks.spawn(talk(stream, stopped.clone()));
        }
        Self { talks, stop }
    }

    /// Lets all of them finish.
    pub(crate) async fn finish(self) -> Vec<Talk> {
        self.stop.send_replace(true);
        self.talks.join_all().await
    }
}

async fn connect(connector: &MigrationConnector, node: SocketAddr) -> MigrationStream {
    let name = "localhost".try_into().unwrap();
    let mut stream = connector.connect(name, node).await.unwrap();
    stream.write_all(b"ECHO\n").await.unwrap();
    stream
}

async fn talk(mut stream: MigrationStream, stopped: watch::Receiver<bool>) -> Talk {
    let mut events = stream.events();
    let mut talk = Talk::default();
    while !*stopped.borrow() && talk.failure.is_none() {
        talk.failure = say(&mut stream, &mut talk).await.err();
        sleep(PAUSE).await;
    }
    if talk.failure.is_none() {
        talk.failure = end(&mut stream).await.err();
    }
    while let Some(event) = events.try_next() {
        if matches!(event, Event::Migrated(_)) {
            talk.moves += 1;
        }
    }
    talk
}

/// Says a word that nobody has said before, and hears it again.
async fn say(stream: &mut MigrationStream, talk: &mut Talk) -> Result<(), String> {
    let began = Instant::now();
    let word: Vec<u8> = (talk.bytes..)
        .take(CHUNK)
        .map(|at| (at % 251) as u8)
        .collect();
    let mut heard = [0; CHUNK];
    let said = async {
        stream.write_all(&word).await?;
        stream.read_exact(&mut heard).await
    };
    said.await
        .map_err(|error| format!("after {} bytes: {error}", talk.bytes))?;
    if heard[..] != word[..] {
        return Err(format!(
            "another word than was said, after {} bytes",
            talk.bytes
        ));
    }
    talk.bytes += CHUNK as u64;
    talk.longest_wait = talk.longest_wait.max(began.elapsed());
    Ok(())
}

/// Ends the conversation. There must be nothing more to hear.
async fn end(stream: &mut MigrationStream) -> Result<(), String> {
    let mut rest = Vec::new();
    let ended = async {
        stream.shutdown().await?;
        stream.read_to_end(&mut rest).await
    };
    ended
        .await
        .map_err(|error| format!("at the end: {error}"))?;
    match rest.is_empty() {
        true => Ok(()),
        false => Err(format!("{} bytes too many", rest.len())),
    }
}
