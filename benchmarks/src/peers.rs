//! The peers: clients and servers of both sides, from one service's certificate and settings.
//!
//! Settings are made in one place for both sides, and each handshake is checked to be of the kind that is measured.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use migration_token::{BoxFuture, MemoryNonceStore};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use rustls_migration::client::{ClientConnection, MigrationClient, NoWider, Offer};
use rustls_migration::server::{Arrival, HelloAcceptor, MigrationServer, ServerConnection};
use rustls_migration::{Connection, Dialect, TicketKeys, provider};
use time::{Duration, OffsetDateTime};

use crate::aged::Aged;
use crate::error::BenchError;
use crate::settings::Draft;
pub(crate) use crate::settings::Suite;
use crate::stock::Stock;

/// What is sent as early data, in bytes.
pub(crate) const EARLY_DATA: [u8; 1024] = [0x65; 1024];

/// What servers accept as early data, in bytes: the most that a ticket with a token offers.
const MAX_EARLY_DATA_SIZE: u32 = 16_384;

const NAME: &str = "service.example";
const PROTOCOL: &[u8] = b"bench";

/// What a handshake should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) resumed: bool,
    pub(crate) early_data: bool,
    /// Whether the client should hold an offer afterwards.
    pub(crate) token: bool,
}

/// A client of either side.
pub(crate) trait Client {
    type Connection: Connection;

    /// Begins a handshake.
    fn connect(&mut self) -> Result<Self::Connection, BenchError>;

    /// Takes note of what the handshake brought, and checks that it is what was expected.
    fn check(
        &mut self,
        connection: &mut Self::Connection,
        expected: Expected,
    ) -> Result<(), BenchError>;
}

/// A server of either side.
pub(crate) trait Server {
    type Connection: Connection;

    /// Takes the client's first flight.
    fn accept(&mut self, flight: &[u8]) -> Result<Self::Connection, BenchError>;

    /// Reads early data into `buf`.
    fn read_early_data(
        &self,
        connection: &mut Self::Connection,
        buf: &mut [u8],
    ) -> Result<usize, BenchError>;

    /// Does what must be done once the client's Finished has come.
    fn finished(&self, connection: &mut Self::Connection) -> Result<(), BenchError>;

    /// Checks that the handshake is what was expected.
    fn check(&self, connection: &Self::Connection, expected: Expected) -> Result<(), BenchError>;
}

fn require(holds: bool, otherwise: &'static str) -> Result<(), BenchError> {
    holds.then_some(()).ok_or(BenchError::Unexpected(otherwise))
}

/// What all peers share.
pub(crate) struct Service {
    suite: Suite,
    draft: Draft,
    root: CertificateDer<'static>,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
    roots: RootCertStore,
    pub(crate) ticket_keys: TicketKeys,
}

impl Service {
    pub(crate) fn new(suite: Suite) -> Result<Self, BenchError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone())?;
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![NAME.to_owned()])?;
        Ok(Self {
            suite,
            draft: Draft::default(),
            root: issuer.der().clone(),
            certificate: params.signed_by(&key, &issuer)?.der().clone(),
            key: PrivateKeyDer::try_from(key.serialize_der())
                .map_err(|_| BenchError::Unexpected("the key is not usable"))?,
            roots,
            ticket_keys: TicketKeys::generate(ring::default_provider().secure_random)?,
        })
    }

    /// The same, whose peers migrate in this dialect.
    pub(crate) fn speaking(mut self, draft: Draft) -> Self {
        self.draft = draft;
        self
    }

    /// The dialect in which its peers migrate.
    pub(crate) fn dialect(&self) -> Dialect {
        self.draft.dialect()
    }

    /// A service as its clients know it: by its root, which is another process' own.
    pub(crate) fn of_clients(
        suite: Suite,
        root: CertificateDer<'static>,
    ) -> Result<Self, BenchError> {
        let mut service = Self::new(suite)?;
        service.roots = RootCertStore::empty();
        service.roots.add(root.clone())?;
        service.root = root;
        Ok(service)
    }

    /// The certificate that its clients trust.
    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    pub(crate) fn name(&self) -> Result<ServerName<'static>, BenchError> {
        ServerName::try_from(NAME).map_err(|_| BenchError::Unexpected("the name is not usable"))
    }

    pub(crate) fn ticket_keys(&self) -> TicketKeys {
        self.ticket_keys.clone()
    }

    /// A store that remembers since yesterday: one that has just started would refuse the first tokens.
    pub(crate) fn nonce_store() -> Arc<MemoryNonceStore> {
        let since = OffsetDateTime::now_utc() - Duration::DAY;
        Arc::new(MemoryNonceStore::with_monotonic(
            MemoryNonceStore::DEFAULT_CAPACITY,
            since,
            Aged::clock(),
        ))
    }

    pub(crate) fn stock_provider(&self) -> CryptoProvider {
        let mut provider = ring::default_provider();
        let id = self.suite.id();
        provider.cipher_suites.retain(|suite| suite.suite() == id);
        provider
    }

    pub(crate) fn server_config(
        &self,
        provider: CryptoProvider,
        early_data: bool,
    ) -> Result<ServerConfig, BenchError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        if early_data {
            config.max_early_data_size = MAX_EARLY_DATA_SIZE;
            config.send_half_rtt_data = true;
        }
        Ok(config)
    }

    pub(crate) fn client_config(
        &self,
        provider: CryptoProvider,
        early_data: bool,
    ) -> Result<ClientConfig, BenchError> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.enable_early_data = early_data;
        Ok(config)
    }

    /// With `ticketer`, sessions are kept in sealed tickets instead of in storage.
    pub(crate) fn stock_server(
        &self,
        early_data: bool,
        ticketer: bool,
    ) -> Result<StockServer, BenchError> {
        let mut config = self.server_config(self.stock_provider(), early_data)?;
        if ticketer {
            config.ticketer = ring::Ticketer::new()?;
        }
        Ok(StockServer(Arc::new(config)))
    }

    pub(crate) fn stock_client(
        &self,
        resume: bool,
        early_data: bool,
    ) -> Result<StockClient, BenchError> {
        let sessions = Sessions::new(resume)?;
        let mut config = self.client_config(self.stock_provider(), early_data)?;
        config.resumption = Resumption::store(sessions.store());
        Ok(StockClient {
            config: Arc::new(config),
            sessions,
            early_data,
        })
    }

    /// Two nodes with one store, each of which sends its clients to the other.
    pub(crate) fn migrating_server(&self, early_data: bool) -> Result<MigratingServer, BenchError> {
        let [a, b] = [
            SocketAddr::from(([127, 0, 0, 2], 1)),
            ([127, 0, 0, 3], 1).into(),
        ];
        let store = Self::nonce_store();
        let node = |here: SocketAddr, there: SocketAddr| {
            let config = self.server_config(provider::wrap(self.stock_provider()), early_data)?;
            let server = MigrationServer::builder(config, "bench", self.ticket_keys.clone())
                .own_addresses([here])
                .target(there)
                .dialects([self.draft.dialect()])
                .nonce_store(store.clone())
                .build()?;
            Ok::<_, BenchError>((here, Arc::new(server)))
        };
        Ok(MigratingServer {
            next: node(a, b)?,
            after_next: node(b, a)?,
        })
    }

    pub(crate) fn migrating_client(
        &self,
        resume: bool,
        early_data: bool,
    ) -> Result<MigratingClient, BenchError> {
        let sessions = Sessions::new(resume)?;
        let config = self.client_config(provider::wrap(self.stock_provider()), early_data)?;
        let client = MigrationClient::builder(config)
            .target_policy(NoWider::any_port())
            .dialects([self.draft.dialect()])
            .session_store(sessions.store())
            .build()?;
        Ok(MigratingClient {
            client: Arc::new(client),
            draft: self.draft,
            sessions,
            offer: None,
        })
    }
}

/// A client's session store, which full handshakes must find empty.
struct Sessions {
    store: Arc<ClientSessionMemoryCache>,
    name: ServerName<'static>,
    resume: bool,
}

impl Sessions {
    fn new(resume: bool) -> Result<Self, BenchError> {
        let name = ServerName::try_from(NAME);
        Ok(Self {
            store: Arc::new(ClientSessionMemoryCache::new(256)),
            name: name.map_err(|_| BenchError::Unexpected("the name is not usable"))?,
            resume,
        })
    }

    fn store(&self) -> Arc<ClientSessionMemoryCache> {
        Arc::clone(&self.store)
    }

    /// The server's name, with the sessions forgotten that may not be resumed.
    fn prepare(&self) -> ServerName<'static> {
        while !self.resume && self.store.take_tls13_ticket(&self.name).is_some() {}
        self.name.clone()
    }
}

pub(crate) struct StockClient {
    config: Arc<ClientConfig>,
    sessions: Sessions,
    early_data: bool,
}

impl Client for StockClient {
    type Connection = Stock<rustls::ClientConnection>;

    fn connect(&mut self) -> Result<Self::Connection, BenchError> {
        let name = self.sessions.prepare();
        let mut tls = rustls::ClientConnection::new(Arc::clone(&self.config), name)?;
        if self.early_data
            && let Some(mut writer) = tls.early_data()
        {
            writer.write_all(&EARLY_DATA)?;
        }
        Ok(Stock(tls))
    }

    fn check(
        &mut self,
        connection: &mut Self::Connection,
        expected: Expected,
    ) -> Result<(), BenchError> {
        check_client(&connection.0, expected)
    }
}

pub(crate) struct StockServer(Arc<ServerConfig>);

impl Server for StockServer {
    type Connection = Stock<rustls::ServerConnection>;

    fn accept(&mut self, mut flight: &[u8]) -> Result<Self::Connection, BenchError> {
        let mut connection = Stock(rustls::ServerConnection::new(Arc::clone(&self.0))?);
        while !flight.is_empty() {
            connection.read_tls(&mut flight)?;
            connection.process_new_packets()?;
        }
        Ok(connection)
    }

    fn read_early_data(
        &self,
        connection: &mut Self::Connection,
        buf: &mut [u8],
    ) -> Result<usize, BenchError> {
        match connection.0.early_data() {
            Some(mut early_data) => Ok(early_data.read(buf)?),
            None => Ok(0),
        }
    }

    fn finished(&self, _: &mut Self::Connection) -> Result<(), BenchError> {
        Ok(())
    }

    fn check(&self, connection: &Self::Connection, expected: Expected) -> Result<(), BenchError> {
        check_kind(connection.0.handshake_kind(), expected)
    }
}

/// A client that follows the offer which the last server made, if it may resume.
pub(crate) struct MigratingClient {
    client: Arc<MigrationClient>,
    draft: Draft,
    sessions: Sessions,
    offer: Option<Offer>,
}

impl Client for MigratingClient {
    type Connection = ClientConnection;

    fn connect(&mut self) -> Result<Self::Connection, BenchError> {
        let name = self.sessions.prepare();
        match self.offer.take() {
            Some(offer) => {
                let early_data: &[u8] = match offer.max_early_data_size() {
                    0 => &[],
                    _ => &EARLY_DATA,
                };
                Ok(ClientConnection::resume(
                    &self.client,
                    name,
                    offer,
                    early_data,
                )?)
            }
            None => {
                let server = SocketAddr::from(([127, 0, 0, 2], 1));
                Ok(ClientConnection::new(&self.client, name, server)?)
            }
        }
    }

    fn check(
        &mut self,
        connection: &mut Self::Connection,
        expected: Expected,
    ) -> Result<(), BenchError> {
        let offer = self.draft.take_offer(connection)?;
        require(
            offer.is_some() == expected.token,
            "an offer is not as expected",
        )?;
        self.offer = offer.filter(|_| self.sessions.resume);
        check_client(connection.tls(), expected)
    }
}

/// The nodes between which a client goes to and fro.
pub(crate) struct MigratingServer {
    next: (SocketAddr, Arc<MigrationServer>),
    after_next: (SocketAddr, Arc<MigrationServer>),
}

impl Server for MigratingServer {
    type Connection = ServerConnection;

    fn accept(&mut self, flight: &[u8]) -> Result<Self::Connection, BenchError> {
        std::mem::swap(&mut self.next, &mut self.after_next);
        let (address, server) = &self.after_next;
        let mut accepting = HelloAcceptor::new(Arc::clone(server), None, Some(*address));
        require(accepting.push(flight), "the hello is not in one flight")?;
        let claimed = accepting.examine()?;
        let answer = match claimed.claim() {
            Some(claim) => Some(Ok(answer(server.nonce_store().claim(claim))??)),
            None => None,
        };
        Ok(claimed.accept(answer)?)
    }

    fn read_early_data(
        &self,
        connection: &mut Self::Connection,
        buf: &mut [u8],
    ) -> Result<usize, BenchError> {
        if !connection.early_data_accepted() {
            return Ok(0);
        }
        let mut early_data = connection.fill_buf()?;
        let len = early_data.read(buf)?;
        connection.consume(len);
        Ok(len)
    }

    fn finished(&self, connection: &mut Self::Connection) -> Result<(), BenchError> {
        let Some(claim) = connection.commit() else {
            return Ok(());
        };
        let (_, server) = &self.after_next;
        let committed = Some(answer(server.nonce_store().commit(claim))?);
        require(connection.committed(&committed), "the nonce was spent")
    }

    fn check(&self, connection: &Self::Connection, expected: Expected) -> Result<(), BenchError> {
        let migrated = matches!(
            connection.arrival(),
            Arrival::Migrated { early_data, .. } if *early_data == expected.early_data
        );
        require(
            migrated == (expected.resumed && expected.token),
            "an arrival is not as expected",
        )?;
        check_kind(connection.tls().handshake_kind(), expected)
    }
}

/// The answer of a store that answers at once.
pub(crate) fn answer<T>(asked: BoxFuture<'_, T>) -> Result<T, BenchError> {
    match pin!(asked).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Ok(answer),
        Poll::Pending => Err(BenchError::Unexpected("the nonce store waits")),
    }
}

fn check_client(tls: &rustls::ClientConnection, expected: Expected) -> Result<(), BenchError> {
    require(
        tls.is_early_data_accepted() == expected.early_data,
        "early data is not as expected",
    )?;
    check_kind(tls.handshake_kind(), expected)
}

fn check_kind(kind: Option<HandshakeKind>, expected: Expected) -> Result<(), BenchError> {
    let wanted = if expected.resumed {
        HandshakeKind::Resumed
    } else {
        HandshakeKind::Full
    };
    require(kind == Some(wanted), "the handshake is of another kind")
}
