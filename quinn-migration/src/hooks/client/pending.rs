//! Taking in SERVER_ALTERNATE_ADDRESS frames.
//!
//! Never holds more than the newest one, whatever a server sends.

use std::collections::VecDeque;
use std::ops::Range;

use quinn_proto::{ConnectionId, VarInt};

use super::ClientHook;
use crate::event::Event;
use crate::policy::Refusal;
use crate::wire::{
    AlternateAddress, AlternateAddressError, Frame, NewConnectionId, PING_FRAME, Reader, overwrite,
};

/// Sequence numbers remembered, to tell a retransmission from a reuse.
const REMEMBERED: usize = 16;

#[derive(Debug, Default)]
pub(super) struct PendingAdvertisement {
    newest: Option<AlternateAddress>,
    recent: VecDeque<AlternateAddress>,
    highest: Option<VarInt>,
}

/// What a frame is, compared with those before it.
#[derive(Debug, PartialEq, Eq)]
enum AdvertClass {
    New,
    /// Sent again, because an acknowledgement was lost.
    Repeated,
    Refused(Refusal),
}

impl PendingAdvertisement {
    pub(super) fn take(&mut self) -> Option<AlternateAddress> {
        self.newest.take()
    }

    pub(super) fn is_some(&self) -> bool {
        self.newest.is_some()
    }

    /// The connection IDs of advertisements in a range of sequence numbers.
    pub(super) fn known_in(&self, range: &Range<VarInt>) -> impl Iterator<Item = NewConnectionId> {
        let expired = self
            .recent
            .iter()
            .filter(|offer| range.contains(&offer.sequence));
        expired.map(AlternateAddress::connection_id)
    }

    fn sort(&self, offer: &AlternateAddress) -> AdvertClass {
        if self.recent.contains(offer) {
            return AdvertClass::Repeated;
        }
        if self
            .recent
            .iter()
            .any(|known| known.sequence == offer.sequence || known.id == offer.id)
        {
            return AdvertClass::Refused(Refusal::Reused);
        }
        if self.highest.is_some_and(|highest| offer.sequence < highest) {
            return AdvertClass::Refused(Refusal::Superseded);
        }
        AdvertClass::New
    }

    fn remember(&mut self, offer: &AlternateAddress) {
        if self.recent.len() >= REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(offer.clone());
        self.highest = self.highest.max(Some(offer.sequence));
    }
}

impl ClientHook {
    /// Takes the frame out of the packet, so that quinn does not see it.
    pub(super) fn on_advertisement(&mut self, payload: &mut [u8], frame: &Frame) {
        let decoded = payload
            .get(frame.body.clone())
            .map(AlternateAddress::decode);
        overwrite(payload, frame.whole.clone(), PING_FRAME);
        match decoded {
            Some(Ok(offer)) => self.on_offer(offer),
            Some(Err(AlternateAddressError::ConnectionIdLength(offered))) => {
                let current = self.current_id_length();
                let reason = Refusal::ConnectionIdLength { current, offered };
                self.report(Event::Refused {
                    sequence: None,
                    reason,
                });
            }
            Some(Err(AlternateAddressError::Length)) | None => {
                self.report(Event::Refused {
                    sequence: None,
                    reason: Refusal::Malformed,
                });
            }
        }
    }

    /// A frame of the extension that is cut short cannot be taken out: quinn closes the connection over it, as
    /// RFC 9000 section 12.4 wants. It is reported all the same.
    pub(super) fn report_malformed_rest(&mut self, payload: &[u8], at: usize) -> bool {
        let rest = Reader::starting_at(payload, at).varint();
        if rest != Some(self.codepoints.frame().into_inner()) {
            return false;
        }
        self.report(Event::Refused {
            sequence: None,
            reason: Refusal::Malformed,
        });
        true
    }

    pub(super) fn on_offer(&mut self, offer: AlternateAddress) {
        let AlternateAddress {
            sequence, v4, v6, ..
        } = offer;
        match self.sort_offer(&offer) {
            AdvertClass::Repeated => {}
            AdvertClass::Refused(reason) => {
                self.report(Event::Refused {
                    sequence: Some(sequence),
                    reason,
                });
                // A connection ID that the server used twice is not ours to retire.
                if reason != Refusal::Reused {
                    self.pending.remember(&offer);
                    self.retirement.add(sequence);
                }
            }
            AdvertClass::New => {
                self.pending.remember(&offer);
                self.report(Event::Advertised { sequence, v4, v6 });
                if let Some(older) = self.pending.newest.replace(offer) {
                    self.refuse(older.sequence, Refusal::Superseded);
                }
            }
        }
    }

    fn sort_offer(&self, offer: &AlternateAddress) -> AdvertClass {
        let sorted = self.pending.sort(offer);
        if sorted != AdvertClass::New {
            return sorted;
        }
        // Before this side's first 1-RTT packet the length is not known.
        let offered = offer.id.len();
        let current = self.last_id.map_or(offered, |id| id.len());
        // Number 0 is the connection ID of the handshake.
        if offer.sequence == VarInt::default()
            || self.last_id == Some(offer.id)
            || self.server_ids.contains(offer.sequence, &offer.id)
        {
            AdvertClass::Refused(Refusal::Reused)
        } else if current != offered {
            AdvertClass::Refused(Refusal::ConnectionIdLength { current, offered })
        } else if self.server_ids.is_past(offer.sequence) {
            AdvertClass::Refused(Refusal::Superseded)
        } else {
            AdvertClass::New
        }
    }

    fn current_id_length(&self) -> usize {
        self.last_id.map_or(0, |id: ConnectionId| id.len())
    }

    /// Says no and gives the connection ID back.
    pub(super) fn refuse(&mut self, sequence: VarInt, reason: Refusal) {
        self.report(Event::Refused {
            sequence: Some(sequence),
            reason,
        });
        self.retirement.add(sequence);
    }
}
