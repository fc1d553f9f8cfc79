//! Stock quinn's endpoints, which know nothing of this crate.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig, Runtime, TransportConfig};

use super::{Identity, bind};

pub fn stock_server(
    identity: &Identity,
    transport: TransportConfig,
    runtime: Arc<dyn Runtime>,
) -> Endpoint {
    let crypto = QuicServerConfig::try_from(identity.server_tls()).unwrap();
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    let socket = bind("127.0.0.2:0");
    Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime).unwrap()
}

pub fn stock_client(identity: &Identity) -> Endpoint {
    let mut endpoint = Endpoint::client("0.0.0.0:0".parse().unwrap()).unwrap();
    let crypto = QuicClientConfig::try_from(identity.client_tls()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint
}
