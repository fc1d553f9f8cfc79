//! The `openssl` command as a client and as a server.

use std::net::SocketAddr;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::program::Program;
use crate::{NAME, Service};

/// A folder with what the command reads and writes: the service's authority, a certificate, sessions.
pub struct Openssl {
    folder: TempDir,
}

impl Openssl {
    pub fn new(service: &Service) -> Self {
        let new = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let (certificate, key) = service.pki.issue_pem(NAME);
        new.write("ca.pem", &service.pki.ca_pem());
        new.write("server.pem", &format!("{certificate}{key}"));
        new
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that options can name as `@name`.
    pub fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// `openssl s_client` to `address`; in its options `@name` stands for the file `name`.
    pub fn s_client(&self, address: SocketAddr, options: &str) -> Program {
        self.run(&format!(
            "s_client -connect {address} -servername {NAME} -verify_hostname {NAME} -CAfile @ca.pem \
             -verify_return_error {options}"
        ))
    }

    /// `openssl s_server` on a port of its own, and its address.
    pub async fn s_server(&self, options: &str) -> (Program, SocketAddr) {
        let mut server = self.run(&format!(
            "s_server -accept 127.0.0.1:0 -cert @server.pem -key @server.pem {options}"
        ));
        let address = server.line_after("ACCEPT ").await;
        (server, address.parse().unwrap())
    }

    fn run(&self, arguments: &str) -> Program {
        let arguments = arguments
            .split_whitespace()
            .map(|one| match one.strip_prefix('@') {
                Some(name) => self.path(name).into_os_string(),
                None => one.into(),
            });
        Program::start("openssl", arguments)
    }
}
