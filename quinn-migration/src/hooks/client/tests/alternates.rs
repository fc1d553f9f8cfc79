//! Advertisements that are kept until the path falls silent.

use super::*;
use crate::policy::FollowPolicy;

fn keeping() -> Bench {
    let policy = Policy {
        moves: u32::MAX,
        follow: FollowPolicy::OnSilence,
        ..Policy::default()
    };
    let mut bench = Bench::attached(policy, ORIGIN);
    bench.send(vec![1]);
    bench.receive(&[0x1e]);
    bench
}

/// Sends without an answer until the hook opens a path.
fn silent(bench: &mut Bench) -> SocketAddr {
    silent_on(bench, &OLD_ID)
}

/// The same, while quinn uses this connection ID.
fn silent_on(bench: &mut Bench, id: &[u8]) -> SocketAddr {
    for _ in 0..100 {
        bench.send_with(id, vec![1]);
        if let (_, Action::Open(target)) = bench.events() {
            return target;
        }
        bench.now += Duration::from_millis(80);
    }
    panic!("nothing is followed")
}

#[test]
fn kept_advertisements_are_followed_one_after_the_other_when_the_path_is_silent() {
    let mut bench = keeping();
    bench.receive(&frame(&offer(1, "198.51.100.1:1")));
    bench.receive(&frame(&offer(2, "127.0.0.1:1")));
    let (events, action) = bench.events();
    // The newest one counts before it was looked at; what the policy refuses is not kept.
    assert_eq!(refusals(&events)[0], Refusal::Superseded);
    assert!(matches!(refusals(&events)[1], Refusal::TargetClass { .. }));
    assert!(
        matches!(action, Action::Send(_)),
        "gives both back: {action:?}"
    );
    for number in [3, 4] {
        bench.receive(&frame(&offer(number, &format!("198.51.100.{number}:1"))));
        let (events, action) = bench.events();
        assert!(
            matches!(events[..], [Event::Advertised { .. }, Event::Kept { .. }]),
            "{events:?}"
        );
        assert!(!matches!(action, Action::Open(_)));
    }
    assert_eq!(silent(&mut bench), "198.51.100.3:1".parse().unwrap());
    bench.hook.not_opened(std::io::ErrorKind::Other);
    assert_eq!(silent(&mut bench), "198.51.100.4:1".parse().unwrap());
}

#[test]
fn four_are_kept_and_those_whose_connection_id_is_past_are_given_back() {
    let mut bench = keeping();
    let mut all = Vec::new();
    for number in 1..=5 {
        bench.receive(&frame(&offer(number, &format!("198.51.100.{number}:1"))));
        all.extend(bench.events().0);
    }
    assert_eq!(refusals(&all), [Refusal::Superseded], "{all:?}");
    bench.receive(&new_connection_id(6, 5));
    let (events, _) = bench.events();
    assert_eq!(refusals(&events), [Refusal::Superseded; 3]);
    assert_eq!(silent(&mut bench), "198.51.100.5:1".parse().unwrap());
}

/// The hook has asked for a socket of path `number`: sends the challenge there; answers with the frame that answers it.
fn challenge(bench: &mut Bench, id: &[u8], number: u32) -> Vec<u8> {
    bench.hook.opened(path(number), bench.now);
    let (_, action) = bench.events();
    let Action::Send(placeholders) = action else {
        panic!("{action:?}")
    };
    let sent = bench.send_with(id, datagrams(first_packet(&placeholders)));
    assert_eq!(sent.payload[0], 0x1a);
    [&[0x1b], &sent.payload[1..9]].concat()
}

#[test]
fn a_late_answer_of_an_earlier_path_is_not_taken_for_one_of_the_advertised_path() {
    let mut bench = keeping();
    let (first, second) = (offer(1, "198.51.100.1:1"), offer(5, "198.51.100.2:1"));
    bench.receive(&frame(&first));
    silent(&mut bench);
    let answer = challenge(&mut bench, &OLD_ID, 1);
    bench.receive(&answer);
    bench.send_with(&first.id, vec![1]);
    bench.receive(&new_connection_id(2, 0));
    bench.receive(&frame(&second));
    bench.events();
    let (asked, _) = super::returning::silent(&mut bench, &first.id);
    let late = [&[0x1b], &asked.payload[1..9]].concat();
    let target = silent_on(&mut bench, &first.id);
    assert_eq!(target, "198.51.100.2:1".parse().unwrap());
    let answer = challenge(&mut bench, &first.id, 2);
    let mut seen = BytesMut::from(&late[..]);
    bench.receive_by(Some(PathId::FIRST), &mut seen);
    assert_eq!(seen, &late[..], "quinn goes nowhere");
    let mut seen = BytesMut::from(&answer[..]);
    bench.receive_by(Some(path(2)), &mut seen);
    assert!(seen.len() > answer.len(), "the advertised path counts");
    bench.send_with(&second.id, vec![1]);
    let (events, _) = bench.events();
    assert!(
        matches!(events[..], [.., Event::Migrated { to, .. }] if to == target),
        "{events:?}"
    );
}

/// All connections of an endpoint that have not moved share its own socket.
#[test]
fn an_idle_connection_beside_a_busy_one_asks_once() {
    let mut bench = keeping();
    bench.receive(&frame(&offer(1, "198.51.100.1:1")));
    for _ in 0..8 {
        bench.receive(&[1]);
    }
    let mut asked = 0;
    for step in 0..100 {
        if let (_, Action::Send(placeholders)) = bench.events() {
            bench.send(datagrams(&placeholders));
            let ack = bench.ack();
            bench.receive(&ack);
            asked += 1;
        }
        // The busy one pauses.
        if step % 10 < 3 {
            bench.datagrams += 50;
        }
        bench.now += Duration::from_millis(200);
    }
    assert_eq!(asked, 1);
}
