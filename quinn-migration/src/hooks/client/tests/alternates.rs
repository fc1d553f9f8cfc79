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
    for _ in 0..100 {
        bench.send(vec![1]);
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
