//! Configurations that the method cannot carry are refused when they are built, by name.

use std::sync::Arc;
use std::time::Duration;

use migration_tests::Service;
use rustls::client::{EchGreaseConfig, EchMode};
use rustls::crypto::hpke::Hpke as _;
use rustls::crypto::{aws_lc_rs, ring};
use rustls::{ClientConfig, ServerConfig};
use rustls_migration::ConfigError;

fn server_refuses(change: impl FnOnce(&mut ServerConfig), expected: ConfigError) {
    let service = Service::default();
    let mut config = service.server_config();
    change(&mut config);
    let target = "127.0.0.3:443".parse().unwrap();
    let refused = service.node_with(config).target(target).build();
    assert_eq!(refused.err(), Some(expected));
}

#[test]
fn a_provider_that_is_not_wrapped_is_refused_on_both_sides() {
    let service = Service::default();
    let stock = Arc::new(ring::default_provider());
    let server = service.node_with(service.server_config_with(Arc::clone(&stock)));
    assert_eq!(server.build().err(), Some(ConfigError::ProviderNotWrapped));
    let client = service.client_with(service.client_config_with(stock));
    assert_eq!(client.build().err(), Some(ConfigError::ProviderNotWrapped));
}

#[test]
fn a_ticketer_is_refused() {
    let ticketer = ring::Ticketer::new().unwrap();
    server_refuses(|config| config.ticketer = ticketer, ConfigError::Ticketer);
}

#[test]
fn secret_extraction_is_refused_on_both_sides() {
    server_refuses(
        |config| config.enable_secret_extraction = true,
        ConfigError::SecretExtraction,
    );
    let service = Service::default();
    let mut config = service.client_config();
    config.enable_secret_extraction = true;
    let client = service.client_with(config).build();
    assert_eq!(client.err(), Some(ConfigError::SecretExtraction));
}

#[test]
fn what_rustls_refuses_is_refused_with_its_reason() {
    let service = Service::default();
    let mut config = service.client_config();
    config.max_fragment_size = Some(31);
    let client = service.client_with(config).build();
    let reason = rustls::Error::BadMaxFragmentSize;
    assert_eq!(client.err(), Some(ConfigError::Tls(reason)));
}

#[test]
fn token_lifetimes_outside_of_one_second_to_seven_days_are_refused() {
    for lifetime in [
        Duration::ZERO,
        Duration::from_secs(7 * 24 * 3600 + 1),
        Duration::MAX,
    ] {
        let built = Service::default().node().token_lifetime(lifetime).build();
        assert_eq!(built.err(), Some(ConfigError::TokenLifetime(lifetime)));
    }
}

#[test]
fn a_clock_skew_of_more_than_a_day_is_refused() {
    let day = Duration::from_secs(24 * 3600);
    for skew in [day + Duration::from_nanos(1), Duration::MAX] {
        let built = Service::default().node().clock_skew(skew).build();
        assert_eq!(built.err(), Some(ConfigError::ClockSkew(skew)));
    }
    Service::default().node().clock_skew(day).build().unwrap();
}

#[test]
fn encrypted_client_hello_is_refused() {
    let service = Service::with_provider(aws_lc_rs::default_provider());
    let suite = aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
    let (public_key, _) = suite.generate_key_pair().unwrap();
    let grease = EchMode::Grease(EchGreaseConfig::new(suite, public_key));
    let config = ClientConfig::builder_with_provider(Arc::clone(&service.provider))
        .with_ech(grease)
        .unwrap()
        .with_root_certificates(service.pki.roots())
        .with_no_client_auth();
    let client = service.client_with(config).build();
    assert_eq!(client.err(), Some(ConfigError::EncryptedClientHello));
}
