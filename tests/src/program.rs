//! Programs that tests run: `tools/setup-tests` installs what a machine lacks.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

/// How long a program may say nothing of what it is expected to say. Only a broken test waits for it.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running program, which dies with this value.
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: watch::Receiver<String>,
}

impl Program {
    /// Starts `name`; panics with what to do when there is no such program.
    pub fn start(
        name: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    ) -> Self {
        let name = name.as_ref();
        let mut child = Command::new(name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; run tools/setup-tests", name.display()));
        let (sender, output) = watch::channel(String::new());
        tokio::spawn(collect(child.stdout.take().unwrap(), sender.clone()));
        tokio::spawn(collect(child.stderr.take().unwrap(), sender));
        let input = child.stdin.take();
        Self {
            child,
            input,
            output,
        }
    }

    /// Waits until the program has said `text`, and returns all that it has said.
    pub async fn until(&mut self, text: &str) -> String {
        self.wait(text, |output| output.contains(text)).await
    }

    /// Waits for a whole line that has `text` in it, and returns what follows `text` there.
    pub async fn line_after(&mut self, text: &str) -> String {
        let rest = |output: &str| {
            let (_, rest) = output.split_once(text)?;
            Some(rest.split_once('\n')?.0.to_owned())
        };
        let output = self.wait(text, |output| rest(output).is_some()).await;
        rest(&output).unwrap()
    }

    /// Waits until the program has said so many lines.
    pub async fn until_lines(&mut self, lines: usize) {
        self.wait("more", |output| output.lines().count() >= lines)
            .await;
    }

    async fn wait(&mut self, wanted: &str, found: impl Fn(&str) -> bool) -> String {
        let said = self.output.wait_for(|output| found(output));
        if let Ok(Ok(output)) = tokio::time::timeout(PATIENCE, said).await {
            return output.clone();
        }
        panic!("it did not say {wanted:?} but:\n{}", *self.output.borrow());
    }

    /// Types `text`.
    pub async fn say(&mut self, text: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(text.as_bytes()).await.unwrap();
        input.flush().await.unwrap();
    }

    /// Ends the program's input, waits for its end and returns all that it said. Panics when it failed.
    pub async fn finish(mut self) -> String {
        self.input = None;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let output = self.rest().await;
        let status = ended.unwrap_or_else(|_| panic!("it did not end but said:\n{output}"));
        let status = status.unwrap();
        assert!(status.success(), "{status}:\n{output}");
        output
    }

    /// Kills the program with SIGKILL, waits for its end and returns all that it said.
    pub async fn kill(mut self) -> String {
        self.child.kill().await.unwrap();
        self.rest().await
    }

    /// All that the program has said, when it has ended.
    async fn rest(&mut self) -> String {
        // Both readers let go of the channel at the end of the output.
        let closed = async { while self.output.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(PATIENCE, closed).await;
        self.output.borrow().clone()
    }
}

async fn collect(mut from: impl AsyncRead + Unpin, to: watch::Sender<String>) {
    let mut buf = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buf).await {
        let new = String::from_utf8_lossy(buf.get(..len).unwrap_or_default());
        to.send_modify(|output| output.push_str(&new));
    }
}

/// The interpreter of the Python environment in the target directory.
pub fn python() -> PathBuf {
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    PathBuf::from(workspace)
        .join(target)
        .join("python/bin/python")
}
