//! Where the next connections of each authority go: the offers of connections whose servers asked their clients to move.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::uri::Authority;
use rustls_migration::client::Offer;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// How many offers of one authority wait to be followed; past that the oldest are forgotten.
const CAPACITY: usize = 64;

/// The offers that wait.
#[derive(Debug, Default)]
pub(super) struct Offers(Mutex<HashMap<Authority, Waiting>>);

/// The offers of one authority, the newest last.
#[derive(Debug, Default)]
struct Waiting {
    offers: VecDeque<Offer>,
    /// Where an offer was followed to for one request: the next connection begins there.
    address: Option<SocketAddr>,
    /// For an authority that speaks HTTP/2, where one connection serves all: who follows an offer has it meanwhile.
    turn: Option<Turn>,
}

type Turn = Arc<AsyncMutex<()>>;

/// How the next connection of an authority is to begin.
pub(super) enum Next {
    /// By this offer. The guard is kept until the connection is there.
    Resume(Box<Offer>, Option<OwnedMutexGuard<()>>),
    /// At this address.
    At(SocketAddr),
    /// Another one is about to be there, and will serve this request too.
    Wait(Turn),
    /// As every first connection.
    Dial,
}

impl Offers {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Authority, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to `authority`, which is `shared` by many requests (HTTP/2) or is not, was told to move.
    pub(super) fn put(&self, authority: &Authority, offer: Offer, shared: bool) {
        let mut all = self.waiting();
        // Who has nothing to say any more is forgotten.
        all.retain(|_, waiting| {
            !waiting.offers.is_empty() || waiting.address.is_some() || waiting.is_followed()
        });
        let waiting = all.entry(authority.clone()).or_default();
        if shared {
            waiting.turn.get_or_insert_default();
        }
        if waiting.offers.len() >= CAPACITY {
            waiting.offers.pop_front();
        }
        waiting.offers.push_back(offer);
    }

    /// Takes the newest offer that is not over.
    pub(super) fn next(&self, authority: &Authority, now: Instant) -> Next {
        let mut all = self.waiting();
        let Some(waiting) = all.get_mut(authority) else {
            return Next::Dial;
        };
        let guard = match waiting
            .turn
            .clone()
            .map(|turn| (Arc::clone(&turn).try_lock_owned(), turn))
        {
            Some((Err(_), turn)) => return Next::Wait(turn),
            Some((Ok(guard), _)) => Some(guard),
            None => None,
        };
        while let Some(offer) = waiting.offers.pop_back() {
            if !offer.is_expired(now) {
                return Next::Resume(Box::new(offer), guard);
            }
        }
        waiting.address.take().map_or(Next::Dial, Next::At)
    }

    /// Takes the newest offer of an authority that speaks HTTP/1.
    pub(super) fn next_of_h1(&self, authority: &Authority, now: Instant) -> Option<Offer> {
        let mut all = self.waiting();
        let waiting = all
            .get_mut(authority)
            .filter(|waiting| waiting.turn.is_none())?;
        waiting.offers.retain(|offer| !offer.is_expired(now));
        waiting.offers.pop_back()
    }

    /// `target` could not be reached: what else leads there would cost the time for connecting again.
    pub(super) fn forget(&self, authority: &Authority, target: SocketAddr) {
        let mut all = self.waiting();
        let Some(waiting) = all.get_mut(authority) else {
            return;
        };
        waiting.offers.retain(|offer| offer.target() != target);
        waiting.address.take_if(|address| *address == target);
    }

    /// An offer was followed to `address` for one request.
    pub(super) fn put_address(&self, authority: &Authority, address: SocketAddr) {
        self.waiting().entry(authority.clone()).or_default().address = Some(address);
    }
}

impl Waiting {
    /// Whether somebody follows an offer just now.
    fn is_followed(&self) -> bool {
        self.turn
            .as_ref()
            .is_some_and(|turn| turn.try_lock().is_err())
    }
}
