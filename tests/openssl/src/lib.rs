//! An OpenSSL client that migrates, through OpenSSL's custom extensions alone (`docs/protocol.md` sections 1, 3, 5).
//!
//! It shares only the token's codec with the servers that it tests. It does not verify tokens: OpenSSL does not give
//! out the secret for that. It is a package of its own because the openssl crate marks one call unsafe.

use std::error::Error;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use migration_token::MigrationToken;
use openssl::ex_data::Index;
use openssl::ssl::{
    ExtensionContext, Ssl, SslAlert, SslContext, SslContextBuilder, SslMethod, SslRef, SslSession,
    SslSessionCacheMode, SslStream, SslVerifyMode,
};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;

/// What goes wrong fails a test, whatever it is.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The draft that a client speaks, by its revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draft {
    /// A token in the ticket and in the hello.
    Revision01,
    /// A mark in the ticket, and nothing in the hello.
    Revision03,
}

impl Draft {
    /// The extension that says in a hello that the client can be moved.
    fn support(self) -> u16 {
        match self {
            Self::Revision01 => 0xFF4D,
            Self::Revision03 => 0xFE4D,
        }
    }

    /// The extension of a ticket that lets the client move: `migration_token`, `migration_allowed`.
    fn permission(self) -> u16 {
        match self {
            Self::Revision01 => 0xFF4E,
            Self::Revision03 => 0xFE4E,
        }
    }
}

/// A session with the token that came with it, which is empty in revision 03. The session is kept encoded, as OpenSSL spoils
/// the one in memory when its connection fails.
#[derive(Clone)]
pub struct Offer {
    session: Vec<u8>,
    token: Vec<u8>,
}

impl Offer {
    /// Where the token leads.
    pub fn target(&self) -> Result<SocketAddr> {
        Ok(MigrationToken::decode(&self.token)?.target_address())
    }
}

/// A client with one configuration.
pub struct Client {
    draft: Draft,
    context: SslContext,
    name: String,
    slot: Index<Ssl, Slot>,
    kept: Arc<Mutex<Vec<Offer>>>,
}

/// What one connection's callbacks know.
#[derive(Default)]
struct Slot {
    /// The token to present.
    present: Option<Vec<u8>>,
    /// The token of the ticket that is being read.
    received: Mutex<Option<Vec<u8>>>,
}

impl Client {
    /// A client that trusts the PEM file `ca`, expects `name`, and offers `groups` (a key share for the first).
    pub fn new(ca: &str, name: &str, groups: &str) -> Result<Self> {
        Self::speaking(Draft::Revision01, ca, name, groups)
    }

    /// The same, of this draft.
    pub fn speaking(draft: Draft, ca: &str, name: &str, groups: &str) -> Result<Self> {
        let slot = Ssl::new_ex_index()?;
        let kept = Arc::new(Mutex::new(Vec::new()));
        let mut context = SslContext::builder(SslMethod::tls_client())?;
        let mut trusted = X509StoreBuilder::new()?;
        trusted.add_cert(X509::from_pem(ca.as_bytes())?)?;
        context.set_cert_store(trusted.build());
        context.set_verify(SslVerifyMode::PEER);
        context.set_groups_list(groups)?;
        add_extensions(&mut context, slot, draft)?;
        keep_sessions(&mut context, slot, Arc::clone(&kept));
        Ok(Self {
            draft,
            context: context.build(),
            name: name.to_owned(),
            slot,
            kept,
        })
    }

    /// The draft that it speaks.
    pub fn draft(&self) -> Draft {
        self.draft
    }

    /// Connects with a full handshake.
    pub fn connect(&self, address: SocketAddr) -> Result<SslStream<TcpStream>> {
        let mut stream = self.stream(address, Slot::default(), None)?;
        stream.connect()?;
        Ok(stream)
    }

    /// Connects to the offer's target with its session and token, and with `early_data` in 0-RTT.
    pub fn migrate(&self, offer: &Offer, early_data: &[u8]) -> Result<SslStream<TcpStream>> {
        self.migrate_to(offer.target()?, offer, early_data)
    }

    /// The same, at an address that the application chose: revision 03 names none in a ticket.
    pub fn migrate_to(
        &self,
        target: SocketAddr,
        offer: &Offer,
        early_data: &[u8],
    ) -> Result<SslStream<TcpStream>> {
        let slot = Slot {
            present: Some(offer.token.clone()).filter(|token| !token.is_empty()),
            ..Slot::default()
        };
        let mut stream = self.stream(target, slot, Some(offer))?;
        let mut rest = early_data;
        while !rest.is_empty() {
            let written = stream.write_early_data(rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        stream.do_handshake()?;
        Ok(stream)
    }

    /// The offers that have come since this was last asked.
    pub fn take_offers(&self) -> Vec<Offer> {
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stream(
        &self,
        address: SocketAddr,
        slot: Slot,
        offer: Option<&Offer>,
    ) -> Result<SslStream<TcpStream>> {
        let mut ssl = Ssl::new(&self.context)?;
        ssl.set_hostname(&self.name)?;
        ssl.param_mut().set_host(&self.name)?;
        ssl.set_ex_data(self.slot, slot);
        ssl.set_connect_state();
        if let Some(offer) = offer {
            resume(&mut ssl, &offer.session)?;
        }
        let tcp = TcpStream::connect(address)?;
        tcp.set_nodelay(true)?;
        Ok(SslStream::new(ssl, tcp)?)
    }
}

#[expect(unsafe_code, reason = "the openssl crate offers no other call")]
fn resume(ssl: &mut SslRef, session: &[u8]) -> Result<()> {
    let session = SslSession::from_der(session)?;
    // SAFETY: the session must not belong to another context. Just decoded, it belongs to none.
    unsafe { ssl.set_session(&session)? };
    Ok(())
}

/// `migration_support` in every hello; the permission out of tickets and, where it is a token, in hellos that migrate.
fn add_extensions(
    context: &mut SslContextBuilder,
    slot: Index<Ssl, Slot>,
    draft: Draft,
) -> Result<()> {
    context.add_custom_ext(
        draft.support(),
        ExtensionContext::CLIENT_HELLO,
        |_, _, _| Ok(Some([])),
        |_, _, _, _| Err(SslAlert::UNSUPPORTED_EXTENSION),
    )?;
    context.add_custom_ext(
        draft.permission(),
        ExtensionContext::CLIENT_HELLO | ExtensionContext::TLS1_3_NEW_SESSION_TICKET,
        move |ssl, _, _| Ok(ssl.ex_data(slot).and_then(|slot| slot.present.clone())),
        move |ssl, _, data, _| {
            let slot = ssl.ex_data(slot).ok_or(SslAlert::INTERNAL_ERROR)?;
            *slot.received.lock().unwrap_or_else(PoisonError::into_inner) = Some(data.to_vec());
            Ok(())
        },
    )?;
    Ok(())
}

/// Keeps each session that came with a token.
fn keep_sessions(
    context: &mut SslContextBuilder,
    slot: Index<Ssl, Slot>,
    kept: Arc<Mutex<Vec<Offer>>>,
) {
    context.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
    context.set_new_session_callback(move |ssl, session| {
        let received = ssl.ex_data(slot).and_then(|slot| {
            slot.received
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
        });
        if let (Some(token), Ok(session)) = (received, session.to_der()) {
            let offer = Offer { session, token };
            kept.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(offer);
        }
    });
}

/// Sends `data` to an echo and reads it back.
pub fn echoed(stream: &mut SslStream<TcpStream>, data: &[u8]) -> Result<()> {
    stream.write_all(data)?;
    expect(stream, data)
}

/// Reads exactly `expected`.
pub fn expect(stream: &mut SslStream<TcpStream>, expected: &[u8]) -> Result<()> {
    let mut got = vec![0; expected.len()];
    std::io::Read::read_exact(stream, &mut got)?;
    match got == expected {
        true => Ok(()),
        false => Err(format!("read {:?}", String::from_utf8_lossy(&got)).into()),
    }
}
