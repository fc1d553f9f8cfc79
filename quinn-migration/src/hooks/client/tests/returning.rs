//! Noticing that the path moved to is silent, and going back.

use super::*;

/// A connection that has moved to path 1, with these further connection IDs.
fn moved(spares: &[u32]) -> (Bench, ConnectionId) {
    let mut bench = Bench::connected_to(ORIGIN);
    for sequence in spares {
        bench.receive(&new_connection_id(*sequence, 0));
    }
    let offered = offer(1, "198.51.100.1:1");
    bench.receive(&frame(&offered));
    let data = bench.challenge();
    bench.receive(&[&[0x1b], &data[..]].concat());
    bench.send_with(&offered.id, vec![1]);
    bench.events();
    (bench, offered.id)
}

/// Sends without an answer until the next challenge leaves; answers with it and the events up to then.
pub(super) fn silent(bench: &mut Bench, id: &ConnectionId) -> (Sent, Vec<Event>) {
    let mut events = Vec::new();
    for _ in 0..100 {
        bench.send_with(id, vec![1]);
        let (more, action) = bench.events();
        events.extend(more);
        if let Action::Send(placeholders) = action {
            // PING, to ask whether a flow has ended.
            if let [ping] = &placeholders[..] {
                bench.send_with(id, datagram(ping));
                continue;
            }
            // quinn begins such packets with IMMEDIATE_ACK.
            let payload = [&[0x1f], &datagrams(first_packet(&placeholders))[..]].concat();
            let mut sent = bench.send_with(id, payload);
            assert_eq!((sent.payload.remove(0), sent.payload[0]), (0, 0x1a));
            return (sent, events);
        }
        bench.now += Duration::from_millis(80);
    }
    panic!("nobody asks the path before")
}

#[test]
fn a_silent_path_is_left_for_the_one_before_once_that_has_answered() {
    let (mut bench, id) = moved(&[2]);
    let (challenge, _) = silent(&mut bench, &id);
    let spare = ConnectionId::new(&[2; 8]);
    assert_eq!(challenge.id, spare.to_vec());
    assert_eq!(challenge.effects.probe_route, Some((spare, PathId::FIRST)));
    assert_eq!(
        bench.send_with(&id, vec![1]).id,
        id.to_vec(),
        "all else stays on the silent path"
    );
    let answer = [&[0x1b], &challenge.payload[1..9]].concat();
    let seen = bench.receive(&answer);
    let adopted = NewConnectionId::decode(&seen[1..seen.len() - answer.len()]).unwrap();
    assert_eq!(
        (adopted.id, adopted.retire_prior_to),
        (spare, VarInt::from_u32(2))
    );
    let sent = bench.send_with(&spare, vec![1]);
    assert_eq!(sent.effects.route, Some((spare, PathId::FIRST)));
    let (events, _) = bench.events();
    assert!(
        matches!(events.last(), Some(Event::FellBack { .. })),
        "{events:?}"
    );
    assert_eq!(bench.hook.server(), Some(ORIGIN.parse().unwrap()));
}

/// The answers of both paths wait in their sockets when a client that was busy reads.
#[test]
fn an_earlier_paths_answer_does_not_count_when_the_path_in_use_has_answered_too() {
    for read in [true, false] {
        let (mut bench, id) = moved(&[2]);
        let (challenge, _) = silent(&mut bench, &id);
        let answer = [&[0x1b], &challenge.payload[1..9]].concat();
        if read {
            bench.receive(&[1]);
            bench.hook.on_traffic(bench.datagrams);
        } else {
            bench.unread = true;
        }
        let mut seen = BytesMut::from(&answer[..]);
        bench.receive_by(Some(PathId::FIRST), &mut seen);
        assert_eq!(seen, &answer[..], "quinn stays");
        bench.unread = false;
        bench.receive(&[1]);
        let (events, action) = bench.events();
        assert!(events.is_empty(), "{events:?}");
        assert!(matches!(action, Action::Wait(_)), "{action:?}");
        assert_eq!(bench.hook.server(), Some("198.51.100.1:1".parse().unwrap()));
    }
}

/// Somebody forges them.
#[test]
fn datagrams_that_cannot_be_opened_do_not_keep_a_client_from_an_earlier_path() {
    let (mut bench, id) = moved(&[2]);
    bench.unread = true;
    let mut answered = 0;
    loop {
        let (challenge, _) = silent(&mut bench, &id);
        let answer = [&[0x1b], &challenge.payload[1..9]].concat();
        bench.datagrams += 1;
        bench.hook.on_traffic(bench.datagrams);
        let mut seen = BytesMut::from(&answer[..]);
        bench.receive_by(Some(PathId::FIRST), &mut seen);
        answered += 1;
        if seen.len() > answer.len() {
            break;
        }
    }
    assert_eq!(answered, 2);
}

/// Somebody on the way has kept one.
#[test]
fn copies_of_a_packet_do_not_keep_a_client_on_a_silent_path() {
    let (mut bench, id) = moved(&[2]);
    let ack = bench.ack();
    bench.receive(&ack);
    bench.events();
    for _ in 0..100 {
        bench.send_with(&id, vec![1]);
        bench.datagrams += 1;
        bench.receive_again(None, &mut BytesMut::from(&ack[..]));
        if let (_, Action::Send(placeholders)) = bench.events() {
            assert!(placeholders.len() > 1, "no challenge");
            return;
        }
        bench.now += Duration::from_millis(80);
    }
    panic!("nobody asks the path before");
}

/// The server may have gone on to send by another path, which is faster than the one in use.
#[test]
fn packets_that_later_ones_have_overtaken_are_signs_of_life() {
    let (mut bench, id) = moved(&[2]);
    bench.received += 100;
    bench.receive_elsewhere(&mut BytesMut::from(&[1][..]));
    bench.received -= 100;
    for _ in 0..50 {
        bench.send_with(&id, vec![1]);
        bench.receive(&[1]);
        let (events, action) = bench.events();
        assert!(
            events.is_empty() && matches!(action, Action::Wait(_)),
            "{events:?} {action:?}"
        );
        bench.now += Duration::from_millis(80);
    }
}

#[test]
fn an_earlier_path_may_answer_any_challenge_of_the_same_silence() {
    let (mut bench, id) = moved(&[2]);
    let (first, _) = silent(&mut bench, &id);
    for _ in 0..5 {
        silent(&mut bench, &id);
    }
    let answer = [&[0x1b], &first.payload[1..9]].concat();
    assert!(bench.receive(&answer).len() > answer.len());
    bench.send_with(&ConnectionId::new(&[2; 8]), vec![1]);
    let (events, _) = bench.events();
    assert!(
        matches!(events.last(), Some(Event::FellBack { .. })),
        "{events:?}"
    );
}

/// When nothing is heard, quinn sends two packets of at most 1200 bytes at once, with PING and IMMEDIATE_ACK first, and
/// repeats the control frames that were not acknowledged in each of them. Each placeholder that does not fill one goes with
/// the next.
#[test]
fn an_earlier_path_is_asked_in_the_packets_that_quinn_sends_when_nothing_is_heard() {
    let max_stream_data = [0x11, 4, 0x80, 1, 0, 0];
    for first in [vec![], vec![0x01], vec![0x1f], vec![0x01, 0x1f]] {
        let sent = ask_with(&first, false);
        let challenge = sent.iter().position(|byte| *byte != 0).unwrap();
        assert_eq!(
            (challenge, sent[challenge]),
            (first.len(), 0x1a),
            "PING and IMMEDIATE_ACK stay here"
        );
    }
    let ids = [new_connection_id(8, 0), new_connection_id(9, 0)].concat();
    for control in [&ids[..ids.len() / 2], &ids, &max_stream_data] {
        let first = [&[0x1f], control].concat();
        let sent = ask_with(&first, false);
        assert!(sent.starts_with(&first), "control frames are not lost");
        assert_eq!(sent[first.len()], 0x1a);
        // Stream data leaves no room for it in the second of the two packets.
        ask_with(&first, true);
    }
}

/// The payload of the challenge, when quinn begins its packets with `first`.
fn ask_with(first: &[u8], stream: bool) -> Vec<u8> {
    let (mut bench, id) = moved(&[2]);
    let mut queue: VecDeque<Bytes> = VecDeque::new();
    // Five timeouts, each twice as long as the one before, are as many as the idle timeout leaves time for.
    for _ in 0..5 {
        bench.send_with(&id, [first, &[0x08, 0]].concat());
        for _ in 0..20 {
            if let (_, Action::Send(placeholders)) = bench.events() {
                queue.extend(placeholders);
                break;
            }
            bench.now += Duration::from_millis(20);
        }
        for nth in 0..2 {
            let mut payload = if stream && nth == 1 {
                vec![]
            } else {
                first.to_vec()
            };
            while let Some(placeholder) = queue.front()
                && 11 + payload.len() + datagram(placeholder).len() + 16 <= 1200
            {
                payload.extend(datagram(placeholder));
                queue.pop_front();
            }
            if stream && nth == 0 && payload.len() < 1200 - 27 {
                payload.push(0x08);
                payload.resize(1200 - 27, 0xff);
            }
            let sent = bench.send_with(&id, payload);
            if sent.effects.force_4_byte_pn {
                assert_eq!(sent.payload.len(), 1200 - 27);
                let stream_data = sent.payload.iter().filter(|byte| **byte == 0xff).count();
                assert!(
                    stream_data <= 8,
                    "more than the challenge may have by chance"
                );
                return sent.payload;
            }
        }
        bench.now += Duration::from_millis(200);
    }
    panic!("nobody asks the path before: {first:?} {stream}");
}

#[test]
fn a_path_that_was_silent_for_a_while_is_not_left() {
    let (mut bench, id) = moved(&[2]);
    silent(&mut bench, &id);
    let ack = bench.ack();
    assert!(bench.receive_for_effects(&ack).wake);
    let (events, action) = bench.events();
    assert!(
        events.is_empty() && matches!(action, Action::Wait(_)),
        "{events:?} {action:?}"
    );
    assert_eq!(bench.hook.server(), Some("198.51.100.1:1".parse().unwrap()));
    // The same connection ID serves the next time.
    assert_eq!(silent(&mut bench, &id).0.id, [2; 8]);
}

/// A server may have gone back by itself, for example because it has removed the address.
#[test]
fn what_comes_on_another_path_does_not_end_a_return() {
    let (mut bench, id) = moved(&[2]);
    let (challenge, _) = silent(&mut bench, &id);
    bench.receive_elsewhere(&mut BytesMut::from(&[0x01][..]));
    let (events, action) = bench.events();
    assert!(
        events.is_empty() && matches!(action, Action::Wait(_)),
        "{events:?} {action:?}"
    );
    let answer = [&[0x1b], &challenge.payload[1..9]].concat();
    bench.receive_elsewhere(&mut BytesMut::from(&answer[..]));
    bench.send_with(&ConnectionId::new(&[2; 8]), vec![1]);
    let (events, _) = bench.events();
    assert!(
        matches!(events.last(), Some(Event::FellBack { .. })),
        "{events:?}"
    );
}

#[test]
fn the_path_before_and_the_first_one_are_asked_in_turns_and_a_long_silence_is_reported_once() {
    let (mut bench, id) = moved(&[2, 3]);
    let second = offer(5, "198.51.100.2:1");
    bench.receive(&frame(&second));
    let (_, action) = bench.events();
    assert!(matches!(action, Action::Open(_)), "{action:?}");
    bench.hook.opened(path(2), bench.now);
    let (_, action) = bench.events();
    let Action::Send(placeholders) = action else {
        panic!("{action:?}")
    };
    let sent = bench.send_with(&id, datagrams(first_packet(&placeholders)));
    bench.receive(&[&[0x1b], &sent.payload[1..9]].concat());
    bench.send_with(&second.id, vec![1]);
    bench.receive(&new_connection_id(6, 0));
    let (mut asked, mut all) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let (challenge, events) = silent(&mut bench, &second.id);
        asked.push(challenge.effects.probe_route.unwrap().1);
        all.extend(events);
    }
    assert_eq!(asked, [path(1), PathId::FIRST].repeat(3));
    let stranded = |event: &&Event| matches!(event, Event::Stranded { .. });
    assert_eq!(all.iter().filter(stranded).count(), 1, "{all:?}");
}

#[test]
fn a_silent_path_without_a_connection_id_to_leave_it_with_is_reported_once() {
    let (mut bench, id) = moved(&[]);
    // A path that has worked for long keeps none for the way back.
    let ack = bench.ack();
    bench.receive(&ack);
    bench.events();
    bench.now += Duration::from_secs(11);
    bench.events();
    let mut events = Vec::new();
    for _ in 0..50 {
        bench.send_with(&id, vec![1]);
        let (more, _) = bench.events();
        events.extend(more);
        bench.now += Duration::from_millis(100);
    }
    let stranded = events
        .iter()
        .filter(|event| matches!(event, Event::Stranded { .. }))
        .count();
    assert_eq!(stranded, 1, "{events:?}");
}

/// The frames that quinn sends when it adopts the connection ID of a path, less those that must not leave yet.
#[test]
fn the_connection_id_of_the_path_before_is_not_given_back_on_a_path_that_may_be_dead() {
    let mut bench = Bench::connected_to(ORIGIN);
    let offered = offer(1, "198.51.100.1:1");
    bench.receive(&frame(&offered));
    let data = bench.challenge();
    bench.receive(&[&[0x1b], &data[..]].concat());
    let retirement = retire_connection_id(VarInt::from_u32(0));
    let sent = bench.send_with(&offered.id, retirement.clone());
    assert_eq!(sent.payload, [0x01, 0], "PING in its place");
    bench.events();
    bench.events();
    // quinn is reminded of it once the path has worked and there is another one to leave it with.
    let fresh = new_connection_id(2, 0);
    assert_eq!(bench.receive(&fresh), fresh);
    let ack = bench.ack();
    assert_eq!(bench.receive(&ack), ack, "the server may ask the old path");
    bench.events();
    bench.now += Duration::from_millis(25);
    bench.events();
    assert!(gives_back(&bench.receive(&[0x01]), 0));
    let sent = bench.send_with(&offered.id, retirement.clone());
    assert_eq!(sent.payload, retirement);
}

/// Whether quinn hears of a connection ID that it has retired, which makes it send RETIRE_CONNECTION_ID again.
fn gives_back(seen: &[u8], sequence: u32) -> bool {
    let told = next_frame(seen, 0, Codepoints::default().frame()).unwrap();
    let told = NewConnectionId::decode(&seen[told.body]).unwrap();
    (told.sequence, told.retire_prior_to) == (sequence.into(), 0u32.into())
}

#[test]
fn a_path_that_dies_before_the_server_issues_a_connection_id_is_left_with_the_one_of_the_path_before()
 {
    let (mut bench, id) = moved(&[]);
    let (challenge, _) = silent(&mut bench, &id);
    assert_eq!(challenge.id, OLD_ID);
    let old = ConnectionId::new(&OLD_ID);
    assert_eq!(challenge.effects.probe_route, Some((old, PathId::FIRST)));
    let answer = [&[0x1b], &challenge.payload[1..9]].concat();
    assert_eq!(bench.receive(&answer), answer, "nothing for quinn to adopt");
    let (events, _) = bench.events();
    assert!(
        matches!(events.last(), Some(Event::FellBack { .. })),
        "{events:?}"
    );
    assert_eq!(bench.hook.server(), Some(ORIGIN.parse().unwrap()));
    // quinn goes on with the connection ID of the dead path.
    let sent = bench.send_with(&id, vec![1]);
    assert_eq!(sent.id, OLD_ID);
    assert!(sent.effects.route.is_none() && sent.effects.probe_route.is_none());
    // Until there is a fresh one.
    let fresh = new_connection_id(2, 0);
    let seen = bench.receive(&fresh);
    let adopted = NewConnectionId::decode(&seen[1..seen.len() - fresh.len()]).unwrap();
    assert_eq!(adopted.retire_prior_to, VarInt::from_u32(2));
    let spare = ConnectionId::new(&[2; 8]);
    let sent = bench.send_with(&spare, vec![1]);
    assert_eq!(
        (&sent.id[..], sent.effects.route),
        (&spare[..], Some((spare, PathId::FIRST)))
    );
    assert!(bench.events().0.is_empty());
    assert!(gives_back(&bench.receive(&[0x01]), 0));
}

/// RFC 9000 section 9.5.
#[test]
fn two_earlier_paths_are_not_asked_with_the_same_connection_id() {
    for spares in [vec![6, 7], vec![6], vec![]] {
        let (mut bench, id) = moved(&[]);
        let second = offer(5, "198.51.100.2:1");
        bench.receive(&frame(&second));
        bench.events();
        bench.hook.opened(path(2), bench.now);
        let (_, action) = bench.events();
        let Action::Send(placeholders) = action else {
            panic!("{action:?}")
        };
        let sent = bench.send_with(&id, datagrams(first_packet(&placeholders)));
        bench.receive(&[&[0x1b], &sent.payload[1..9]].concat());
        bench.send_with(&second.id, vec![1]);
        for sequence in &spares {
            bench.receive(&new_connection_id(*sequence, 0));
        }
        let mut asked: Vec<(Vec<u8>, PathId)> = Vec::new();
        for _ in 0..6 {
            let (challenge, _) = silent(&mut bench, &second.id);
            let route = challenge.effects.probe_route.unwrap();
            assert_eq!(route.0.to_vec(), challenge.id);
            asked.push((challenge.id, route.1));
        }
        for (id, to) in &asked {
            assert!(
                asked.iter().all(|(other, at)| other != id || at == to),
                "{asked:?}"
            );
        }
    }
}

#[test]
fn a_second_move_gives_back_what_the_first_one_kept() {
    let (mut bench, id) = moved(&[]);
    let second = offer(5, "198.51.100.2:1");
    bench.receive(&frame(&second));
    bench.events();
    bench.hook.opened(path(2), bench.now);
    let (_, action) = bench.events();
    let Action::Send(placeholders) = action else {
        panic!("{action:?}")
    };
    let sent = bench.send_with(&id, datagrams(first_packet(&placeholders)));
    bench.receive(&[&[0x1b], &sent.payload[1..9]].concat());
    bench.send_with(&second.id, vec![1]);
    assert!(gives_back(&bench.receive(&[0x01]), 0));
}

#[test]
fn a_connection_id_that_waits_to_be_given_back_is_no_spare() {
    let (mut bench, id) = moved(&[]);
    let ack = bench.ack();
    bench.receive(&ack);
    bench.events();
    bench.now += Duration::from_secs(11);
    // Given back, but no packet has come to tell quinn with.
    bench.events();
    for _ in 0..50 {
        bench.send_with(&id, vec![1]);
        let (_, action) = bench.events();
        if let Action::Send(placeholders) = action {
            assert_eq!(placeholders.len(), 1, "an earlier path is asked with it");
        }
        bench.now += Duration::from_millis(100);
    }
}

/// Sends without an answer until packets go to the earlier path although it could not be asked: what stands before the
/// challenge in quinn's queue may be too large for a packet on a silent path.
fn on_trial(bench: &mut Bench, id: &ConnectionId) -> (Sent, Vec<Event>) {
    let mut events = Vec::new();
    for _ in 0..100 {
        let sent = bench.send_with(id, vec![1]);
        if sent.id != id.to_vec() {
            return (sent, events);
        }
        events.extend(bench.events().0);
        bench.now += Duration::from_millis(80);
    }
    panic!("the connection stays on the silent path")
}

#[test]
fn a_client_whose_challenge_does_not_leave_goes_back_without_it() {
    for spares in [&[][..], &[2, 3]] {
        let (mut bench, id) = moved(spares);
        let (sent, events) = on_trial(&mut bench, &id);
        assert!(events.is_empty(), "nothing has answered: {events:?}");
        let spare = spares
            .first()
            .map(|sequence| [u8::try_from(*sequence).unwrap(); 8]);
        assert_eq!(sent.id, spare.map_or(OLD_ID.to_vec(), |id| id.to_vec()));
        let route = spare.map(|id| (ConnectionId::new(&id), PathId::FIRST));
        assert_eq!(
            sent.effects.route, route,
            "that of the path before is known"
        );
        assert_eq!(bench.send_with(&id, vec![1]).effects.route, None, "once");
        assert_eq!(bench.hook.server(), Some("198.51.100.1:1".parse().unwrap()));
        bench.events();
        assert_eq!(bench.receive(&[1]), [1]);
        let (events, _) = bench.events();
        assert!(
            matches!(events[..], [Event::FellBack { .. }]),
            "{spares:?}: {events:?}"
        );
        assert_eq!(bench.hook.server(), Some(ORIGIN.parse().unwrap()));
        // quinn goes over to it when it hears something.
        let Some(spare) = spare else { continue };
        let seen = bench.receive(&[1]);
        // Behind the one of the first path, which is given back.
        let [.., given_back, adopted] = seen[..seen.len() - 1].chunks(28).collect::<Vec<_>>()[..]
        else {
            panic!("{seen:?}")
        };
        let [given_back, adopted] =
            [given_back, adopted].map(|frame| NewConnectionId::decode(&frame[1..]).unwrap());
        assert_eq!(given_back.id, ConnectionId::new(&OLD_ID));
        assert_eq!(adopted.id, ConnectionId::new(&spare));
        assert_eq!(adopted.retire_prior_to, adopted.sequence);
        let sent = bench.send_with(&adopted.id, vec![1]);
        assert_eq!(sent.id, spare.to_vec());
        assert_eq!(bench.receive(&[1]), [1], "it is not given back");
    }
}

/// quinn's timeouts are further and further apart: that a challenge has not left says nothing while nothing else has.
#[test]
fn a_client_that_sends_nothing_does_not_go_back_unasked() {
    let (mut bench, id) = moved(&[2, 3]);
    let mut asked = 0;
    for _ in 0..200 {
        if asked == 0 {
            bench.send_with(&id, vec![1]);
        }
        if let (_, Action::Send(_)) = bench.events() {
            asked += 1;
        }
        bench.now += Duration::from_millis(80);
    }
    assert!(asked > 2, "the challenge waited long enough to be repeated");
    assert_eq!(bench.send_with(&id, vec![1]).id, id.to_vec());
}

/// The server may have left the earlier address, and the silence be over soon.
#[test]
fn a_client_that_went_back_unasked_returns_when_that_path_is_silent_too() {
    for spares in [&[][..], &[2, 3]] {
        let (mut bench, id) = moved(spares);
        for _ in 0..3 {
            on_trial(&mut bench, &id);
            let mut sent = bench.send_with(&id, vec![1]);
            while sent.id != id.to_vec() {
                bench.events();
                bench.now += Duration::from_millis(80);
                sent = bench.send_with(&id, vec![1]);
            }
            assert_eq!(sent.effects.route, None, "quinn's own way is known");
        }
        let ack = bench.ack();
        assert_eq!(bench.receive(&ack), ack, "the path in use is alive");
        let (events, action) = bench.events();
        assert!(
            matches!(events[..], [Event::Stranded { .. }] | []),
            "{events:?}"
        );
        assert!(matches!(action, Action::Wait(_)), "{action:?}");
        assert_eq!(bench.send_with(&id, vec![1]).id, id.to_vec());
    }
}

#[test]
fn a_packet_by_the_path_in_use_ends_a_trial_of_another_one() {
    let (mut bench, id) = moved(&[2, 3]);
    on_trial(&mut bench, &id);
    bench.events();
    bench.receive_again(Some(path(1)), &mut BytesMut::from(&[1][..]));
    let on = bench.hook.active_path();
    assert_eq!(on, Some(PathId::FIRST), "a copy does not");
    bench.receive_by(Some(path(1)), &mut BytesMut::from(&[1][..]));
    assert_eq!(bench.send_with(&id, vec![1]).id, id.to_vec());
    assert_eq!(bench.hook.active_path(), Some(path(1)));
    assert!(bench.events().0.is_empty());
}

#[test]
fn an_answer_to_a_challenge_of_an_earlier_silence_does_not_count() {
    let (mut bench, id) = moved(&[2, 3]);
    let (challenge, _) = silent(&mut bench, &id);
    on_trial(&mut bench, &id);
    bench.events();
    bench.datagrams += 1;
    bench.receive_by(Some(path(1)), &mut BytesMut::from(&[1][..]));
    let (events, _) = bench.events();
    assert!(events.is_empty(), "{events:?}");
    silent(&mut bench, &id);
    let late = [&[0x1b], &challenge.payload[1..9]].concat();
    let mut seen = BytesMut::from(&late[..]);
    bench.receive_by(Some(PathId::FIRST), &mut seen);
    assert_eq!(seen, &late[..], "quinn stays");
}
