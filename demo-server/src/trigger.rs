//! The trigger that moves every live connection of a node at once.
//!
//! It says when, never where to: that was settled when each connection began.

use tokio::sync::watch;

/// Fires for all that hold a [`Pulls`] of it.
#[derive(Clone, Debug)]
pub struct Trigger(watch::Sender<()>);

/// One connection's view of a [`Trigger`].
#[derive(Debug)]
pub struct Pulls(watch::Receiver<()>);

impl Default for Trigger {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Trigger {
    /// Moves what is live. Returns how many connections that is.
    pub fn pull(&self) -> usize {
        self.0.send_replace(());
        self.0.receiver_count()
    }

    /// For a connection that begins now.
    pub fn watch(&self) -> Pulls {
        Pulls(self.0.subscribe())
    }
}

impl Pulls {
    /// Resolves at the next pull since the last; never when nobody can pull any more. Safe to cancel.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
