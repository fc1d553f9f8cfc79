//! A node: a listener on a loopback address whose connections are served by a closure.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use rustls_migration::server::{Arrival, MigrationServerBuilder};
use rustls_migration::tokio::{MigrationAcceptor, TlsStream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub type ServerStream = TlsStream<TcpStream>;
type Served = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// What a node does with an accepted connection.
pub type Serve = Arc<dyn Fn(ServerStream) -> Served + Send + Sync>;

/// What became of one connection at a node.
#[derive(Debug)]
pub struct Accepted {
    pub arrival: Result<Arrival, io::Error>,
}

pub struct Node {
    listener: Option<TcpListener>,
    address: SocketAddr,
    accepted: mpsc::UnboundedReceiver<Accepted>,
    sender: mpsc::UnboundedSender<Accepted>,
    listening: Option<JoinHandle<()>>,
}

impl Node {
    /// Listens on a port of its own at `ip`.
    pub async fn bind(ip: &str) -> Self {
        let ip: std::net::IpAddr = ip.parse().unwrap();
        Self::bind_at((ip, 0).into()).await
    }

    /// Listens at `address`.
    pub async fn bind_at(address: SocketAddr) -> Self {
        let socket = match address.is_ipv4() {
            true => TcpSocket::new_v4(),
            false => TcpSocket::new_v6(),
        };
        let socket = socket.unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        // As many may wait as the system allows: a thousand clients may come at once.
        let listener = socket.listen(u16::MAX.into()).unwrap();
        let (sender, accepted) = mpsc::unbounded_channel();
        Self {
            address: listener.local_addr().unwrap(),
            listener: Some(listener),
            accepted,
            sender,
            listening: None,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves with the given settings; the node answers for its own address.
    pub fn serve<F, S>(&mut self, settings: MigrationServerBuilder, serve: F) -> MigrationAcceptor
    where
        F: Fn(ServerStream) -> S + Send + Sync + 'static,
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        self.serve_as_is(settings.own_addresses([self.address]), serve)
    }

    /// Serves with just the given settings.
    pub fn serve_as_is<F, S>(
        &mut self,
        settings: MigrationServerBuilder,
        serve: F,
    ) -> MigrationAcceptor
    where
        F: Fn(ServerStream) -> S + Send + Sync + 'static,
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        let acceptor = MigrationAcceptor::from(settings.build().unwrap());
        let listener = self.listener.take().expect("a node serves once");
        let sender = self.sender.clone();
        let serve: Serve = Arc::new(move |stream| Box::pin(serve(stream)));
        let accepting = acceptor.clone();
        self.listening = Some(tokio::spawn(async move {
            while let Ok((tcp, peer)) = listener.accept().await {
                tokio::spawn(accept(
                    accepting.clone(),
                    tcp,
                    peer,
                    sender.clone(),
                    Arc::clone(&serve),
                ));
            }
        }));
        acceptor
    }

    /// Stops listening. Connections go on.
    pub async fn stop_listening(&mut self) {
        let listening = self.listening.take().expect("the node is serving");
        listening.abort();
        // The port is closed when the task has ended.
        let _ = listening.await;
    }

    /// Serves as an echo that closes when the client does.
    pub fn serve_echo(&mut self, settings: MigrationServerBuilder) {
        drop(self.serve(settings, echo));
    }

    /// What became of the next connection.
    pub async fn accepted(&mut self) -> Accepted {
        self.accepted.recv().await.expect("the node is serving")
    }

    /// How the next client came; panics when it was not accepted.
    pub async fn arrival(&mut self) -> Arrival {
        match self.accepted().await.arrival {
            Ok(arrival) => arrival,
            Err(error) => panic!("not accepted: {error:?}"),
        }
    }
}

async fn accept(
    acceptor: MigrationAcceptor,
    tcp: TcpStream,
    peer: SocketAddr,
    sender: mpsc::UnboundedSender<Accepted>,
    serve: Serve,
) {
    let local = tcp.local_addr().ok();
    let accepted = acceptor.accept_from(tcp, Some(peer), local).await;
    let (arrival, stream) = match accepted {
        Ok(stream) => (Ok(stream.arrival().clone()), Some(stream)),
        Err(error) => (Err(error), None),
    };
    let _ = sender.send(Accepted { arrival });
    if let Some(stream) = stream {
        // What a connection's end means, its test says.
        let _ = serve(stream).await;
    }
}

/// Sends back what it reads until the client closes, then closes.
pub async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut buf = vec![0; 16_384];
    loop {
        let len = stream.read(&mut buf).await?;
        if len == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(buf.get(..len).unwrap_or_default()).await?;
        stream.flush().await?;
    }
}

/// As [`echo`], and can go on at another node in the middle.
pub async fn movable_echo(mut stream: ServerStream) -> io::Result<()> {
    stream.set_state(&[])?;
    echo(stream).await
}

/// As [`echo`], but tells the client to move after its first bytes.
pub async fn echo_then_notify(mut stream: ServerStream) -> io::Result<()> {
    let mut buf = vec![0; 16_384];
    let len = stream.read(&mut buf).await?;
    stream.write_all(buf.get(..len).unwrap_or_default()).await?;
    stream.notify().await?;
    echo(stream).await
}
