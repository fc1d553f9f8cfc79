//! A redis server for the stores' measurement. It listens on no network and keeps nothing.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use migration_token::RedisNonceStore;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::error::BenchError;

/// What a store may take for an answer; it is not what is measured.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A server, which ends with this value.
pub(crate) struct Redis {
    process: Child,
    folder: TempDir,
}

impl Redis {
    /// Starts `redis-server`, a Debian package.
    pub(crate) fn start() -> Result<Self, BenchError> {
        let folder = tempfile::tempdir()?;
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(folder.path().join(SOCKET))
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .map_err(BenchError::NoRedis)?;
        Ok(Self { process, folder })
    }

    /// A store on it, when it answers.
    pub(crate) async fn store(&self) -> Result<RedisNonceStore, BenchError> {
        let store = RedisNonceStore::builder(&self.url())
            .timeout(TIMEOUT)
            .build()?;
        let started = Instant::now();
        while let Err(error) = store.check(OffsetDateTime::now_utc()).await {
            if started.elapsed() > TIMEOUT {
                return Err(error.into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(store)
    }

    /// Its address, when it answers.
    pub(crate) fn address(&self) -> Result<String, BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.store())?;
        Ok(self.url())
    }

    fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Memory of its data, in bytes.
    pub(crate) fn used_memory(&self) -> Result<u64, BenchError> {
        let output = Command::new("redis-cli")
            .arg("-s")
            .arg(self.socket())
            .args(["INFO", "memory"])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        line.and_then(|bytes| bytes.trim().parse().ok())
            .ok_or(BenchError::Unexpected("redis does not tell its memory"))
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }
}

const SOCKET: &str = "redis.sock";

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
