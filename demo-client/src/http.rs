//! `demo-client get --http`: a download by HTTP, in parts. HTTP moves between requests, so each part is asked for where the server of
//! the last one asked the client to go.
//!
//! The pool and the connector follow; this only asks, and watches.

use std::convert::Infallible;
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use demo_server::program::Failure;
use demo_server::protocol::Header;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, RANGE};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_migration::client::{Client, ConnectionInfo, HttpsConnector};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use rustls::HandshakeKind;
use rustls_migration::tokio::{Events, MigrationConnector};
use tokio::time::sleep;
use url::Url;

use crate::download::{Download, PATIENCE, RETRY_PAUSE};
use crate::legs::{Landing, Legs};
use crate::options::Get;
use crate::output::Output;

/// How much is asked for at a time, in bytes.
const PART_LEN: u64 = 1 << 20;

/// Downloads what `options` name into `output`.
pub(crate) async fn run(
    connector: MigrationConnector,
    options: &Get,
    output: Output,
) -> Result<Download, Failure> {
    let began = Instant::now();
    let uri = uri(options)?;
    let address = options.connect;
    // Whatever the server is called, this is where it is.
    let resolver = tower::service_fn(move |_: Name| {
        std::future::ready(Ok::<_, Infallible>(std::iter::once(address)))
    });
    let mut dialer = HttpConnector::new_with_resolver(resolver);
    dialer.enforce_http(false);
    dialer.set_nodelay(true);
    let connector = HttpsConnector::with_inner(dialer, connector);
    let client: Client<_, Empty<Bytes>> = legacy::Client::builder(TokioExecutor::new())
        .build(connector)
        .into();
    let ask = async |request: Request<Empty<Bytes>>| {
        let asked = Instant::now();
        loop {
            match client.request(request.clone()).await {
                // The pool may want a further connection just when the server has closed its port and has not told its clients yet.
                Err(error) if error.is_connect() && asked.elapsed() < PATIENCE => {
                    sleep(RETRY_PAUSE).await;
                }
                answer => {
                    return answer.map_err(|error| Failure::wrong("a request failed", &error));
                }
            }
        }
    };

    let first = ask(request(&uri, Method::HEAD)?).await?;
    let info = info(&first)?;
    if first.status() != StatusCode::OK {
        let (server, status) = (info.peer_addr(), first.status());
        return Err(Failure::Usage(format!(
            "{} from {server}: {status}",
            options.path
        )));
    }
    let header = header(first.headers())?;
    let handshake = info.handshake_kind().unwrap_or(HandshakeKind::Full);
    let mut parts = Parts {
        header,
        received: 0,
        output,
        events: info.handle().events(),
        legs: Legs::new(began, info.peer_addr(), handshake),
    };
    while parts.received < parts.header.size {
        let end = parts.header.size.min(parts.received + PART_LEN);
        let mut part = request(&uri, Method::GET)?;
        let range = format!("bytes={}-{}", parts.received, end - 1).try_into();
        let range = range.map_err(|error| Failure::wrong("a request", &error))?;
        part.headers_mut().insert(RANGE, range);
        parts.take(ask(part).await?).await?;
        if parts.received != end {
            return Err(Failure::Wrong(
                "a part has another length than was asked for".to_owned(),
            ));
        }
    }
    parts.finish().await
}

/// A download under way.
struct Parts {
    header: Header,
    /// Bytes of the file so far.
    received: u64,
    output: Output,
    /// Those of the connection to the present server.
    events: Events,
    legs: Legs,
}

impl Parts {
    /// Takes one part.
    async fn take(&mut self, response: Response<Incoming>) -> Result<(), Failure> {
        let info = info(&response)?;
        let server = info.peer_addr();
        if server != self.legs.server() {
            let triggered = self.legs.triggered();
            self.legs
                .moved(self.legs.asks_by(), triggered, landing(&info));
            self.events = info.handle().events();
        }
        if response.status() != StatusCode::PARTIAL_CONTENT {
            let status = response.status();
            return Err(Failure::Wrong(format!(
                "{server} answers a part with {status}"
            )));
        }
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| Failure::wrong(format!("{server} failed"), &error))?;
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let written = self.output.take(&bytes, self.header.size).await;
            written.map_err(|error| Failure::wrong("the output cannot be written", &error))?;
            self.received += len;
            self.legs.heard();
            self.legs.count(len);
            while let Some(event) = self.events.try_next() {
                self.legs.marked(&event);
            }
            if info.handle().is_notified() {
                self.legs.notified();
            }
        }
        Ok(())
    }

    async fn finish(self) -> Result<Download, Failure> {
        let (legs, took) = self.legs.finish();
        let sha256 = self.output.finish().await;
        Ok(Download {
            header: self.header,
            sha256: sha256
                .map_err(|error| Failure::wrong("the output cannot be written", &error))?,
            legs,
            uploaded: None,
            recoveries: None,
            took,
        })
    }
}

fn landing(info: &ConnectionInfo) -> Landing {
    let fell_back = (!info.is_successor()).then(|| "the connection was no successor".to_owned());
    Landing {
        at: info.peer_addr(),
        handshake: info.handshake_kind().unwrap_or(HandshakeKind::Full),
        early_data: false,
        fell_back,
    }
}

/// The connection that an answer came by.
fn info(response: &Response<Incoming>) -> Result<ConnectionInfo, Failure> {
    let info = response.extensions().get::<ConnectionInfo>().cloned();
    info.ok_or_else(|| Failure::Wrong("an answer came by no connection".to_owned()))
}

fn uri(options: &Get) -> Result<Uri, Failure> {
    let port = options.connect.port();
    let base = format!("https://{}:{port}/", options.server_name);
    let mut url = Url::parse(&base).map_err(|error| Failure::usage("--server-name", &error))?;
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop().push("files");
        segments.extend(
            options
                .path
                .split('/')
                .filter(|segment| !segment.is_empty()),
        );
    }
    let uri = Uri::try_from(url.as_str());
    uri.map_err(|error| Failure::usage("the file's path", &error))
}

fn request(uri: &Uri, method: Method) -> Result<Request<Empty<Bytes>>, Failure> {
    Request::builder()
        .method(method)
        .uri(uri)
        .header("want-repr-digest", "sha-256=1")
        .body(Empty::new())
        .map_err(|error| Failure::wrong("a request", &error))
}

/// What the server says of the whole file.
fn header(headers: &HeaderMap) -> Result<Header, Failure> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let size = text(CONTENT_LENGTH.as_str()).and_then(|size| size.parse().ok());
    let digest = text("repr-digest")
        .and_then(|digest| digest.strip_prefix("sha-256=:")?.strip_suffix(':'))
        .and_then(|digest| BASE64_STANDARD.decode(digest).ok());
    match (size, digest) {
        (Some(size), Some(digest)) => Ok(Header {
            size,
            sha256: base16ct::lower::encode_string(&digest),
        }),
        _ => Err(Failure::Wrong(
            "the answer has no length and digest".to_owned(),
        )),
    }
}
