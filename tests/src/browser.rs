//! Headless Chromium, driven by chromedriver.
//!
//! It trusts every certificate, has an empty profile, and finds what it is told to find at the addresses that it is told.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tempfile::TempDir;
use thirtyfour::ChromeCapabilities;
use thirtyfour::prelude::*;
use tokio::time::{Instant, sleep};

use crate::program::Program;
use crate::stock;

/// How long a page may take to show what is expected of it. Only a broken test waits for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running browser with one window. Call [`quit`](Self::quit) at the end.
pub struct Browser {
    driver: WebDriver,
    _chromedriver: Program,
    _profile: TempDir,
}

impl Browser {
    /// Starts one with a window of 1366 by 768, a laptop's, for which `name` is the host at `address`.
    pub async fn start(name: &str, address: SocketAddr) -> Self {
        let mut chromedriver = Program::start("chromedriver", ["--port=0"]);
        let port = chromedriver.line_after("successfully on port ").await;
        let profile = tempfile::tempdir().unwrap();
        let server = format!("http://127.0.0.1:{}", port.trim_end_matches('.'));
        let capabilities = capabilities(name, address, profile.path()).unwrap();
        let driver = WebDriver::builder(server, capabilities).client(plain_client());
        let driver = driver.connect().await;
        let driver = driver.expect("Chromium starts: tools/setup-tests installs it");
        Self {
            driver,
            _chromedriver: chromedriver,
            _profile: profile,
        }
    }

    pub async fn goto(&self, url: &str) {
        self.driver.goto(url).await.unwrap();
    }

    /// What an asynchronous function with this body returns in the page.
    pub async fn run(&self, body: &str) -> Value {
        let script = format!(
            "const done = arguments[0];
             (async () => {{ {body} }})().then(done, error => done('' + error))"
        );
        let answer = self.driver.execute_async(script, Vec::new()).await.unwrap();
        answer.json().clone()
    }

    /// Waits until an expression is true in the page, and returns it.
    pub async fn until(&self, expression: &str) -> Value {
        let began = Instant::now();
        loop {
            let value = self.run(&format!("return {expression}")).await;
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return value;
            }
            if began.elapsed() > PATIENCE {
                let page = self.run("return document.body.innerText").await;
                panic!("never {expression}: {page}");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Clicks what a selector of CSS finds.
    pub async fn click(&self, selector: &str) {
        let found = self.driver.find(By::Css(selector)).await.unwrap();
        found.click().await.unwrap();
    }

    /// Writes what the window shows to a file, as PNG.
    pub async fn screenshot(&self, path: &Path) {
        self.driver.screenshot(path).await.unwrap();
    }

    pub async fn quit(self) {
        self.driver.quit().await.unwrap();
    }
}

/// A client for plain HTTP. Whatever provider others have it built with, it needs one.
pub fn plain_client() -> reqwest::Client {
    let config = ClientConfig::builder_with_provider(Arc::new(stock::provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let client = reqwest::Client::builder().tls_backend_preconfigured(config);
    client.no_proxy().build().unwrap()
}

fn capabilities(
    name: &str,
    address: SocketAddr,
    profile: &Path,
) -> WebDriverResult<ChromeCapabilities> {
    let mut chrome = DesiredCapabilities::chrome();
    chrome.accept_insecure_certs(true)?;
    for argument in [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1366,768",
        &format!("--user-data-dir={}", profile.display()),
        &format!("--host-resolver-rules=MAP {name} {}", address.ip()),
    ] {
        chrome.add_arg(argument)?;
    }
    Ok(chrome)
}
