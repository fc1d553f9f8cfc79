//! The server's own challenges while a path is validated.
//!
//! quinn answers on the path in use, but a challenge belongs to the path that it came on (RFC 9000 section 8.2.2). While a
//! path is validated it may be that one, so the challenge waits until the connection is there, or stays where it is. Never
//! holds more than a few: a server asks again.

use super::{ClientHook, Phase};
use crate::wire::{Frame, PING_FRAME, Reader, kind, overwrite};

/// Challenges held at most.
const LIMIT: usize = 4;

impl ClientHook {
    /// Takes the challenge out of the packet while a path is validated.
    pub(super) fn on_path_challenge(&mut self, payload: &mut [u8], frame: &Frame) {
        let data = Reader::starting_at(payload, frame.body.start).array();
        let validating = matches!(self.phase, Phase::Probing(_));
        if let Some(data) = data.filter(|_| validating && self.challenges.len() < LIMIT) {
            self.challenges.push(data);
            overwrite(payload, frame.whole.clone(), PING_FRAME);
        }
    }

    /// Gives quinn the challenges that it may answer now: it goes to the new path with the same packet, or stays.
    pub(super) fn return_challenges(&mut self, frames: &mut Vec<u8>) {
        if matches!(self.phase, Phase::Probing(_)) {
            return;
        }
        for data in self.challenges.drain(..) {
            frames.extend(u8::try_from(kind::PATH_CHALLENGE));
            frames.extend_from_slice(&data);
        }
    }
}
