//! What a recorder of the crate `metrics` gets from real traffic is what the events say (`docs/operating.md`).

use std::net::SocketAddr;
use std::time::Duration;

use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use quinn::Connection;
use quinn_migration::metrics::MetricKind;
use quinn_migration::{
    Advertised, Alternate, Attachment, Event, MigrationClient, Migrator, Outcome, Policy,
    ServerEvent, ServerEvents,
};

use crate::support::relay::Relay;
use crate::support::{Identity, Server, client, connect, echo, next, tireless, within};

/// What is measured on this thread.
struct Measured {
    handle: PrometheusHandle,
    _guard: LocalRecorderGuard<'static>,
}

impl Measured {
    fn begin() -> Self {
        // Once in the process: one test looks.
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        Self {
            handle: recorder.handle(),
            _guard: metrics::set_default_local_recorder(recorder),
        }
    }

    /// A sample's value: 0 while nothing was measured.
    fn value(&self, sample: &str) -> f64 {
        let text = self.handle.render();
        let value = |line: &str| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(value).unwrap_or_default()
    }
}

/// One attached connection, and all that its migrator has said.
struct Member {
    ours: Connection,
    theirs: Connection,
    migrator: Migrator,
    heard: Vec<Event>,
    _attachment: Attachment,
}

impl Member {
    /// Listens until this event.
    async fn hear(&mut self, wanted: impl Fn(&Event) -> bool) {
        loop {
            let event = next(&mut self.migrator).await;
            self.heard.push(event);
            if self.heard.last().is_some_and(&wanted) {
                return;
            }
        }
    }

    async fn echo(&self) {
        echo(&self.ours, &self.theirs).await;
    }

    /// Closes the connection, and listens to the end.
    async fn close(&mut self) {
        self.ours.close(0u32.into(), b"");
        while let Some(event) = within(self.migrator.next()).await {
            self.heard.push(event);
        }
    }
}

/// A server on three addresses, and its clients: one for each thing that may happen.
struct Traffic {
    server: Server,
    client: MigrationClient,
    members: Vec<Member>,
    advertised: Vec<Advertised>,
}

impl Traffic {
    fn new() -> Self {
        let identity = Identity::new();
        Self {
            server: Server::on(&identity, &["127.0.0.2:0", "127.0.0.3:0", "127.0.0.4:0"]),
            client: client(&identity),
            members: Vec::new(),
            advertised: Vec::new(),
        }
    }

    /// Another client connects to `at`, and `to` is advertised to it.
    async fn advertise(&mut self, at: SocketAddr, policy: Policy, to: SocketAddr) -> Member {
        let (ours, theirs) = connect(self.client.endpoint(), &self.server, at).await;
        let migrator = self.client.attach(&ours, policy).unwrap();
        let attachment = self.server.inner.attach(&theirs).unwrap();
        let advertised = self
            .server
            .inner
            .advertise(&theirs, Alternate::forwarded(to));
        self.advertised.push(within(advertised).await.unwrap());
        Member {
            ours,
            theirs,
            migrator,
            heard: Vec::new(),
            _attachment: attachment,
        }
    }

    async fn one_moves(&mut self) {
        let (first, second) = (self.server.address(0), self.server.address(1));
        let mut member = self.advertise(first, tireless(), second).await;
        member
            .hear(|event| matches!(event, Event::Migrated { .. }))
            .await;
        self.members.push(member);
    }

    async fn one_refuses(&mut self) {
        let (first, second) = (self.server.address(0), self.server.address(1));
        let mut policy = Policy::default();
        policy.moves = 0;
        let mut member = self.advertise(first, policy, second).await;
        member
            .hear(|event| matches!(event, Event::Refused { .. }))
            .await;
        self.members.push(member);
    }

    async fn one_fails(&mut self) {
        let nobody = "127.0.0.77:9".parse().unwrap();
        let mut member = self
            .advertise(self.server.address(0), tireless(), nobody)
            .await;
        member
            .hear(|event| matches!(event, Event::Failed { .. }))
            .await;
        self.members.push(member);
    }

    /// The server gives the address up to which it has moved.
    async fn one_returns(&mut self) {
        let (first, third) = (self.server.address(0), self.server.address(2));
        let mut member = self.advertise(first, tireless(), third).await;
        member
            .hear(|event| matches!(event, Event::Migrated { .. }))
            .await;
        member.echo().await;
        assert!(self.server.inner.remove_address(self.server.id(2)));
        member.echo().await;
        member
            .hear(|event| matches!(event, Event::FellBack { .. }))
            .await;
        self.members.push(member);
    }

    /// No address answers it for a while.
    async fn one_is_stranded(&mut self) {
        let [old, new] = Relay::pair(&self.server, [Duration::ZERO; 2]).await;
        let mut member = self.advertise(old.address, tireless(), new.address).await;
        member
            .hear(|event| matches!(event, Event::Migrated { .. }))
            .await;
        member.echo().await;
        old.silence();
        new.silence();
        let mut send = member.ours.open_uni().await.unwrap();
        send.write_all(b"is anybody there?").await.unwrap();
        member
            .hear(|event| matches!(event, Event::Stranded { .. }))
            .await;
        new.restore();
        self.members.push(member);
    }

    /// All connections end.
    async fn end(mut self, mut events: ServerEvents) -> Said {
        let mut said = Said {
            client: Vec::new(),
            server: Vec::new(),
            outcomes: Vec::new(),
            added: 2,
            removed: 1,
        };
        for one in self.advertised {
            said.outcomes.push(within(one.outcome()).await.unwrap());
        }
        for member in &mut self.members {
            member.echo().await;
            member.close().await;
            said.client.append(&mut member.heard);
        }
        while said.count("gone_total") < self.members.len() {
            said.server.push(within(events.next()).await.unwrap());
        }
        said
    }
}

/// What the two ends have said.
struct Said {
    client: Vec<Event>,
    server: Vec<ServerEvent>,
    outcomes: Vec<Outcome>,
    added: usize,
    removed: usize,
}

impl Said {
    fn client(&self, which: impl Fn(&&Event) -> bool) -> usize {
        self.client.iter().filter(which).count()
    }

    fn server(&self, which: impl Fn(&&ServerEvent) -> bool) -> usize {
        self.server.iter().filter(which).count()
    }

    fn outcomes(&self, which: Outcome) -> usize {
        self.outcomes.iter().filter(|one| **one == which).count()
    }

    /// How long what a histogram measures has taken, each time.
    fn times(&self, metric: &str) -> Vec<Duration> {
        let time = |event: &Event| match (metric, event) {
            ("client_validation_seconds", Event::Migrated { validation, .. }) => Some(*validation),
            ("client_silence_seconds", Event::FellBack { silence, .. }) => Some(*silence),
            _ => None,
        };
        self.client.iter().filter_map(time).collect()
    }

    /// How often what a counter counts has happened.
    fn count(&self, metric: &str) -> usize {
        match metric {
            "addresses_added_total" => self.added,
            "addresses_removed_total" => self.removed,
            // Each has come to its end, which it does when it was acknowledged.
            "advertised_total" | "acknowledged_total" => self.outcomes.len(),
            "moved_total" => self.server(|event| matches!(event, ServerEvent::Moved { .. })),
            "declined_total" => self.outcomes(Outcome::Declined),
            "fell_back_total" => self.server(|event| matches!(event, ServerEvent::FellBack { .. })),
            "gone_total" => self.server(|event| matches!(event, ServerEvent::Gone { .. })),
            "client_advertised_total" => {
                self.client(|event| matches!(event, Event::Advertised { .. }))
            }
            "client_refused_total" => self.client(|event| matches!(event, Event::Refused { .. })),
            "client_moved_total" => self.client(|event| matches!(event, Event::Migrated { .. })),
            "client_failed_total" => self.client(|event| matches!(event, Event::Failed { .. })),
            "client_fell_back_total" => {
                self.client(|event| matches!(event, Event::FellBack { .. }))
            }
            "client_stranded_total" => self.client(|event| matches!(event, Event::Stranded { .. })),
            other => panic!("nothing here makes a {other}"),
        }
    }
}

#[tokio::test]
async fn each_metric_says_what_the_events_of_the_traffic_say() {
    let measured = Measured::begin();
    let mut traffic = Traffic::new();
    let events = traffic.server.inner.events();
    traffic.one_moves().await;
    traffic.one_refuses().await;
    traffic.one_fails().await;
    traffic.one_returns().await;
    traffic.one_is_stranded().await;
    let attached = "quinn_migration_attached_connections";
    assert_eq!(measured.value(attached), 5.0);
    let said = traffic.end(events).await;

    for metric in quinn_migration::metrics::ALL {
        let name = metric.name.strip_prefix("quinn_migration_").unwrap();
        match metric.kind {
            MetricKind::Gauge => {
                assert_eq!(metric.name, attached);
                assert_eq!(measured.value(attached), 0.0);
            }
            MetricKind::Counter => {
                let happened = said.count(name);
                assert!(happened > 0, "{name}");
                assert_eq!(measured.value(metric.name), happened as f64, "{name}");
            }
            MetricKind::Histogram => {
                let times = said.times(name);
                assert!(!times.is_empty(), "{name}");
                let sample = |end| measured.value(&format!("{}_{end}", metric.name));
                assert_eq!(sample("count"), times.len() as f64, "{name}");
                let sum: f64 = times.iter().map(Duration::as_secs_f64).sum();
                assert!((sample("sum") - sum).abs() < 1e-6, "{name}");
            }
        }
    }
}
