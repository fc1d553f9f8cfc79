//! `demo-client get`: a download from a server that is already there.
//!
//! It trusts the certificate authority that it is given and no other.

use demo_server::authority::Authority;
use demo_server::program::Failure;
use demo_server::protocol;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};

use rustls_migration::tokio::HandOff;

use crate::connect;
use crate::download::{Download, Job};
use crate::http;
use crate::options::{Get, GetMode, HttpVersion};
use crate::output::Output;
use crate::report::Report;

pub(crate) async fn run(options: &Get) -> Result<(), Failure> {
    let server_name = ServerName::try_from(options.server_name.clone())
        .map_err(|error| Failure::usage("--server-name", &error))?;
    let protocol = options.http.map_or(protocol::ALPN, HttpVersion::alpn);
    let key_log = options.common.key_log.as_deref();
    let connector = connect::connector(protocol, roots(options)?, key_log, options.dialect, 0)?;
    let output = Output::create(options.output.as_deref()).await?;
    if options.http.is_some() {
        let download = http::run(connector, options, output).await?;
        return report(&download, options, Vec::new());
    }
    let connector = match options.mode {
        GetMode::Immediate => connector,
        GetMode::Drain => connector.hand_off(HandOff::Drain),
    };
    let job = Job {
        connector,
        server_name,
        address: options.connect,
        path: options.path.clone(),
        migrate_after: options.migrate_after,
        follows: options.mode == GetMode::Drain,
    };
    let download = job.run(output).await?;
    let mut problems = Vec::new();
    if options.migrate_after.is_some() && download.legs.len() < 2 {
        problems.push("the download ended before it could move".to_owned());
    }
    report(&download, options, problems)
}

fn report(download: &Download, options: &Get, problems: Vec<String>) -> Result<(), Failure> {
    let report = Report {
        download,
        mode: None,
        early_data: options.http.is_none() && options.mode == GetMode::Immediate,
        replay: None,
        problems,
    };
    report.print(options.common.json)
}

fn roots(options: &Get) -> Result<RootCertStore, Failure> {
    let default = || Authority::certificate_path(&options.state_dir);
    let path = options.ca.clone().unwrap_or_else(default);
    let name = path.display();
    let certificates = CertificateDer::pem_file_iter(&path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| Failure::usage(format!("--ca {name}"), &error))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| Failure::usage(format!("--ca {name}"), &error))?;
    }
    match roots.is_empty() {
        true => Err(Failure::Usage(format!("--ca {name}: no certificate in it"))),
        false => Ok(roots),
    }
}
