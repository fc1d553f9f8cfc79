//! Peers that know nothing of this project: rustls and tokio-rustls as they come from the registry.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig};
use rustls_migration::tokio::{Dial as _, Transport};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::node::echo;
use crate::{NAME, Node, RecordingDialer, Service, server_name};

pub type ClientStream = tokio_rustls::client::TlsStream<Box<dyn Transport>>;

/// rustls' ring provider, not wrapped.
pub fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// `provider` without TLS 1.3.
pub fn tls12(provider: CryptoProvider) -> CryptoProvider {
    let mut suites = provider.cipher_suites;
    suites.retain(|suite| suite.tls13().is_none());
    CryptoProvider {
        cipher_suites: suites,
        ..provider
    }
}

/// `provider` with the one group that rustls' clients do not send a key share for, which takes a HelloRetryRequest.
pub fn retrying(provider: CryptoProvider) -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![rustls::crypto::ring::kx_group::SECP384R1],
        ..provider
    }
}

/// A server's configuration that asks for client certificates of the service's authority.
pub fn asking_for_certificates(service: &Service, provider: CryptoProvider) -> ServerConfig {
    let provider = Arc::new(provider);
    let roots = Arc::new(service.pki.roots());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let (certificate, key) = service.pki.issue(NAME, &rcgen::PKCS_ED25519);
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![certificate], key)
        .unwrap()
}

/// Gives a client a certificate for `name`, which is returned.
pub fn identify(
    service: &Service,
    config: &mut ClientConfig,
    name: &str,
) -> CertificateDer<'static> {
    let (certificate, key) = service.pki.issue(name, &rcgen::PKCS_ED25519);
    let identity = CertifiedKey::from_der(vec![certificate.clone()], key, &provider()).unwrap();
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(identity));
    certificate
}

/// What a server saw of one connection, which has ended.
#[derive(Debug)]
pub struct Seen {
    pub version: Option<ProtocolVersion>,
    pub handshake: Option<HandshakeKind>,
    pub alpn: Option<Vec<u8>>,
    pub certificate: Option<CertificateDer<'static>>,
    pub end: io::Result<()>,
}

impl Seen {
    fn new(tls: &rustls::ServerConnection) -> Self {
        let certificates = tls.peer_certificates().unwrap_or_default();
        Self {
            version: tls.protocol_version(),
            handshake: tls.handshake_kind(),
            alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
            certificate: certificates.first().map(|one| one.clone().into_owned()),
            end: Ok(()),
        }
    }
}

/// A server that echoes and tells what it saw: a stock one, or a node of this project.
pub struct Observed {
    pub address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Observed {
    /// A stock server on a port of its own at `ip`.
    pub async fn stock(ip: &str, config: ServerConfig) -> Self {
        let ip: IpAddr = ip.parse().unwrap();
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (sender, seen) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(tcp).await {
                        let end = echo(&mut stream).await;
                        let seen = Seen::new(stream.get_ref().1);
                        let _ = sender.send(Seen { end, ..seen });
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// A node whose clients may be sent to `target`.
    pub async fn node(
        service: &Service,
        ip: &str,
        config: ServerConfig,
        target: SocketAddr,
    ) -> Self {
        let mut node = Node::bind(ip).await;
        let address = node.address();
        let (sender, seen) = mpsc::unbounded_channel();
        node.serve(
            service.node_with(config).target(target),
            move |mut stream| {
                let sender = sender.clone();
                async move {
                    let end = echo(&mut stream).await;
                    let seen = Seen::new(stream.get_ref().tls());
                    let _ = sender.send(Seen { end, ..seen });
                    Ok(())
                }
            },
        );
        Self { address, seen }
    }

    /// The next connection that ended.
    pub async fn seen(&mut self) -> Seen {
        self.seen.recv().await.expect("the server is serving")
    }
}

/// Connects a stock client by way of `dialer`, with early data where its configuration has a ticket for it.
pub async fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    dialer: &RecordingDialer,
) -> io::Result<ClientStream> {
    let io = dialer.dial(address).await?;
    TlsConnector::from(Arc::clone(config))
        .early_data(true)
        .connect(server_name(), io)
        .await
}

/// Sends `data` to an echo, reads it back, closes, and reads the echo's own close.
pub async fn exchange<S>(mut stream: S, data: &[u8]) -> S
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let sending = async {
        writer.write_all(data).await.unwrap();
        writer.flush().await.unwrap();
    };
    let mut got = vec![0; data.len()];
    let (read, ()) = tokio::join!(reader.read_exact(&mut got), sending);
    read.unwrap();
    assert!(got == data, "the echo differs");
    writer.shutdown().await.unwrap();
    // Without a close_notify this is an error.
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    stream
}

/// Bytes without a period.
pub fn bytes(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(len)
    .collect()
}
