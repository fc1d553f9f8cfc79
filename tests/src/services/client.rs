//! The client's side: it reads and writes as it is used to, and knows nothing of moves.

use std::io;
use std::sync::{Arc, Mutex};

use rustls_migration::MoveKind;
use rustls_migration::tokio::{Event, HandOffError, MigrationStream, StreamHandle};

use super::plan::{Plan, rest_of_message};
use crate::habits::{Done, Hand, Wish, bytes};
use crate::session::Content;

/// What the client saw.
#[derive(Debug, Default)]
pub struct Client {
    /// How many bytes its writes took.
    pub written: usize,
    pub write_error: Option<io::Error>,
    /// Whether it closed its side.
    pub closed: bool,
    pub read: usize,
    pub read_error: Option<io::Error>,
    /// Whether it read to an end without an error.
    pub ended: bool,
    /// What it was asked to move, each time.
    pub notified: Vec<MoveKind>,
    pub violations: Vec<String>,
}

impl Client {
    /// The hand-off's failure, if that ended the stream.
    pub fn hand_off_error(&self) -> Option<&HandOffError> {
        self.read_error.as_ref()?.get_ref()?.downcast_ref()
    }
}

async fn read_all(plan: &Plan, stream: &Mutex<MigrationStream>, client: &Mutex<Client>) {
    let mut hand = Hand::new(&plan.client, plan.seed ^ 0xc1);
    while !client.lock().unwrap().ended {
        let wish = Wish {
            read: true,
            ..Wish::default()
        };
        let done = hand.step(stream, wish).await;
        if let Done::Read(done) = done
            && !note_read(client, &hand, done)
        {
            return;
        }
    }
}

/// `false` when there is nothing more to read.
fn note_read(client: &Mutex<Client>, hand: &Hand, done: io::Result<usize>) -> bool {
    let mut client = client.lock().unwrap();
    match done {
        Ok(0) => client.ended = true,
        Ok(len) => {
            let at = client.read;
            let expected = bytes(Content::FromServer).get(at..at + len);
            if expected != Some(&hand.buf[..len]) {
                client
                    .violations
                    .push(format!("what was read is not at {at}"));
            }
            client.read += len;
            return true;
        }
        Err(error) => client.read_error = Some(error),
    }
    false
}

/// Writes all, and reads too if that is nobody else's task.
async fn write_all(
    plan: &Plan,
    handle: &StreamHandle,
    stream: &Mutex<MigrationStream>,
    client: &Mutex<Client>,
    reads_too: bool,
) {
    let mut hand = Hand::new(&plan.client, plan.seed ^ 0xc2);
    let (mut reads, mut flushed, mut cork) = (reads_too, true, None);
    loop {
        let (written, writes) = {
            let client = client.lock().unwrap();
            let writes = !client.closed && client.write_error.is_none();
            (client.written, writes)
        };
        if !reads && !writes {
            return;
        }
        let piece = rest_of_message(&plan.up, Content::FromClient, written);
        if plan.up.contains(&written) || !writes {
            cork = None;
        }
        if plan.corks && writes && !piece.is_empty() && cork.is_none() {
            cork = Some(handle.cork());
        }
        let wish = Wish {
            read: reads,
            write: if writes { piece } else { &[] },
            flush: writes && !flushed,
            shutdown: writes && piece.is_empty(),
            until: None,
        };
        let done = hand.step(stream, wish).await;
        let failed = |error| client.lock().unwrap().write_error = Some(error);
        match done {
            Done::Read(done) => reads = note_read(client, &hand, done),
            Done::Wrote(Ok(len)) => {
                client.lock().unwrap().written += len;
                flushed = false;
            }
            Done::Flushed(Ok(())) => flushed = true,
            Done::ShutDown(Ok(())) => client.lock().unwrap().closed = true,
            Done::Wrote(Err(error)) | Done::Flushed(Err(error)) | Done::ShutDown(Err(error)) => {
                failed(error)
            }
            Done::Time => {}
        }
    }
}

/// The client's side of the conversation.
pub async fn converse(plan: &Arc<Plan>, stream: MigrationStream) -> Client {
    let (handle, mut events) = (stream.handle(), stream.events());
    let (stream, client) = (
        Arc::new(Mutex::new(stream)),
        Arc::new(Mutex::new(Client::default())),
    );
    let reader = plan.halves.then(|| {
        let (plan, stream, client) = (Arc::clone(plan), Arc::clone(&stream), Arc::clone(&client));
        tokio::spawn(async move { read_all(&plan, &stream, &client).await })
    });
    write_all(plan, &handle, &stream, &client, reader.is_none()).await;
    if let Some(reader) = reader {
        reader.await.unwrap();
    }
    let mut client = std::mem::take(&mut *client.lock().unwrap());
    client.notified = std::iter::from_fn(|| events.try_next())
        .filter_map(|event| match event {
            Event::Notified { kind } => Some(kind),
            _ => None,
        })
        .collect();
    client
}
