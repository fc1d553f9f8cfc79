//! The stall of a move beside the noise of the machine: the worst echo on a loaded connection, with and without a move.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quinn_migration::{Alternate, Outcome, Policy};

use super::ends::{Ends, Link};
use super::figures::{median, quantile};

/// Worst echo in a window around each move, and in windows just before without one.
pub(super) async fn compare_stall(moves: usize) -> Result<()> {
    const WINDOW: Duration = Duration::from_millis(100);
    let link = Link::migration().await?;
    let Ends::Migration {
        server,
        client,
        addresses,
    } = &link.ends
    else {
        return Ok(());
    };
    let mut policy = Policy::default();
    policy.moves = u32::try_from(moves)?;
    let _migrator = client.attach(&link.ours, policy)?;
    let echoes = Echoes::start(&link).await?;
    tokio::time::sleep(WINDOW * 5).await;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for number in 1..=moves {
        without.push(echoes.worst_in(tokio::time::sleep(WINDOW)).await);
        let target = addresses.get(number % 2).context("no address")?;
        let moving = async {
            let advertised = server
                .advertise(&link.theirs, Alternate::from(*target))
                .await?;
            ensure!(
                advertised.outcome().await? == Outcome::Moved,
                "the client did not move"
            );
            anyhow::Ok(())
        };
        let both = async { tokio::join!(moving, tokio::time::sleep(WINDOW)).0 };
        let (worst, moved) = echoes.worst_while(both).await;
        moved?;
        with.push(worst);
    }
    for (name, worst) in [("with a move", with), ("without", without)] {
        println!(
            "worst echo in {WINDOW:?}, ms, {moves} windows {name}: median {:.2}, p90 {:.2}, max {:.2}",
            median(&worst),
            quantile(&worst, 9, 10),
            quantile(&worst, 1, 1)
        );
    }
    Ok(())
}

/// An echo every millisecond, beside a download at a steady rate.
struct Echoes {
    worst: Arc<parking_lot::Mutex<Duration>>,
}

impl Echoes {
    async fn start(link: &Link) -> Result<Self> {
        let worst = Arc::new(parking_lot::Mutex::new(Duration::ZERO));
        let mut load = link.theirs.open_uni().await?;
        tokio::spawn(async move {
            let block = vec![7; 64 * 1024];
            let mut tick = tokio::time::interval(Duration::from_millis(2));
            while load.write_all(&block).await.is_ok() {
                tick.tick().await;
            }
        });
        let mut load = link.ours.accept_uni().await?;
        tokio::spawn(
            async move { while let Ok(Some(_)) = load.read_chunk(usize::MAX, false).await {} },
        );
        let (mut ask, mut answer) = link.ours.open_bi().await?;
        ask.write_all(&[0]).await?;
        let (mut back, mut there) = link.theirs.accept_bi().await?;
        tokio::spawn(async move {
            let mut byte = [0];
            while there.read_exact(&mut byte).await.is_ok() && back.write_all(&byte).await.is_ok() {
            }
        });
        answer.read_exact(&mut [0]).await?;
        let seen = Arc::clone(&worst);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(1));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let start = Instant::now();
                if ask.write_all(&[0]).await.is_err() || answer.read_exact(&mut [0]).await.is_err()
                {
                    return;
                }
                let mut worst = seen.lock();
                *worst = worst.max(start.elapsed());
            }
        });
        Ok(Self { worst })
    }

    async fn worst_in(&self, work: impl Future<Output = ()>) -> f64 {
        self.worst_while(work).await.0
    }

    /// The worst echo, in milliseconds, while `work` went on.
    async fn worst_while<T>(&self, work: impl Future<Output = T>) -> (f64, T) {
        *self.worst.lock() = Duration::ZERO;
        let done = work.await;
        (self.worst.lock().as_secs_f64() * 1000.0, done)
    }
}
