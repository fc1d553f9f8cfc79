//! Former checkpoints, which a client could go back to: when they may be spent (`docs/protocol.md` section 11).
//!
//! A former checkpoint may be the only one that the client has, as long as the newer one is on its way. So it is given out to be
//! spent only when the client has answered a KeyUpdate that stood behind the newer one.

use std::collections::VecDeque;
use std::sync::Arc;

use migration_token::{Claim, NonceStore};

use super::connection::ServerConnection;
use super::{MigrationServer, MigrationServerBuilder};

/// How many checkpoints are kept in mind, of either kind. Past it, the oldest is good for its life.
const MAX_OPEN: usize = 128;

/// How often a client is asked with no data between, in either direction. TLS stacks take no more than 32 KeyUpdates in a row, and a
/// client's probes are as many as 24.
const MAX_ASKED: u8 = 8;

impl MigrationServer {
    /// Where checkpoints are spent that are superseded.
    #[cfg(feature = "tokio")]
    pub(crate) fn superseded_in(&self) -> Option<&Arc<dyn NonceStore>> {
        self.superseded.as_ref()
    }
}

/// The checkpoints of one connection.
#[derive(Debug, Default)]
pub(super) struct Superseding {
    /// Those that have not been spent, the oldest first.
    open: VecDeque<Claim>,
    /// How many of these the client has when it answers; `None` while it is not asked.
    asked: Option<usize>,
    /// Those that are to be spent.
    former: VecDeque<Claim>,
    /// How often it was asked since the client has sent data, and since the server has.
    since_data: (u8, u8),
}

impl Superseding {
    fn made(&mut self, checkpoint: Claim) {
        if self.open.len() == MAX_OPEN {
            self.open.pop_front();
            self.asked = self.asked.map(|asked| asked.saturating_sub(1));
        }
        self.open.push_back(checkpoint);
    }

    /// Whether the client is to be asked now.
    fn is_due(&self) -> bool {
        let (client, server) = self.since_data;
        self.asked.is_none() && self.open.len() > 1 && client < MAX_ASKED && server < MAX_ASKED
    }

    fn ask(&mut self) {
        self.asked = Some(self.open.len());
        self.since_data.0 += 1;
        self.since_data.1 += 1;
    }

    /// The client has answered: of those that it has, only the newest still counts.
    fn answered(&mut self) {
        if let Some(asked) = self.asked.take() {
            let former = asked.saturating_sub(1).min(self.open.len());
            self.former.extend(self.open.drain(..former));
            // A store that is this slow may have the newest.
            let excess = self.former.len().saturating_sub(MAX_OPEN);
            self.former.drain(..excess);
        }
    }
}

impl ServerConnection {
    /// A former checkpoint that the client does not need any more, to be spent in the store of
    /// [`supersede_checkpoints_in`](MigrationServerBuilder::supersede_checkpoints_in): claim it, and commit it. When the store says that
    /// another connection has spent it, the client's stream goes on elsewhere, and this connection is to be closed. Ask again until
    /// there is none.
    pub fn take_superseded(&mut self) -> Option<Claim> {
        self.superseding.as_mut()?.former.pop_front()
    }

    /// Whether the client has been asked for an answer that says which checkpoints it has.
    pub fn awaits_answer(&self) -> bool {
        let asked = self.superseding.as_ref().map(|all| all.asked.is_some());
        asked.unwrap_or(false)
    }

    /// A checkpoint has been made, which spends this.
    pub(super) fn checkpoint_made(&mut self, checkpoint: Claim) {
        self.superseding.get_or_insert_default().made(checkpoint);
        self.ask_what_has_come();
    }

    /// The client has sent a handshake message.
    pub(super) fn look_for_answer(&mut self) {
        if self.hook.unanswered() == 0
            && let Some(superseding) = &mut self.superseding
        {
            superseding.answered();
        }
        self.ask_what_has_come();
    }

    /// The application has data on its way to the client.
    pub(super) fn data_written(&mut self) {
        if let Some(superseding) = &mut self.superseding {
            superseding.since_data.1 = 0;
        }
    }

    /// Asks for an answer, if there is something to learn by it. One that is on its way already would say less.
    fn ask_what_has_come(&mut self) {
        let Some(superseding) = &mut self.superseding else {
            return;
        };
        if self.hook.take_heard() {
            superseding.since_data.0 = 0;
        }
        let may_ask = !self.is_closed() && self.hook.unanswered() == 0;
        if may_ask && self.superseding.as_ref().is_some_and(|all| all.is_due()) {
            // Then the former ones are good for their life.
            if crate::Connection::refresh_traffic_keys(self).is_ok()
                && let Some(superseding) = &mut self.superseding
            {
                superseding.ask();
            }
        }
    }
}

impl MigrationServerBuilder {
    /// Spends each checkpoint when the client has a newer one, in `store`: the store of the nodes that checkpoints lead to, so one that is shared
    /// with them. By default none is spent before it is used, and a dishonest client can go back to any of them within its life. Two
    /// requests to the store for each checkpoint, and a KeyUpdate each way. `docs/recovery.md` says what it gives, and what not.
    ///
    /// A store that fails costs no stream: the checkpoint is then good for its life.
    #[must_use]
    pub fn supersede_checkpoints_in(mut self, store: Arc<dyn NonceStore>) -> Self {
        self.superseded = Some(store);
        self
    }
}

#[cfg(test)]
mod tests {
    use migration_token::{ClaimId, NonceKey};
    use time::OffsetDateTime;

    use super::*;

    fn checkpoint(number: u8) -> Claim {
        let now = OffsetDateTime::UNIX_EPOCH;
        Claim {
            nonce: NonceKey::new(&[0; 32], &[0; 32], &[number; 16]),
            id: ClaimId::new([number; 16]),
            issued_after: now,
            keep_until: now,
            now,
        }
    }

    fn ids(claims: &VecDeque<Claim>) -> Vec<u8> {
        claims.iter().map(|claim| claim.id.as_bytes()[0]).collect()
    }

    #[test]
    fn an_answer_spends_what_was_older_than_the_newest_of_before_the_question() {
        let mut all = Superseding::default();
        all.made(checkpoint(0));
        assert!(!all.is_due(), "it is the only one");
        all.made(checkpoint(1));
        all.made(checkpoint(2));
        assert!(all.is_due());
        all.ask();
        all.made(checkpoint(3));
        assert!(!all.is_due(), "one question at a time");
        all.answered();
        assert_eq!((ids(&all.former), ids(&all.open)), (vec![0, 1], vec![2, 3]));
        assert!(all.is_due());
        all.answered();
        assert_eq!(ids(&all.former), [0, 1], "nothing was asked");
    }

    #[test]
    fn what_is_kept_in_mind_is_bounded_and_what_is_forgotten_is_not_spent() {
        let mut all = Superseding::default();
        let more = u8::try_from(MAX_OPEN).unwrap() + 10;
        all.made(checkpoint(0));
        all.made(checkpoint(1));
        all.ask();
        (2..more).for_each(|number| all.made(checkpoint(number)));
        all.answered();
        assert!(all.former.is_empty(), "neither is known any more");
        all.ask();
        all.answered();
        assert_eq!(
            (all.former.len(), ids(&all.open)),
            (MAX_OPEN - 1, vec![more - 1])
        );
    }

    #[test]
    fn a_client_is_asked_so_often_and_again_when_data_has_gone_both_ways() {
        let mut all = Superseding::default();
        all.made(checkpoint(0));
        for number in 1..=MAX_ASKED {
            all.made(checkpoint(number));
            assert!(all.is_due());
            all.ask();
            all.answered();
        }
        all.made(checkpoint(100));
        assert!(!all.is_due());
        all.since_data.0 = 0;
        assert!(!all.is_due());
        all.since_data.1 = 0;
        assert!(all.is_due());
    }
}
