//! The server gives up connection IDs of the client.

use super::*;

/// What is under way on the slower path still comes with it.
#[test]
fn quinn_hears_a_little_later_that_the_server_has_given_up_a_connection_id() {
    let mut bench = Bench::connected_to(ORIGIN);
    let retirement = retire_connection_id(0u32.into());
    let seen = bench.receive(&retirement);
    assert_eq!(seen, [1, 0], "PING and PADDING");
    assert_eq!(bench.receive(&retirement), [1, 0], "a repetition");
    let (_, action) = bench.events();
    let Action::Wait(Some(until)) = action else {
        panic!("{action:?}")
    };
    assert_eq!(until, bench.now + super::super::super::retry_interval(RTT));
    assert_eq!(bench.receive(&[1]), [1]);
    bench.now = until;
    bench.events();
    let mut duplicate = BytesMut::from(&[1][..]);
    bench.received -= 1;
    bench.receive_elsewhere(&mut duplicate);
    assert_eq!(duplicate, &[1][..], "quinn may drop it");
    assert_eq!(bench.receive(&[1]), [&retirement[..], &[1]].concat());
    assert_eq!(bench.receive(&[1]), [1], "once");
}

#[test]
fn a_flood_of_retirements_and_those_after_the_migrator_is_gone_reach_quinn() {
    let mut bench = Bench::connected_to(ORIGIN);
    let mut retirements = Vec::new();
    for sequence in 0..10u32 {
        retirements.extend(retire_connection_id(sequence.into()));
    }
    let seen = bench.receive(&retirements);
    assert_eq!(seen[8..], retirements[8..]);
    bench.hook.detach();
    let seen = bench.receive(&[1]);
    assert_eq!(seen, [&retirements[..8], &[1]].concat());
    assert_eq!(bench.receive(&retirements), retirements);
}
