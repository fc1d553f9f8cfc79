//! A certificate authority for development, made on first use and shared by the nodes of one state folder.
//!
//! It is no authority for anything that matters: whoever can read the folder can issue.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::state::{create_once, replace};

/// The names in the certificates that nodes get.
pub const NAMES: [&str; 2] = ["demo.example", "localhost"];

/// The certificate with its key, for nodes.
const AUTHORITY_FILE: &str = "authority.pem";
/// The certificate alone, for clients.
const CERTIFICATE_FILE: &str = "ca.pem";

/// What stands between the certificate and its key in [`AUTHORITY_FILE`].
const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY-----";

/// A certificate authority for development.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// An authority that lives in this process alone.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Certificate`] when no key can be made.
    pub fn generate() -> Result<Self, AuthorityError> {
        Self::from_pem(&new_authority()?)
    }

    /// The authority of a state folder, made on first use.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`] when the folder cannot be written or holds something else.
    pub fn open(state: &Path) -> Result<Self, AuthorityError> {
        let path = state.join(AUTHORITY_FILE);
        create_once(&path, |new| write_private(new, &new_authority()?))?;
        let pem = fs::read_to_string(&path)?;
        let authority = Self::from_pem(&pem)?;
        let (certificate, _) = pem.split_once(KEY_BEGINS).unwrap_or_default();
        replace(&Self::certificate_path(state), certificate)?;
        Ok(authority)
    }

    /// Where a state folder has the authority's certificate, for clients.
    pub fn certificate_path(state: &Path) -> PathBuf {
        state.join(CERTIFICATE_FILE)
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for [`NAMES`], with a new key.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::Certificate`] when it cannot be made.
    pub fn issue(
        &self,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), AuthorityError> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(NAMES.map(String::from).to_vec())?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((
            certificate.der().clone(),
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        ))
    }

    fn from_pem(pem: &str) -> Result<Self, AuthorityError> {
        let unreadable = |_| AuthorityError::Unreadable;
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(unreadable)?;
        Ok(Self {
            certificate: CertificateDer::from_pem_slice(pem.as_bytes()).map_err(unreadable)?,
            issuer: Issuer::new(params()?, KeyPair::try_from(key.secret_pkcs8_der())?),
        })
    }
}

/// The same for every authority: an issuer's name and use are not read back from its certificate.
fn params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(
        DnType::CommonName,
        "development authority of the migration demo",
    );
    Ok(params)
}

/// The certificate and the key of a new authority.
fn new_authority() -> Result<String, rcgen::Error> {
    let key = KeyPair::generate()?;
    let certificate = params()?.self_signed(&key)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

fn write_private(path: &Path, text: &str) -> Result<(), AuthorityError> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

/// Does not show the key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The file cannot be read or written.
    #[error("the authority's file cannot be used")]
    Io(#[from] io::Error),
    /// The file holds something else.
    #[error("{AUTHORITY_FILE} does not hold a certificate and its key; delete it to get a new one")]
    Unreadable,
    /// A certificate could not be made.
    #[error("the certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustls::client::danger::ServerCertVerifier as _;

    use super::*;

    #[test]
    fn nodes_that_start_at_once_agree_on_the_authority() {
        let state = tempfile::tempdir().unwrap();
        let seen: Vec<_> = std::thread::scope(|scope| {
            let open = || Authority::open(state.path()).unwrap().certificate;
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(seen.iter().all(|certificate| *certificate == seen[0]));
        let pem = fs::read(Authority::certificate_path(state.path())).unwrap();
        assert_eq!(CertificateDer::from_pem_slice(&pem).unwrap(), seen[0]);
    }

    #[test]
    fn only_the_owner_can_read_the_key_and_clients_get_none() {
        let state = tempfile::tempdir().unwrap();
        Authority::open(state.path()).unwrap();
        let file = fs::metadata(state.path().join(AUTHORITY_FILE)).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
        let public = fs::read_to_string(Authority::certificate_path(state.path())).unwrap();
        assert!(!public.contains("PRIVATE"));
    }

    #[test]
    fn a_reopened_authority_issues_what_its_first_certificate_verifies() {
        let state = tempfile::tempdir().unwrap();
        let first = Authority::open(state.path()).unwrap();
        let (leaf, _) = Authority::open(state.path()).unwrap().issue().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(first.certificate().clone()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
                .build()
                .unwrap();
        for name in NAMES {
            let name = name.try_into().unwrap();
            let now = rustls::pki_types::UnixTime::now();
            verifier
                .verify_server_cert(&leaf, &[], &name, &[], now)
                .unwrap();
        }
    }

    #[test]
    fn a_file_that_is_no_authority_is_refused() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(AUTHORITY_FILE), "hello").unwrap();
        let refused = Authority::open(state.path()).unwrap_err();
        assert!(matches!(refused, AuthorityError::Unreadable));
    }
}
