//! Request smuggling (`docs/protocol.md` section 4): HTTP/1.1 uploads that are under way when their node is drained. The
//! server's application has not consented that the stream goes on elsewhere, so nothing that a client's mode says may make
//! a request of a body.
//!
//! axum serves at both nodes, by a handler that takes a broken body for a complete one. Bodies are made of requests.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt as _, Empty};
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use migration_tests::node::ServerStream;
use migration_tests::session::Random;
use migration_tests::{NAME, Node, Service, server_name};
use rustls::HandshakeKind;
use rustls_migration::MoveKind;
use rustls_migration::server::Arrival;
use rustls_migration::tokio::{DrainPlan, Event, Events, HandOff, MigrationStream, StreamHandle};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How many rounds each case has, unless the environment's SMUGGLING_ROUNDS says so. There are 36 cases.
const ROUNDS: u64 = 6;

/// What a body consists of: whoever reads a body from the start of any piece on reads a request.
const PIECE: &[u8] =
    b"POST /smuggled HTTP/1.1\r\nhost: service.example\r\ncontent-length: 0\r\n\r\n";

#[derive(Clone, Copy, Debug)]
enum Framing {
    ContentLength,
    Chunked,
}

/// What the uploader does after the notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    /// It goes on to the end, for which there is time.
    Completes,
    /// It says nothing more, and the drain's deadline comes.
    Stalls,
    /// It goes on slowly, and the drain's deadline comes.
    TakesTooLong,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    mode: HandOff,
    half_close: bool,
    framing: Framing,
    upload: Upload,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in [HandOff::Drain, HandOff::Overlap, HandOff::Manual] {
        for half_close in [false, true] {
            for framing in [Framing::ContentLength, Framing::Chunked] {
                for upload in [Upload::Completes, Upload::Stalls, Upload::TakesTooLong] {
                    cases.push(Case {
                        mode,
                        half_close,
                        framing,
                        upload,
                    });
                }
            }
        }
    }
    cases
}

/// What a node's application did.
struct Executed {
    requests: Mutex<Vec<String>>,
    begun: Notify,
    ended: mpsc::UnboundedSender<hyper::Result<()>>,
}

impl Executed {
    fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<hyper::Result<()>>) {
        let (ended, ends) = mpsc::unbounded_channel();
        let requests = Mutex::default();
        let begun = Notify::new();
        let executed = Self {
            requests,
            begun,
            ended,
        };
        (Arc::new(executed), ends)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Answers how long the body was.
    async fn execute(&self, request: Request) -> String {
        let what = format!("{} {}", request.method(), request.uri().path());
        self.requests.lock().unwrap().push(what);
        let (mut body, mut len) = (request.into_body(), 0);
        while let Some(Ok(frame)) = body.frame().await {
            len += frame.into_data().map_or(0, |data| data.len());
            self.begun.notify_one();
        }
        len.to_string()
    }

    /// Serves HTTP, and finishes what is under way when the client is told to move.
    async fn serve(self: Arc<Self>, stream: ServerStream, half_close: bool) {
        let handle = stream.handle();
        let executed = Arc::clone(&self);
        let router = Router::new().fallback(move |request: Request| {
            let executed = Arc::clone(&executed);
            async move { executed.execute(request).await }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        let serving = http.half_close(half_close);
        let service = TowerToHyperService::new(router);
        let mut serving = pin!(serving.serve_connection(TokioIo::new(stream), service));
        let end = tokio::select! {
            end = serving.as_mut() => end,
            _ = handle.told() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        self.ended.send(end).unwrap();
    }
}

type Body = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

/// hyper's client over a stream.
async fn http(stream: MigrationStream) -> SendRequest<Body> {
    let (requests, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    // Its requests say what went wrong.
    tokio::spawn(connection);
    requests
}

async fn said(answer: Response<Incoming>) -> String {
    assert_eq!(answer.status(), 200);
    let all = answer.into_body().collect().await.unwrap();
    String::from_utf8(all.to_bytes().to_vec()).unwrap()
}

/// The notice, which must be for a connection.
async fn until_notified(events: &mut Events) {
    loop {
        match events.next().await.expect("the stream is there") {
            Event::Notified { kind } => return assert_eq!(kind, MoveKind::Connection),
            Event::Offered { .. } | Event::Marked { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A request on the client's next connection, which is at `b`.
async fn ask_at_successor(handle: &StreamHandle, b: &mut Node, path: &str) {
    let successor = handle.successor().await.unwrap();
    assert_eq!(successor.peer_addr(), b.address());
    let tls = successor.get_ref().unwrap();
    assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Resumed));
    let arrival = b.arrival().await;
    assert!(
        matches!(arrival, Arrival::Migrated { state: None, .. }),
        "{arrival:?}"
    );
    let mut requests = http(successor).await;
    let request = hyper::Request::get(path).header(HOST, NAME);
    let request = request.body(Empty::new().boxed()).unwrap();
    assert_eq!(
        said(requests.send_request(request).await.unwrap()).await,
        "0"
    );
}

async fn send(body: &mut Sender<Bytes>, pieces: usize) {
    for _ in 0..pieces {
        body.send_data(Bytes::from_static(PIECE)).await.unwrap();
    }
}

/// A client may be gone before its server has said that it closes too.
fn is_fair(end: &hyper::Result<()>) -> bool {
    end.as_ref().err().is_none_or(hyper::Error::is_shutdown)
}

async fn round(service: &Service, case: Case, seed: u64) {
    let mut random = Random::new(seed);
    let (mut a, mut b) = (Node::bind("127.0.0.2").await, Node::bind("127.0.0.3").await);
    let ((at_a, mut ends_at_a), (at_b, mut ends_at_b)) = (Executed::new(), Executed::new());
    let serve = |executed: &Arc<Executed>| {
        let executed = Arc::clone(executed);
        move |stream| {
            let executed = Arc::clone(&executed);
            async move {
                executed.serve(stream, case.half_close).await;
                Ok(())
            }
        }
    };
    let acceptor = a.serve(service.node(), serve(&at_a));
    b.serve(service.node(), serve(&at_b));

    let connector = service.connector().hand_off(case.mode);
    let stream = connector.connect(server_name(), a.address()).await.unwrap();
    let (handle, mut events) = (stream.handle(), stream.events());
    let mut requests = http(stream).await;
    let before = 1 + random.below(400);
    let after = match case.upload {
        Upload::Completes | Upload::Stalls => 1 + random.below(400),
        Upload::TakesTooLong => 1_000_000,
    };
    let (upload, next) = (format!("/upload/{seed}"), format!("/next/{seed}"));
    let mut request = hyper::Request::post(&upload).header(HOST, NAME);
    if let Framing::ContentLength = case.framing {
        request = request.header(CONTENT_LENGTH, (before + after) * PIECE.len());
    }
    let (mut body, channel) = Channel::new(1);
    let request = request.body(channel.boxed()).unwrap();
    let mut answer = pin!(requests.send_request(request));
    tokio::select! {
        answer = &mut answer => panic!("{answer:?}"),
        () = async {
            send(&mut body, before).await;
            at_a.begun.notified().await;
        } => {}
    }

    let plan = DrainPlan::to([(b.address(), 1)]).spread_over(Duration::ZERO);
    let drain = acceptor.drain(plan.clone().deadline(Duration::from_secs(60)));
    // The deadline comes when the client has been told, however busy this machine is.
    let drain = |drained: bool| match drained {
        true => drain,
        false => {
            drain.abort();
            acceptor.drain(plan.deadline(Duration::ZERO))
        }
    };
    // The next connection does not depend on what becomes of this one.
    let moving = async {
        until_notified(&mut events).await;
        ask_at_successor(&handle, &mut b, &next).await;
    };
    let (drain, answer) = match case.upload {
        Upload::Completes => {
            let uploading = async {
                moving.await;
                send(&mut body, after).await;
                drop(body);
            };
            let answer = tokio::join!(uploading, answer).1;
            (drain(true), answer)
        }
        Upload::Stalls => {
            moving.await;
            (drain(false), answer.await)
        }
        Upload::TakesTooLong => {
            let (begun, well_begun) = oneshot::channel();
            let trickling = async {
                let mut begun = Some(begun);
                // Until nobody takes it any more.
                for sent in 0.. {
                    if body.send_data(Bytes::from_static(PIECE)).await.is_err() {
                        break;
                    }
                    if sent == 20 {
                        begun.take().map(|begun| begun.send(()));
                    }
                    sleep(Duration::from_millis(1)).await;
                }
            };
            let cutting = async {
                moving.await;
                well_begun.await.unwrap();
                drain(false)
            };
            let (drain, (), answer) = tokio::join!(cutting, trickling, answer);
            (drain, answer)
        }
    };
    match (case.upload, answer) {
        (Upload::Completes, answer) => {
            let answer = answer.unwrap();
            assert_eq!(answer.headers()[CONNECTION], "close");
            let len = (before + after) * PIECE.len();
            assert_eq!(said(answer).await, len.to_string());
        }
        (Upload::Stalls | Upload::TakesTooLong, answer) => {
            let answer = answer.map(|answer| answer.status());
            assert!(answer.is_err(), "{answer:?} to what was not all");
        }
    }
    drop(requests);
    let forced = drain.finished().await.progress.forced;
    assert_eq!(forced, usize::from(case.upload != Upload::Completes));
    let end = ends_at_a.recv().await.unwrap();
    assert_eq!(is_fair(&end), case.upload == Upload::Completes, "{end:?}");
    assert_eq!(at_a.requests(), [format!("POST {upload}")]);
    let end = ends_at_b.recv().await.unwrap();
    assert!(is_fair(&end), "{end:?}");
    assert_eq!(at_b.requests(), [format!("GET {next}")]);
    assert!(ends_at_b.try_recv().is_err(), "one connection at B");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_body_becomes_a_request_and_no_truncated_upload_is_answered() {
    let rounds = std::env::var("SMUGGLING_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let service = Arc::new(Service::default());
    let mut running = JoinSet::new();
    for (number, case) in (0..).zip(cases()) {
        let service = Arc::clone(&service);
        running.spawn(async move {
            for round_number in 0..rounds {
                let seed = number * rounds + round_number;
                let done = timeout(Duration::from_secs(60), round(&service, case, seed)).await;
                done.unwrap_or_else(|_| panic!("seed {seed} hangs: {case:?}"));
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}
