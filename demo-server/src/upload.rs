//! Where an upload is kept, for all nodes that it comes through.
//!
//! It never mends an upload: a byte that came twice is counted twice, unless it came to two processes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

/// An upload in a file.
#[derive(Clone, Debug)]
pub struct Upload {
    file: Arc<File>,
    /// `None` when other processes take some of it.
    received: Option<Arc<AtomicU64>>,
}

impl Upload {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// Those of creating the file.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            file: Arc::new(tempfile::tempfile()?),
            received: Some(Arc::default()),
        })
    }

    /// One in the file at `path`, which other processes have too. It is made on first use.
    ///
    /// # Errors
    ///
    /// Those of opening the file.
    pub fn at(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        Ok(Self {
            file: Arc::new(options.open(path)?),
            received: None,
        })
    }

    /// Keeps what came, where it belongs.
    pub(crate) async fn keep(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, copy) = (Arc::clone(&self.file), bytes.to_vec());
        tokio::task::spawn_blocking(move || file.write_all_at(&copy, offset))
            .await
            .map_err(io::Error::other)??;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if let Some(received) = &self.received {
            received.fetch_add(len, Ordering::Relaxed);
        }
        Ok(())
    }

    /// How many bytes have come; of one that other processes have too, up to where.
    ///
    /// # Errors
    ///
    /// Those of asking for the file's length.
    pub fn received(&self) -> io::Result<u64> {
        match &self.received {
            Some(received) => Ok(received.load(Ordering::Relaxed)),
            None => Ok(self.file.metadata()?.len()),
        }
    }

    /// The SHA-256 of what is there, in hexadecimal digits.
    ///
    /// # Errors
    ///
    /// Those of reading the file.
    pub fn sha256(&self) -> io::Result<String> {
        let mut hash = Sha256::new();
        let mut buf = vec![0; 256 * 1024];
        let mut offset = 0;
        loop {
            let len = self.file.read_at(&mut buf, offset)?;
            if len == 0 {
                return Ok(base16ct::lower::encode_string(&hash.finalize()));
            }
            hash.update(buf.get(..len).unwrap_or_default());
            offset += u64::try_from(len).unwrap_or(u64::MAX);
        }
    }
}
