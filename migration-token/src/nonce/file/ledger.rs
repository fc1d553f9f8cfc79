//! The tables of the file: nonces by key, the same nonces by the time at which they may be forgotten, and what is known of
//! the memory as a whole.
//!
//! It never removes a nonce before its time, nor without noting the time of what it removed.

use std::io;

use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    StorageBackend, Table, TableDefinition, WriteTransaction,
};
use time::{Duration, OffsetDateTime};

use super::writer::Request;
use crate::nonce::birth::{Birth, from_unix_milliseconds, span, unix_milliseconds};
use crate::nonce::{Claim, ClaimId, ClaimOutcome, CommitOutcome, MemoryId, Monotonic, StoreError};

/// Format, and moment of creation in nanoseconds since the Unix epoch.
const ABOUT: TableDefinition<'_, (), (u32, i128)> = TableDefinition::new("migration-token");
const FORMAT: u32 = 2;

/// See [`Life`], in the order of its fields; spans in nanoseconds.
const LIFE: TableDefinition<'_, (), (i64, i64, u128, u64, u64)> = TableDefinition::new("life");

/// The name of the memory.
const MEMORY: TableDefinition<'_, (), &[u8; MemoryId::LEN]> = TableDefinition::new("memory");

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

/// What is known of the memory as a whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    /// When it began, in Unix milliseconds, by the best clock seen.
    since_ms: i64,
    /// The last second of the youngest nonce that was removed.
    forgotten: i64,
    /// From which origin `measured` counts; zero when that means nothing to another process.
    origin: u128,
    /// When `age` was measured, by a clock that is never set.
    measured: std::time::Duration,
    /// How old the memory was then. The time for which nobody had the file open may be missing.
    age: std::time::Duration,
}

impl Life {
    /// One that begins `now`, when the clock that is never set says `elapsed`.
    fn new(now: OffsetDateTime, elapsed: std::time::Duration, clock: &dyn Monotonic) -> Self {
        Self {
            since_ms: unix_milliseconds(now),
            forgotten: i64::MIN,
            origin: clock.origin().unwrap_or_default(),
            measured: elapsed,
            age: std::time::Duration::ZERO,
        }
    }

    /// The beginning of the memory, for the process that opens it `now`, when the clock that is never set says `elapsed`.
    pub(super) fn birth(
        &self,
        now: OffsetDateTime,
        elapsed: std::time::Duration,
        clock: &dyn Monotonic,
    ) -> Birth {
        let same_origin = self.origin != 0 && clock.origin() == Some(self.origin);
        let closed = elapsed
            .checked_sub(self.measured)
            .filter(|_| same_origin)
            .unwrap_or_default();
        let age = span(self.age.saturating_add(closed));
        let birth = Birth::new(
            from_unix_milliseconds(self.since_ms),
            span(elapsed).saturating_sub(age),
        );
        birth.note(now, span(elapsed));
        birth
    }

    /// The last moment for which something is known to have been forgotten.
    pub(super) fn forgotten(&self) -> Option<OffsetDateTime> {
        OffsetDateTime::from_unix_timestamp(self.forgotten).ok()
    }
}

/// When a memory began, and the clock that says how long ago that was.
#[derive(Clone, Debug)]
pub(super) struct Age {
    pub(super) birth: std::sync::Arc<Birth>,
    pub(super) clock: std::sync::Arc<dyn Monotonic>,
}

impl Age {
    fn elapsed(&self) -> Duration {
        span(self.clock.elapsed())
    }

    fn note_in(&self, life: &mut Life) {
        life.since_ms = self.birth.since_ms();
        life.origin = self.clock.origin().unwrap_or_default();
        life.measured = self.clock.elapsed();
        let age = self.birth.age(span(life.measured));
        life.age = age.try_into().unwrap_or_default();
    }
}

/// An open file.
pub(super) struct Ledger {
    database: Database,
    created: OffsetDateTime,
    life: Life,
    id: Option<MemoryId>,
}

impl Ledger {
    /// Makes the tables in an empty file.
    pub(super) fn create(
        backend: impl StorageBackend,
        now: OffsetDateTime,
        elapsed: std::time::Duration,
        clock: &dyn Monotonic,
    ) -> Result<Self, LedgerError> {
        let database = open(backend)?;
        let life = Life::new(now, elapsed, clock);
        write(&database, |transaction| {
            let about = (FORMAT, now.unix_timestamp_nanos());
            transaction.open_table(ABOUT)?.insert((), about)?;
            write_life(transaction, &life)?;
            Tables::open(transaction, life).map(|_| true)
        })?;
        let created = now;
        let id = memory_id(&database)?;
        Ok(Self {
            database,
            created,
            life,
            id,
        })
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
        let (Ok(created), FORMAT) = (created, format) else {
            return Err(LedgerError::Foreign);
        };
        let life = read_life(&database)?.ok_or(LedgerError::Foreign)?;
        let id = memory_id(&database)?;
        Ok(Self {
            database,
            created,
            life,
            id,
        })
    }

    /// What the file says of the memory.
    pub(super) fn life(&self) -> Life {
        self.life
    }

    /// The name of the memory; `None` when there was no randomness for one.
    pub(super) fn id(&self) -> Option<MemoryId> {
        self.id
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
        &mut self,
        requests: &mut [Request],
        capacity: u64,
        forget: usize,
        age: &Age,
    ) -> Result<u64, redb::Error> {
        let mut live = 0;
        let mut life = self.life;
        write(&self.database, |transaction| {
            let mut tables = Tables::open(transaction, life)?;
            if let Some(now) = requests.iter().map(|request| request.claim().now).min() {
                tables.forget_expired(now.unix_timestamp(), forget)?;
            }
            let elapsed = age.elapsed();
            for request in requests {
                match request {
                    Request::Claim(asked) => {
                        asked.outcome = Some(match age.birth.judge(&asked.claim, elapsed) {
                            Ok(()) => tables.claim(&asked.claim, capacity)?,
                            Err(error) => Err(error),
                        });
                    }
                    Request::Commit(asked) => {
                        asked.outcome = Some(Ok(tables.commit(&asked.claim)?));
                    }
                }
            }
            live = tables.nonces.len()?;
            let changed = tables.changed || age.birth.since_ms() != life.since_ms;
            life.forgotten = tables.forgotten;
            drop(tables);
            if changed {
                age.note_in(&mut life);
                write_life(transaction, &life)?;
            }
            Ok(changed)
        })?;
        self.life = life;
        Ok(live)
    }

    /// Notes how old the memory is, for whoever opens the file next.
    pub(super) fn close(mut self, age: &Age) -> Result<(), redb::Error> {
        age.note_in(&mut self.life);
        write(&self.database, |transaction| {
            write_life(transaction, &self.life).map(|()| true)
        })
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

fn read_life(database: &Database) -> Result<Option<Life>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(LIFE) {
        Ok(table) => table,
        Err(redb::TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Ok(None),
    };
    Ok(table.get(())?.map(|life| {
        let (since_ms, forgotten, origin, measured, age) = life.value();
        Life {
            since_ms,
            forgotten,
            origin,
            measured: std::time::Duration::from_nanos(measured),
            age: std::time::Duration::from_nanos(age),
        }
    }))
}

fn write_life(transaction: &WriteTransaction, life: &Life) -> Result<(), redb::Error> {
    let nanoseconds =
        |span: std::time::Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let (measured, age) = (nanoseconds(life.measured), nanoseconds(life.age));
    let life = (life.since_ms, life.forgotten, life.origin, measured, age);
    transaction.open_table(LIFE)?.insert((), life)?;
    Ok(())
}

/// The name in the file, which gets one if it has none.
fn memory_id(database: &Database) -> Result<Option<MemoryId>, redb::Error> {
    let mut id = None;
    write(database, |transaction| {
        let mut table = transaction.open_table(MEMORY)?;
        id = table.get(())?.map(|id| MemoryId::new(*id.value()));
        if id.is_some() {
            return Ok(false);
        }
        id = MemoryId::random();
        if let Some(id) = &id {
            table.insert((), id.as_bytes())?;
        }
        Ok(id.is_some())
    })?;
    Ok(id)
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
    /// See [`Life`].
    forgotten: i64,
    changed: bool,
}

/// What is known of a nonce.
struct Known {
    last_second: i64,
    spent: bool,
    by: ClaimId,
}

impl<'a> Tables<'a> {
    fn open(transaction: &'a WriteTransaction, life: Life) -> Result<Self, redb::Error> {
        Ok(Self {
            nonces: transaction.open_table(NONCES)?,
            expiry: transaction.open_table(EXPIRY)?,
            forgotten: life.forgotten,
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
            self.removed(expired.last_second);
        }
        Ok(match known {
            Some(Known { spent: true, .. }) => Ok(ClaimOutcome::Committed),
            Some(Known { by, .. }) if by == claim.id => Ok(ClaimOutcome::First),
            Some(_) => Ok(ClaimOutcome::Pending),
            None if claim.last_second() <= self.forgotten => Err(StoreError::Forgotten),
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
            let Some((last_second, key)) = self.first_expired(now)? else {
                return Ok(());
            };
            self.expiry.pop_first()?;
            self.nonces.remove(&key)?;
            self.removed(last_second);
        }
        Ok(())
    }

    fn first_expired(&self, now: i64) -> Result<Option<(i64, [u8; 32])>, redb::Error> {
        Ok(self.expiry.first()?.and_then(|(key, _)| {
            let (last_second, nonce) = key.value();
            (last_second < now).then_some((last_second, *nonce))
        }))
    }

    fn removed(&mut self, last_second: i64) {
        self.forgotten = self.forgotten.max(last_second);
        self.changed = true;
    }
}

fn now(claim: &Claim) -> i64 {
    claim.now.unix_timestamp()
}
