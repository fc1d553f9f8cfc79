//! The connections of a course, each with what both sides have read on it.

use std::io;
use std::sync::{Arc, Mutex};

use rustls_migration::tokio::{MigrationAcceptor, TlsStream};
use tokio::task::JoinHandle;

use super::client::Dialled;
use super::wire::{End, Side, Wire};
use super::{Choice, Label, Setting};

/// One connection, and the node's side of it before its application has it.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) node: u8,
    pub(super) wire: Wire,
    pub(super) accepted: Arc<Mutex<Option<io::Result<TlsStream<End>>>>>,
    pub(super) accepting: JoinHandle<()>,
    /// What each side has read.
    pub(super) heard: [Heard; 2],
}

/// What one side has read on a connection, as far as it matters later: how much, what was asked of the client, and whether something was torn.
#[derive(Debug, Default, Hash)]
pub(super) struct Heard {
    bursts: usize,
    asked: Vec<Choice>,
}

impl Heard {
    pub(super) fn extend(&mut self, labels: &[Label]) {
        for (choice, ..) in labels {
            match choice {
                // The oracle has it.
                Choice::Checkpoint(_) => {}
                Choice::Tell(_)
                | Choice::TellSession(_)
                | Choice::TakeBack(_)
                | Choice::Die(..) => {
                    self.asked.push(*choice);
                }
                _ => self.bursts += 1,
            }
        }
    }
}

/// Takes what was dialled to its nodes.
pub(super) fn accept_all(
    setting: &Setting,
    acceptors: &[MigrationAcceptor],
    dialled: &Dialled,
) -> Vec<Leg> {
    let accept = |(address, wire, io)| {
        let node = setting.node_at(address).unwrap();
        let accepted = Arc::new(Mutex::new(None));
        let acceptor = &acceptors[usize::from(node)];
        let accept = acceptor.accept_from(io, None, Some(address));
        let slot = Arc::clone(&accepted);
        Leg {
            node,
            wire,
            accepted,
            accepting: tokio::spawn(async move {
                let stream = accept.await;
                *slot.lock().unwrap() = Some(stream);
            }),
            heard: Default::default(),
        }
    };
    dialled.take().into_iter().map(accept).collect()
}

pub(super) fn deliver_all(leg: &Leg) {
    leg.wire.seal((Choice::Up(0), 0, 0, 0));
    for side in [Side::Client, Side::Node] {
        while leg.wire.is_on_its_way_to(side) {
            leg.wire.deliver_to(side);
        }
    }
}
