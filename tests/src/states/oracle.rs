//! What must hold in every state (`docs/recovery.md`): that a stream goes on where it can and nowhere else, that no state is taken up
//! twice, and that an end is the end.
//!
//! That bytes come once and in order, the applications see themselves: each byte is its own position.

use std::fmt;
use std::hash::{Hash as _, Hasher};

use rustls_migration::tokio::{Event, PastWindow};

use super::client::Ended;
use super::node::{App, Finish, From, State, TOLD};
use super::{Bounds, Choice, Label};

/// What became of a whole course.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    pub ended: Ended,
    pub recoveries: u8,
    pub hand_overs: u8,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (recoveries, hand_overs) = (self.recoveries, self.hand_overs);
        write!(
            f,
            "{:?}: {recoveries} recoveries, {hand_overs} hand-overs",
            self.ended
        )
    }
}

#[derive(Clone, Debug)]
pub(super) struct Oracle {
    /// The connection that the client is on.
    pub(super) leg: u8,
    /// What it has heard on each connection and not yet taken into account.
    heard: Vec<Vec<Label>>,
    overlaps: bool,
    /// How much is kept, and what becomes of a write past that.
    window: Option<(u8, PastWindow)>,
    /// What the client has kept begins here.
    kept_from: Option<u8>,
    /// The present server has made a checkpoint.
    announced: bool,
    /// A write past the window has cost the checkpoint.
    outgrown: bool,
    /// The stream has said so.
    told_outgrown: bool,
    /// It was let go by then, and no other one has come. A stream that has kept it would go on from it.
    let_go: bool,
    /// The checkpoint that it would go on from: how much had been received and sent by then, and how much was to be discarded.
    usable: Option<(u8, u8, u64)>,
    /// It goes on from one, and says so much again.
    recovering: Option<((u8, u8, u64), u8)>,
    /// A target is ready.
    ready: bool,
    /// The client has gone over to it, with so many bytes written.
    switched: Option<u8>,
    /// Whether the newest checkpoint is usable that was heard since the last poll. Of several only the newest need be told of.
    expected: Option<bool>,
    /// What the stream has said of it.
    told: Option<bool>,
    /// The states that were taken up.
    taken_up: Vec<State>,
    pub(super) recoveries: u8,
    pub(super) hand_overs: u8,
}

/// What else there is to know.
pub(super) struct Scene<'a> {
    pub(super) apps: &'a [App],
    pub(super) dead: &'a [bool],
    /// The node of each connection.
    pub(super) places: &'a [u8],
    /// Whether nothing was delivered for long.
    pub(super) silent: bool,
    /// How much the client's stream had taken when it heard what it has heard now.
    pub(super) written: u8,
    /// Whether the client has left its connection with something that had arrived and was not read.
    pub(super) left_unread: bool,
    /// Whether something was lost that was said to it there.
    pub(super) has_lost: bool,
    /// Whether a server may still make a checkpoint that the client hears.
    pub(super) goes_on: bool,
    /// What the client has read of each conversation.
    pub(super) read: [u8; 16],
    /// How the source ended that it has outlived.
    pub(super) outlived: Option<Ended>,
}

impl Scene<'_> {
    fn app(&self, leg: u8) -> Option<&App> {
        self.apps.iter().find(|app| app.leg == leg)
    }

    fn is_dead(&self, node: u8) -> bool {
        self.silent || self.dead[usize::from(node)]
    }

    /// Whether a connection may be lost to the client.
    fn is_lost(&self, leg: u8) -> bool {
        let failed = |app: &App| app.seen.finish == Some(Finish::Failed);
        self.is_dead(self.places[usize::from(leg)]) || self.app(leg).is_some_and(failed)
    }
}

impl Oracle {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self {
            leg: 0,
            heard: Vec::new(),
            overlaps: bounds.overlap,
            window: bounds.window,
            kept_from: bounds.from_start.then_some(0),
            announced: false,
            outgrown: false,
            told_outgrown: false,
            let_go: false,
            usable: None,
            recovering: None,
            ready: false,
            switched: None,
            expected: None,
            told: None,
            taken_up: Vec::new(),
            recoveries: 0,
            hand_overs: 0,
        }
    }

    /// What makes a difference from here on.
    pub(super) fn fingerprint(&self, hasher: &mut impl Hasher) {
        (self.leg, &self.heard, self.kept_from).hash(hasher);
        (self.announced, self.let_go).hash(hasher);
        (self.usable, self.recovering).hash(hasher);
        (self.ready, self.switched).hash(hasher);
    }

    /// A conversation has come to a node: from a state that the node before it has said, and that nobody else has taken up.
    pub(super) fn arrives(
        &mut self,
        app: &App,
        apps: &[App],
        read: [u8; 16],
    ) -> Result<(), String> {
        let (state, said) = match app.seen.from {
            From::Nowhere if app.node == 0 && app.leg == 0 => return Ok(()),
            From::Nowhere => return Err("a conversation begins anew".into()),
            From::HandOver(state) if state.number == TOLD => {
                let told = |app: &App| app.seen.offered == Some(state);
                (state, self.overlaps && apps.iter().any(told))
            }
            From::HandOver(state) => {
                let handed = Some(Finish::HandedOver(state));
                (state, apps.iter().any(|app| app.seen.finish == handed))
            }
            From::Checkpoint(state, received) => {
                let position = u64::from(state.sent) + received;
                (state, position >= u64::from(read[usize::from(state.tag)]))
            }
        };
        if !said || state.node + 1 != app.node || self.taken_up.contains(&state) {
            return Err(format!("{:?} at node {}", app.seen, app.node));
        }
        self.taken_up.push(state);
        Ok(())
    }

    /// The client has heard this on a connection.
    pub(super) fn hears(&mut self, leg: usize, labels: Vec<Label>) {
        self.heard
            .resize_with(self.heard.len().max(leg + 1), Vec::new);
        self.heard[leg].extend(labels);
    }

    /// Takes into account what the client has heard where it is.
    pub(super) fn listen(&mut self, scene: &Scene<'_>) {
        let Some(heard) = self.heard.get_mut(usize::from(self.leg)) else {
            return;
        };
        for (choice, received, sent, ahead) in std::mem::take(heard) {
            match choice {
                Choice::Checkpoint(_) => {
                    self.announced = true;
                    let kept_from = *self.kept_from.get_or_insert(scene.written);
                    let usable = received >= kept_from;
                    self.expected = Some(usable);
                    if usable {
                        self.kept_from = Some(received);
                        self.usable = Some((received, sent, ahead));
                        self.let_go = false;
                    }
                }
                Choice::TellSession(_) | Choice::TakeBack(_) => {
                    self.usable = None;
                    self.announced = false;
                }
                _ => {}
            }
        }
    }

    /// The client's stream has taken so much: what does not fit into its window is let go, or should have waited.
    pub(super) fn writes(&mut self, written: u8, scene: &Scene<'_>) -> Result<(), String> {
        let (Some((bytes, past)), Some(from)) = (self.window, self.kept_from) else {
            return Ok(());
        };
        let kept = written - from;
        if kept <= bytes {
            return Ok(());
        }
        if past == PastWindow::Wait && self.announced && scene.goes_on {
            return Err(format!("a write past the window did not wait: {self:?}"));
        }
        // Who makes no checkpoints is not to cost more.
        self.kept_from = self.announced.then_some(written - bytes);
        let outgrown = self.usable.take().is_some();
        (self.outgrown, self.let_go) = (self.outgrown || outgrown, self.let_go || outgrown);
        Ok(())
    }

    /// Whether a write has to wait.
    pub(super) fn is_full(&self, written: u8) -> bool {
        let (Some((bytes, PastWindow::Wait)), Some(from)) = (self.window, self.kept_from) else {
            return false;
        };
        self.announced && written - from >= bytes
    }

    /// The client's stream says what has happened to it.
    pub(super) fn event(&mut self, event: &Event, scene: &Scene<'_>) -> Result<(), String> {
        match event {
            Event::Checkpoint { usable, .. } => self.told = Some(*usable),
            Event::RecoveryWindowFull { waits: true } if self.is_full(scene.written) => {}
            Event::RecoveryWindowFull { waits: false } => self.told_outgrown = true,
            Event::RecoveryWindowFull { .. } => return Err(format!("{event:?} {self:?}")),
            Event::Recovering { .. } => {
                let finish = scene.app(self.leg).and_then(|app| app.seen.finish);
                let ended = finish == Some(Finish::Ended) && !scene.has_lost && !scene.silent;
                if scene.left_unread || ended {
                    return Err(format!(
                        "recovers before all is read that had come: {self:?}"
                    ));
                }
                let stays = !self.ready && self.switched.is_none();
                let usable = self.usable.take();
                let usable = usable.filter(|_| stays && scene.is_lost(self.leg));
                let checkpoint = usable.ok_or_else(|| format!("{event:?} {self:?}"))?;
                self.recovering = Some((checkpoint, scene.written - checkpoint.0));
            }
            Event::Recovered(outcome) => {
                let (_, resent) = self.recovering.take().ok_or("recovered from nothing")?;
                if outcome.resent != usize::from(resent) {
                    return Err(format!("{outcome:?}, and not {resent} resent"));
                }
                self.recoveries += 1;
                self.moves(scene);
            }
            Event::Migrated(_) => {
                self.hand_overs += 1;
                let app = scene.app(self.leg);
                if let Some(at) = self.switched {
                    let finish = app.and_then(|app| app.seen.finish);
                    let ends = matches!(finish, Some(Finish::Ended | Finish::HandedOver(_)));
                    if !ends && scene.outlived != Some(Ended::Lost) {
                        return Err(format!("{event:?} before the end of {app:?}"));
                    }
                    self.kept_from = self.kept_from.map(|from| from.max(at));
                    self.moves(scene);
                    return Ok(());
                }
                let Some(Finish::HandedOver(state)) = app.and_then(|app| app.seen.finish) else {
                    return Err(format!("{event:?} {app:?}"));
                };
                self.kept_from = self.kept_from.map(|from| from.max(state.received));
                self.moves(scene);
            }
            Event::Ready { .. } => self.ready = true,
            Event::Stayed { .. } => self.ready = false,
            _ => {}
        }
        Ok(())
    }

    /// The client goes over to the target that is ready.
    pub(super) fn switches(&mut self, written: u8) {
        self.switched = Some(written);
    }

    /// The client is on the newest connection.
    fn moves(&mut self, scene: &Scene<'_>) {
        self.leg = u8::try_from(scene.places.len() - 1).unwrap();
        self.usable = None;
        (self.ready, self.switched) = (false, None);
        (self.announced, self.let_go) = (false, false);
        self.listen(scene);
    }

    /// All that the client has heard has been told.
    pub(super) fn is_told(&mut self) -> Result<(), String> {
        let (outgrown, told) = (self.outgrown, self.told_outgrown);
        (self.outgrown, self.told_outgrown) = (false, false);
        if outgrown != told {
            return Err(format!("outgrown: {outgrown}, and told: {told} {self:?}"));
        }
        match (self.expected.take(), self.told.take()) {
            (expected, told) if expected == told => Ok(()),
            (expected, told) => Err(format!(
                "a checkpoint is usable: {expected:?}, and that is what was told: {told:?} {self:?}"
            )),
        }
    }

    /// The client's reading has ended: in a way that there was a reason for.
    pub(super) fn ends(&self, ended: Ended, scene: &Scene<'_>) -> Result<(), String> {
        let app = scene.app(self.leg);
        let overlaps = self.ready || self.switched.is_some();
        let lost = scene.is_lost(self.leg) && (self.usable.is_none() || overlaps);
        let next = scene.places[usize::from(self.leg)] + 1;
        let next_lost = scene.dead.len() > usize::from(next) && scene.is_dead(next);
        let holds = match ended {
            Ended::Cleanly => app.is_some_and(|app| {
                let read = scene.read[usize::from(app.seen.tag)];
                let all = app.seen.sent == read && app.seen.ahead == 0;
                app.seen.finish == Some(Finish::Ended) && all
            }),
            Ended::Lost | Ended::SourceLost => lost,
            Ended::TargetLost => {
                let finish = app.and_then(|app| app.seen.finish);
                let leaves = matches!(finish, Some(Finish::HandedOver(_)));
                (leaves || self.switched.is_some()) && next_lost
            }
            Ended::NotRecovered => self.recovering.is_some() && next_lost,
            Ended::NotFollowed | Ended::Otherwise => false,
        };
        match holds {
            true => Ok(()),
            false => Err(format!("{ended:?} {self:?} {app:?}")),
        }
    }

    pub(super) fn outcome(&self, ended: Ended) -> Outcome {
        Outcome {
            ended,
            recoveries: self.recoveries,
            hand_overs: self.hand_overs,
        }
    }
}
