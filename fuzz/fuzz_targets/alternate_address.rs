//! The body of a SERVER_ALTERNATE_ADDRESS frame: what is decoded can be encoded and decoded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quinn_migration::Codepoints;
use quinn_migration::wire::{AlternateAddress, next_frame};

fuzz_target!(|body: &[u8]| {
    let Ok(decoded) = AlternateAddress::decode(body) else {
        return;
    };
    let frame_type = Codepoints::default().frame();
    let mut frame = Vec::new();
    decoded.encode(frame_type, &mut frame);
    let walked = next_frame(&frame, 0, frame_type).expect("what was encoded is a frame");
    assert_eq!(walked.whole, 0..frame.len());
    assert_eq!(AlternateAddress::decode(&frame[walked.body]), Ok(decoded));
});
