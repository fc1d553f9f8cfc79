//! The server's own challenges (fault 14; RFC 9000 section 8.2.2): quinn would answer all of them on the path in use.

use super::*;

const DATA: [u8; 8] = [7; 8];

fn asked() -> Vec<u8> {
    [&[0x1a], &DATA[..]].concat()
}

/// What quinn sees of a challenge that came by another path.
fn nothing() -> Vec<u8> {
    [&[0x01], &[0; 8][..]].concat()
}

impl Bench {
    fn receive_on(&mut self, number: u32, frames: &[u8]) -> (Vec<u8>, bool) {
        let mut payload = BytesMut::from(frames);
        let effects = self.receive_by(Some(path(number)), &mut payload);
        (payload.to_vec(), effects.wake)
    }

    /// The datagram that leaves for the placeholders that the hook queues next.
    fn next_datagram(&mut self, used: &[u8]) -> Sent {
        let (_, action) = self.events();
        let Action::Send(placeholders) = action else {
            panic!("{action:?}")
        };
        self.send_with(used, datagrams(first_packet(&placeholders)))
    }
}

#[track_caller]
fn assert_answer(sent: &Sent, id: &[u8], on: u32) {
    assert_eq!(sent.payload[..9], [&[0x1b], &DATA[..]].concat());
    assert!(sent.payload[9..].iter().all(|byte| *byte == 0));
    assert!(sent.payload.len() + 11 + 16 >= 1200, "too small");
    assert_eq!(sent.id, id);
    let route = (ConnectionId::new(id), path(on));
    assert_eq!(sent.effects.probe_route, Some(route));
    assert!(sent.effects.force_4_byte_pn);
}

#[test]
fn a_challenge_in_a_datagram_of_its_own_is_answered_on_the_path_under_validation() {
    let mut bench = Bench::connected_to(ORIGIN);
    let offered = offer(1, "198.51.100.1:1");
    bench.receive(&frame(&offered));
    bench.challenge();
    let (seen, wake) = bench.receive_on(1, &asked());
    assert!(wake && seen == nothing());
    let sent = bench.next_datagram(&OLD_ID);
    assert_answer(&sent, &offered.id, 1);
    let (_, action) = bench.events();
    assert!(matches!(action, Action::Wait(_)), "once: {action:?}");
}

/// quinn fills up what has room.
#[test]
fn a_busy_clients_answer_leaves_in_a_full_datagram_when_the_path_in_use_is_alive() {
    for control in [vec![], vec![0x10, 1]] {
        let mut bench = Bench::connected_to(ORIGIN);
        let offered = offer(1, "198.51.100.1:1");
        bench.receive(&frame(&offered));
        bench.challenge();
        bench.receive_on(1, &asked());
        let (_, action) = bench.events();
        let Action::Send(placeholders) = action else {
            panic!("{action:?}")
        };
        let stream = [&[0x08, 0], &[5; 100][..]].concat();
        let sent = bench.send([control.clone(), datagrams(&placeholders), stream].concat());
        assert_eq!(
            (&sent.id[..], sent.effects.probe_route),
            (&OLD_ID[..], None)
        );
        assert!(sent.payload.ends_with(&[5; 100]));
        let (_, action) = bench.events();
        assert!(
            matches!(action, Action::Wait(_)),
            "is the path alive? {action:?}"
        );
        bench.receive(&[1]);
        let sent = bench.next_datagram(&OLD_ID);
        assert_answer(&sent, &offered.id, 1);
        assert_eq!(sent.payload.len() + 11 + 16, SIZES.mtu);
    }
}

/// quinn lets little out on a silent path.
#[test]
fn an_answer_does_not_stand_in_the_way_back() {
    let mut bench = Bench::connected_to(ORIGIN);
    let offered = offer(1, "198.51.100.1:1");
    bench.receive(&frame(&offered));
    let answer = [&[0x1b], &bench.challenge()[..]].concat();
    bench.receive_on(1, &answer);
    bench.send_with(&offered.id, vec![1]);
    bench.events();
    bench.receive(&new_connection_id(2, 0));
    bench.receive_on(0, &asked());
    let (_, action) = bench.events();
    let Action::Send(placeholders) = action else {
        panic!("{action:?}")
    };
    let stream = [&[0x08, 0], &[5; 100][..]].concat();
    bench.send_with(&offered.id, [datagrams(&placeholders), stream].concat());
    for _ in 0..20 {
        bench.now += Duration::from_millis(80);
        bench.send_with(&offered.id, vec![1]);
        if let (_, Action::Send(placeholders)) = bench.events() {
            // quinn begins such packets with IMMEDIATE_ACK.
            let payload = [&[0x1f], &datagrams(first_packet(&placeholders))[..]].concat();
            let sent = bench.send_with(&offered.id, payload);
            assert_eq!(sent.payload[1], 0x1a, "a challenge to the path before");
            assert!(placeholders.iter().all(|one| one.len() < 1200));
            return;
        }
    }
    panic!("nobody asks the path before");
}

/// The answer needs it.
#[test]
fn a_connection_id_is_not_given_back_before_the_answer_with_it_has_left() {
    let mut bench = Bench::connected_to(ORIGIN);
    let offered = offer(1, "198.51.100.1:1");
    bench.receive(&frame(&offered));
    let answer = [&[0x1b], &bench.challenge()[..]].concat();
    bench.receive_on(1, &answer);
    bench.send_with(&offered.id, vec![1]);
    bench.receive(&bench.ack());
    bench.receive(&[new_connection_id(2, 0), new_connection_id(3, 0)].concat());
    bench.events();
    bench.receive_on(0, &asked());
    let (_, action) = bench.events();
    let Action::Send(placeholders) = action else {
        panic!("{action:?}")
    };
    bench.now += RTT * 4;
    bench.events();
    let given_back = |seen: Vec<u8>| seen.windows(8).any(|id| id == OLD_ID);
    assert!(!given_back(bench.receive(&[1])));
    let sent = bench.send_with(&offered.id, datagrams(first_packet(&placeholders)));
    assert_answer(&sent, &OLD_ID, 0);
    bench.events();
    assert!(given_back(bench.receive(&[1])));
}

#[test]
fn a_challenge_that_comes_with_the_servers_answer_is_left_to_quinn_which_is_there_then() {
    for first in [true, false] {
        let mut bench = Bench::connected_to(ORIGIN);
        bench.receive(&frame(&offer(1, "198.51.100.1:1")));
        let answer = [&[0x1b], &bench.challenge()[..]].concat();
        let both = match first {
            true => [asked(), answer].concat(),
            false => [answer, asked()].concat(),
        };
        let (seen, _) = bench.receive_on(1, &both);
        let adopted = next_frame(&seen, 0, Codepoints::default().frame()).unwrap();
        assert_eq!(adopted.kind, 0x18, "first quinn goes there");
        let rest = &seen[adopted.whole.end..];
        assert!(rest.windows(9).any(|frame| frame == asked()));
        let (_, action) = bench.events();
        assert!(matches!(action, Action::Wait(_)), "{action:?}");
    }
}

#[test]
fn a_challenge_on_the_path_in_use_is_left_to_quinn_also_while_another_is_validated() {
    let mut bench = Bench::connected_to(ORIGIN);
    assert_eq!(bench.receive(&asked()), asked());
    bench.receive(&frame(&offer(1, "198.51.100.1:1")));
    bench.challenge();
    assert_eq!(bench.receive(&asked()), asked());
    // The socket may say so too late.
    let (seen, _) = bench.receive_on(0, &asked());
    assert_eq!(seen, asked());
}

#[test]
fn a_challenge_on_the_path_that_was_left_is_answered_there_with_its_connection_id() {
    let mut bench = Bench::connected_to(ORIGIN);
    let offered = offer(1, "198.51.100.1:1");
    bench.receive(&frame(&offered));
    let answer = [&[0x1b], &bench.challenge()[..]].concat();
    bench.receive_on(1, &answer);
    bench.send_with(&offered.id, vec![1]);
    bench.events();
    assert_eq!(bench.hook.other_paths(), [path(0)]);
    let (seen, wake) = bench.receive_on(0, &asked());
    assert!(wake && seen == nothing());
    let sent = bench.next_datagram(&offered.id);
    assert_answer(&sent, &OLD_ID, 0);
}

#[test]
fn a_challenge_on_a_path_that_is_given_up_is_answered_nowhere() {
    let mut bench = Bench::connected_to(ORIGIN);
    bench.receive(&frame(&offer(1, "198.51.100.1:1")));
    bench.challenge();
    bench.receive_on(1, &asked());
    bench.receive(&new_connection_id(6, 5));
    bench.events();
    let sent = bench.send(vec![0x01; 40]);
    assert_eq!(sent.payload, vec![0x01; 40]);
    assert!(!bench.receive(&[0x01]).ends_with(&[7, 0x01]));
    let (_, action) = bench.events();
    assert!(
        !matches!(&action, Action::Send(placeholders) if placeholders.len() > 1),
        "{action:?}"
    );
}

#[test]
fn a_flood_of_challenges_is_not_kept() {
    let mut bench = Bench::connected_to(ORIGIN);
    bench.receive(&frame(&offer(1, "198.51.100.1:1")));
    bench.challenge();
    let kept = (0..20).filter(|_| bench.receive_on(1, &asked()).0 == nothing());
    assert_eq!(kept.count(), 4);
}
