//! What tests do with a client's stream.

use std::io;

use rustls_migration::tokio::{Event, Events, HandOffError, MigrationStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
            event = events.next() => assert!(matches!(event, Some(Event::Notified { .. } | Event::Offered { .. }))),
        }
    }
}

/// Sends `data` to an echo and reads it back.
pub async fn echoed(stream: &mut MigrationStream, data: &[u8]) {
    stream.write_all(data).await.unwrap();
    expect(stream, data).await;
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
