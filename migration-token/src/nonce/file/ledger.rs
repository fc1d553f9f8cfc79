//! The tables of the file: nonces by key, and the same nonces by the time at which they may be forgotten.
//!
//! It never removes a nonce before its time.

use std::io;

use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    StorageBackend, Table, TableDefinition, WriteTransaction,
};
use time::OffsetDateTime;

use super::writer::Request;
use crate::nonce::{Claim, ClaimId, ClaimOutcome, CommitOutcome, StoreError};

/// Format, and moment of creation in nanoseconds since the Unix epoch.
const ABOUT: TableDefinition<'_, (), (u32, i128)> = TableDefinition::new("migration-token");
const FORMAT: u32 = 1;

/// The last second in which the nonce must be known, whether it is spent, and who spent it or else claimed it first.
type State = (i64, bool, &'static [u8; 16]);
const NONCES: TableDefinition<'_, &[u8; 32], State> = TableDefinition::new("nonces");

/// The same nonces, in the order in which they may be forgotten.
type Forgettable = (i64, &'static [u8; 32]);
const EXPIRY: TableDefinition<'_, Forgettable, ()> = TableDefinition::new("expiry");

/// Memory for pages of the file, in bytes.
const CACHE_LEN: usize = 64 << 20;

/// Why a file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum LedgerError {
    #[error("another process has it open")]
    InUse,
    #[error("it is not a nonce file")]
    Foreign,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Damaged(redb::Error),
}

impl From<redb::Error> for LedgerError {
    fn from(error: redb::Error) -> Self {
        if matches!(error, redb::Error::DatabaseAlreadyOpen) {
            return Self::InUse;
        }
        let redb::Error::Io(error) = error else {
            return Self::Damaged(error);
        };
        // So redb says that a file does not begin as its files do.
        if error.kind() == io::ErrorKind::InvalidData {
            Self::Foreign
        } else {
            Self::Io(error)
        }
    }
}

/// An open file.
pub(super) struct Ledger {
    database: Database,
    created: OffsetDateTime,
}

impl Ledger {
    /// Makes the tables in an empty file.
    pub(super) fn create(
        backend: impl StorageBackend,
        now: OffsetDateTime,
    ) -> Result<Self, LedgerError> {
        let database = open(backend)?;
        write(&database, |transaction| {
            let about = (FORMAT, now.unix_timestamp_nanos());
            transaction.open_table(ABOUT)?.insert((), about)?;
            Tables::open(transaction).map(|_| true)
        })?;
        let created = now;
        Ok(Self { database, created })
    }

    /// Opens a file that has been made before, and checks it as a whole.
    pub(super) fn open(backend: impl StorageBackend) -> Result<Self, LedgerError> {
        // redb would make a database of it.
        if backend.len()? == 0 {
            return Err(LedgerError::Foreign);
        }
        let database = open(backend)?;
        let (format, created) = about(&database)
            .map_err(LedgerError::from)?
            .ok_or(LedgerError::Foreign)?;
        let created = OffsetDateTime::from_unix_timestamp_nanos(created);
        match created {
            Ok(created) if format == FORMAT => Ok(Self { database, created }),
            _ => Err(LedgerError::Foreign),
        }
    }

    /// When the file was created.
    pub(super) fn created(&self) -> OffsetDateTime {
        self.created
    }

    /// How many nonces the file holds.
    pub(super) fn live(&self) -> Result<u64, redb::Error> {
        Ok(self.database.begin_read()?.open_table(NONCES)?.len()?)
    }

    /// Settles all requests and makes the outcomes durable, and removes up to `forget` expired nonces. Returns how many
    /// nonces there are then. On an error it is not known what the file says.
    pub(super) fn settle(
        &self,
        requests: &mut [Request],
        capacity: u64,
        forget: usize,
    ) -> Result<u64, redb::Error> {
        let mut live = 0;
        write(&self.database, |transaction| {
            let mut tables = Tables::open(transaction)?;
            if let Some(now) = requests.iter().map(|request| request.claim().now).min() {
                tables.forget_expired(now.unix_timestamp(), forget)?;
            }
            for request in requests {
                match request {
                    Request::Claim(asked) => {
                        asked.outcome = Some(tables.claim(&asked.claim, capacity)?);
                    }
                    Request::Commit(asked) => {
                        asked.outcome = Some(Ok(tables.commit(&asked.claim)?));
                    }
                }
            }
            live = tables.nonces.len()?;
            Ok(tables.changed)
        })?;
        Ok(live)
    }
}

fn open(backend: impl StorageBackend) -> Result<Database, redb::Error> {
    Ok(Builder::new()
        .set_cache_size(CACHE_LEN)
        .set_check_integrity_on_open(true)
        .create_with_backend(backend)?)
}

/// What the file says about itself; `None` when it is another program's.
fn about(database: &Database) -> Result<Option<(u32, i128)>, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(ABOUT) {
        Ok(table) => Ok(table.get(())?.map(|about| about.value())),
        Err(redb::TableError::Storage(error)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// Runs one transaction, which is durable in the end if `change` says that it changed something.
fn write(
    database: &Database,
    change: impl FnOnce(&WriteTransaction) -> Result<bool, redb::Error>,
) -> Result<(), redb::Error> {
    // redb's default durability is that which a nonce needs: commit returns once the disk has it.
    let transaction = database.begin_write()?;
    if change(&transaction)? {
        transaction.commit()?;
    } else {
        transaction.abort()?;
    }
    Ok(())
}

/// The tables in a transaction.
struct Tables<'a> {
    nonces: Table<'a, &'static [u8; 32], State>,
    expiry: Table<'a, Forgettable, ()>,
    changed: bool,
}

/// What is known of a nonce.
struct Known {
    last_second: i64,
    spent: bool,
    by: ClaimId,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            nonces: transaction.open_table(NONCES)?,
            expiry: transaction.open_table(EXPIRY)?,
            changed: false,
        })
    }

    fn known(&self, claim: &Claim) -> Result<Option<Known>, redb::Error> {
        let state = self.nonces.get(claim.nonce.as_bytes())?;
        Ok(state.map(|state| {
            let (last_second, spent, by) = state.value();
            let by = ClaimId::new(*by);
            Known {
                last_second,
                spent,
                by,
            }
        }))
    }

    fn claim(
        &mut self,
        claim: &Claim,
        capacity: u64,
    ) -> Result<Result<ClaimOutcome, StoreError>, redb::Error> {
        let mut known = self.known(claim)?;
        // One that has expired may be waiting for its removal.
        if let Some(expired) = known.take_if(|known| known.last_second < now(claim)) {
            let key = claim.nonce.as_bytes();
            self.nonces.remove(key)?;
            self.expiry.remove((expired.last_second, key))?;
            self.changed = true;
        }
        Ok(match known {
            Some(Known { spent: true, .. }) => Ok(ClaimOutcome::Committed),
            Some(Known { by, .. }) if by == claim.id => Ok(ClaimOutcome::First),
            Some(_) => Ok(ClaimOutcome::Pending),
            None if self.nonces.len()? >= capacity => Err(StoreError::Full),
            None => {
                let last_second = claim.last_second();
                self.record(claim, last_second, false)?;
                self.expiry
                    .insert((last_second, claim.nonce.as_bytes()), ())?;
                Ok(ClaimOutcome::First)
            }
        })
    }

    fn commit(&mut self, claim: &Claim) -> Result<CommitOutcome, redb::Error> {
        Ok(match self.known(claim)? {
            None => CommitOutcome::Lost,
            Some(Known {
                spent: true, by, ..
            }) if by == claim.id => CommitOutcome::Won,
            Some(Known { spent: true, .. }) => CommitOutcome::Lost,
            Some(Known { last_second, .. }) => {
                self.record(claim, last_second, true)?;
                CommitOutcome::Won
            }
        })
    }

    fn record(&mut self, claim: &Claim, last_second: i64, spent: bool) -> Result<(), redb::Error> {
        let state = (last_second, spent, claim.id.as_bytes());
        self.nonces.insert(claim.nonce.as_bytes(), state)?;
        self.changed = true;
        Ok(())
    }

    fn forget_expired(&mut self, now: i64, at_most: usize) -> Result<(), redb::Error> {
        for _ in 0..at_most {
            let Some(key) = self.first_expired(now)? else {
                return Ok(());
            };
            self.expiry.pop_first()?;
            self.nonces.remove(&key)?;
            self.changed = true;
        }
        Ok(())
    }

    fn first_expired(&self, now: i64) -> Result<Option<[u8; 32]>, redb::Error> {
        Ok(self.expiry.first()?.and_then(|(key, _)| {
            let (last_second, nonce) = key.value();
            (last_second < now).then_some(*nonce)
        }))
    }
}

fn now(claim: &Claim) -> i64 {
    claim.now.unix_timestamp()
}
