//! The riskiest step of moving a QUIC session to another process (docs/process-moves.md), shown on rustls' own QUIC handshake.
//!
//! A hello and a ticket of QUIC take the extensions, both ends agree on the transcript, the secrets and the binder, and a
//! resumed connection has early data. Test only: nothing uses it yet.

use std::sync::{Arc, Mutex};

use rustls::quic::{ClientConnection, Connection, ServerConnection, Version};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::hook::{ConnectionHook, Verifying, scope};
use super::ring;
use crate::codepoints::Codepoints;
use crate::wire::hello::{ClientHello, splice};
use crate::wire::next_message;
use crate::wire::ticket::{NewSessionTicket, OfferedTicket};

/// `migration_support` and `migration_token` (docs/protocol.md section 1).
const SUPPORT: u16 = 0xff4d;
const TOKEN: u16 = 0xff4e;
const TOKEN_BYTES: &[u8] = b"what a token would say";

#[derive(Default)]
struct Side {
    extensions: Vec<u8>,
    secret: Mutex<Vec<u8>>,
    verifying: Verifying,
}

impl ConnectionHook for Side {
    fn hello_extensions(&self) -> &[u8] {
        &self.extensions
    }

    fn verifying(&self) -> &Verifying {
        &self.verifying
    }

    fn resumption_master_secret(&self, secret: &[u8]) {
        *self.secret.lock().unwrap() = secret.to_vec();
    }
}

struct End {
    tls: Connection,
    hook: Arc<Side>,
}

impl End {
    fn new(extensions: Vec<u8>, make: impl FnOnce() -> Connection) -> Self {
        let hook = Arc::new(Side {
            extensions,
            ..Side::default()
        });
        Self {
            tls: scope(&hook, make),
            hook,
        }
    }

    /// Handshake messages on their way out, by encryption level, with the extensions in the hello, and a token in each ticket.
    fn write(&mut self) -> Vec<Vec<u8>> {
        let mut levels = Vec::new();
        loop {
            let (mut out, tls) = (Vec::new(), &mut self.tls);
            let changed = scope(&self.hook, || tls.write_hs(&mut out)).is_some();
            if !out.is_empty() {
                levels.push(self.rewritten(&out));
            }
            if !changed {
                return levels;
            }
        }
    }

    fn rewritten(&self, mut messages: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some((message, tail)) = next_message(messages) {
            out.extend(match message[0] {
                1 => splice(message, &self.hook.extensions).unwrap(),
                4 => with_token(message),
                _ => message.to_vec(),
            });
            messages = tail;
        }
        assert!(messages.is_empty());
        out
    }

    fn read(&mut self, levels: &[Vec<u8>]) {
        for messages in levels {
            let tls = &mut self.tls;
            scope(&self.hook, || tls.read_hs(messages)).unwrap();
        }
    }

    fn secret(&self) -> Vec<u8> {
        self.hook.secret.lock().unwrap().clone()
    }

    fn exported(&self) -> [u8; 32] {
        let tls = &self.tls;
        tls.export_keying_material([0; 32], b"spike", None).unwrap()
    }
}

/// An extension with its type and length.
fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [&kind.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

fn with_token(message: &[u8]) -> Vec<u8> {
    let ticket = NewSessionTicket::read(message).unwrap();
    let offered = OfferedTicket {
        lifetime_secs: ticket.lifetime_secs,
        age_add: ticket.age_add,
        nonce: ticket.nonce,
        ticket: ticket.ticket,
        mark: Some((TOKEN, TOKEN_BYTES)),
        stream_extension: None,
        // In QUIC there is no other value (RFC 9001 section 4.6.1).
        max_early_data_size: u32::MAX,
    };
    offered.encode().unwrap()
}

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(ring());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    server.max_early_data_size = u32::MAX;
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_early_data = true;
    (Arc::new(client), Arc::new(server))
}

fn ends(
    (client, server): &(Arc<ClientConfig>, Arc<ServerConfig>),
    extensions: Vec<u8>,
) -> (End, End) {
    let name = "localhost".try_into().unwrap();
    // max_idle_timeout; it stands for transport parameters.
    let parameters = vec![1, 1, 30];
    let (client, server) = (Arc::clone(client), Arc::clone(server));
    let made = parameters.clone();
    let client = End::new(extensions, move || {
        let made = ClientConnection::new(client, Version::V1, name, made);
        made.unwrap().into()
    });
    let server = End::new(Vec::new(), move || {
        let made = ServerConnection::new(server, Version::V1, parameters);
        made.unwrap().into()
    });
    (client, server)
}

#[test]
fn a_quic_session_moves_with_a_token_in_its_ticket_and_in_the_next_hello() {
    let configs = configs();
    let (mut client, mut server) = ends(&configs, extension(SUPPORT, &[]));
    let hello = client.write();
    let read = ClientHello::read(&hello[0], Codepoints::default()).unwrap();
    assert_eq!(read.migration_support, Some(&[][..]));
    server.read(&hello);
    client.read(&server.write());
    server.read(&client.write());
    let tickets = server.write();
    client.read(&tickets);
    let (ticket, _) = next_message(&tickets[0]).unwrap();
    let ticket = NewSessionTicket::read(ticket).unwrap();
    assert_eq!(ticket.extension(TOKEN), Some(TOKEN_BYTES));
    // What tokens are signed with.
    assert!(!client.secret().is_empty());
    assert_eq!(client.secret(), server.secret());
    assert_eq!(client.exported(), server.exported());

    let both = [extension(SUPPORT, &[]), extension(TOKEN, TOKEN_BYTES)].concat();
    let (mut client, mut server) = ends(&configs, both);
    let hello = client.write();
    let read = ClientHello::read(&hello[0], Codepoints::default()).unwrap();
    assert_eq!(read.migration_token, Some(TOKEN_BYTES));
    assert!(read.early_data);
    let early = client.tls.zero_rtt_keys().expect("the ticket allows it");
    let mut packet = *b"GET /";
    let sealed = early.packet.encrypt_in_place(0, b"header", &mut packet);
    let mut packet = [&packet[..], sealed.unwrap().as_ref()].concat();
    // The binder covers the extensions: rustls would refuse the hello else.
    server.read(&hello);
    let early = server.tls.zero_rtt_keys().expect("it is accepted");
    let opened = early.packet.decrypt_in_place(0, b"header", &mut packet);
    assert_eq!(opened.unwrap(), b"GET /");
    client.read(&server.write());
    server.read(&client.write());
    assert_eq!(client.exported(), server.exported());
    assert_eq!(client.secret(), server.secret());
    let Connection::Client(tls) = &client.tls else {
        unreachable!()
    };
    assert!(tls.is_early_data_accepted());
}
