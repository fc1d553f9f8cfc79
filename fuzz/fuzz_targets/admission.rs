//! Admission as a whole: the hello of a client that was handed over, changed in any way by somebody who knows the session's
//! secrets, as the client does, and the answers of the nonce store. Only the token that was issued is ever claimed.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use migration_fuzz::World;
use migration_token::{ClaimOutcome, CommitOutcome, MigrationToken, StoreError};
use rustls_migration::Connection;
use rustls_migration::fuzzing::token_in;
use rustls_migration::server::{HelloAcceptor, Arrival};
use time::OffsetDateTime;

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// A script of changes: one byte says what to do, those after it where and how.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn place(&mut self, len: usize) -> Option<usize> {
        let place = usize::from(u16::from_be_bytes([self.byte()?, self.byte()?]));
        Some(place % len.max(1))
    }

    /// Changes the hello. `None` at the script's end.
    fn change(&mut self, hello: &mut Vec<u8>) -> Option<()> {
        match self.byte()? % 6 {
            0 => {
                let at = self.place(hello.len())?;
                hello[at] ^= self.byte()?;
            }
            1 => {
                let at = self.place(hello.len())?;
                hello.insert(at, self.byte()?);
            }
            2 => {
                let at = self.place(hello.len())?;
                hello.remove(at);
            }
            3 => WORLD.session.bind(hello),
            4 => self.sign_another(hello)?,
            _ => {
                let at = self.place(hello.len())?;
                let len = self.place(64)?;
                let piece: Vec<u8> = hello[at..].iter().take(len).copied().collect();
                let to = self.place(hello.len())?;
                hello.splice(to..to, piece);
            }
        }
        Some(())
    }

    /// Puts another token in the issued one's place, rightly signed.
    fn sign_another(&mut self, hello: &mut Vec<u8>) -> Option<()> {
        let (Some(range), Some(what)) = (token_in(hello), self.byte()) else {
            return Some(());
        };
        let Ok(token) = MigrationToken::decode(&hello[range.clone()]) else {
            return Some(());
        };
        let mut target = token.target_address();
        let (mut expiry, mut nonce) = (token.expiry(), token.nonce().to_vec());
        match what % 3 {
            0 => target.set_port(u16::from(self.byte()?)),
            1 => {
                let later = time::Duration::seconds(i64::from(self.byte()?));
                expiry = expiry.saturating_add(later);
            }
            _ => nonce[0] ^= self.byte()?,
        }
        let key = &WORLD.session.token_key;
        let signed = key.sign(target, expiry, &nonce).ok()?.encode();
        if signed.len() == range.len() {
            hello[range].copy_from_slice(&signed);
        }
        Some(())
    }
}

/// The hello in records of at most so many bytes, and what comes after it.
fn flight(hello: &[u8], fragment: u8) -> Vec<u8> {
    let mut flight = Vec::new();
    for fragment in hello.chunks(usize::from(fragment) * 16 + 16) {
        let len = u16::try_from(fragment.len()).expect("at most 4096 bytes");
        flight.extend([22, 3, 1]);
        flight.extend(len.to_be_bytes());
        flight.extend_from_slice(fragment);
    }
    flight.extend_from_slice(&WORLD.after_hello);
    flight
}

fuzz_target!(|script: &[u8]| {
    let world = &*WORLD;
    let mut script = Script(script);
    let (Some(answer), Some(fragment)) = (script.byte(), script.byte()) else {
        return;
    };
    let mut hello = world.hello.clone();
    while script.change(&mut hello).is_some() {}

    let mut accepting = HelloAcceptor::new(Arc::clone(&world.b), None, None);
    if !accepting.push(&flight(&hello, fragment)) {
        return;
    }
    let Ok(claimed) = accepting.examine() else {
        return;
    };
    let claim = claimed.claim();
    if let Some(claim) = claim {
        let token = token_in(&hello).expect("what is claimed is a token");
        assert_eq!(hello[token], world.hello[world.token.clone()]);
        assert_eq!(claim.nonce, world.claim.nonce);
        assert_eq!(claim.keep_until, world.claim.keep_until);
        assert!(claim.keep_until > OffsetDateTime::now_utc());
    }
    let (first, answer) = match answer % 5 {
        0 => (true, Some(Ok(ClaimOutcome::First))),
        1 => (false, Some(Ok(ClaimOutcome::Pending))),
        2 => (false, Some(Ok(ClaimOutcome::Committed))),
        3 => (false, Some(Err(StoreError::Full))),
        _ => (false, None),
    };
    let refused = !matches!(
        answer,
        Some(Ok(ClaimOutcome::First | ClaimOutcome::Pending))
    );
    let Ok(mut connection) = claimed.accept(answer) else {
        return;
    };
    if let Arrival::Migrated { early_data, .. } | Arrival::Recovered { early_data, .. } =
        connection.arrival()
    {
        assert!(claim.is_some() && !refused);
        assert!(first || !early_data);
    }
    assert!(first || !connection.early_data_accepted());
    let _ = connection.process_new_packets();
    if let Some(asked) = connection.commit() {
        assert_eq!(asked.nonce, world.claim.nonce);
        assert!(!connection.committed(&Some(Ok(CommitOutcome::Lost))));
    }
});
