"""A node's key and its certificate request (PKCS#10, RFC 2986), and the fingerprints that people compare."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.errors import TrustError
from agent.types import check_name

MAX_PEM_BYTES = 16 * 1024
# What the library says to bytes that somebody made up.
UNREADABLE = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion)
DIGITS = 32  # of a fingerprint: nobody finds a second key with the same 128 bits


@dataclass(frozen=True, slots=True)
class Request:
    """What a node asks a certificate for. ``fingerprint``: of its public key."""

    site: str
    name: str
    fingerprint: str
    public_key: ec.EllipticCurvePublicKey


def new_key() -> bytes:
    """A P-256 key, which every broker's TLS takes, as PKCS#8 PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_request(key_pem: bytes, site: str, name: str) -> str:
    """The request as PEM: the node's name is its common name, as the access list of the broker wants it."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, check_name(name, "node")),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, check_name(site, "site")),
        ]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(load_key(key_pem), hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """TrustError when it is no P-256 key."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TrustError(
            f"the node's key cannot be read: {error}; remove it, and run overlaid init again"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustError("the node's key is not a P-256 key; remove it, and run overlaid init again")
    return key


def read_request(pem: str) -> Request:
    """TrustError when it is not a request, its signature is wrong or its names are not."""
    if len(pem) > MAX_PEM_BYTES:
        raise TrustError(
            f"a certificate request has at most {MAX_PEM_BYTES} bytes, this one {len(pem)}: refused"
        )
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        right = request.is_signature_valid
    except UNREADABLE as error:
        raise TrustError("this is not a certificate request; overlaid init makes one") from error
    if not right:
        raise TrustError("the certificate request is not signed by its own key: refused")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustError("the certificate request is not for a P-256 key: refused; overlaid init makes one")
    try:
        site = check_name(_only(request, NameOID.ORGANIZATIONAL_UNIT_NAME), "site")
        name = check_name(_only(request, NameOID.COMMON_NAME), "node")
    except ValueError as error:
        raise TrustError(f"the certificate request: {error}") from error
    return Request(site, name, fingerprint(key), key)


def _only(request: x509.CertificateSigningRequest, oid: x509.ObjectIdentifier) -> str:
    found = request.subject.get_attributes_for_oid(oid)
    if len(found) != 1:
        raise ValueError("it must name one site and one node")
    return str(found[0].value)


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """The first 128 bits of the SHA-256 of the key (DER, SubjectPublicKeyInfo), 32 hex digits."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:DIGITS]


def trust_fingerprint(root: bytes, command_keys: Sequence[str]) -> str:
    """Of what a node shall trust: the repository's root metadata and the keys of commands."""
    keys = "\n".join(sorted(command_keys)).encode()
    return hashlib.sha256(hashlib.sha256(root).digest() + hashlib.sha256(keys).digest()).hexdigest()[:DIGITS]


def grouped(digits: str) -> str:
    """``5f2a-91c0-…``: for people to compare."""
    return "-".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def ungrouped(text: str) -> str:
    """Inverse of ``grouped``, whatever case and separators were typed. ValueError when it is no fingerprint."""
    digits = text.lower().replace("-", "").replace(":", "").replace(" ", "")
    if len(digits) != DIGITS or set(digits) - set("0123456789abcdef"):
        raise ValueError(f"{text[:80]!r} is not a fingerprint: {DIGITS} hex digits")
    return digits


def expires(pem: bytes) -> float:
    """Until when a certificate counts, Unix seconds; TrustError when it is none."""
    try:
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
    except UNREADABLE as error:
        raise TrustError("this is not a certificate; enrol the node again") from error


def check_certificate(pem: str, key_pem: bytes, name: str) -> None:
    """The certificate must be for this key and this name; TrustError otherwise."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        key = certificate.public_key()
        names = [item.value for item in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except UNREADABLE as error:
        raise TrustError("what the operator answered is not a certificate; enrol the node again") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or fingerprint(key) != fingerprint(
        load_key(key_pem).public_key()
    ):
        raise TrustError("the certificate is for another key than this node's: refused; enrol the node again")
    if names != [name]:
        raise TrustError(
            f"the certificate is for {names}, this node is {name!r}: refused; enrol the node again"
        )
