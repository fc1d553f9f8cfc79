//! The connector: it opens each connection of a pool, the next one of an authority where the last one was asked to go.

use std::error::Error;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::{Authority, Scheme};
use http::{Extensions, Uri};
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::{Connection, HttpConnector, HttpInfo};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls_migration::tokio::{ConnectError, MigrationConnector, MigrationStream};
use tower_service::Service;

use super::offers::{Next, Offers};
use super::stream::{HttpsStream, MaybeHttpsStream};

/// A connector's error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A connector for hyper's clients over an inner one, which resolves names and dials. It takes the place of
/// `hyper_rustls::HttpsConnector`.
///
/// When a server has asked a connection to move, the *next* connection to the same authority goes to the target of its offer and
/// resumes the session there, also while the one that was asked still finishes. If that fails, or there is no offer, the inner
/// connector dials as ever. Targets are dialled by the [`MigrationConnector`].
///
/// What applications may speak, ALPN in the TLS configuration says: `h2`, `http/1.1`, or both.
///
/// Clones share what waits to be followed, so that each clone of a client finds it.
#[derive(Clone)]
pub struct HttpsConnector<H> {
    http: H,
    pub(super) tls: MigrationConnector,
    pub(super) offers: Arc<Offers>,
}

impl HttpsConnector<HttpConnector> {
    /// Over hyper-util's own connector: DNS by the system, Happy Eyeballs, and small writes sent at once.
    pub fn new(tls: MigrationConnector) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        Self::with_inner(http, tls)
    }
}

impl<H> HttpsConnector<H> {
    /// Over an inner connector. Where it leads, its connections' [`HttpInfo`] says; without one, no target is allowed by the
    /// default policy.
    pub fn with_inner(http: H, tls: MigrationConnector) -> Self {
        Self {
            http,
            tls,
            offers: Arc::default(),
        }
    }
}

/// One connection that is about to be made.
struct Connecting<H> {
    http: H,
    tls: MigrationConnector,
    offers: Arc<Offers>,
    uri: Uri,
}

impl<H> Connecting<H>
where
    H: Service<Uri>,
    H::Response: Read + Write + Connection + Send + Unpin + 'static,
    H::Error: Into<BoxError>,
{
    async fn connect(mut self) -> Result<HttpsStream, BoxError> {
        let authority = self
            .uri
            .authority()
            .ok_or("the URI has no authority")?
            .clone();
        let name = server_name(&authority)?;
        let succeeded = succeed(&self.tls, &self.offers, &authority, &name).await;
        let (stream, origin) = match succeeded {
            Some(stream) => (stream, (true, None)),
            None => {
                let (stream, http) = self.begin(name).await?;
                (stream, (false, http))
            }
        };
        let Self { offers, .. } = self;
        Ok(HttpsStream::new(stream, authority, offers, origin))
    }

    /// Goes where the inner connector leads.
    async fn begin(
        &mut self,
        name: ServerName<'static>,
    ) -> Result<(MigrationStream, Option<HttpInfo>), BoxError> {
        let io = self.http.call(self.uri.clone()).await.map_err(Into::into)?;
        let mut extensions = Extensions::new();
        io.connected().get_extras(&mut extensions);
        let http = extensions.remove::<HttpInfo>();
        let address = http.as_ref().map_or(UNKNOWN, HttpInfo::remote_addr);
        let io = TokioIo::new(io);
        Ok((self.tls.connect_over(name, address, io).await?, http))
    }
}

/// Goes where an earlier connection was asked to go.
async fn succeed(
    tls: &MigrationConnector,
    offers: &Offers,
    authority: &Authority,
    name: &ServerName<'static>,
) -> Option<MigrationStream> {
    let next = match offers.next(authority, tls.client().clock().instant()) {
        Next::Wait(turn) => {
            drop(turn.lock().await);
            offers.next(authority, tls.client().clock().instant())
        }
        next @ (Next::Resume(..) | Next::At(_) | Next::Dial) => next,
    };
    let (target, stream) = match next {
        Next::Resume(offer, _turn) => {
            let target = offer.target();
            (target, tls.resume(name.clone(), *offer).await)
        }
        Next::At(address) => (address, tls.connect(name.clone(), address).await),
        Next::Wait(_) | Next::Dial => return None,
    };
    stream
        .inspect_err(|error| {
            tracing::debug!(%target, ?error, "the offer could not be followed");
            if let ConnectError::Dial { .. } = error {
                offers.forget(authority, target);
            }
        })
        .ok()
}

/// Where a connection leads whose inner connector does not say it.
const UNKNOWN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

pub(super) fn server_name(authority: &Authority) -> Result<ServerName<'static>, BoxError> {
    let host = authority.host();
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    Ok(ServerName::try_from(host.to_owned())?)
}

impl<H> Service<Uri> for HttpsConnector<H>
where
    H: Service<Uri> + Clone + Send + 'static,
    H::Response: Read + Write + Connection + Send + Unpin + 'static,
    H::Error: Into<BoxError>,
    H::Future: Send + 'static,
{
    type Response = MaybeHttpsStream<H::Response>;
    type Error = BoxError;
    type Future =
        Pin<Box<dyn Future<Output = Result<MaybeHttpsStream<H::Response>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if uri.scheme() != Some(&Scheme::HTTPS) {
            let connecting = self.http.call(uri);
            return Box::pin(async move {
                let io = connecting.await.map_err(Into::into)?;
                Ok(MaybeHttpsStream::Http(io))
            });
        }
        // The one that is ready is the one to call.
        let other = self.http.clone();
        let connecting = Connecting {
            http: std::mem::replace(&mut self.http, other),
            tls: self.tls.clone(),
            offers: Arc::clone(&self.offers),
            uri,
        };
        Box::pin(async move {
            Ok(MaybeHttpsStream::Https(Box::new(
                connecting.connect().await?,
            )))
        })
    }
}

impl<H> fmt::Debug for HttpsConnector<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsConnector")
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_authoritys_host_whether_it_has_a_port_or_is_an_address() {
        for (authority, name) in [
            ("service.example", "service.example"),
            ("service.example:8443", "service.example"),
            ("192.0.2.1:443", "192.0.2.1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
        ] {
            let found = server_name(&Authority::from_static(authority)).unwrap();
            assert_eq!(found, ServerName::try_from(name).unwrap());
        }
        assert!(server_name(&Authority::from_static("not_a_name!")).is_err());
    }
}
