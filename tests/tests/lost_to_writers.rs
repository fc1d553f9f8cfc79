//! A server that is lost to who writes to it: what it had said is read first (`docs/recovery.md`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use migration_tests::server_name;
use migration_tests::simulated::{Pair, run};
use rustls_migration::tokio::{Dial as _, Event, HandOff, TlsStream, Transport};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// A transport that takes nothing any more when it is told so, and gives what has come.
struct Deaf {
    io: Box<dyn Transport>,
    deaf: Arc<AtomicBool>,
}

impl AsyncRead for Deaf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.deaf.load(Ordering::Relaxed) {
            true => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            false => Pin::new(&mut self.io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A client that has not read what its server says, of so many bytes, and cannot write to it any more: what becomes of its write, how much
/// it reads, and whether it has recovered.
async fn written_to_the_deaf(len: usize, ends: bool) -> (io::Result<()>, usize, bool) {
    let pair = Pair::new(len + (1 << 20));
    let b = pair.b;
    pair.serve(pair.a, pair.service.node(), move |mut stream| async move {
        stream.checkpoint(b, b"state").await?;
        stream.write_all(&vec![7; len]).await?;
        stream.flush().await?;
        match ends {
            true => stream.shutdown().await,
            false => std::future::pending().await,
        }
    });
    let at_b = move |mut stream: TlsStream<_>| async move { stream.shutdown().await };
    pair.serve(b, pair.service.node(), at_b);
    let deaf = Arc::new(AtomicBool::new(false));
    let io = Deaf {
        io: pair.network.dial(pair.a).await.unwrap(),
        deaf: Arc::clone(&deaf),
    };
    let connector = pair.connector(HandOff::Drain);
    let connected = connector.connect_over(server_name(), pair.a, io).await;
    let mut stream = connected.unwrap();
    let mut events = stream.events();
    // The network takes its time for each piece.
    tokio::time::sleep(Duration::from_secs(60)).await;
    deaf.store(true, Ordering::Relaxed);
    // It has read ahead no further than so much, so it has not learned of the end.
    stream.write_all(&[0; 1000]).await.unwrap();
    let flushed = stream.flush().await;
    let mut read = vec![0; len];
    stream.read_exact(&mut read).await.unwrap();
    assert!(read.iter().all(|byte| *byte == 7));
    drop(stream);
    let mut recovering = false;
    while let Some(event) = events.next().await {
        recovering |= matches!(event, Event::Recovering { .. });
    }
    (flushed, read.len(), recovering)
}

#[test]
fn a_server_that_has_ended_the_stream_has_ended_it_for_a_client_that_still_writes() {
    let (flushed, read, recovering) = run(written_to_the_deaf(200_000, true));
    assert_eq!((flushed.is_err(), read, recovering), (true, 200_000, false));
}

#[test]
fn what_a_lost_server_had_said_is_read_before_the_recovery_as_far_as_memory_is_given_to_that() {
    for (len, recovers) in [(4 << 20, true), (20 << 20, false)] {
        let (flushed, read, recovering) = run(written_to_the_deaf(len, false));
        assert_eq!(
            (flushed.is_err(), read, recovering),
            (!recovers, len, recovers),
            "{len}"
        );
    }
}
