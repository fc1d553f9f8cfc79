"""Server authentication: chain, name and CertificateVerify signature.

Source: RFC 5280 section 6 (the part that test hierarchies use), RFC 6125 and RFC 8446 section 4.4.
The chain is walked here because the verifier of the `cryptography` package refuses Ed25519 keys and
certificates without the extensions of the public web. It never fetches anything and never checks revocation.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

MAX_CHAIN = 8
SIGNATURE_CONTEXT = b" " * 64 + b"TLS 1.3, server CertificateVerify\0"
_ECDSA = {0x0403: (ec.SECP256R1, hashes.SHA256), 0x0503: (ec.SECP384R1, hashes.SHA384)}
_RSA_PSS = {0x0804: hashes.SHA256, 0x0805: hashes.SHA384, 0x0806: hashes.SHA512}
_ED25519 = 0x0807

SIGNATURE_SCHEMES = (*_ECDSA, *_RSA_PSS, _ED25519)
"""Schemes that this client verifies, in its order of preference."""


class CertificateError(Exception):
    """The server did not prove that it is the named server."""


def load_trust(path: str) -> list[x509.Certificate]:
    """The trust anchors in a PEM file."""
    with open(path, "rb") as file:
        return x509.load_pem_x509_certificates(file.read())


def verify_chain(
    chain: list[x509.Certificate], trust: list[x509.Certificate], server_name: str, now: datetime
) -> None:
    """CertificateError unless `chain` (leaf first) leads to an anchor and the leaf is for `server_name`."""
    if not chain:
        raise CertificateError("the server sent no certificate")
    leaf = chain[0]
    _check_name(leaf, server_name)
    _check_server_usage(leaf)
    _check_dates(leaf, now)
    _walk(leaf, chain[1:], trust, now, below=0)


def _walk(
    subject: x509.Certificate,
    intermediates: list[x509.Certificate],
    trust: list[x509.Certificate],
    now: datetime,
    below: int,
) -> None:
    """Find an issuer for `subject`, anchors first; `below` counts the intermediates under the issuer."""
    if any(_issued(anchor, subject, now, below) for anchor in trust):
        return
    for index, candidate in enumerate(intermediates):
        if below < MAX_CHAIN and _issued(candidate, subject, now, below):
            rest = intermediates[:index] + intermediates[index + 1 :]
            return _walk(candidate, rest, trust, now, below + 1)
    raise CertificateError(f"no trusted issuer for {subject.subject.rfc4514_string()}")


def _issued(issuer: x509.Certificate, subject: x509.Certificate, now: datetime, below: int) -> bool:
    """True when `issuer` is a valid authority that signed `subject`."""
    try:
        subject.verify_directly_issued_by(issuer)
        _check_dates(issuer, now)
        return _may_sign(issuer, below)
    except (ValueError, TypeError, InvalidSignature, CertificateError):
        return False


def _may_sign(issuer: x509.Certificate, below: int) -> bool:
    """Basic constraints and key usage of an authority."""
    constraints = _extension(issuer, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        return False
    if constraints.path_length is not None and below > constraints.path_length:
        return False
    usage = _extension(issuer, x509.KeyUsage)
    return usage is None or usage.key_cert_sign


def _extension(certificate: x509.Certificate, kind: type):
    """The value of an extension, or None."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _check_dates(certificate: x509.Certificate, now: datetime) -> None:
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise CertificateError(f"{certificate.subject.rfc4514_string()} is not valid at {now.isoformat()}")


def _check_server_usage(leaf: x509.Certificate) -> None:
    usage = _extension(leaf, x509.ExtendedKeyUsage)
    if usage is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise CertificateError("the certificate is not for servers")


def _check_name(leaf: x509.Certificate, server_name: str) -> None:
    names = _extension(leaf, x509.SubjectAlternativeName)
    if names is None:
        raise CertificateError("the certificate names nobody (no subjectAltName)")
    try:
        matches = ipaddress.ip_address(server_name) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        patterns = names.get_values_for_type(x509.DNSName)
        matches = any(_dns_matches(pattern.lower(), server_name.lower()) for pattern in patterns)
    if not matches:
        raise CertificateError(f"the certificate is not for {server_name}")


def _dns_matches(pattern: str, name: str) -> bool:
    """Exact match, or a wildcard for exactly the leftmost label."""
    if pattern.startswith("*."):
        return "." in name and name.split(".", 1)[1] == pattern[2:]
    return pattern == name


def verify_signature(
    leaf: x509.Certificate, scheme: int, signature: bytes, transcript_hash: bytes
) -> None:
    """CertificateError unless the CertificateVerify signature is the leaf's (RFC 8446 section 4.4.3)."""
    key = leaf.public_key()
    message = SIGNATURE_CONTEXT + transcript_hash
    try:
        if scheme in _ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
            curve, digest = _ECDSA[scheme]
            if not isinstance(key.curve, curve):
                raise CertificateError(f"scheme {scheme:#06x} does not fit curve {key.curve.name}")
            key.verify(signature, message, ec.ECDSA(digest()))
        elif scheme in _RSA_PSS and isinstance(key, rsa.RSAPublicKey):
            digest = _RSA_PSS[scheme]()
            key.verify(signature, message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        elif scheme == _ED25519 and isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            raise CertificateError(f"scheme {scheme:#06x} does not fit the certificate's key")
    except InvalidSignature as error:
        raise CertificateError("CertificateVerify: bad signature") from error
