//! A certificate authority made for one test.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose,
    SerialNumber, SignatureAlgorithm,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub fn new() -> Self {
        // Its signatures have one length.
        Self::signing_by(&rcgen::PKCS_ED25519)
    }

    /// For peers that are strict about who signs, and how.
    pub fn strict() -> Self {
        Self::signing_by(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    fn signing_by(algorithm: &'static SignatureAlgorithm) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate_for(algorithm).unwrap();
        let ca = CertifiedIssuer::self_signed(params, key).unwrap();
        Self { ca }
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        roots
    }

    pub fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    /// A certificate for `name` with its key, in PEM.
    pub fn issue_pem(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name).signed_by(&key, &self.ca).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A certificate for `name` with its key, which signs by `algorithm`.
    pub fn issue(
        &self,
        name: &str,
        algorithm: &'static SignatureAlgorithm,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params(name).signed_by(&key, &self.ca).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (certificate.der().clone(), key)
    }
}

/// A serial number of one length, so that certificates for one name have one length.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.serial_number = Some(SerialNumber::from(1));
    // Some stacks insist on it.
    params.use_authority_key_identifier_extension = true;
    params
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}
