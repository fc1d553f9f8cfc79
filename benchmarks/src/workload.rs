//! What is run again and again: one handshake, or one record of bulk data, in memory.
//!
//! Both sides of a comparison are driven by the same code.

use std::io;

use rustls_migration::Connection;

use crate::case::{Case, RECORD_LEN, Side};
use crate::error::BenchError;
use crate::peers::{Client, EARLY_DATA, Expected, Server, Service};
use crate::streams;

/// Does one unit of work: a handshake or a record.
pub(crate) type Workload = Box<dyn FnMut() -> Result<(), BenchError>>;

/// The work of one side of a comparison.
pub(crate) fn workload(service: &Service, case: Case, side: Side) -> Result<Workload, BenchError> {
    if case.is_of_streams() {
        return streams::workload(service, case, side);
    }
    let resumed = case.is_resumed();
    let early_data = case.has_early_data();
    let migrating_client = side == Side::Migrating && !case.has_stock_client();
    let migrating_server = side == Side::Migrating && case != Case::FullStockServer;
    let expected = Expected {
        resumed,
        early_data,
        token: migrating_client && migrating_server,
    };
    match (migrating_client, migrating_server) {
        (false, false) => work(
            case,
            service.stock_client(resumed, early_data)?,
            service.stock_server(early_data, case.has_ticketer())?,
            expected,
        ),
        (false, true) => work(
            case,
            service.stock_client(resumed, early_data)?,
            service.migrating_server(early_data)?,
            expected,
        ),
        (true, false) => work(
            case,
            service.migrating_client(resumed, early_data)?,
            service.stock_server(early_data, false)?,
            expected,
        ),
        (true, true) => work(
            case,
            service.migrating_client(resumed, early_data)?,
            service.migrating_server(early_data)?,
            expected,
        ),
    }
}

fn work<C, S>(
    case: Case,
    mut client: C,
    mut server: S,
    expected: Expected,
) -> Result<Workload, BenchError>
where
    C: Client + 'static,
    S: Server + 'static,
{
    let mut wire = Vec::new();
    if expected.resumed || case.is_bulk() {
        let first = Expected {
            resumed: false,
            early_data: false,
            ..expected
        };
        let (mut ours, mut theirs) = handshake(&mut client, &mut server, &mut wire, first)?;
        let plaintext = vec![0x62; RECORD_LEN];
        match case {
            Case::BulkToServer => {
                return Ok(Box::new(move || {
                    send(&mut ours, &mut theirs, &plaintext, &mut wire)
                }));
            }
            Case::BulkToClient => {
                return Ok(Box::new(move || {
                    send(&mut theirs, &mut ours, &plaintext, &mut wire)
                }));
            }
            Case::Full
            | Case::FullStockClient
            | Case::FullStockServer
            | Case::Resumed
            | Case::ResumedTicketer
            | Case::ResumedEarlyData
            | Case::ResumedStockClient
            | Case::ResumedEarlyDataStockClient
            | Case::StreamToServer
            | Case::StreamToClient
            | Case::CheckpointToServer
            | Case::CheckpointToClient => {}
        }
    }
    Ok(Box::new(move || {
        handshake(&mut client, &mut server, &mut wire, expected).map(drop)
    }))
}

/// One handshake, up to the last ticket.
pub(crate) fn handshake<C: Client, S: Server>(
    client: &mut C,
    server: &mut S,
    wire: &mut Vec<u8>,
    expected: Expected,
) -> Result<(C::Connection, S::Connection), BenchError> {
    let mut ours = client.connect()?;
    take_flight(&mut ours, wire)?;
    let mut theirs = server.accept(wire)?;
    if expected.early_data {
        let mut received = [0; EARLY_DATA.len()];
        if server.read_early_data(&mut theirs, &mut received)? != received.len() {
            return Err(BenchError::Unexpected("early data is missing"));
        }
    }
    while ours.is_handshaking() || theirs.is_handshaking() || theirs.wants_write() {
        pass(&mut theirs, &mut ours, wire)?;
        pass(&mut ours, &mut theirs, wire)?;
        server.finished(&mut theirs)?;
    }
    client.check(&mut ours, expected)?;
    server.check(&theirs, expected)?;
    Ok((ours, theirs))
}

/// One record of bulk data, written, carried over and read.
fn send(
    from: &mut impl Connection,
    to: &mut impl Connection,
    plaintext: &[u8],
    wire: &mut Vec<u8>,
) -> Result<(), BenchError> {
    from.write(plaintext)?;
    pass(from, to, wire)?;
    let mut missing = plaintext.len();
    loop {
        match to.fill_buf() {
            Ok(received) => {
                let len = received.len();
                missing = missing.saturating_sub(len);
                to.consume(len);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    if missing == 0 {
        Ok(())
    } else {
        Err(BenchError::Unexpected("bulk data is missing"))
    }
}

/// Carries over what waits to be sent.
pub(crate) fn pass(
    from: &mut impl Connection,
    to: &mut impl Connection,
    wire: &mut Vec<u8>,
) -> Result<(), BenchError> {
    take_flight(from, wire)?;
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest)?;
        to.process_new_packets()?;
    }
    Ok(())
}

/// Takes what waits to be sent.
pub(crate) fn take_flight(
    from: &mut impl Connection,
    wire: &mut Vec<u8>,
) -> Result<(), BenchError> {
    wire.clear();
    while from.wants_write() {
        from.write_tls(wire)?;
    }
    Ok(())
}
