//! Why a benchmark cannot be run. Slow is not an error.

use std::path::PathBuf;

/// What went wrong.
#[derive(thiserror::Error)]
pub(crate) enum BenchError {
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("accept: {0}")]
    Accept(#[from] rustls_migration::server::AcceptError),
    #[error("connect: {0}")]
    Connect(#[from] rustls_migration::client::ConnectError),
    #[error("configuration: {0}")]
    Config(#[from] rustls_migration::ConfigError),
    #[error("ticket keys: {0}")]
    Keys(#[from] rustls_migration::TicketKeyError),
    #[error("nonce store: {0}")]
    Store(#[from] migration_token::StoreError),
    #[error("nonce file: {0}")]
    NonceFile(#[from] migration_token::FileStoreError),
    #[error("nonce store on redis: {0}")]
    Redis(#[from] migration_token::RedisStoreError),
    #[error("redis-server cannot be run ({0}); install it with: apt-get install redis-server")]
    NoRedis(std::io::Error),
    #[error("token: {0}")]
    Token(#[from] migration_token::InvalidToken),
    #[error("token key: {0}")]
    TokenKey(#[from] migration_token::KeyError),
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("connect: {0}")]
    Dial(#[from] rustls_migration::tokio::ConnectError),
    #[error("memory transport: {0}")]
    Io(#[from] std::io::Error),
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("this run does not measure what it should: {0}")]
    Unexpected(&'static str),
    #[error("a client was lost: {0}")]
    Lost(String),
    #[error("valgrind is not installed; install it with: apt-get install valgrind")]
    NoValgrind,
    #[error("valgrind failed: {0}")]
    Valgrind(String),
    #[error("{} has no count of instructions", .0.display())]
    NoCount(PathBuf),
}

/// `main` prints the debug form: the message is what a reader needs.
impl std::fmt::Debug for BenchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
