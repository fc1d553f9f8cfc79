//! What the command line chooses for all connections: the cipher suite, and the dialect of those that migrate.

use std::net::SocketAddr;

use clap::ValueEnum;
use rustls::CipherSuite;
use rustls_migration::Dialect;
use rustls_migration::client::{ClientConnection, Offer};
use serde::Serialize;

use crate::error::BenchError;

/// A TLS 1.3 cipher suite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Suite {
    /// TLS_AES_128_GCM_SHA256.
    Aes128,
    /// TLS_AES_256_GCM_SHA384.
    #[default]
    Aes256,
    /// TLS_CHACHA20_POLY1305_SHA256.
    Chacha20,
}

impl Suite {
    pub(crate) fn id(self) -> CipherSuite {
        match self {
            Self::Aes128 => CipherSuite::TLS13_AES_128_GCM_SHA256,
            Self::Aes256 => CipherSuite::TLS13_AES_256_GCM_SHA384,
            Self::Chacha20 => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        }
    }
}

/// A dialect of the protocol, by the revision of the draft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Draft {
    /// A token in the ticket and in the hello to the target.
    #[default]
    #[value(name = "01")]
    Draft01,
    /// The ticket alone.
    #[value(name = "03")]
    Draft03,
}

impl Draft {
    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Self::Draft01 => Dialect::Draft01,
            Self::Draft03 => Dialect::Draft03,
        }
    }

    /// Takes a client's newest offer, if there is one. One of draft -03 does not say where it leads.
    pub(crate) fn take_offer(
        self,
        connection: &mut ClientConnection,
    ) -> Result<Option<Offer>, BenchError> {
        if self == Self::Draft03 && connection.offered_kind().is_some() {
            let led = connection.lead_to(SocketAddr::from(([127, 0, 0, 3], 1)));
            led.map_err(|_| BenchError::Unexpected("an offer leads nowhere"))?;
        }
        Ok(connection.take_offer())
    }
}
