//! What a server hears of its clients, and draining an address of it.

use std::collections::HashMap;
use std::time::Duration;

use quinn::Connection;
use quinn_migration::{
    AddressId, AttachError, Attachment, DrainOutcome, DrainPlan, Event, Migrator, Outcome, Policy,
    ServerEvent,
};

use crate::support::silence::returned;
use crate::support::stock::stock_client;
use crate::support::{
    Identity, PATIENCE, Server, World, client, connect, echo, tireless, until, within,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_hears_that_a_client_moved_fell_back_and_is_gone() {
    let mut world = World::new().await;
    let (server, first, second) = (&world.server.inner, world.server.id(0), world.server.id(1));
    let mut events = server.events();
    let attachment = server.attach(&world.theirs).unwrap();
    assert!(matches!(
        server.attach(&world.theirs),
        Err(AttachError::Attached)
    ));
    let client = attachment.client().client;
    world.move_to(world.server.address(1)).await;
    let moved = within(events.next()).await.unwrap();
    let ServerEvent::Moved { from, to, .. } = moved else {
        panic!("{moved:?}");
    };
    assert_eq!((from, to), (first, second));
    assert_eq!(attachment.client().server, second);
    world.server.inner.remove_address(second);
    world.echo().await;
    let fell_back = within(events.next()).await.unwrap();
    let ServerEvent::FellBack {
        connection,
        client: at,
        from,
        to,
    } = fell_back
    else {
        panic!("{fell_back:?}");
    };
    assert_eq!((connection, from, to), (attachment.id(), second, first));
    assert_eq!(at, client);
    let event = returned(&mut world.migrator).await;
    assert!(matches!(event, Event::FellBack { .. }), "{event:?}");
    world.ours.close(7u32.into(), b"done");
    let gone = within(events.next()).await.unwrap();
    let ServerEvent::Gone { on, reason, .. } = gone else {
        panic!("{gone:?}");
    };
    assert_eq!(on, first);
    assert!(matches!(
        reason,
        quinn::ConnectionError::ApplicationClosed(_)
    ));
    let stats = world.server.inner.stats();
    assert_eq!((stats.advertised, stats.acknowledged), (1, 1));
    assert_eq!((stats.moved, stats.fell_back, stats.gone), (1, 1, 1));
    assert_eq!(stats.attached_now, 0);
    let ours = world.client.stats();
    assert_eq!((ours.advertised, ours.moved, ours.fell_back), (1, 1, 1));
}

/// The deadline of a drain that a test ends itself.
const NEVER: Duration = PATIENCE;

/// Connections on the first of three addresses, each attached.
struct Crowd {
    server: Server,
    client: quinn_migration::MigrationClient,
    members: Vec<(Connection, Connection, Migrator, Attachment)>,
}

impl Crowd {
    async fn of(count: usize) -> Self {
        let identity = Identity::new();
        let mut crowd = Self {
            server: Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0", "127.0.0.4:0"]),
            client: client(&identity),
            members: Vec::new(),
        };
        for _ in 0..count {
            crowd.join(tireless()).await;
        }
        crowd
    }

    async fn join(&mut self, policy: Policy) {
        let endpoint = self.client.endpoint();
        let (ours, theirs) = connect(endpoint, &self.server, self.server.address(0)).await;
        let migrator = self.client.attach(&ours, policy).unwrap();
        let attachment = self.server.inner.attach(&theirs).unwrap();
        self.members.push((ours, theirs, migrator, attachment));
    }

    fn drain(&self, plan: DrainPlan) -> quinn_migration::Drain {
        self.server.inner.drain_address(self.server.id(0), plan)
    }

    fn to_second(&self) -> DrainPlan {
        DrainPlan::to([(self.server.id(1), 1)]).spread_over(Duration::ZERO)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_drained_at_a_pace_and_by_weight() {
    let crowd = Crowd::of(12).await;
    let targets = [(crowd.server.id(1), 3), (crowd.server.id(2), 1)];
    let plan = DrainPlan::to(targets)
        .spread_over(Duration::from_millis(200))
        .max_moving(2);
    let drain = crowd.drain(plan);
    let mut progress = drain.watch();
    let watching = tokio::spawn(async move {
        let mut most = 0;
        while progress.changed().await.is_ok() {
            most = most.max(progress.borrow().pending);
        }
        most
    });
    let told = within(drain.all_told()).await;
    assert_eq!((told.total, told.untold), (12, 0));
    let summary = within(drain.finished()).await;
    let progress = summary.progress;
    assert_eq!(
        (progress.moved, progress.notified, progress.remaining),
        (12, 12, 0)
    );
    assert!(summary.elapsed < Duration::from_secs(20), "no deadline");
    assert!(summary.connections.iter().all(|one| one.gone));
    assert!(within(watching).await.unwrap() <= 2);
    let mut shares: HashMap<AddressId, usize> = HashMap::new();
    for (ours, theirs, _, attachment) in &crowd.members {
        echo(ours, theirs).await;
        *shares.entry(attachment.client().server).or_default() += 1;
    }
    assert_eq!(shares[&crowd.server.id(1)], 9);
    assert_eq!(shares[&crowd.server.id(2)], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_tells_what_became_of_each_connection() {
    let mut crowd = Crowd::of(1).await;
    let mut refusing = Policy::default();
    refusing.moves = 0;
    crowd.join(refusing).await;
    let drain = crowd.drain(crowd.to_second().deadline(NEVER));
    crowd.join(tireless()).await;
    until("two have moved and one has refused", || {
        let progress = drain.progress();
        (progress.moved, progress.declined) == (2, 1)
    })
    .await;
    let summary = drain.abort();
    let outcome = |index: usize| {
        let id = crowd.members[index].3.id();
        let mut all = summary.connections.iter();
        all.find(|one| one.connection == id).unwrap().outcome
    };
    assert_eq!(outcome(0), DrainOutcome::Moved);
    assert_eq!(outcome(1), DrainOutcome::Declined);
    assert_eq!(outcome(2), DrainOutcome::Moved, "it came during the drain");
    let progress = summary.progress;
    assert_eq!(
        (progress.total, progress.moved, progress.declined),
        (3, 2, 1)
    );
    assert_eq!((progress.remaining, progress.forced), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_know_the_draft_is_not_movable() {
    let identity = Identity::new();
    let server = Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0"]);
    let endpoint = stock_client(&identity);
    let (ours, theirs) = connect(&endpoint, &server, server.address(0)).await;
    let _attachment = server.inner.attach(&theirs).unwrap();
    let plan = DrainPlan::to([(server.id(1), 1)])
        .spread_over(Duration::ZERO)
        .deadline(NEVER);
    let drain = server.inner.drain_address(server.id(0), plan);
    assert_eq!(within(drain.all_told()).await.not_movable, 1);
    let summary = drain.abort();
    assert_eq!(
        (summary.progress.not_movable, summary.progress.remaining),
        (1, 1)
    );
    echo(&ours, &theirs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_drain_tells_nobody_and_gives_up_at_its_deadline() {
    let crowd = Crowd::of(3).await;
    let plan = DrainPlan::to([(crowd.server.id(1), 1)])
        .spread_over(Duration::from_secs(60))
        .deadline(Duration::from_secs(5));
    let drain = crowd.drain(plan);
    drain.pause();
    // The drain hears of it long before its deadline.
    crowd.members[2].0.close(0u32.into(), b"");
    let summary = within(drain.finished()).await;
    let progress = summary.progress;
    assert_eq!((progress.forced, progress.notified), (2, 0));
    assert_eq!((progress.left_by_itself, progress.remaining), (1, 2));
    // They have stayed, and another drain moves them.
    let drain = crowd.drain(crowd.to_second());
    drain.pause();
    drain.resume();
    let summary = within(drain.finished()).await;
    assert_eq!((summary.progress.moved, summary.progress.total), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_drain_of_an_address_takes_the_first_ones_place() {
    let crowd = Crowd::of(2).await;
    let nobody = DrainPlan::to::<AddressId>([]).deadline(Duration::from_secs(60));
    let first = crowd.drain(nobody);
    let second = crowd.drain(crowd.to_second());
    let summary = within(first.finished()).await;
    assert_eq!(
        (summary.progress.untold, summary.progress.remaining),
        (2, 2)
    );
    assert_eq!(within(second.finished()).await.progress.moved, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attachment_that_is_dropped_is_counted_no_more() {
    let mut world = World::new().await;
    let attachment = world.server.inner.attach(&world.theirs).unwrap();
    assert_eq!(world.server.inner.stats().attached_now, 1);
    drop(attachment);
    assert_eq!(world.server.inner.stats().attached_now, 0);
    let again = world.server.inner.attach(&world.theirs).unwrap();
    let advertised = world.advertise(world.server.id(1).into()).await.unwrap();
    assert_eq!(within(advertised.outcome()).await.unwrap(), Outcome::Moved);
    let second = world.server.id(1);
    until("the attachment knows it", || {
        again.client().server == second
    })
    .await;
    let _ = crate::support::settled(&mut world.migrator).await;
}
