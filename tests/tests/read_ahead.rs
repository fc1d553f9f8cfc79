//! What is read ahead for a writer is bounded, and who reads of it lets the writer go on.

use std::time::Duration;

use migration_tests::session::Content;
use migration_tests::simulated::{Pair, run};
use rustls_migration::tokio::HandOff;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

/// What the server says before it reads, in bytes: more than is read ahead and on the way, and less when `READ` of it is read.
const SAID: usize = 120_000;

/// What the client reads before its writer is done: no more than was read ahead.
const READ: usize = 60_000;

#[test]
fn a_writer_whose_server_says_much_before_it_reads_goes_on_when_some_of_that_is_read() {
    run(async {
        let pair = Pair::new(16_384);
        pair.serve(pair.a, pair.service.node(), |mut stream| async move {
            stream
                .write_all(&Content::FromServer.piece(0, SAID))
                .await?;
            stream.flush().await?;
            stream.read_to_end(&mut Vec::new()).await?;
            stream.shutdown().await
        });
        let stream = pair.connect(HandOff::Drain).await;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let writing = tokio::spawn(async move {
            writer.write_all(&[7; 100_000]).await?;
            writer.shutdown().await
        });
        sleep(Duration::from_secs(60)).await;
        let mut read = vec![0; READ];
        reader.read_exact(&mut read).await.unwrap();
        writing.await.unwrap().unwrap();
        reader.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), SAID);
        assert!(Content::FromServer.is_at(0, &read));
    });
}
