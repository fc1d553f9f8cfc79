//! Where an upload is kept, for all nodes that it comes through.
//!
//! It never mends an upload: a byte that came twice is counted twice.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

/// An upload in a file without a name.
#[derive(Clone, Debug)]
pub struct Upload {
    file: Arc<File>,
    received: Arc<AtomicU64>,
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
            received: Arc::default(),
        })
    }

    /// Keeps what came, where it belongs.
    pub(crate) async fn keep(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, copy) = (Arc::clone(&self.file), bytes.to_vec());
        tokio::task::spawn_blocking(move || file.write_all_at(&copy, offset))
            .await
            .map_err(io::Error::other)??;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.received.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    /// How many bytes have come.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
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
