//! What one checkpoint costs each side, by itself: at the server it is sealed and put into a record; at the client that is opened,
//! and the token verified.
//!
//! The client's part is the difference of the two figures.

use std::net::SocketAddr;

use rustls_migration::client::ClientConnection;
use rustls_migration::server::ServerConnection;

use crate::error::BenchError;
use crate::peers::{Expected, Service};
use crate::report::Step;
use crate::streams::STATE;
use crate::timing::{Plan, measure as time};
use crate::workload::{Workload, handshake, pass, take_flight};

/// Where checkpoints lead.
const TARGET: ([u8; 4], u16) = ([127, 0, 0, 3], 1);

/// Measures both steps.
pub(crate) fn measure(plan: Plan, service: &Service) -> Result<Vec<Step>, BenchError> {
    Ok(vec![
        Step {
            name: "checkpoint made",
            ns: time(plan, checkpoint(service, false)?)?,
        },
        Step {
            name: "checkpoint made and taken",
            ns: time(plan, checkpoint(service, true)?)?,
        },
    ])
}

/// A client and a server whose handshake is complete.
fn connected(service: &Service) -> Result<(ClientConnection, ServerConnection), BenchError> {
    let mut client = service.migrating_client(false, false)?;
    let mut server = service.migrating_server(false)?;
    let expected = Expected {
        resumed: false,
        early_data: false,
        token: true,
    };
    handshake(&mut client, &mut server, &mut Vec::new(), expected)
}

fn make(server: &mut ServerConnection) -> Result<(), BenchError> {
    let made = server.checkpoint(SocketAddr::from(TARGET), &STATE);
    made.map_err(|_| BenchError::Unexpected("no checkpoint is made"))
}

/// How many bytes one is on the wire.
pub(crate) fn bytes(service: &Service) -> Result<usize, BenchError> {
    let (_, mut server) = connected(service)?;
    let mut wire = Vec::new();
    make(&mut server)?;
    take_flight(&mut server, &mut wire)?;
    Ok(wire.len())
}

/// Makes a checkpoint, which the client takes if `taken`.
fn checkpoint(service: &Service, taken: bool) -> Result<Workload, BenchError> {
    let (mut client, mut server) = connected(service)?;
    let mut wire = Vec::new();
    Ok(Box::new(move || {
        make(&mut server)?;
        if !taken {
            return take_flight(&mut server, &mut wire);
        }
        pass(&mut server, &mut client, &mut wire)?;
        while client.next_update().is_some() {}
        match client.take_checkpoint() {
            Some(_) => Ok(()),
            None => Err(BenchError::Unexpected("no checkpoint has come")),
        }
    }))
}
