//! One course of events, choice by choice.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustls_migration::MoveKind;
use rustls_migration::tokio::MigrationAcceptor;
use tokio::time::sleep;

use super::client::{Client, Dialled, Doing, Ended};
use super::leg::{Leg, accept_all, deliver_all};
use super::node::{App, Finish};
use super::oracle::{Oracle, Outcome, Scene};
use super::wire::Side;
use super::{Choice, Cut, SILENCE, Setting};
use crate::server_name;

/// How often each thing has happened.
#[derive(Clone, Copy, Debug, Default, Hash)]
struct Used {
    deaths: u8,
    tells: u8,
    retreats: u8,
    silences: u8,
}

/// One course.
pub(super) struct Run<'s> {
    setting: &'s Setting,
    acceptors: Vec<MigrationAcceptor>,
    dialled: Dialled,
    legs: Vec<Leg>,
    client: Client,
    apps: Vec<App>,
    dead: Vec<bool>,
    used: Used,
    /// How much the client had written when it left each connection by itself.
    boundaries: Vec<(u8, u8)>,
    /// Nothing has been chosen yet but deaths.
    begins: bool,
    oracle: Oracle,
}

/// Phases in which no checkpoint comes any more.
const ENDED: [&str; 4] = ["outlived", "ended", "failed", "lost"];

/// Long enough for everybody to do what he can, and for nobody to lose patience.
const MOMENT: Duration = Duration::from_millis(1);

impl<'s> Run<'s> {
    /// A client that has connected to the first node, and both have heard all that was said.
    pub(super) async fn new(setting: &'s Setting) -> Self {
        let dialled = Dialled::default();
        let servers = setting.servers.iter().map(Arc::clone);
        let acceptors: Vec<_> = servers.map(MigrationAcceptor::from).collect();
        let connector = setting.connector.clone().dialer(dialled.clone());
        let mut connecting = pin!(connector.connect(server_name(), setting.addresses[0]));
        let mut legs: Vec<Leg> = Vec::new();
        let stream = loop {
            tokio::select! {
                biased;
                stream = &mut connecting => break stream.unwrap(),
                () = sleep(MOMENT) => {}
            }
            legs.extend(accept_all(setting, &acceptors, &dialled));
            legs.iter().for_each(deliver_all);
        };
        let mut run = Self {
            acceptors,
            dialled,
            client: Client::new(stream),
            apps: Vec::new(),
            dead: vec![false; setting.servers.len()],
            used: Used::default(),
            boundaries: Vec::new(),
            begins: true,
            oracle: Oracle::new(&setting.bounds),
            setting,
            legs,
        };
        run.settle().await.unwrap();
        deliver_all(&run.legs[0]);
        run.settle().await.unwrap();
        run.legs[0].wire.seal((Choice::Up(0), 0, 0, 0));
        run
    }

    /// What may happen next; nothing once the client has seen an end.
    pub(super) fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        let client = &self.client;
        if client.ended.is_some() {
            return choices;
        }
        let mut may = |choice, may: bool| {
            if may {
                choices.push(choice);
            }
        };
        for (leg, at) in numbered(&self.legs) {
            may(Choice::Up(leg), at.wire.is_on_its_way_to(Side::Node));
            may(Choice::Down(leg), at.wire.is_on_its_way_to(Side::Client));
        }
        let bounds = self.setting.bounds;
        let speaks = client.doing == Doing::Nothing && !client.closed;
        may(Choice::Read, client.may_read());
        may(Choice::GoOn, client.may_go_on());
        let left = client.written < bounds.written;
        may(Choice::Write, speaks && left);
        may(Choice::Switch, client.phase() == "ready");
        for app in &self.apps {
            self.choices_of(app, &mut may);
        }
        may(Choice::Close, speaks && (!left || bounds.early_ends));
        if self.used.deaths < bounds.deaths {
            for (node, _) in numbered(&self.dead).filter(|(_, dead)| !**dead) {
                may(Choice::Die(node, Cut::Fin), self.may_die(node));
                may(Choice::Die(node, Cut::Reset), self.may_lose_more(node));
                let speaks = self.is_on_its_way_from(node);
                may(Choice::Die(node, Cut::Torn), speaks && bounds.by_record);
                may(Choice::Die(node, Cut::Late), speaks && bounds.late);
            }
        }
        let quiet = !client.may_read() && !client.may_go_on();
        may(
            Choice::Silence,
            quiet && self.used.silences < bounds.silences,
        );
        choices
    }

    /// When a node dies that the client has not come to makes no difference, so it does so at first.
    fn may_die(&self, node: u8) -> bool {
        self.legs.iter().any(|leg| leg.node == node) || self.begins
    }

    /// Whether something has arrived from it that the client has not read.
    fn may_lose_more(&self, node: u8) -> bool {
        let mut legs = self.legs.iter().filter(|leg| leg.node == node);
        legs.any(|leg| leg.wire.has_arrived_at(Side::Client))
    }

    /// Whether the client has not heard yet all that a node has said.
    fn is_on_its_way_from(&self, node: u8) -> bool {
        let mut legs = self.legs.iter().filter(|leg| leg.node == node);
        legs.any(|leg| leg.wire.is_on_its_way_to(Side::Client))
    }

    fn choices_of(&self, app: &App, may: &mut impl FnMut(Choice, bool)) {
        let bounds = self.setting.bounds;
        let (leg, seen) = (app.leg, &app.seen);
        may(Choice::NodeRead(leg), app.may_read());
        // What nobody hears makes no difference.
        if !app.may_speak() || !self.legs[usize::from(leg)].wire.is_held() {
            return;
        }
        may(Choice::NodeWrite(leg), seen.sent < bounds.sent);
        // Before its client comes there is nothing else to do.
        if seen.received.is_none() {
            return;
        }
        may(Choice::TakeNumber(leg), seen.ahead > 0);
        if self.setting.after(app.node).is_some() {
            let makes = seen.checkpoints < bounds.checkpoints;
            may(Choice::Checkpoint(leg), makes);
            let tells = seen.told.is_none() && self.used.tells < bounds.tells;
            may(Choice::Tell(leg), tells);
            let retreats = self.used.retreats < bounds.retreats;
            may(Choice::TellSession(leg), retreats && seen.told.is_none());
            may(Choice::TakeBack(leg), retreats && seen.told.is_none());
        }
        let all = seen.client_closed || seen.sent == bounds.sent;
        may(Choice::End(leg), all || bounds.early_ends);
    }

    /// Makes a choice, and lets everybody do what follows. Fails when what must hold does not.
    pub(super) async fn choose(&mut self, choice: Choice) -> Result<(), String> {
        self.begins &= matches!(choice, Choice::Die(..));
        let mut label = (choice, 0, 0, 0);
        match choice {
            Choice::Read | Choice::Write | Choice::GoOn | Choice::Close | Choice::Switch => {
                self.client_does(choice)?;
                label.1 = self.client.written;
            }
            Choice::NodeRead(leg)
            | Choice::NodeWrite(leg)
            | Choice::Checkpoint(leg)
            | Choice::Tell(leg)
            | Choice::TellSession(leg)
            | Choice::TakeBack(leg)
            | Choice::End(leg)
            | Choice::TakeNumber(leg) => {
                let app = self.apps.iter_mut().find(|app| app.leg == leg).unwrap();
                app.choose(choice, self.setting.after(app.node))?;
                label = match choice {
                    Choice::Checkpoint(_) => {
                        let received = app.seen.received.unwrap_or_default();
                        (choice, received, app.seen.sent, app.seen.ahead)
                    }
                    _ => (choice, 0, app.seen.sent, 0),
                };
                self.used.tells += u8::from(matches!(choice, Choice::Tell(_)));
                let retreats = matches!(choice, Choice::TellSession(_) | Choice::TakeBack(_));
                self.used.retreats += u8::from(retreats);
                self.node_has_ended(leg)?;
            }
            Choice::Up(leg) => self.deliver(leg, Side::Node),
            Choice::Down(leg) => self.deliver(leg, Side::Client),
            Choice::Die(node, cut) => self.die(node, cut),
            Choice::Silence => {
                self.used.silences += 1;
                // It asks, and then nobody answers.
                for _ in 0..2 {
                    sleep(SILENCE).await;
                    if self.client.may_go_on() {
                        self.client_does(Choice::GoOn)?;
                    }
                    if self.client.may_read() {
                        self.client_does(Choice::Read)?;
                    }
                }
            }
        }
        self.settle().await?;
        for leg in &self.legs {
            leg.wire.seal(label);
        }
        self.observe(self.client.written)
    }

    /// The client's application makes a choice. What follows from that is looked at after each poll.
    fn client_does(&mut self, choice: Choice) -> Result<(), String> {
        let holding = ["reading out", "resuming", "recovering"];
        loop {
            let written = self.client.written;
            let holds = holding.contains(&&*self.client.phase()) && !self.oracle.is_full(written);
            let goes_on = self.client.choose(choice)?;
            // What is held is taken before anything is heard, and other bytes after that.
            self.observe(if holds { self.client.written } else { written })?;
            if !goes_on || (choice == Choice::Read && self.setting.bounds.hesitant) {
                return Ok(());
            }
        }
    }

    fn deliver(&self, leg: u8, side: Side) {
        let wire = &self.legs[usize::from(leg)].wire;
        match self.setting.bounds.by_record {
            true => wire.deliver_record_to(side),
            false => wire.deliver_to(side),
        }
    }

    fn die(&mut self, node: u8, cut: Cut) {
        self.used.deaths += 1;
        self.dead[usize::from(node)] = true;
        self.dialled.bury(self.setting.addresses[usize::from(node)]);
        for leg in self.legs.iter().filter(|leg| leg.node == node) {
            leg.wire.cut(cut);
            leg.accepting.abort();
            leg.accepted.lock().unwrap().take();
        }
        for app in self.apps.iter_mut().filter(|app| app.node == node) {
            app.die();
        }
    }

    /// Whoever sees the client's end has read all that came before it.
    fn node_has_ended(&self, leg: u8) -> Result<(), String> {
        let app = self.apps.iter().find(|app| app.leg == leg).unwrap();
        let boundary = self.boundaries.iter().find(|(left, _)| *left == leg);
        if let Some((_, written)) = boundary
            && app.seen.client_closed
            && app.seen.received != Some(*written)
        {
            return Err(format!("{written} bytes were written to {app:?}"));
        }
        let all = app.seen.received == Some(self.client.written) && self.client.closed;
        let moves = app.seen.told == Some(MoveKind::Stream);
        match app.seen.client_closed && !moves && !all {
            true => Err(format!("no end of the client's: {app:?} {:?}", self.client)),
            false => Ok(()),
        }
    }

    /// Lets everybody do what he can.
    async fn settle(&mut self) -> Result<(), String> {
        let new = accept_all(self.setting, &self.acceptors, &self.dialled);
        self.legs.extend(new);
        sleep(MOMENT).await;
        for (leg, at) in numbered(&self.legs) {
            let Some(Ok(stream)) = at.accepted.lock().unwrap().take() else {
                continue;
            };
            let arrival = stream.arrival().clone();
            let app = App::new(at.node, leg, stream);
            let app = app.ok_or_else(|| format!("{arrival:?} at node {}", at.node))?;
            self.oracle.arrives(&app, &self.apps, self.client.read)?;
            self.apps.push(app);
        }
        self.tell_boundary();
        self.read_promptly()
    }

    /// Has nodes that read at once do so.
    fn read_promptly(&mut self) -> Result<(), String> {
        if self.setting.bounds.hesitant {
            return Ok(());
        }
        let arrived = |leg: &Leg| leg.wire.is_held() && leg.wire.has_arrived_at(Side::Client);
        if self.client.may_read() && !self.legs.iter().any(arrived) {
            // It was woken to find nothing.
            self.client_does(Choice::Read)?;
        }
        for app in &mut self.apps {
            while app.may_read() {
                app.choose(Choice::NodeRead(app.leg), None)?;
            }
        }
        let legs: Vec<u8> = self.apps.iter().map(|app| app.leg).collect();
        legs.into_iter()
            .try_for_each(|leg| self.node_has_ended(leg))
    }

    /// Before it reads from the target that it went over to, the client has read all that the source said, or has seen that it was lost.
    fn has_read_all_before(&self) -> Result<(), String> {
        let client = &self.client;
        let left = |app: &&App| self.boundaries.iter().any(|(leg, _)| *leg == app.leg);
        let short = |app: &&App| {
            let tag = app.seen.tag;
            client.reads > tag && client.read[usize::from(tag)] != app.seen.sent
        };
        match self.apps.iter().filter(left).find(short) {
            Some(app) if client.outlived != Some(Ended::Lost) => {
                Err(format!("{:?} was read of {app:?}", client.read))
            }
            _ => Ok(()),
        }
    }

    /// A target's application learns from its source where the client has gone over.
    fn tell_boundary(&mut self) {
        let newest = self.boundaries.last();
        if let Some((left, written)) = newest.filter(|(left, _)| *left == self.oracle.leg)
            && let Some(app) = self.apps.last_mut().filter(|app| app.leg > *left)
        {
            app.goes_on_from(*written);
        }
    }

    /// Compares what the client's stream has heard and says with what must be.
    fn observe(&mut self, written: u8) -> Result<(), String> {
        if let Some(written) = self.client.switched.take() {
            self.boundaries.push((self.oracle.leg, written));
            self.oracle.switches(written);
            self.tell_boundary();
        }
        let places: Vec<u8> = self.legs.iter().map(|leg| leg.node).collect();
        for (number, leg) in self.legs.iter_mut().enumerate() {
            let heard = leg.wire.take_read(Side::Client);
            leg.heard[0].extend(&heard);
            self.oracle.hears(number, heard);
            leg.heard[1].extend(&leg.wire.take_read(Side::Node));
        }
        self.has_read_all_before()?;
        let here = &self.legs[usize::from(self.oracle.leg)].wire;
        if here.has_lost() && self.client.phase() == "resuming" {
            return Err(format!("follows before the end: {:?}", self.oracle));
        }
        let scene = Scene {
            apps: &self.apps,
            dead: &self.dead,
            places: &places,
            silent: self.used.silences > 0,
            written,
            left_unread: here.is_left_unread(),
            has_lost: here.has_lost(),
            goes_on: !ENDED.contains(&&*self.client.phase()),
            read: self.client.read,
            outlived: self.client.outlived,
        };
        self.oracle.writes(written, &scene)?;
        self.oracle.listen(&scene);
        while let Some(event) = self.client.next_event() {
            self.oracle.event(&event, &scene)?;
        }
        self.oracle.writes(self.client.written, &scene)?;
        self.oracle.is_told()?;
        let waits = self.client.doing == Doing::Writing && !self.client.may_go_on();
        if waits && self.client.phase() == "connected" && !self.oracle.is_full(self.client.written)
        {
            return Err(format!("a write waits for nothing: {:?}", self.client));
        }
        match self.client.ended {
            Some(ended) => self.oracle.ends(ended, &scene),
            None => Ok(()),
        }
    }

    /// What is to be seen of all of it, as far as it can make a difference from here on.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let client = &self.client;
        (client.written, client.read, client.closed).hash(&mut hasher);
        (client.reads, client.outlived, &self.boundaries).hash(&mut hasher);
        (client.tasks(), client.phase()).hash(&mut hasher);
        (self.used, &self.dead, self.begins).hash(&mut hasher);
        self.oracle.fingerprint(&mut hasher);
        for (number, leg) in numbered(&self.legs) {
            let app = self.apps.iter().find(|app| app.leg == number);
            if number == self.oracle.leg {
                let said = app.map(|app| (app.seen.finish, app.seen.sent, app.seen.ahead));
                said.hash(&mut hasher);
            }
            let app = app.filter(|app| app.is_there());
            let held = leg.wire.is_held();
            if app.is_none() && !held {
                continue;
            }
            (number, leg.node, held, leg.accepting.is_finished()).hash(&mut hasher);
            let app = app.map(|app| (app.seen, app.may_speak(), app.may_read()));
            (app, &leg.heard).hash(&mut hasher);
            leg.wire.sight(Side::Client).hash(&mut hasher);
            leg.wire.sight(Side::Node).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Time passes, with nothing left to happen by choice: everybody comes to an end.
    pub(super) async fn finish(&mut self) -> Result<Outcome, String> {
        for _ in 0..8 {
            sleep(SILENCE).await;
            while let Some(choice) = self.choices().into_iter().next() {
                self.choose(choice).await?;
            }
            if self.client.may_go_on() {
                self.choose(Choice::GoOn).await?;
            }
        }
        let Some(ended) = self.client.ended.filter(|_| !self.client.waits()) else {
            return Err(format!("the client hangs: {:?}", self.client));
        };
        let failed = |app: &App| app.seen.finish == Some(Finish::Failed);
        let disturbed = self.used.deaths + self.used.silences > 0 || self.apps.iter().any(failed);
        if ended != Ended::Cleanly && !disturbed {
            return Err(format!("nothing was lost, but {ended:?}"));
        }
        Ok(self.oracle.outcome(ended))
    }
}

fn numbered<T>(items: &[T]) -> impl Iterator<Item = (u8, &T)> {
    (0..).zip(items)
}
