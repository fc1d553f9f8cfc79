//! What a malicious or broken server can try.

use super::*;

#[test]
fn an_advertisement_is_taken_out_and_the_frames_around_it_stay() {
    let mut bench = Bench::connected_to(ORIGIN);
    let extension = frame(&offer(1, "198.51.100.1:443"));
    let seen = bench.receive(&[&[0x10, 5], &extension[..], &[0x0c, 1, 2, 7, 7]].concat());
    let replaced = [
        &[0x10, 5, 0x01],
        &vec![0; extension.len() - 1][..],
        &[0x0c, 1, 2, 7, 7],
    ]
    .concat();
    assert_eq!(seen, replaced);
    assert!(
        matches!(bench.events(), (_, Action::Open(target)) if target == "198.51.100.1:443".parse().unwrap())
    );
}

#[test]
fn from_a_global_address_no_local_service_is_contacted() {
    let targets = [
        ("127.0.0.1:22", AddressClass::Loopback),
        ("10.0.0.1:80", AddressClass::Private),
        ("192.168.1.1:80", AddressClass::Private),
        ("169.254.169.254:80", AddressClass::Never),
        ("224.0.0.251:5353", AddressClass::Never),
    ];
    let mut bench = Bench::connected_to(ORIGIN);
    for (sequence, (target, class)) in (1..).zip(targets) {
        bench.receive(&frame(&offer(sequence, target)));
        let (events, _) = bench.events();
        let expected = Refusal::TargetClass {
            current: AddressClass::Global,
            target: class,
        };
        assert_eq!(refusals(&events), [expected], "{target}");
    }
}

#[test]
fn a_refused_connection_id_is_given_back_until_acknowledged() {
    let mut bench = Bench::connected_to(ORIGIN);
    bench.receive(&frame(&offer(3, "127.0.0.1:22")));
    let (_, action) = bench.events();
    let Action::Send(placeholders) = action else {
        panic!("{action:?}")
    };
    let sent = bench.send(datagrams(&placeholders));
    assert!(sent.payload.starts_with(&retire_connection_id(3u32.into())));
    assert!(
        sent.payload[2..].iter().all(|byte| *byte == 0),
        "the placeholder's marker is on the wire"
    );
    let (_, action) = bench.events();
    let Action::Wait(Some(until)) = action else {
        panic!("{action:?}")
    };
    bench.now = until;
    let Action::Send(again) = bench.poll() else {
        panic!("not sent again")
    };
    bench.send(datagrams(&again));
    let number = u8::try_from(bench.number).unwrap();
    bench.receive(&[0x02, number, 0, 0, 0]);
    assert!(matches!(bench.events(), (_, Action::Wait(None))));
}

#[test]
fn a_flood_of_advertisements_is_bounded_in_events_memory_and_answers() {
    let mut bench = Bench::connected_to(ORIGIN);
    for sequence in 1..1000 {
        bench.receive(&frame(&offer(sequence, "127.0.0.1:22")));
    }
    let mut placeholders = 0;
    let mut events = Vec::new();
    loop {
        match bench.poll() {
            Action::Report(event) => events.push(event),
            Action::Send(placeholder) => {
                placeholders += 1;
                bench.send(datagrams(&placeholder));
                let number = VarInt::from_u64(bench.number).unwrap();
                let mut ack = vec![0x02];
                crate::wire::put_varint(&mut ack, number);
                bench.receive(&[&ack[..], &[0, 0, 0]].concat());
            }
            Action::Wait(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(events.len() <= EVENT_LIMIT + 2, "{} events", events.len());
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Missed(missed) if *missed > 1000))
    );
    assert!(placeholders <= 8, "{placeholders} answers");
}

#[test]
fn a_sequence_number_or_a_connection_id_used_twice_is_refused_and_not_given_back() {
    let mut bench = Bench::connected_to(ORIGIN);
    bench.receive(&new_connection_id(2, 0));
    let taken = AlternateAddress {
        id: ConnectionId::new(&[2; 8]),
        ..offer(7, "198.51.100.1:1")
    };
    let in_use = AlternateAddress {
        id: ConnectionId::new(&OLD_ID),
        ..offer(8, "198.51.100.1:1")
    };
    for reused in [taken, in_use, offer(2, "198.51.100.1:1")] {
        bench.receive(&frame(&reused));
        let (events, action) = bench.events();
        assert_eq!(refusals(&events), [Refusal::Reused]);
        assert!(matches!(action, Action::Wait(None)), "{action:?}");
    }
    bench.receive(&frame(&offer(9, "198.51.100.1:1")));
    bench.events();
    bench.receive(&frame(&offer(9, "198.51.100.2:1")));
    assert_eq!(refusals(&bench.events().0), [Refusal::Reused]);
}

/// quinn would take it for the connection ID that it has, and the next one for a fresh one.
#[test]
fn the_number_of_the_handshakes_connection_id_is_refused() {
    let mut bench = Bench::connected_to(ORIGIN);
    bench.receive(&frame(&offer(0, "198.51.100.1:1")));
    let (events, action) = bench.events();
    assert_eq!(refusals(&events), [Refusal::Reused]);
    assert!(matches!(action, Action::Wait(None)), "{action:?}");
}

#[test]
fn a_retransmission_is_silent() {
    let mut bench = Bench::connected_to(ORIGIN);
    let extension = frame(&offer(1, "127.0.0.1:22"));
    bench.receive(&extension);
    assert_eq!(bench.events().0.len(), 2);
    bench.receive(&extension);
    assert_eq!(bench.events().0.len(), 0);
}

#[test]
fn connection_ids_of_a_wrong_length_are_refused_and_the_packet_stays_readable() {
    let mut bench = Bench::connected_to(ORIGIN);
    let short = AlternateAddress {
        id: ConnectionId::new(&[1; 4]),
        ..offer(1, "198.51.100.1:1")
    };
    bench.receive(&frame(&short));
    assert_eq!(
        refusals(&bench.events().0),
        [Refusal::ConnectionIdLength {
            current: 8,
            offered: 4
        }]
    );
    for length in [0u8, 21] {
        let mut malformed = vec![0x80, 0x5a, 0xa0, 0x0a, 9];
        malformed.extend_from_slice(&[1; 24]);
        malformed.push(length);
        malformed.extend(std::iter::repeat_n(1, usize::from(length) + 16));
        let seen = bench.receive(&malformed);
        assert!(seen[0] == 1 && seen[1..].iter().all(|byte| *byte == 0));
        let expected = Refusal::ConnectionIdLength {
            current: 8,
            offered: length.into(),
        };
        assert_eq!(refusals(&bench.events().0), [expected]);
    }
}

#[test]
fn a_frame_that_is_cut_short_is_reported_and_left_to_quinn() {
    let mut bench = Bench::connected_to(ORIGIN);
    let extension = frame(&offer(1, "198.51.100.1:1"));
    let cut = &extension[..extension.len() - 1];
    assert_eq!(bench.receive(cut), cut);
    assert_eq!(refusals(&bench.events().0), [Refusal::Malformed]);
}

/// Packets that others have overtaken bring quinn no frames of the hook's, so what is held for it stays.
#[test]
fn retirements_in_packets_with_falling_numbers_take_up_no_memory() {
    for rising in [false, true] {
        let mut bench = Bench::connected_to(ORIGIN);
        bench.receive(&numbered(1, 0));
        bench.received = 1_000_000;
        bench.receive(&[1]);
        for step in 1..2000 {
            bench.received = 900_000 - u64::from(step);
            let floor = if rising {
                bench.receive(&numbered(step + 1, step));
                step + 1
            } else {
                1
            };
            bench.receive(&numbered(100_000, floor));
        }
        bench.received = 2_000_000;
        let length = bench.receive(&[1]).len();
        assert!(length <= 1200, "{rising}: {length} bytes for quinn");
    }
}

/// A NEW_CONNECTION_ID frame with any sequence number.
fn numbered(sequence: u32, retire_prior_to: u32) -> Vec<u8> {
    let mut out = Vec::new();
    NewConnectionId {
        sequence: sequence.into(),
        retire_prior_to: retire_prior_to.into(),
        id: ConnectionId::new(&u64::from(sequence).to_be_bytes()),
        token: ResetToken::new([9; 16]),
    }
    .encode(&mut out);
    out
}
