//! `quinn_proto::crypto::Session` over `rustls::quic` (RFC 9001), with the hooks around the packet keys.
//!
//! quinn's own session hides its rustls connection and drops transport parameters that it does not know, so there is
//! one here. Never does cryptography of its own: rustls does, and quinn's stock types do what only they can.

mod client;
mod handle;
mod key;
mod server;

use std::any::Any;

use quinn_proto::crypto::rustls::HandshakeData;
use quinn_proto::crypto::{self, ExportKeyingMaterialError, KeyPair, Keys};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::pki_types::CertificateDer;
use rustls::quic::{Connection, KeyChange, Secrets, Suite, Version};

use crate::hooks::{Hook, ParameterFault};
use crate::socket::Resident;

pub(crate) use client::ClientCrypto;
pub(crate) use handle::{Handle, Handles};
pub(crate) use server::ServerCrypto;

use handle::HANDLE_LABEL;
use key::HookedKey;

type BoxedKey = Box<dyn crypto::PacketKey>;
/// Checks the integrity tag of a Retry packet (RFC 9001 section 5.8).
type RetryCheck = Box<dyn Fn(&ConnectionId, &[u8], &[u8]) -> bool + Send + Sync>;

pub(crate) struct Session<H> {
    /// Absent when rustls refused the configuration; then every handshake fails with an error.
    tls: Option<Connection>,
    side: Side,
    version: Version,
    initial: Suite,
    next: Option<Secrets>,
    handshake_data_ready: bool,
    handle: Handle<H>,
    retry: RetryCheck,
    /// Held, not used: the socket knows by it that the session lives.
    _resident: Option<Resident>,
}

impl<H: Hook> Session<H> {
    fn hooked(&self, key: Box<dyn rustls::quic::PacketKey>) -> BoxedKey {
        Box::new(HookedKey::new(key, self.handle.clone()))
    }

    fn server_name(&self) -> Option<&str> {
        match self.tls.as_ref()? {
            Connection::Server(tls) => tls.server_name(),
            Connection::Client(_) => None,
        }
    }

    fn alpn_protocol(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.alpn_protocol()
    }
}

impl<H: Hook> crypto::Session for Session<H> {
    fn initial_keys(&self, destination: &ConnectionId, side: Side) -> Keys {
        boxed(self.initial.keys(destination, side.into(), self.version))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.handshake_data_ready.then(|| -> Box<dyn Any> {
            Box::new(HandshakeData {
                protocol: self.alpn_protocol().map(Into::into),
                server_name: self.server_name().map(Into::into),
            })
        })
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let certificates = self.tls.as_ref()?.peer_certificates()?;
        let owned = certificates
            .iter()
            .map(|certificate| certificate.clone().into_owned());
        Some(Box::new(owned.collect::<Vec<CertificateDer<'static>>>()))
    }

    fn early_crypto(&self) -> Option<(Box<dyn crypto::HeaderKey>, BoxedKey)> {
        let keys = self.tls.as_ref()?.zero_rtt_keys()?;
        Some((Box::new(keys.header), self.hooked(keys.packet)))
    }

    fn early_data_accepted(&self) -> Option<bool> {
        match self.tls.as_ref()? {
            Connection::Client(tls) => Some(tls.is_early_data_accepted()),
            Connection::Server(_) => None,
        }
    }

    fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.is_handshaking())
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        let tls = self.tls.as_mut().ok_or_else(|| {
            fault(
                TransportErrorCode::INTERNAL_ERROR,
                "rustls refused the TLS configuration",
            )
        })?;
        tls.read_hs(bytes).map_err(|error| match tls.alert() {
            Some(alert) => fault(TransportErrorCode::crypto(alert.into()), &error.to_string()),
            None => fault(
                TransportErrorCode::PROTOCOL_VIOLATION,
                &format!("TLS error: {error}"),
            ),
        })?;
        let ready = self.alpn_protocol().is_some()
            || self.server_name().is_some()
            || !self.is_handshaking();
        let newly_ready = ready && !self.handshake_data_ready;
        self.handshake_data_ready |= ready;
        Ok(newly_ready)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(list) = self
            .tls
            .as_ref()
            .and_then(|tls| tls.quic_transport_parameters())
        else {
            return Ok(None);
        };
        // Before the end of the handshake a client has those that came with its ticket.
        let remembered = self.side.is_client() && self.is_handshaking();
        let shown = self
            .handle
            .with_hook(|hook| hook.on_peer_parameters(list, remembered));
        let shown = match shown {
            Ok(shown) => shown,
            // quinn names the fault better.
            Err(ParameterFault::Malformed(_)) => list.to_vec(),
            Err(error @ ParameterFault::NotEmpty) => {
                return Err(fault(
                    TransportErrorCode::TRANSPORT_PARAMETER_ERROR,
                    &error.to_string(),
                ));
            }
        };
        let parameters = TransportParameters::read(self.side, &mut shown.as_slice())?;
        Ok(Some(parameters))
    }

    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Option<Keys> {
        match self.tls.as_mut()?.write_hs(out)? {
            KeyChange::Handshake { keys } => Some(boxed(keys)),
            KeyChange::OneRtt { keys, next } => {
                self.next = Some(next);
                let packet = KeyPair {
                    local: self.hooked(keys.local.packet),
                    remote: self.hooked(keys.remote.packet),
                };
                let header = KeyPair {
                    local: keys.local.header,
                    remote: keys.remote.header,
                };
                Some(Keys {
                    header: KeyPair {
                        local: Box::new(header.local),
                        remote: Box::new(header.remote),
                    },
                    packet,
                })
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<BoxedKey>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        Some(KeyPair {
            local: self.hooked(keys.local),
            remote: self.hooked(keys.remote),
        })
    }

    fn is_valid_retry(&self, original: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        (self.retry)(original, header, payload)
    }

    fn export_keying_material(
        &self,
        out: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        if label == HANDLE_LABEL && self.handle.export(out) {
            return Ok(());
        }
        let tls = self.tls.as_ref().ok_or(ExportKeyingMaterialError)?;
        tls.export_keying_material(out, label, Some(context))
            .map(drop)
            .map_err(|_| ExportKeyingMaterialError)
    }
}

fn boxed(keys: rustls::quic::Keys) -> Keys {
    Keys {
        header: KeyPair {
            local: Box::new(keys.local.header),
            remote: Box::new(keys.remote.header),
        },
        packet: KeyPair {
            local: Box::new(keys.local.packet),
            remote: Box::new(keys.remote.packet),
        },
    }
}

fn fault(code: TransportErrorCode, reason: &str) -> TransportError {
    TransportError {
        code,
        frame: None,
        reason: reason.to_owned(),
    }
}

/// The versions that quinn offers (RFC 9000, and the drafts that became it).
fn version(number: u32) -> Option<Version> {
    match number {
        0x0000_0001 | 0xff00_0021..=0xff00_0022 => Some(Version::V1),
        0xff00_001d..=0xff00_0020 => Some(Version::V1Draft),
        _ => None,
    }
}

/// AES-128-GCM, which protects Initial packets (RFC 9001 section 5.2).
pub(crate) fn initial_suite(provider: &rustls::crypto::CryptoProvider) -> Option<Suite> {
    let suites = provider.cipher_suites.iter();
    suites
        .filter(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256)
        .find_map(|suite| suite.tls13()?.quic_suite())
}

fn encoded(parameters: &TransportParameters) -> Vec<u8> {
    let mut list = Vec::new();
    parameters.write(&mut list);
    list
}
