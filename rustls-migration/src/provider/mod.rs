//! A rustls [`CryptoProvider`] that does what its base does and lets a connection see what passes.
//!
//! It works over any base provider. Connections that are not made by this crate are not affected by it. It makes
//! no FIPS claim: [`CryptoProvider::fips`] is false for a wrapped provider whatever its base says.

mod aead;
mod hash;
mod hkdf;
pub(crate) mod link;

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};

use self::link::{Link, scope};

/// rustls' ring provider, wrapped.
#[cfg(feature = "ring")]
pub fn ring() -> CryptoProvider {
    wrap(rustls::crypto::ring::default_provider())
}

/// rustls' aws-lc-rs provider, wrapped.
#[cfg(feature = "aws-lc-rs")]
pub fn aws_lc_rs() -> CryptoProvider {
    wrap(rustls::crypto::aws_lc_rs::default_provider())
}

/// Wraps `base`. Build the `ServerConfig` or `ClientConfig` with the result.
///
/// TLS 1.2 suites, key exchange and signatures are the base's own. Each TLS 1.3 suite is wrapped once in the
/// life of the process and kept.
///
/// ```
/// # #[cfg(feature = "ring")] {
/// use std::sync::Arc;
///
/// let provider = rustls_migration::provider::wrap(rustls::crypto::ring::default_provider());
/// let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
///     .with_safe_default_protocol_versions()?
///     .with_root_certificates(rustls::RootCertStore::empty())
///     .with_no_client_auth();
/// # let _ = config;
/// # }
/// # Ok::<(), rustls::Error>(())
/// ```
pub fn wrap(base: CryptoProvider) -> CryptoProvider {
    let cipher_suites = base
        .cipher_suites
        .iter()
        .map(|suite| match suite.tls13() {
            Some(tls13) => SupportedCipherSuite::Tls13(wrap_suite(tls13)),
            None => *suite,
        })
        .collect();
    CryptoProvider {
        cipher_suites,
        ..base
    }
}

fn wrap_suite(base: &'static Tls13CipherSuite) -> &'static Tls13CipherSuite {
    /// Base suites and what they became: rustls wants suites that live for ever, so each is made once.
    static WRAPPED: Mutex<Vec<(&Tls13CipherSuite, &Tls13CipherSuite)>> = Mutex::new(Vec::new());

    let mut wrapped = WRAPPED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = wrapped
        .iter()
        .find(|(from, to)| ptr::eq(*from, base) || ptr::eq(*to, base));
    if let Some((_, to)) = known {
        return to;
    }
    let to = Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: base.common.suite,
            hash_provider: Box::leak(Box::new(hash::LinkedHash(base.common.hash_provider))),
            confidentiality_limit: base.common.confidentiality_limit,
        },
        hkdf_provider: Box::leak(Box::new(hkdf::LinkedHkdf(base.hkdf_provider))),
        aead_alg: Box::leak(Box::new(aead::LinkedAead(base.aead_alg))),
        quic: base.quic,
    }));
    wrapped.push((base, to));
    to
}

/// Whether every TLS 1.3 suite of `provider` is wrapped. It tries, since a provider cannot be asked.
pub(crate) fn is_wrapped(provider: &CryptoProvider) -> bool {
    #[derive(Default)]
    struct Probe(AtomicBool);
    impl Link for Probe {
        fn resumption_master_secret(&self, _: &[u8]) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    provider
        .cipher_suites
        .iter()
        .filter_map(SupportedCipherSuite::tls13)
        .all(|suite| {
            let probe = Arc::new(Probe::default());
            scope(&probe, || {
                suite
                    .hkdf_provider
                    .extract_from_zero_ikm(None)
                    .expand_block(&[&[], &[], b"tls13 ", b"res master", &[], &[]]);
            });
            probe.0.load(Ordering::Relaxed)
        })
}

#[cfg(all(test, feature = "ring"))]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_provider_is_told_from_a_stock_one() {
        assert!(is_wrapped(&ring()));
        assert!(!is_wrapped(&rustls::crypto::ring::default_provider()));
    }

    #[test]
    fn wrapping_twice_wraps_once() {
        let (once, twice) = (ring(), wrap(ring()));
        let suites = |provider: &CryptoProvider| {
            provider
                .cipher_suites
                .iter()
                .filter_map(SupportedCipherSuite::tls13)
                .collect::<Vec<_>>()
        };
        for (a, b) in suites(&once).iter().zip(suites(&twice)) {
            assert!(ptr::eq(*a, b));
        }
    }
}
