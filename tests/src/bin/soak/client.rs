//! A client of a long run: it carries out plans, one after the other, and follows the nodes as each plan's mode says.
//!
//! It judges every byte that it reads by its position, and every end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use migration_tests::server_name;
use migration_tests::session::Random;
use rustls_migration::MoveKind;
use rustls_migration::tokio::{
    EarlyDataOutcome, Event, Events, HandOff, MigrateError, MigrationConnector, MigrationStream,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::step::{Out, Step, step};
use super::wire::{Direction, Mode, Plan, Position, Service, at_most, content, number};
use super::world::{World, in_full};

/// How long a stream may do nothing at all.
const HANG: Duration = Duration::from_secs(60);

/// How long to wait before a target that could not be reached is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// What the clients have in common.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) world: Arc<World>,
    pub(crate) connector: MigrationConnector,
    pub(crate) seed: u64,
    pub(crate) last_id: AtomicU64,
}

impl Clients {
    fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// Carries out plans until `until`.
pub(crate) async fn run(clients: Arc<Clients>, until: Instant) {
    while Instant::now() < until {
        let id = clients.next_id();
        let mut random = Random::new(clients.seed ^ (id << 8));
        let plan = Plan::random(id, &mut random);
        let hand_off = match plan.mode {
            Mode::Drain => HandOff::Drain,
            Mode::Overlap => HandOff::Overlap,
            Mode::Manual => HandOff::Manual,
            // A stream without consent is not moved, whatever the client would do with it.
            Mode::Successor => [HandOff::Manual, HandOff::Drain, HandOff::Overlap][random.below(3)],
        };
        let Some(stream) = connect(&clients, hand_off, &mut random).await else {
            continue;
        };
        carry_out(Arc::clone(&clients), plan, stream, random).await;
    }
}

async fn connect(
    clients: &Clients,
    hand_off: HandOff,
    random: &mut Random,
) -> Option<MigrationStream> {
    let world = &clients.world;
    let node = world.nodes[random.below(world.nodes.len())];
    let connector = clients.connector.clone().hand_off(hand_off);
    match connector.connect(server_name(), node).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            match world.explain_connect(&error) {
                Some(why) => world.event(format!("a client did not connect: {why}")),
                None => world.fault(format!("a client did not connect: {}", in_full(&error))),
            }
            sleep(RETRY).await;
            None
        }
    }
}

/// Carries one plan out, from its beginning.
fn carry_out(
    clients: Arc<Clients>,
    plan: Plan,
    stream: MigrationStream,
    random: Random,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let at = Position {
            plan,
            up: 0,
            down: 0,
        };
        let mut talk = Talk::new(Arc::clone(&clients), at, stream, random);
        let outcome = talk.run().await;
        while talk.aside.join_next().await.is_some() {}
        talk.judge(outcome);
    })
}

/// What comes next for a stream that was asked to move.
enum Wish {
    Nothing,
    /// Goes over to the target that is ready.
    Switch,
    /// Leaves at once, not before a moment.
    Migrate(Instant),
    /// Opens the next connection.
    Open(Pin<Box<dyn Future<Output = Result<MigrationStream, MigrateError>> + Send>>),
    /// Goes on over the next connection.
    GoOn(Box<MigrationStream>),
}

struct Talk {
    clients: Arc<Clients>,
    random: Random,
    stream: MigrationStream,
    events: Events,
    at: Position,
    /// What a node without a state of the stream is told first; what is left of it.
    header: Vec<u8>,
    out: Vec<u8>,
    pause: Instant,
    /// It has begun to close its side: nothing more may be said, also not elsewhere.
    closing: bool,
    closed: bool,
    wish: Wish,
    /// Former connections that are read to their ends, and errands.
    aside: JoinSet<()>,
    /// When there was progress last, and since when the next is awaited after a move.
    progress: Instant,
    stalled: Option<Instant>,
}

impl Talk {
    fn new(clients: Arc<Clients>, at: Position, stream: MigrationStream, random: Random) -> Self {
        Self {
            events: stream.events(),
            clients,
            random,
            stream,
            at,
            header: at.encode(),
            out: Vec::new(),
            pause: Instant::now(),
            closing: false,
            closed: false,
            wish: Wish::Nothing,
            aside: JoinSet::new(),
            progress: Instant::now(),
            stalled: None,
        }
    }

    fn world(&self) -> &World {
        &self.clients.world
    }

    /// Until the stream has ended.
    async fn run(&mut self) -> io::Result<()> {
        let mut buf = vec![0; 16_384];
        loop {
            self.fulfil().await?;
            self.prepare();
            let now = Instant::now();
            let paused = now < self.pause;
            let out = match (self.header.is_empty(), self.out.is_empty()) {
                (false, _) => Out::Bytes(&self.header),
                (true, _) if paused => Out::Nothing,
                (true, false) => Out::Bytes(&self.out),
                (true, true) if self.may_close() => Out::Close,
                (true, true) => Out::Nothing,
            };
            self.closing |= matches!(out, Out::Close);
            tokio::select! {
                biased;
                Some(event) = self.events.next() => self.on_event(event),
                opened = opened(&mut self.wish) => self.opened(opened),
                stepped = step(&mut self.stream, out, &mut buf) => match stepped? {
                    Step::Read(len) => self.on_read(&buf[..len]),
                    Step::Wrote(len) => self.on_written(len),
                    Step::Closed => self.closed = true,
                    Step::End => return Ok(()),
                },
                () = sleep_until(self.pause), if paused => {}
                () = sleep(RETRY), if matches!(self.wish, Wish::Migrate(_)) => {}
                () = sleep(HANG) => return Err(io::Error::other("the stream hangs")),
            }
        }
    }

    fn may_close(&self) -> bool {
        let plan = &self.at.plan;
        let all_read = plan.service != Service::Download || self.at.down == plan.down();
        !self.closed && all_read && self.at.up == plan.up
    }

    /// What is written next.
    fn prepare(&mut self) {
        if self.out.is_empty() {
            let plan = &self.at.plan;
            let len = at_most(plan.up - self.at.up, 1 + self.random.below(16_384));
            self.out = content(plan.id, Direction::Up, self.at.up, len);
        }
    }

    fn on_read(&mut self, read: &[u8]) {
        check(&self.clients.world, &mut self.at, read);
        if self.at.plan.service != Service::Upload {
            self.note_progress();
        }
    }

    fn on_written(&mut self, len: usize) {
        if !self.header.is_empty() {
            self.header.drain(..len);
            return;
        }
        self.out.drain(..len);
        self.at.up += number(len);
        self.world().figures().bytes_up += number(len);
        if self.out.is_empty() {
            let pause = number(self.random.below(40));
            self.pause = Instant::now() + Duration::from_millis(pause);
        }
        if self.at.plan.service == Service::Upload {
            self.note_progress();
        }
    }

    fn note_progress(&mut self) {
        self.progress = Instant::now();
        if let Some(since) = self.stalled.take() {
            let stall = self.progress - since;
            let mode = self.at.plan.mode;
            let mut figures = self.world().figures();
            figures.stalls.entry(mode).or_default().push(stall);
        }
    }

    /// The stream moves now.
    fn note_move(&mut self) {
        self.stalled.get_or_insert(self.progress);
        let mode = self.at.plan.mode;
        *self.world().figures().moves.entry(mode).or_default() += 1;
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Notified { .. } if self.closing => {}
            Event::Notified { .. } if self.at.plan.mode == Mode::Manual => {
                self.wish = Wish::Migrate(Instant::now());
            }
            Event::Notified {
                kind: MoveKind::Connection,
            } => {
                let handle = self.stream.handle();
                self.wish = Wish::Open(Box::pin(async move { handle.successor().await }));
            }
            Event::Ready { .. } => self.wish = Wish::Switch,
            Event::Migrated(_) if matches!(self.at.plan.mode, Mode::Drain | Mode::Overlap) => {
                self.note_move();
            }
            Event::TargetUnreachable { why, .. } => match self.world().explain_connect(&why) {
                Some(_) => self
                    .world()
                    .event("a target was away, and was dialled again"),
                None => self
                    .world()
                    .fault(format!("a target was not reached: {}", in_full(&*why))),
            },
            Event::Stayed { why, .. } => match self.world().explain_connect(&why) {
                Some(why) => self.world().event(format!("stayed: {why}")),
                None => self.world().fault(format!("stayed: {}", in_full(&*why))),
            },
            Event::Refused { why, .. } => {
                self.world()
                    .fault(format!("not followed: {}", in_full(&*why)));
            }
            Event::OfferRefused(error) => {
                self.world()
                    .fault(format!("an offer was refused: {}", in_full(&error)));
            }
            // Offers, and moves that the client itself has counted.
            _ => {}
        }
    }

    /// The next connection is open, or could not be opened.
    fn opened(&mut self, opened: Result<MigrationStream, MigrateError>) {
        self.wish = match opened {
            Ok(stream) => Wish::GoOn(Box::new(stream)),
            Err(error) => {
                match self.world().explain_migrate(&error) {
                    Some(why) => self.world().event(format!("no successor: {why}")),
                    None => self
                        .world()
                        .fault(format!("no successor: {}", in_full(&error))),
                }
                Wish::Nothing
            }
        };
    }

    /// Moves, when that is wished and the header has left.
    async fn fulfil(&mut self) -> io::Result<()> {
        if !self.header.is_empty() {
            return Ok(());
        }
        match std::mem::replace(&mut self.wish, Wish::Nothing) {
            Wish::Switch if !self.closing => self.switch(),
            Wish::Migrate(at) if !self.closing && at <= Instant::now() => self.migrate().await?,
            Wish::GoOn(stream) => self.go_on(*stream),
            wish @ (Wish::Migrate(_) | Wish::Open(_)) if !self.closing => self.wish = wish,
            Wish::Open(wish) => self.wish = Wish::Open(wish),
            Wish::Nothing | Wish::Switch | Wish::Migrate(_) => {}
        }
        Ok(())
    }

    /// The old node sends all that is due for what it was sent; the target begins after it.
    fn switch(&mut self) {
        match self.stream.switch() {
            Ok(()) => {
                self.header = self.after_this_node().encode();
            }
            Err(error) => self
                .world()
                .event(format!("did not go over: {}", in_full(&error))),
        }
    }

    /// How far the stream is when the present node has answered all that it was sent.
    fn after_this_node(&self) -> Position {
        let down = self.at.plan.down_after(self.at.up).max(self.at.down);
        Position { down, ..self.at }
    }

    /// Goes on from what the nodes are known to have received.
    async fn migrate(&mut self) -> io::Result<()> {
        let to = Position {
            up: self.at.plan.up_known_by(self.at.down),
            ..self.at
        };
        let header = to.encode();
        let migrated = timeout(HANG, self.stream.migrate(&header)).await;
        match migrated.map_err(|_| io::Error::other("a migration hangs"))? {
            Ok(outcome) => {
                self.at = to;
                self.out.clear();
                self.note_move();
                if let Some(why) = &outcome.fell_back {
                    match self.world().explain_connect(why.error()) {
                        Some(why) => self.world().event(format!("fell back: {why}")),
                        None => self.world().fault(format!("fell back: {why}")),
                    }
                }
                if outcome.early_data == EarlyDataOutcome::Unknown {
                    self.header = header;
                }
                Ok(())
            }
            Err(error @ MigrateError::Unreachable(_)) => {
                match self.world().explain_migrate(&error) {
                    Some(_) => self
                        .world()
                        .event("migrate: the target was away; tried again"),
                    None => self.world().fault(format!("migrate: {}", in_full(&error))),
                }
                self.wish = Wish::Migrate(Instant::now() + RETRY);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Goes on over the next connection, while the old node finishes what it does.
    fn go_on(&mut self, next: MigrationStream) {
        let plan = self.at.plan;
        if plan.service == Service::Download || self.closing {
            // The old node finishes it. What comes next is something else.
            let clients = Arc::clone(&self.clients);
            let errand = Plan::errand(clients.next_id(), plan.mode);
            let random = Random::new(errand.id);
            self.aside.spawn(carry_out(clients, errand, next, random));
            return;
        }
        let old_at = self.at;
        self.at = self.after_this_node();
        self.header = self.at.encode();
        self.out.clear();
        self.note_move();
        self.events = next.events();
        let old = std::mem::replace(&mut self.stream, next);
        let world = Arc::clone(&self.clients.world);
        self.aside.spawn(read_out(world, old, old_at));
    }

    /// What came of the stream.
    fn judge(&self, outcome: io::Result<()>) {
        let (world, plan) = (self.world(), self.at.plan);
        match outcome {
            Ok(()) => {
                let all = self.at.up == plan.up && self.at.down == plan.down();
                if !all || !world.is_finished(plan.id) {
                    world.fault(format!("a clean end in the middle, {:?}", self.at));
                }
            }
            Err(error) => judge_error(world, &self.at, &error),
        }
        world.forget(plan.id);
        let mut figures = world.figures();
        *figures
            .streams
            .entry((plan.service, plan.mode))
            .or_default() += 1;
    }
}

/// Resolves when the next connection is open, if one is being opened.
async fn opened(wish: &mut Wish) -> Result<MigrationStream, MigrateError> {
    match wish {
        Wish::Open(opening) => opening.await,
        _ => std::future::pending().await,
    }
}

fn check(world: &World, at: &mut Position, read: &[u8]) {
    let plan = at.plan;
    let expected = content(plan.id, Direction::Down, at.down, read.len());
    if at.down + number(read.len()) > plan.down() || read != expected {
        let len = read.len();
        world.fault(format!("a client read {len} bytes that are not at {at:?}"));
    }
    at.down += number(read.len());
    world.figures().bytes_down += number(read.len());
}

fn judge_error(world: &World, at: &Position, error: &io::Error) {
    match world.explain(at.plan.id, error) {
        Some(why) => world.event(format!("a stream failed: {why}")),
        None => world.fault(format!("a stream failed: {}, {at:?}", in_full(error))),
    }
}

/// Reads a connection to its end that goes on elsewhere.
async fn read_out(world: Arc<World>, mut stream: MigrationStream, mut at: Position) {
    let (mut out, mut buf) = (Out::Close, vec![0; 16_384]);
    loop {
        let stepped = timeout(HANG, step(&mut stream, out, &mut buf)).await;
        match stepped.unwrap_or_else(|_| Err(io::Error::other("a former connection hangs"))) {
            Ok(Step::Read(len)) => check(&world, &mut at, &buf[..len]),
            Ok(Step::Wrote(_) | Step::Closed) => out = Out::Nothing,
            Ok(Step::End) if at.down >= at.plan.down_after(at.up) => return,
            Ok(Step::End) => {
                return world.fault(format!("a former connection's end in the middle, {at:?}"));
            }
            Err(error) => return judge_error(&world, &at, &error),
        }
    }
}
