//! The dialects that the peers of a test speak (`docs/protocol.md` section 10).
//!
//! A test file is written once. The programs `draft_03` and `mixed_dialects` have the files of moves too, and their peers
//! speak what the program is named after. So do those of hyper-migration's `draft_03`, which has the files of HTTP.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls_migration::Dialect;

/// What the peers of this program speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// Draft -01, as by default.
    Draft01,
    /// Draft -03 alone.
    Draft03,
    /// Clients offer both. Nodes speak both, and each prefers another one than the node before it.
    Mixed,
}

static SPOKEN: LazyLock<Spoken> = LazyLock::new(|| {
    let program = std::env::current_exe().unwrap();
    let name = program.file_name().unwrap().to_string_lossy().into_owned();
    match name.rsplit_once('-').map_or(&*name, |(name, _)| name) {
        "draft_03" => Spoken::Draft03,
        "mixed_dialects" => Spoken::Mixed,
        _ => Spoken::Draft01,
    }
});

/// How many nodes there have been.
static NODES: AtomicUsize = AtomicUsize::new(0);

const BOTH: [[Dialect; 2]; 2] = [
    [Dialect::Draft03, Dialect::Draft01],
    [Dialect::Draft01, Dialect::Draft03],
];

impl Spoken {
    /// What the peers of this program speak.
    pub fn here() -> Self {
        *SPOKEN
    }

    /// What a client offers.
    pub fn of_client(self) -> Vec<Dialect> {
        match self {
            Self::Draft01 => vec![Dialect::Draft01],
            Self::Draft03 => vec![Dialect::Draft03],
            Self::Mixed => BOTH[0].to_vec(),
        }
    }

    /// What the next node speaks, the preferred one first.
    pub fn of_node(self) -> Vec<Dialect> {
        match self {
            Self::Draft01 | Self::Draft03 => self.of_client(),
            Self::Mixed => BOTH[NODES.fetch_add(1, Ordering::Relaxed) % 2].to_vec(),
        }
    }
}
