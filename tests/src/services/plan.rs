//! What happens in a conversation. A seed decides it.

use std::time::Duration;

use crate::habits::{Habits, bytes, messages, millis};
use crate::session::{Content, Random};

/// What the server's application says about going on elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consent {
    Never,
    FromTheStart,
    /// After the notice, which is repeated if it says so.
    Late {
        told_again: bool,
    },
    WithdrawnBeforeTheNotice,
    WithdrawnAfterTheNotice,
}

/// Who tells the client to move.
#[derive(Clone, Copy, Debug)]
pub enum Tells {
    Stream,
    Handle,
}

/// What happens at one node.
#[derive(Clone, Debug)]
pub struct AtNode {
    pub habits: Habits,
    pub consent: Consent,
    pub tells: Tells,
    /// When the client is told, counted from its arrival.
    pub notice: Duration,
    /// How long after the notice consent is given or withdrawn.
    pub second_thought: Duration,
    /// Whether a connection that moves as such is ended at once, or when all has been said.
    pub ends_early: bool,
    /// From when on, counted from the notice, the next node refuses connections, and for how long.
    pub target_away: Option<(Duration, Duration)>,
}

/// A conversation.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub client: Habits,
    /// Whether the client's reading and writing are two tasks.
    pub halves: bool,
    /// Whether the client keeps its messages whole.
    pub corks: bool,
    /// Whether the client gets ready at a target before it goes there.
    pub overlaps: bool,
    /// Where the client's messages end, and the server's.
    pub up: Vec<usize>,
    pub down: Vec<usize>,
    pub nodes: Vec<AtNode>,
}

impl Plan {
    pub fn random(seed: u64, nodes: usize) -> Self {
        let mut random = Random::new(seed);
        let (up, down) = (messages(&mut random), messages(&mut random));
        let habits = |random: &mut Random, up: &[usize], down: &[usize]| {
            let most = up.last().max(down.last()).copied().unwrap_or(0);
            Habits::random(random).with_room_for(most)
        };
        let mut node = || AtNode {
            habits: habits(&mut random, &up, &down),
            consent: [
                Consent::Never,
                Consent::FromTheStart,
                Consent::FromTheStart,
                Consent::FromTheStart,
                Consent::FromTheStart,
                Consent::FromTheStart,
                Consent::Late { told_again: false },
                Consent::Late { told_again: true },
                Consent::WithdrawnBeforeTheNotice,
                Consent::WithdrawnAfterTheNotice,
            ][random.below(10)],
            tells: [Tells::Stream, Tells::Handle][random.below(2)],
            notice: {
                let most = [1, 10, 30, 300, 3000][random.below(5)];
                millis(&mut random, most)
            },
            second_thought: {
                let most = [1, 20, 200, 1500][random.below(4)];
                millis(&mut random, most)
            },
            ends_early: random.once_in(2),
            target_away: random.once_in(3).then(|| {
                let away = [500, 1000, 1500][random.below(3)];
                (millis(&mut random, 40), Duration::from_millis(away))
            }),
        };
        let nodes = (0..nodes).map(|_| node()).collect();
        Self {
            seed,
            client: habits(&mut random, &up, &down),
            halves: random.once_in(2),
            corks: random.once_in(3),
            overlaps: false,
            up,
            down,
            nodes,
        }
    }

    pub fn uploaded(&self) -> usize {
        self.up.last().copied().unwrap_or(0)
    }

    pub fn pushed(&self) -> usize {
        self.down.last().copied().unwrap_or(0)
    }
}

/// What is left of the message at `position`.
pub(super) fn rest_of_message(ends: &[usize], content: Content, position: usize) -> &'static [u8] {
    let end = ends.iter().find(|end| **end > position);
    end.map_or(&[], |end| &bytes(content)[position..*end])
}
