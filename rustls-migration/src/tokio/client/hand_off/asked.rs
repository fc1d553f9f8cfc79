//! The client is asked to move: where to, is known at once or has to be resolved first.

use std::sync::Arc;
use std::task::{Context, Poll};

use crate::MoveKind;
use crate::client::InvalidOfferError;
use crate::tokio::client::connector::HandOff;
use crate::tokio::client::event::Event;
use crate::tokio::client::phase::{Next, Phase};
use crate::tokio::client::relocation::{Resolving, unresolved};
use crate::tokio::client::stream::MigrationStream;

impl MigrationStream {
    /// The server has asked the client to move, by an offer whose target is known, if there is one.
    pub(super) fn notified(&mut self) {
        self.control.set_notified(true);
        let kind = self.control.newest_kind();
        if kind == Some(MoveKind::Connection) {
            self.stay_with_stream();
        }
        let kind = kind.unwrap_or(MoveKind::Connection);
        self.control
            .tell(Event::Notified { kind }, self.phase.source());
        if kind == MoveKind::Stream && self.control.hand_off != HandOff::Manual {
            self.dial_target();
        }
    }

    /// The stream is not to go on elsewhere any more: what has been dialled for it is dropped.
    fn stay_with_stream(&mut self) {
        if let Phase::Connected { next, .. } = &mut self.phase
            && matches!(next, Next::Dialling { .. } | Next::Answered(_))
        {
            *next = Next::Nothing;
        }
    }

    /// Makes an offer of a ticket of draft -03, once its target is known.
    pub(super) fn lead(&self) {
        if let Some(led) = self.control.lead() {
            let event = match led {
                Ok((target, kind)) => Event::Offered { target, kind },
                Err(error) => Event::OfferRefused(error),
            };
            self.control.tell(event, self.phase.source());
        }
    }

    /// Resolves the newest target that was asked for, if that has to be done: what is under way for another one is dropped.
    pub(super) fn resolve(&mut self) -> bool {
        let Some(target) = self.control.unresolved() else {
            self.resolving = None;
            return false;
        };
        let under_way = self.resolving.as_ref();
        if under_way.is_none_or(|resolving| resolving.target != target) {
            let (control, asked) = (Arc::clone(&self.control), target.clone());
            let resolve = Box::pin(async move {
                let current = control.address();
                control.dialer.resolver.resolve(&asked, current).await
            });
            self.resolving = Some(Box::new(Resolving { target, resolve }));
        }
        true
    }

    /// Goes on with what was asked, when its target has been resolved.
    pub(in crate::tokio::client) fn poll_resolving(&mut self, cx: &mut Context<'_>) {
        let Some(resolving) = &mut self.resolving else {
            return;
        };
        let Poll::Ready(resolved) = resolving.resolve.as_mut().poll(cx) else {
            return;
        };
        let Some(resolving) = self.resolving.take() else {
            return;
        };
        match resolved {
            Ok(address) => {
                self.control.note_resolved(resolving.target, address);
                self.lead();
            }
            Err(error) => {
                let _ = unresolved(&error);
                let refused = Event::OfferRefused(InvalidOfferError::Unresolved);
                self.control.tell(refused, self.phase.source());
            }
        }
        self.notified();
    }
}
