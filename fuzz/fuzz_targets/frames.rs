//! The walk over a packet's frames: it ends, moves forward, and stays in bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quinn_migration::Codepoints;
use quinn_migration::wire::{NewConnectionId, ack_covers, next_frame, overwrite};

fuzz_target!(|payload: &[u8]| {
    let mut rewritten = payload.to_vec();
    let mut at = 0;
    while let Some(frame) = next_frame(payload, at, Codepoints::default().frame()) {
        assert_eq!(frame.whole.start, at);
        assert!(frame.whole.end > at && frame.whole.end <= payload.len());
        assert!(frame.body.start >= frame.whole.start && frame.body.end <= frame.whole.end);
        at = frame.whole.end;
        let body = &payload[frame.body.clone()];
        ack_covers(body, 7);
        if let Some(new) = NewConnectionId::decode(body) {
            new.encode(&mut Vec::new());
        }
        overwrite(&mut rewritten, frame.whole, &[1]);
    }
    assert_eq!(rewritten.len(), payload.len());
});
