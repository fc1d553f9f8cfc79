//! Validation and switch.

use super::*;

#[test]
fn nothing_is_validated_before_the_handshake_is_confirmed() {
    let mut bench = Bench::unconfirmed();
    bench.send(vec![1]);
    bench.receive(&frame(&offer(1, "198.51.100.1:1")));
    assert!(matches!(bench.events(), (_, Action::Wait(None))));
    bench.receive(&[0x1e]);
    assert!(matches!(bench.events(), (_, Action::Open(_))));
}

#[test]
fn a_probe_is_a_large_packet_with_a_challenge_and_the_advertised_connection_id() {
    let mut bench = Bench::connected_to(ORIGIN);
    let offered = offer(1, "198.51.100.1:1");
    bench.receive(&frame(&offered));
    bench.events();
    bench.hook.opened(path(1), bench.now);
    let (_, action) = bench.events();
    let Action::Send(placeholders) = action else {
        panic!("{action:?}")
    };
    let full = datagrams(first_packet(&placeholders));
    // With another frame beside it, and when it is small, it stays an ordinary packet on the old path.
    let left = datagrams(&placeholders[first_packet(&placeholders).len()..]);
    for payload in [[&[0x10, 5][..], &full].concat(), left] {
        let sent = bench.send(payload);
        assert_eq!(sent.id, OLD_ID);
        assert!(!sent.payload.contains(&0x1a) && sent.payload.contains(&0x01));
        assert!(!sent.effects.force_4_byte_pn);
    }
    assert!(
        matches!(bench.poll(), Action::Send(_)),
        "all came by: again"
    );
    let sent = bench.send(full);
    assert_eq!(sent.id, offered.id.to_vec());
    assert_eq!(sent.payload[0], 0x1a);
    assert!(sent.payload[9..].iter().all(|byte| *byte == 0));
    assert_eq!(sent.effects.probe_route, Some((offered.id, path(1))));
    assert!(sent.effects.force_4_byte_pn);
}

/// quinn sends what is pending with the first placeholder; the others make the next packet.
#[test]
fn a_probe_fills_its_packet_to_the_last_byte_with_its_first_placeholders_or_its_last() {
    for mtu in [1200, 1201, 1263, 1264, 1452, 9000] {
        for last in [false, true] {
            let mut bench = Bench::connected_to(ORIGIN);
            bench.receive(&frame(&offer(1, "198.51.100.1:1")));
            bench.events();
            bench.hook.opened(path(1), bench.now);
            let sizes = Sizes {
                crowded: false,
                mtu,
                datagram: mtu - 38,
            };
            let begun = bench.hook.poll(bench.now, RTT, sizes);
            assert!(matches!(begun, Action::Report(Event::Validating { .. })));
            let Action::Send(placeholders) = bench.hook.poll(bench.now, RTT, sizes) else {
                panic!("not sent")
            };
            let header = [&[0x41], &OLD_ID[..], &[0, 7]].concat();
            let mut payload = datagrams(first_packet(&placeholders));
            assert_eq!(header.len() + payload.len() + 16, mtu);
            if last {
                let next = next_packet(&placeholders);
                let early = datagrams(&placeholders[..placeholders.len() - next.len()]);
                bench.send([&[0x10, 5], &early[..]].concat());
                payload = datagrams(next);
            }
            assert_eq!(bench.send(payload).payload[0], 0x1a);
        }
    }
}

#[test]
fn the_answer_to_a_challenge_makes_quinn_adopt_the_connection_id_and_moves_the_path() {
    let mut bench = Bench::connected_to(ORIGIN);
    let offered = offer(1, "198.51.100.1:1");
    bench.receive(&frame(&offered));
    let data = bench.challenge();
    assert_eq!(
        bench.receive(&[&[0x1b], &[0; 8][..]].concat()).len(),
        9,
        "a wrong answer counts"
    );
    let answer = [&[0x1b], &data[..]].concat();
    let seen = bench.receive(&answer);
    let adopted = NewConnectionId::decode(&seen[1..seen.len() - answer.len()]).unwrap();
    assert_eq!(
        (adopted.sequence, adopted.retire_prior_to),
        (1u32.into(), 1u32.into())
    );
    assert_eq!((adopted.id, &adopted.token), (offered.id, &offered.token));
    assert!(seen.ends_with(&answer));
    assert_eq!(
        bench.send(vec![1]).effects.route,
        None,
        "the old connection ID stays on the old path"
    );
    let moved = bench.send_with(&offered.id, vec![1]);
    assert_eq!(moved.effects.route, Some((offered.id, path(1))));
    let (events, _) = bench.events();
    assert!(
        matches!(events.last(), Some(Event::Migrated { challenges: 1, .. })),
        "{events:?}"
    );
    assert_eq!(bench.hook.server(), Some("198.51.100.1:1".parse().unwrap()));
}

#[test]
fn an_advertisement_that_the_server_retires_during_validation_is_withdrawn() {
    let mut bench = Bench::connected_to(ORIGIN);
    bench.receive(&frame(&offer(1, "198.51.100.1:1")));
    bench.challenge();
    bench.receive(&new_connection_id(6, 5));
    let (events, _) = bench.events();
    assert!(
        matches!(
            events.last(),
            Some(Event::Failed {
                reason: Failure::Withdrawn,
                ..
            })
        ),
        "{events:?}"
    );
}

/// quinn goes on to the lowest connection ID that it knows, and it does not know the advertised one.
#[test]
fn an_advertised_connection_id_that_quinn_passes_over_during_validation_is_given_up() {
    for answered in [false, true] {
        let mut bench = Bench::connected_to(ORIGIN);
        bench.receive(&new_connection_id(2, 0));
        bench.receive(&frame(&offer(1, "198.51.100.1:1")));
        let data = bench.challenge();
        bench.events();
        if answered {
            bench.receive(&[&[0x1b], &data[..]].concat());
        }
        // Asks for no more than the retirement of number 0.
        bench.receive(&new_connection_id(3, 1));
        let sent = bench.send_with(&[2; 8], vec![1]);
        assert!(sent.effects.wake, "nobody looks");
        let (events, _) = bench.events();
        let withdrawn = Event::Failed {
            sequence: 1u32.into(),
            target: "198.51.100.1:1".parse().unwrap(),
            reason: Failure::Withdrawn,
        };
        assert_eq!(
            format!("{:?}", events.last()),
            format!("{:?}", Some(withdrawn))
        );
        assert_eq!(bench.hook.server(), Some(ORIGIN.parse().unwrap()));
        // The next one works.
        bench.receive(&frame(&offer(4, "198.51.100.1:1")));
        assert!(matches!(bench.events().1, Action::Open(_)));
    }
}

#[test]
fn an_advertised_connection_id_that_quinn_has_passed_over_is_refused() {
    let mut bench = Bench::connected_to(ORIGIN);
    bench.receive(&new_connection_id(2, 0));
    bench.receive(&new_connection_id(3, 1));
    bench.send_with(&[2; 8], vec![1]);
    bench.receive(&frame(&offer(1, "198.51.100.1:1")));
    let (events, _) = bench.events();
    assert_eq!(refusals(&events), [Refusal::Superseded]);
}

#[test]
fn a_retirement_during_the_change_of_path_wakes_the_task() {
    let mut bench = Bench::connected_to(ORIGIN);
    bench.receive(&frame(&offer(1, "198.51.100.1:1")));
    let data = bench.challenge();
    bench.receive(&[&[0x1b], &data[..]].concat());
    bench.events();
    assert!(bench.receive_for_effects(&new_connection_id(6, 5)).wake);
}

#[test]
fn connection_ids_beyond_quinns_window_wait_until_there_is_room() {
    let mut bench = Bench::connected_to(ORIGIN);
    for sequence in 2..=4 {
        bench.receive(&new_connection_id(sequence, 0));
    }
    // The server replaces an advertised connection ID that was given back: 5, with 0 still in use.
    let early = bench.receive(&new_connection_id(5, 0));
    assert!(early[0] == 1 && early[1..].iter().all(|byte| *byte == 0));
    assert_eq!(
        bench.receive(&new_connection_id(5, 0)),
        early,
        "a retransmission gets through"
    );
    bench.send_with(&[2; 8], vec![1]);
    let later = bench.receive(&[0x01]);
    assert_eq!(later, [&new_connection_id(5, 0)[..], &[0x01]].concat());
}

#[test]
fn retirements_that_a_held_connection_id_asks_for_reach_quinn() {
    for known in [true, false] {
        let mut bench = Bench::connected_to(ORIGIN);
        if known {
            bench.receive(&new_connection_id(4, 0));
        }
        let asking = new_connection_id(9, 3);
        assert_eq!(bench.receive(&asking)[0], 1, "beyond quinn's window");
        let seen = bench.receive(&[0x01]);
        let told = NewConnectionId::decode(&seen[1..seen.len() - 1]).unwrap();
        let (sequence, retire_prior_to) = if known { (4u32, 3) } else { (9, 9) };
        assert_eq!(
            (told.sequence, told.retire_prior_to),
            (sequence.into(), VarInt::from_u32(retire_prior_to))
        );
    }
}

#[test]
fn nothing_is_put_into_a_packet_that_may_be_a_duplicate() {
    let mut bench = Bench::connected_to(ORIGIN);
    bench.receive(&new_connection_id(9, 3));
    bench.received -= 1;
    assert_eq!(bench.receive(&[0x01]), [0x01]);
    assert_ne!(bench.receive(&[0x01]), [0x01]);
}

#[test]
fn an_advertised_connection_id_that_the_server_retires_is_shown_to_quinn_so_that_quinn_retires_it()
{
    let mut bench = Bench::connected_to(ORIGIN);
    let offered = offer(1, "198.51.100.1:1");
    bench.receive(&frame(&offered));
    let rotation = new_connection_id(6, 5);
    assert_eq!(bench.receive(&rotation), rotation);
    let seen = bench.receive(&[0x01]);
    let shown = NewConnectionId::decode(&seen[1..seen.len() - 1]).unwrap();
    assert_eq!(
        (shown.sequence, shown.id, shown.retire_prior_to),
        (1u32.into(), offered.id, 0u32.into())
    );
    assert_eq!(bench.receive(&[0x01]), [0x01]);
}

#[test]
fn an_advertisement_before_the_first_packet_of_this_side_is_followed() {
    let mut bench = Bench::unconfirmed();
    bench.receive(&[&frame(&offer(1, "198.51.100.1:1"))[..], &[0x1e]].concat());
    let (events, action) = bench.events();
    assert_eq!(refusals(&events), []);
    assert!(matches!(action, Action::Open(_)), "{action:?}");
}

#[test]
fn an_answer_that_arrives_out_of_order_counts_at_once() {
    let mut bench = Bench::connected_to(ORIGIN);
    bench.receive(&frame(&offer(1, "198.51.100.1:1")));
    let data = bench.challenge();
    bench.receive(&[0x01]);
    bench.received -= 2;
    let answer = [&[0x1b], &data[..]].concat();
    assert!(
        bench.receive(&answer).len() > answer.len(),
        "quinn is not told to move"
    );
}

/// An application that fills quinn's datagram buffer pushes some of them out; on a silent path they only wait.
#[test]
fn a_challenge_that_does_not_leave_is_queued_more_often_where_it_may_be_pushed_out() {
    for (crowded, expected) in [(false, [5, 5, 5, 5, 5]), (true, [3, 6, 9, 12, 12])] {
        let mut bench = Bench::connected_to(ORIGIN);
        bench.receive(&frame(&offer(1, "198.51.100.1:1")));
        bench.events();
        bench.hook.opened(path(1), bench.now);
        let sizes = Sizes { crowded, ..SIZES };
        assert_eq!(bench.queued(sizes, 5), expected);
    }
}
