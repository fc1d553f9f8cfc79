//! What tests do with a client's stream.

use std::io;
use std::net::SocketAddr;

use migration_token::BoxFuture;
use rustls_migration::tokio::{
    Event, Events, HandOffError, MigrationStream, ResolveTarget, TextTargets,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A client of draft -03 that goes to the first of these addresses where it is not yet, when its server does not say where to.
/// Other targets are texts.
#[derive(Clone, Debug)]
pub struct Chosen(pub Vec<SocketAddr>);

impl ResolveTarget for Chosen {
    fn resolve<'a>(
        &'a self,
        target: &'a [u8],
        current: SocketAddr,
    ) -> BoxFuture<'a, io::Result<SocketAddr>> {
        if !target.is_empty() {
            return TextTargets.resolve(target, current);
        }
        let other = self.0.iter().find(|address| **address != current);
        let chosen = other.copied().ok_or_else(|| io::ErrorKind::NotFound.into());
        Box::pin(std::future::ready(chosen))
    }
}

/// Reads exactly what `expected` says.
pub async fn expect(stream: &mut MigrationStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, expected);
}

/// Reads nothing more, but lets the stream take notice of what is not data.
pub async fn until_notified(stream: &mut MigrationStream) {
    let mut events = stream.events();
    let mut byte = [0; 1];
    while !stream.is_notified() {
        tokio::select! {
            read = stream.read(&mut byte) => panic!("unexpected data: {read:?}"),
            event = events.next() => assert!(matches!(
                event,
                Some(Event::Notified { .. } | Event::Offered { .. } | Event::Marked { .. })
            )),
        }
    }
}

/// Sends `data` to an echo and reads it back.
pub async fn echoed(stream: &mut MigrationStream, data: &[u8]) {
    stream.write_all(data).await.unwrap();
    expect(stream, data).await;
}

/// As [`echoed`], of a word, when the stream may be lost.
pub async fn word_echoed(stream: &mut MigrationStream, word: &[u8; 4]) -> io::Result<()> {
    stream.write_all(word).await?;
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await?;
    assert_eq!(&echoed, word, "no byte is lost or repeated");
    Ok(())
}

/// Waits for an event that is wanted, of a stream that somebody else owns. `None` when the stream is gone.
pub async fn heard<T>(events: &mut Events, wanted: impl Fn(Event) -> Option<T>) -> Option<T> {
    loop {
        if let Some(found) = wanted(events.next().await?) {
            return Some(found);
        }
    }
}

/// Reads until an event happens that is `wanted`; no data may come before it.
pub async fn until(
    stream: &mut MigrationStream,
    events: &mut Events,
    wanted: fn(&Event) -> bool,
) -> Event {
    loop {
        tokio::select! {
            biased;
            event = events.next() => {
                let event = event.unwrap();
                if wanted(&event) {
                    return event;
                }
            }
            read = stream.read_u8() => panic!("unexpected: {read:?}"),
        }
    }
}

/// The failed hand-off inside of a stream's error; panics when it cannot be found as an application would find it.
pub fn hand_off_error(error: &io::Error) -> &HandOffError {
    let inside = error.get_ref().and_then(|inside| inside.downcast_ref());
    inside.unwrap_or_else(|| panic!("no HandOffError inside of {error:?}"))
}
