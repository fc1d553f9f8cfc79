//! Connection IDs that the client gives back.

use super::*;

/// A client that gives back every connection ID it is told to move with.
fn that_stays() -> Bench {
    let policy = Policy {
        moves: 0,
        ..Policy::default()
    };
    let mut bench = Bench::attached(policy, ORIGIN);
    bench.send(vec![1]);
    bench.receive(&[0x1e]);
    bench
}

/// A server that never heard of it would have no connection ID left to advertise with.
#[test]
fn a_connection_id_is_given_back_however_long_the_path_is_silent() {
    let mut bench = that_stays();
    bench.receive(&frame(&offer(1, "192.0.2.2:443")));
    let retirement = retire_connection_id(VarInt::from_u32(1));
    let end = bench.now + Duration::from_secs(300);
    let mut packets = 0;
    while bench.now < end {
        match bench.events().1 {
            Action::Send(placeholders) => {
                let sent = bench.send(datagrams(&placeholders));
                assert!(sent.payload.starts_with(&retirement));
                packets += 1;
            }
            Action::Wait(Some(until)) => bench.now = until,
            other => panic!("{other:?}"),
        }
    }
    // The waits grow, so that a dead path is not asked often.
    assert!((10..100).contains(&packets), "{packets}");
    bench.receive(&bench.ack());
    assert!(matches!(bench.events().1, Action::Wait(None)));
}

#[test]
fn what_quinn_lets_nothing_out_for_is_queued_on() {
    let mut bench = that_stays();
    for sequence in [1, 2] {
        bench.receive(&frame(&offer(sequence, "192.0.2.2:443")));
        bench.events();
    }
    // Past the attempts that one has.
    bench.queued(SIZES, 50);
    let mut given_back = Vec::new();
    while given_back.len() < 2 {
        match bench.events().1 {
            Action::Send(placeholders) => {
                let sent = bench.send(datagrams(&placeholders));
                given_back.push(sent.payload[1]);
                bench.receive(&bench.ack());
            }
            Action::Wait(Some(until)) => bench.now = until,
            other => panic!("{other:?}"),
        }
    }
    given_back.sort_unstable();
    assert_eq!(given_back, [1, 2]);
}
