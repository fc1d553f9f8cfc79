//! Where a download's bytes go: through the checksum, into a file if one is wanted, and past a progress bar.
//!
//! Bytes are taken once, in their order; nothing here knows of legs.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::{Duration, Instant};

use demo_server::program::Failure;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

/// How long a transfer takes before it gets a progress bar.
const SHORT: Duration = Duration::from_millis(500);

pub(crate) struct Output {
    hash: Sha256,
    file: Option<File>,
    bar: ProgressBar,
    began: Instant,
}

impl Output {
    /// Creates the file at `path`, if there is one.
    pub(crate) async fn create(path: Option<&Path>) -> Result<Self, Failure> {
        let file =
            match path {
                None => None,
                Some(path) => Some(File::create(path).await.map_err(|error| {
                    Failure::usage(format!("--output {}", path.display()), &error)
                })?),
            };
        Ok(Self {
            hash: Sha256::new(),
            file,
            bar: ProgressBar::hidden(),
            began: Instant::now(),
        })
    }

    /// Takes what came next of `total` bytes.
    pub(crate) async fn take(&mut self, bytes: &[u8], total: u64) -> io::Result<()> {
        self.hash.update(bytes);
        if let Some(file) = &mut self.file {
            file.write_all(bytes).await?;
        }
        if self.bar.is_hidden() && self.began.elapsed() > SHORT && io::stderr().is_terminal() {
            self.show_bar();
        }
        self.bar.set_length(total);
        self.bar.inc(u64::try_from(bytes.len()).unwrap_or_default());
        Ok(())
    }

    /// The SHA-256 of what was taken, which is in the file by then.
    pub(crate) async fn finish(mut self) -> io::Result<String> {
        self.bar.finish_and_clear();
        if let Some(file) = &mut self.file {
            file.flush().await?;
        }
        Ok(base16ct::lower::encode_string(&self.hash.finalize()))
    }

    fn show_bar(&self) {
        let template =
            "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
    }
}
