//! What a client's connection makes of the marked tickets, requests and notices that have come.

use std::sync::Arc;

use migration_token::{TokenKey, VerifyError};
use rustls::HandshakeKind;

use super::{ClientConnection, MAX_UPDATES};
use crate::client::offer::{Arrived, InvalidOfferError, Offer, ReceivedTicket, Verified};
use crate::client::update::Update;
use crate::key_schedule::SuiteCrypto;
use crate::lineage::Lineage;

impl ClientConnection {
    /// Verifies the offers that have come.
    pub(super) fn take_offers(&mut self) {
        if !self.hook.take_news() {
            return;
        }
        while let Some(received) = self.hook.take_received() {
            let notices = received.mark.heard.notices;
            let (update, said) = match self.verify(received) {
                Ok(Verified::Offer(offer)) => {
                    let (target, kind) = (offer.target(), offer.kind());
                    self.offer = Some(Box::new(offer));
                    (Update::Offered { target, kind }, Some(Ok(kind)))
                }
                Ok(Verified::Marked(ticket)) => {
                    let kind = ticket.kind();
                    self.offer = None;
                    self.marked = Some(Box::new(ticket));
                    (Update::Marked { kind }, Some(Ok(kind)))
                }
                // Nothing is handed over by it.
                Ok(Verified::Checkpoint(checkpoint)) => {
                    self.checkpoint = Some(Box::new(checkpoint));
                    // Only the newest is there to be taken, in its place among the offers.
                    self.updates.retain(|update| *update != Update::Checkpoint);
                    (Update::Checkpoint, None)
                }
                Err(error) => (Update::OfferRefused(error), Some(Err(error))),
            };
            if let Some(said) = said.filter(|_| self.closed) {
                self.last_word = Some((notices, said));
            }
            self.push_update(update);
        }
        if let Some(target) = self.hook.take_target() {
            self.requested = Some(target);
        }
        if self.notices < self.hook.notices() {
            self.notices = self.hook.notices();
            self.push_update(Update::Notified);
        }
    }

    /// Verifies one offer.
    fn verify(&mut self, received: ReceivedTicket) -> Result<Verified, InvalidOfferError> {
        let arrived = Arrived {
            at: self.client.clock.instant(),
            tls_time: self.client.config.time_provider.current_time(),
        };
        let client = Arc::clone(&self.client);
        let server = self.server;
        self.lineage = self.lineage.or_else(|| self.find_lineage());
        Offer::verify(
            received,
            self.lineage,
            || self.token_key(),
            server,
            &*client.policy,
            arrived,
        )
    }

    /// The lineage of what is on this connection. It is asked for before the secret is taken.
    fn find_lineage(&self) -> Option<Lineage> {
        let resumed = self.tls.handshake_kind() == Some(HandshakeKind::Resumed);
        self.goes_on.filter(|_| resumed).or_else(|| {
            let suite = self.tls.negotiated_cipher_suite()?.tls13()?;
            self.hook
                .with_secret(|secret| Lineage::begin(suite, secret))
        })
    }

    /// What verifies tokens. It is derived for the first one.
    fn token_key(&mut self) -> Result<(SuiteCrypto, TokenKey), InvalidOfferError> {
        let suite = self.tls.negotiated_cipher_suite();
        let crypto = suite.and_then(|suite| SuiteCrypto::new(suite.tls13()?));
        let crypto = crypto.ok_or(VerifyError::OtherSession)?;
        let key = match self.token_key.take() {
            Some(key) => key,
            None => {
                let secret = self.hook.take_secret().ok_or(VerifyError::OtherSession)?;
                TokenKey::derive_with(&crypto, &secret).map_err(|_| VerifyError::OtherSession)?
            }
        };
        Ok((crypto, self.token_key.insert(key).clone()))
    }

    fn push_update(&mut self, update: Update) {
        if self.updates.len() == MAX_UPDATES {
            self.updates.pop_front();
        }
        self.updates.push_back(update);
    }
}
