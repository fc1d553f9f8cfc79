//! The fronts and nodes of a trial: processes of this program, and what they say.
//!
//! They are killed when the trial ends, however it ends.

use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use demo_server::authority::Authority;
use demo_server::program::Failure;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::report::Sum;

/// Longer than any line takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client and its front, as a node sees them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) client: SocketAddr,
    pub(super) front: SocketAddr,
}

/// A connection, and the number of its node.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) number: usize,
    pub(super) seen: Seen,
}

pub(super) struct Group {
    directory: TempDir,
    fronts: [SocketAddr; 2],
    front_programs: [Program; 2],
    nodes: [Program; 2],
}

struct Program {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Group {
    pub(super) async fn start() -> Result<Self, Failure> {
        let directory = TempDir::new().map_err(|e| Failure::wrong("a folder", &e))?;
        // Both nodes would make it at the same time.
        Authority::open(directory.path()).map_err(|e| Failure::wrong("the authority", &e))?;
        let keys = directory.path().join("forwarder-keys");
        std::fs::write(&keys, new_key()?).map_err(|e| Failure::wrong("the keys", &e))?;
        let public = [free([127, 0, 2, 1])?, free([127, 0, 2, 2])?];
        let inside = [free([127, 0, 3, 1])?, free([127, 0, 3, 2])?];
        // By node and front.
        let links = [
            [free([127, 0, 4, 1])?, free([127, 0, 4, 2])?],
            [free([127, 0, 4, 3])?, free([127, 0, 4, 4])?],
        ];
        let node = |number: usize, links: [SocketAddr; 2]| {
            let mut arguments = vec!["node".to_owned(), format!("--number={number}")];
            arguments.push(format!("--state-dir={}", directory.path().display()));
            for ((public, inside), listen) in public.iter().zip(inside).zip(links) {
                arguments.push(format!("--front={public}={inside}={listen}"));
            }
            Program::start(arguments, &keys)
        };
        let front = |public: SocketAddr, inside: SocketAddr, nodes: [SocketAddr; 2]| {
            let mut arguments = vec!["front".to_owned(), format!("--public={public}")];
            arguments.push(format!("--inside={inside}"));
            for (number, address) in nodes.iter().enumerate() {
                arguments.push(format!("--node={number}={address}"));
            }
            Program::start(arguments, &keys)
        };
        let [of_first, of_second] = links;
        let nodes = [node(0, of_first).await?, node(1, of_second).await?];
        let [first, second] = [[of_first[0], of_second[0]], [of_first[1], of_second[1]]];
        let front_programs = [
            front(public[0], inside[0], first).await?,
            front(public[1], inside[1], second).await?,
        ];
        Ok(Self {
            directory,
            fronts: public,
            front_programs,
            nodes,
        })
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// The address of a front, 0 or 1.
    pub(super) fn front(&self, number: usize) -> SocketAddr {
        let [first, second] = self.fronts;
        if number == 0 { first } else { second }
    }

    /// The node that has accepted a connection.
    pub(super) async fn accepted(&mut self) -> Result<Accepted, Failure> {
        let [first, second] = &mut self.nodes;
        let (number, line) = tokio::select! {
            line = first.line() => (0, line?),
            line = second.line() => (1, line?),
        };
        Ok(Accepted {
            number,
            seen: seen("accepted", &line)?,
        })
    }

    /// Where a node sees its only client.
    pub(super) async fn place(&mut self, node: usize) -> Result<Seen, Failure> {
        self.tell(node, "where").await?;
        let mut place = None;
        loop {
            let line = self.node(node).line().await?;
            match line.split(' ').next() {
                Some("all") => break,
                Some("at") => place = Some(seen("at", &line)?),
                _ => return Err(Failure::Wrong(format!("the node says `{line}`"))),
            }
        }
        place.ok_or_else(|| Failure::Wrong("the node has no client".to_owned()))
    }

    /// Has a node advertise a front to its only client, and waits until it knows what became of that.
    pub(super) async fn advertise(
        &mut self,
        node: usize,
        front: SocketAddr,
    ) -> Result<(), Failure> {
        self.tell(node, &format!("move {front}")).await?;
        let line = self.node(node).line().await?;
        match line.split(' ').next() {
            Some("moved" | "stayed") => Ok(()),
            _ => Err(Failure::Wrong(format!("the node says `{line}`"))),
        }
    }

    /// What a node has sent in a download that has ended.
    pub(super) async fn sent(&mut self, node: usize) -> Result<Sum, Failure> {
        let line = self.node(node).line().await?;
        let parts: Vec<&str> = line.split(' ').collect();
        match *parts {
            ["sent", bytes, sha256] => Ok(Sum {
                bytes: bytes.parse().unwrap_or_default(),
                sha256: sha256.to_owned(),
            }),
            _ => Err(Failure::Wrong(format!("the node says `{line}`"))),
        }
    }

    async fn tell(&mut self, node: usize, command: &str) -> Result<(), Failure> {
        let gone = || Failure::Wrong("a node has ended".to_owned());
        let input = self.node(node).input.as_mut().ok_or_else(gone)?;
        let line = format!("{command}\n");
        input.write_all(line.as_bytes()).await.map_err(|_| gone())
    }

    fn node(&mut self, number: usize) -> &mut Program {
        let [first, second] = &mut self.nodes;
        if number == 0 { first } else { second }
    }

    /// SIGKILL: it has no time for a last word.
    pub(super) async fn kill_front(&mut self, number: usize) -> Result<(), Failure> {
        let [first, second] = &mut self.front_programs;
        let front = if number == 0 { first } else { second };
        let killed = front.child.kill().await;
        killed.map_err(|error| Failure::wrong("killing a front", &error))
    }
}

impl Program {
    async fn start(arguments: Vec<String>, keys: &Path) -> Result<Self, Failure> {
        let not_started = |error| Failure::wrong("starting a process", &error);
        let program = std::env::current_exe().map_err(not_started)?;
        let mut child = Command::new(program)
            .args(arguments)
            .arg("--keys")
            .arg(keys)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(not_started)?;
        let no_output = || Failure::Wrong("a process has no output".to_owned());
        let lines = BufReader::new(child.stdout.take().ok_or_else(no_output)?).lines();
        let mut program = Self {
            input: child.stdin.take(),
            lines,
            child,
        };
        match program.line().await?.as_str() {
            "ready" => Ok(program),
            line => Err(Failure::Wrong(format!("a process says `{line}`"))),
        }
    }

    async fn line(&mut self) -> Result<String, Failure> {
        match timeout(PATIENCE, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(_) => Err(Failure::Wrong("a process has ended".to_owned())),
            Err(_) => Err(Failure::Wrong("a process says nothing".to_owned())),
        }
    }
}

/// `WORD CLIENT FRONT`.
fn seen(word: &str, line: &str) -> Result<Seen, Failure> {
    let parts: Vec<&str> = line.split(' ').collect();
    let read = match *parts {
        [first, client, front] if first == word => client.parse().ok().zip(front.parse().ok()),
        _ => None,
    };
    let (client, front) = read.ok_or_else(|| Failure::Wrong(format!("a node says `{line}`")))?;
    Ok(Seen { client, front })
}

/// An address with a port that is free now.
fn free(ip: [u8; 4]) -> Result<SocketAddr, Failure> {
    let socket = UdpSocket::bind(SocketAddr::from((ip, 0)));
    let address = socket.and_then(|socket| socket.local_addr());
    address.map_err(|error| Failure::wrong("a free port", &error))
}

fn new_key() -> Result<String, Failure> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|_| Failure::Wrong("there are no random numbers".to_owned()))?;
    let mut line = "0 ".to_owned();
    for byte in secret {
        let _ = write!(line, "{byte:02x}");
    }
    Ok(line)
}
