//! Whether an application task drives the connection, and on which paths it has been.
//!
//! Without a task the connection stays on the path that it is on.

use std::net::SocketAddr;

use super::Path;
use crate::policy::{Gate, Policy};
use crate::socket::PathId;

/// The task, as far as the hook knows it.
#[derive(Debug, Default)]
pub(super) enum Attachment {
    /// There was none.
    #[default]
    Never,
    /// It is there, with a policy.
    Attached(Gate, Paths),
    /// It is gone.
    Detached(Paths),
}

/// Where a connection is, and was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paths {
    pub(super) active: Path,
    /// The path left last: the first place to go back to.
    pub(super) previous: Option<Path>,
    pub(super) first: Path,
}

impl Attachment {
    /// Answers `false` when a task is there. `server`: where a connection is that never had one.
    pub(super) fn attach(&mut self, policy: Policy, server: SocketAddr) -> bool {
        if self.is_attached() {
            return false;
        }
        let paths = self.paths().copied().unwrap_or(Paths::on_first(server));
        *self = Self::Attached(Gate::new(policy), paths);
        true
    }

    pub(super) fn detach(&mut self) {
        if let Some(paths) = self.paths() {
            *self = Self::Detached(*paths);
        }
    }

    pub(super) fn is_attached(&self) -> bool {
        matches!(self, Self::Attached(..))
    }

    /// The task's policy, and what it decides about.
    pub(super) fn policy(&mut self) -> Option<(&mut Gate, &Paths)> {
        match self {
            Self::Attached(gate, paths) => Some((gate, paths)),
            Self::Never | Self::Detached(_) => None,
        }
    }

    pub(super) fn paths(&self) -> Option<&Paths> {
        match self {
            Self::Never => None,
            Self::Attached(_, paths) | Self::Detached(paths) => Some(paths),
        }
    }

    pub(super) fn paths_mut(&mut self) -> Option<&mut Paths> {
        match self {
            Self::Never => None,
            Self::Attached(_, paths) | Self::Detached(paths) => Some(paths),
        }
    }
}

impl Paths {
    fn on_first(server: SocketAddr) -> Self {
        let first = Path {
            id: PathId::FIRST,
            server,
        };
        Self {
            active: first,
            previous: None,
            first,
        }
    }

    /// Whether the connection is on another path than the one that it began on.
    pub(super) fn has_moved(&self) -> bool {
        self.active != self.first
    }

    /// How many other paths there are to go back to.
    pub(super) fn earlier(&self) -> usize {
        match self.previous {
            Some(previous) if previous != self.first => 2,
            Some(_) | None => 1,
        }
    }
}
