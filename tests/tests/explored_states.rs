//! Every course that a stream can take within small bounds: loss, death, notice, hand-over and checkpoint in every order, on the real
//! connections (`migration_tests::states`).
//!
//! `EXPLORED=long` in the environment explores within larger bounds; anything else, what has that in its name, of
//! the larger ones if it is none of these. With `--nocapture` it
//! tells how many states there are.

use std::collections::BTreeSet;
use std::time::Instant;

use migration_tests::states::{
    Bounds, Ended, LARGE, LONG, Outcome, SHORT, Setting, explore, wander,
};

/// Explores all of these. Returns what came of their courses.
fn all<'a>(settings: impl Iterator<Item = &'a (&'a str, Bounds)>) -> BTreeSet<Outcome> {
    let (mut states, mut outcomes) = (0, BTreeSet::new());
    for (name, bounds) in settings {
        let begun = Instant::now();
        let found = explore(&Setting::new(*bounds));
        states += found.states;
        println!("{name}: {:.1?}, {found}", begun.elapsed());
        if let Some(violation) = found.violation {
            panic!("{name}: after {states} states in all: {violation:#?}");
        }
        outcomes.extend(found.outcomes.into_keys());
    }
    println!("{states} states in all");
    outcomes
}

fn is_long() -> bool {
    std::env::var("EXPLORED").is_ok_and(|asked| asked == "long")
}

#[test]
fn a_stream_keeps_its_promises_in_every_state_within_small_bounds() {
    match std::env::var("EXPLORED") {
        Ok(_) if is_long() => drop(all(LONG.iter())),
        Ok(name) => {
            let called = |of: &'static [(&str, Bounds)]| {
                let name = name.clone();
                of.iter().filter(move |(known, _)| known.contains(&*name))
            };
            match called(&SHORT).count() {
                0 => drop(all(called(&LONG))),
                _ => drop(all(called(&SHORT))),
            }
        }
        Err(_) => {
            let outcomes = all(SHORT.iter());
            // Of each kind there is something, or nothing was tested.
            for ended in [
                Ended::Cleanly,
                Ended::Lost,
                Ended::SourceLost,
                Ended::TargetLost,
                Ended::NotRecovered,
            ] {
                let seen = outcomes.iter().any(|outcome| outcome.ended == ended);
                assert!(seen, "{ended:?}: {outcomes:?}");
            }
            for (recoveries, hand_overs) in [(2, 0), (0, 1)] {
                let whole = Outcome {
                    ended: Ended::Cleanly,
                    recoveries,
                    hand_overs,
                };
                assert!(outcomes.contains(&whole), "{whole}: {outcomes:?}");
            }
        }
    }
}

#[test]
fn a_stream_keeps_its_promises_on_random_courses_within_larger_bounds() {
    let seeds = if is_long() { 100_000 } else { 2000 };
    let found = wander(&Setting::new(LARGE), 0..seeds);
    println!("{found}");
    assert!(found.violation.is_none(), "{:#?}", found.violation);
    let most = found
        .outcomes
        .keys()
        .map(|outcome| outcome.recoveries)
        .max();
    assert!(most >= Some(2), "{found}");
}
