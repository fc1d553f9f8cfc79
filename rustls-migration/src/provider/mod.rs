//! A rustls [`CryptoProvider`] that does what its base does and lets a connection see what passes.
//!
//! It works over any base provider. Connections that are not made by this crate are not affected by it. It makes
//! no FIPS claim: [`CryptoProvider::fips`] is false for a wrapped provider whatever its base says.

mod aead;
mod hash;
mod hkdf;
pub(crate) mod hook;
#[cfg(test)]
#[cfg(feature = "ring")]
mod quic;
pub(crate) mod user_code;

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite};

pub(crate) use self::aead::SharedDecrypter;
pub(crate) use self::hash::{Hashed, HashedHello};
use self::hook::{ConnectionHook, Verifying, scope};

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
/// Key exchange and signatures are the base's own. Each suite is wrapped once in the life of the process and kept.
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
    let cipher_suites = base.cipher_suites.iter().map(|suite| wrap_suite(*suite));
    CryptoProvider {
        cipher_suites: cipher_suites.collect(),
        ..base
    }
}

fn wrap_suite(base: SupportedCipherSuite) -> SupportedCipherSuite {
    /// Base suites and what they became: rustls wants suites that live for ever, so each is made once.
    static WRAPPED: Mutex<Vec<[SupportedCipherSuite; 2]>> = Mutex::new(Vec::new());

    let mut wrapped = WRAPPED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = wrapped
        .iter()
        .find(|known| known.iter().any(|suite| is_same(*suite, base)));
    if let Some([_, to]) = known {
        return *to;
    }
    let to = match base {
        SupportedCipherSuite::Tls12(base) => {
            // The extensions are in every hello, so the transcript has them in TLS 1.2 as well.
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: wrap_common(&base.common),
                ..*base
            })))
        }
        SupportedCipherSuite::Tls13(base) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: wrap_common(&base.common),
                hkdf_provider: Box::leak(Box::new(hkdf::HookedHkdf(base.hkdf_provider))),
                aead_alg: Box::leak(Box::new(aead::HookedAead(base.aead_alg))),
                quic: base.quic,
            })))
        }
    };
    wrapped.push([base, to]);
    to
}

fn wrap_common(base: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: base.suite,
        hash_provider: Box::leak(Box::new(hash::HookedHash(base.hash_provider))),
        confidentiality_limit: base.confidentiality_limit,
    }
}

/// Whether two suites are one and the same object; those of different providers may be equal.
fn is_same(a: SupportedCipherSuite, b: SupportedCipherSuite) -> bool {
    match (a, b) {
        (SupportedCipherSuite::Tls12(a), SupportedCipherSuite::Tls12(b)) => ptr::eq(a, b),
        (SupportedCipherSuite::Tls13(a), SupportedCipherSuite::Tls13(b)) => ptr::eq(a, b),
        (SupportedCipherSuite::Tls12(_), SupportedCipherSuite::Tls13(_))
        | (SupportedCipherSuite::Tls13(_), SupportedCipherSuite::Tls12(_)) => false,
    }
}

/// Whether every TLS 1.3 suite of `provider` is wrapped. It tries, since a provider cannot be asked.
pub(crate) fn is_wrapped(provider: &CryptoProvider) -> bool {
    #[derive(Default)]
    struct Probe(AtomicBool, Verifying);
    impl ConnectionHook for Probe {
        fn verifying(&self) -> &Verifying {
            &self.1
        }

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
                    .extract_from_zero_ikm(Some(&[]))
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
        for (a, b) in once.cipher_suites.iter().zip(twice.cipher_suites) {
            assert!(is_same(*a, b));
        }
    }
}
