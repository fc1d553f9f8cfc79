//! A source that has died: an application that moves by itself can still follow its offer, and hears at the target nothing of that
//! death.

use std::time::Duration;

use migration_tests::simulated::{Pair, run};
use rustls_migration::tokio::HandOff;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

#[test]
fn what_a_writer_has_not_told_of_a_dead_source_is_not_the_targets_error() {
    run(async {
        let pair = Pair::new(65_536);
        let b = pair.b;
        pair.serve(pair.a, pair.service.node(), move |mut stream| async move {
            stream.offer(b, None).await?;
            stream.write_all(b"hello").await?;
            // It dies: the transport ends.
            stream.flush().await
        });
        pair.serve(b, pair.service.node(), |mut stream| async move {
            let mut asked = [0; 5];
            stream.read_exact(&mut asked).await?;
            stream.write_all(&asked).await?;
            stream.shutdown().await
        });
        let mut stream = pair.connect(HandOff::Manual).await;
        stream.read_exact(&mut [0; 5]).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        // A write learns of the death, and does not tell of it.
        stream.write_all(b"lost").await.unwrap();
        let outcome = stream.migrate(b"early").await.unwrap();
        assert_eq!(outcome.at, b);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"early");
    });
}
