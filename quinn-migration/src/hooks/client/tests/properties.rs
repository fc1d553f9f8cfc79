//! Whatever bytes come, nothing panics and nothing else changes.

use super::*;
use proptest::prelude::*;

/// Hooks in the middle of things.
fn busy() -> Vec<Bench> {
    let idle = || Bench::connected_to(ORIGIN);
    let mut probing = idle();
    probing.receive(&frame(&offer(1, "198.51.100.1:1")));
    probing.challenge();
    let mut switching = idle();
    switching.receive(&frame(&offer(1, "198.51.100.1:1")));
    let data = switching.challenge();
    switching.receive(&[&[0x1b], &data[..]].concat());
    vec![idle(), probing, switching]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_is_sent_keeps_its_length_and_nothing_panics(id in prop::collection::vec(any::<u8>(), 0..=20), payload in prop::collection::vec(any::<u8>(), 0..1400)) {
        for mut bench in busy() {
            let sent = bench.send_with(&id, payload.clone());
            prop_assert_eq!(sent.payload.len(), payload.len());
            bench.events();
        }
    }

    #[test]
    fn whatever_is_received_nothing_panics(payload in prop::collection::vec(any::<u8>(), 0..1400), again in 1..4) {
        for mut bench in busy() {
            for _ in 0..again {
                bench.receive(&payload);
                bench.events();
            }
        }
    }

    #[test]
    fn packets_without_frames_of_the_extension_reach_quinn_unchanged(data in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut bench = Bench::connected_to(ORIGIN);
        let stream = [&[0x0c, 1, 2][..], &data].concat();
        prop_assert_eq!(bench.receive(&stream), stream.clone());
        let sent = bench.send(stream.clone());
        prop_assert_eq!(sent.payload, stream);
        prop_assert_eq!(sent.id, OLD_ID);
    }

    #[test]
    fn mutated_advertisements_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for mut bench in busy() {
            let mut extension = frame(&offer(5, "198.51.100.9:1"));
            *at.get_mut(extension.as_mut_slice()) = byte;
            bench.receive(&extension);
            bench.events();
        }
    }
}
