//! The operator's side of a node: an address of its own with `/metrics` and `/ready`, and with pages that only who knows a token can see.
//!
//! It is plain HTTP, so it listens on a loopback address unless somebody says otherwise. Nothing here decides about connections.

mod metrics;
pub mod page;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rustls::crypto::SecureRandom;
use rustls_migration::tokio::MigrationAcceptor;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use self::metrics::Metrics;

/// Length of the token in the pages' addresses, in bytes.
const TOKEN_LEN: usize = 16;

/// The part of a page's path that is the token.
const TOKEN: &str = "token";

/// How often what has been measured is condensed when nobody asks for it.
const UPKEEP: Duration = Duration::from_secs(5);

/// What Prometheus wants to hear of the form of `/metrics`.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An operator's listener.
#[derive(Debug)]
pub struct Operator {
    listener: TcpListener,
    address: SocketAddr,
    metrics: Metrics,
    token: Arc<str>,
}

/// Why there is no operator's listener.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Others than this machine could read it.
    #[error("{0} is no loopback address: say --operator-anywhere if others may read the metrics")]
    NotLoopback(SocketAddr),
    /// The address cannot be listened at.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// There is another recorder of metrics in this process.
    #[error("nothing can be measured")]
    Measure(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There are no random numbers for the token.
    #[error("there is no randomness")]
    Random,
}

impl Operator {
    /// Listens at `address`, and begins to measure. With `anywhere` it need not be a loopback address.
    ///
    /// # Errors
    ///
    /// [`OperatorError`].
    pub async fn listen(
        address: SocketAddr,
        anywhere: bool,
        random: &dyn SecureRandom,
    ) -> Result<Self, OperatorError> {
        if !anywhere && !address.ip().to_canonical().is_loopback() {
            return Err(OperatorError::NotLoopback(address));
        }
        let failed = |error| OperatorError::Listen(address, error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let mut token = [0; TOKEN_LEN];
        random.fill(&mut token).map_err(|_| OperatorError::Random)?;
        Ok(Self {
            listener,
            address,
            metrics: Metrics::install().map_err(OperatorError::Measure)?,
            token: base16ct::lower::encode_string(&token).into(),
        })
    }

    /// Where it is, with the token. Who has it may see the pages, and drain the node.
    pub fn url(&self) -> String {
        format!("http://{}/{}/", self.address, self.token)
    }

    /// Serves `/metrics`, and `/ready` for health checks, to everybody, and `pages` below the token, until `stop` resolves; then it answers
    /// what has been asked to the end. A node that is `leaving` is not ready.
    pub async fn serve(
        self,
        acceptor: MigrationAcceptor,
        leaving: watch::Receiver<bool>,
        pages: Router,
        stop: impl Future<Output = ()> + Send + 'static,
    ) {
        let metrics = self.metrics.clone();
        let checked = from_fn_with_state(Arc::clone(&self.token), only_with_token);
        let router = Router::new()
            .route("/metrics", get(async move || in_text(metrics.render())))
            .route(
                "/ready",
                get(async move || ready(&acceptor, &leaving).await),
            )
            .nest(&format!("/{{{TOKEN}}}/"), pages.route_layer(checked));
        let mut upkeep = interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let condense = async {
            loop {
                upkeep.tick().await;
                self.metrics.condense();
            }
        };
        tokio::select! {
            // It has no errors.
            _ = axum::serve(self.listener, router).with_graceful_shutdown(stop) => {}
            () = condense => {}
        }
    }
}

/// Whether clients may be sent here.
async fn ready(acceptor: &MigrationAcceptor, leaving: &watch::Receiver<bool>) -> StatusCode {
    match !*leaving.borrow() && acceptor.readiness().await.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn in_text(metrics: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], metrics)
}

/// Hides the pages from who does not know the token.
async fn only_with_token(
    State(token): State<Arc<str>>,
    said: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    let said = said
        .iter()
        .find(|(name, _)| *name == TOKEN)
        .unwrap_or_default();
    match bool::from(said.1.as_bytes().ct_eq(token.as_bytes())) {
        true => next.run(request).await,
        false => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use rustls_migration::TicketKeys;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::authority::Authority;
    use crate::service::{self, Identity};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn pages_are_for_who_knows_the_token_and_metrics_for_everybody() {
        let random = rustls_migration::provider::ring().secure_random;
        let operator = Operator::listen(([127, 0, 0, 1], 0).into(), false, random).await;
        let operator = operator.unwrap();
        let (address, url) = (operator.address, operator.url());
        let page = Router::new().route("/page", get_page());
        let keys = TicketKeys::generate(random).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::issued_by(&Authority::open(folder.path()).unwrap());
        let server = service::node(identity.unwrap(), keys, None)
            .unwrap()
            .build();
        let (leaves, leaving) = watch::channel(false);
        tokio::spawn(operator.serve(server.unwrap().into(), leaving, page, pending()));
        let path = url.strip_prefix(&format!("http://{address}")).unwrap();
        let found = get(address, &format!("{path}page")).await;
        assert!(found.ends_with("the page"), "{found}");
        let changed = path.replace(|digit| digit != '/', "0");
        for hidden in [
            "/page".to_owned(),
            "//page".to_owned(),
            format!("{changed}page"),
            format!("{path}other"),
        ] {
            let found = get(address, &hidden).await;
            assert!(found.starts_with("HTTP/1.0 404"), "{hidden}: {found}");
        }
        for open in ["/metrics", "/ready"] {
            let found = get(address, open).await;
            assert!(found.starts_with("HTTP/1.0 200"), "{found}");
        }
        leaves.send_replace(true);
        for (open, status) in [("/metrics", 200), ("/ready", 503)] {
            let found = get(address, open).await;
            assert!(found.starts_with(&format!("HTTP/1.0 {status}")), "{found}");
        }
    }

    fn get_page() -> axum::routing::MethodRouter {
        axum::routing::get(|| async { "the page" })
    }

    #[tokio::test]
    async fn an_address_that_others_reach_must_be_meant() {
        let random = rustls_migration::provider::ring().secure_random;
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
            let operator = Operator::listen(address.parse().unwrap(), false, random).await;
            assert!(
                matches!(operator, Err(OperatorError::NotLoopback(_))),
                "{address}"
            );
        }
    }
}
