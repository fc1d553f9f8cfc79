//! Where a client goes that is asked by draft -03 (`docs/protocol.md` section 10): the ticket does not say it, a request names it,
//! and the application resolves it.
//!
//! The newest ticket and the newest request count, in whatever order they come.

use std::fmt;
use std::future::ready;
use std::io;
use std::net::SocketAddr;

use migration_token::BoxFuture;

use super::error::MigrateError;
use super::phase::Step;
use crate::MoveKind;
use crate::client::{InvalidOfferError, MarkedTicket, Offer, TargetPolicy};

/// Finds the address that an opaque target of draft -03 stands for: by a name service, a control plane, or a table.
///
/// What it finds is still judged by the [`TargetPolicy`], and by TLS: a server that cannot resume the session is told nothing.
pub trait ResolveTarget: fmt::Debug + Send + Sync {
    /// The address for `target`, as the server sent it: 0 to 65,535 bytes. An empty one leaves the choice to the client, which is at
    /// `current`. The future may be dropped at any time.
    ///
    /// # Errors
    ///
    /// There is none. The client stays where it is.
    fn resolve<'a>(
        &'a self,
        target: &'a [u8],
        current: SocketAddr,
    ) -> BoxFuture<'a, io::Result<SocketAddr>>;
}

/// Takes targets for texts: `192.0.2.2:443` and `[2001:db8::2]:443` for addresses, `node-b.example:443` for a name, which is
/// looked up by the system; its first address counts. Of its own it chooses none.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextTargets;

impl ResolveTarget for TextTargets {
    fn resolve<'a>(
        &'a self,
        target: &'a [u8],
        _current: SocketAddr,
    ) -> BoxFuture<'a, io::Result<SocketAddr>> {
        let unknown = || io::Error::from(io::ErrorKind::NotFound);
        let text = match std::str::from_utf8(target) {
            Ok(text) if !text.is_empty() => text,
            Ok(_) | Err(_) => return Box::pin(ready(Err(unknown()))),
        };
        match text.parse() {
            Ok(address) => Box::pin(ready(Ok(address))),
            Err(_) => Box::pin(async move {
                let mut found = tokio::net::lookup_host(text).await?;
                found.next().ok_or_else(unknown)
            }),
        }
    }
}

/// What is known of where a stream is to go, in draft -03.
#[derive(Debug, Default)]
pub(super) struct Relocation {
    /// The newest ticket, until it leads somewhere.
    marked: Option<MarkedTicket>,
    /// The newest target that was asked for.
    requested: Option<Vec<u8>>,
    /// The last one that was resolved.
    resolved: Option<(Vec<u8>, SocketAddr)>,
}

impl Relocation {
    pub(super) fn note_marked(&mut self, ticket: MarkedTicket) {
        self.marked = Some(ticket);
    }

    pub(super) fn note_request(&mut self, target: &[u8]) {
        self.requested = Some(target.to_vec());
    }

    pub(super) fn note_resolved(&mut self, target: Vec<u8>, address: SocketAddr) {
        self.resolved = Some((target, address));
    }

    /// What would move, when the ticket has not been led anywhere.
    pub(super) fn kind(&self) -> Option<MoveKind> {
        self.marked.as_ref().map(MarkedTicket::kind)
    }

    /// The target that the ticket waits for.
    pub(super) fn unresolved(&self) -> Option<&[u8]> {
        self.marked.as_ref()?;
        let requested = self.requested.as_deref()?;
        self.address_of(requested).is_none().then_some(requested)
    }

    fn address_of(&self, target: &[u8]) -> Option<SocketAddr> {
        let (resolved, address) = self.resolved.as_ref()?;
        (resolved == target).then_some(*address)
    }

    /// The offer that the ticket makes with the target that was asked for, once both are known.
    pub(super) fn lead(
        &mut self,
        current: SocketAddr,
        policy: &dyn TargetPolicy,
    ) -> Option<Result<Offer, InvalidOfferError>> {
        let address = self.address_of(self.requested.as_deref()?)?;
        let marked = self.marked.take()?;
        Some(marked.lead_to(address, current, policy))
    }

    /// Where the ticket is to lead: as was asked, or as the client chooses. `None` when there is none.
    pub(super) fn wanted(&self) -> Option<Vec<u8>> {
        self.marked.as_ref()?;
        Some(self.requested.clone().unwrap_or_default())
    }

    /// The ticket.
    pub(super) fn take(&mut self) -> Option<MarkedTicket> {
        self.marked.take()
    }
}

/// A target that is being resolved.
pub(super) struct Resolving {
    pub(super) target: Vec<u8>,
    pub(super) resolve: Step<io::Result<SocketAddr>>,
}

/// A target that could not be resolved.
pub(super) fn unresolved(error: &io::Error) -> MigrateError {
    tracing::debug!(%error, "the server's target could not be resolved");
    MigrateError::OfferRefused(InvalidOfferError::Unresolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolved(target: &str) -> io::Result<SocketAddr> {
        let current = "192.0.2.1:443".parse().unwrap();
        TextTargets.resolve(target.as_bytes(), current).await
    }

    #[tokio::test]
    async fn addresses_and_names_with_ports_are_targets() {
        for address in ["192.0.2.2:443", "[2001:db8::2]:8443"] {
            assert_eq!(resolved(address).await.unwrap(), address.parse().unwrap());
        }
        let found = resolved("localhost:443").await.unwrap();
        assert!(found.ip().is_loopback() && found.port() == 443);
        for none in ["", "192.0.2.2", "localhost", "no port:", "\u{0}"] {
            assert!(resolved(none).await.is_err(), "{none:?}");
        }
        let current = "192.0.2.1:443".parse().unwrap();
        assert!(TextTargets.resolve(&[0xff], current).await.is_err());
    }
}
