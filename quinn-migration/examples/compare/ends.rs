//! Endpoints to compare: stock quinn's, and this crate's with idle addresses beside the first.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint};
use quinn_migration::{Codepoints, MigrationClient, MigrationServer};

use super::local;

/// A server and a client.
pub(super) enum Ends {
    Stock {
        server: Endpoint,
        client: Endpoint,
    },
    Migration {
        server: MigrationServer,
        client: MigrationClient,
        addresses: Vec<SocketAddr>,
    },
}

/// One connection from both ends, and what keeps it up.
pub(super) struct Link {
    pub(super) ours: Connection,
    pub(super) theirs: Connection,
    pub(super) ends: Ends,
}

impl Ends {
    pub(super) fn stock() -> Result<Self> {
        let (server_tls, client_tls) = local::tls()?;
        let config =
            quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server_tls)?));
        let runtime = Arc::new(quinn::TokioRuntime);
        let server = Endpoint::new(
            Default::default(),
            Some(config),
            local::bind("127.0.0.2:0")?,
            runtime.clone(),
        )?;
        let mut client =
            Endpoint::new(Default::default(), None, local::bind("0.0.0.0:0")?, runtime)?;
        client.set_default_client_config(quinn::ClientConfig::new(Arc::new(
            QuicClientConfig::try_from(client_tls)?,
        )));
        Ok(Self::Stock { server, client })
    }

    /// With so many addresses beside the first one.
    pub(super) fn migration(idle: u16) -> Result<Self> {
        let (server_tls, client_tls) = local::tls()?;
        let codepoints = Codepoints::default();
        let first = local::bind("127.0.0.2:0")?;
        let mut addresses = vec![first.local_addr()?];
        let server =
            MigrationServer::bind(Arc::new(server_tls), codepoints, Default::default(), first)?;
        for number in 0..idle {
            let [high, low] = number.to_be_bytes();
            let socket = local::bind(&format!("127.1.{high}.{low}:0"))?;
            addresses.push(socket.local_addr()?);
            server.add_address(socket)?;
        }
        let socket = local::bind("0.0.0.0:0")?;
        let client =
            MigrationClient::bind(Arc::new(client_tls), codepoints, Default::default(), socket)?;
        Ok(Self::Migration {
            server,
            client,
            addresses,
        })
    }

    pub(super) async fn connect(&self) -> Result<(Connection, Connection)> {
        match self {
            Self::Stock { server, client } => local::connect(client, server).await,
            Self::Migration { server, client, .. } => {
                local::connect(client.endpoint(), server.endpoint()).await
            }
        }
    }
}

impl Link {
    /// Of this crate, with a second address.
    pub(super) async fn migration() -> Result<Self> {
        let ends = Ends::migration(1)?;
        let (ours, theirs) = ends.connect().await.context("no connection")?;
        Ok(Self { ours, theirs, ends })
    }
}
