"""Keys, certificate requests and fingerprints."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import TrustError
from agent.fleet.authority import Authority
from agent.fleet.home import Home
from agent.setup import request

KEY = request.new_key()


def test_a_request_names_site_and_node_and_proves_its_key() -> None:
    found = request.read_request(request.make_request(KEY, "lab", "cam-7"))
    assert (found.site, found.name) == ("lab", "cam-7")
    assert found.fingerprint == request.fingerprint(request.load_key(KEY).public_key())


def csr(names: dict[x509.ObjectIdentifier, str], key: object = None) -> str:
    attributes = [x509.NameAttribute(oid, text) for oid, text in names.items()]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    signed = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), None if key else hashes.SHA256())  # type: ignore[arg-type]
    return signed.public_bytes(serialization.Encoding.PEM).decode()


GOOD = {NameOID.COMMON_NAME: "cam-7", NameOID.ORGANIZATIONAL_UNIT_NAME: "lab"}


def forged(old: str, new: str) -> str:
    """A good request with some bytes (hex) changed."""
    der = x509.load_pem_x509_csr(csr(GOOD).encode()).public_bytes(serialization.Encoding.DER)
    text = base64.b64encode(der.replace(bytes.fromhex(old), bytes.fromhex(new), 1)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        ("", "not a certificate request"),
        ("x" * 20_000, "at most"),
        (csr({NameOID.COMMON_NAME: "cam-7"}), "one site and one node"),
        (csr({**GOOD, NameOID.COMMON_NAME: "../x"}), "1-63 characters"),
        (csr({**GOOD, NameOID.COMMON_NAME: "group"}), "reserved"),
        (csr(GOOD, ed25519.Ed25519PrivateKey.generate()), "P-256"),
        (
            forged("2a8648ce3d030107", "2a8648ce3d03017f"),
            "not a certificate request",
        ),  # a curve that nobody knows
        (forged("2a8648ce3d0201", "2a8648ce3d027f"), "not a certificate request"),  # a kind of key
        (forged("020100", "020101"), "not a certificate request"),  # a version
    ],
)
def test_requests_that_are_refused(pem: str, why: str) -> None:
    with pytest.raises(TrustError, match=why):
        request.read_request(pem)


def test_a_request_signed_by_another_key_is_refused() -> None:
    der = bytearray(x509.load_pem_x509_csr(csr(GOOD).encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    pem = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(TrustError, match="own key"):
        request.read_request(pem)


@given(st.binary(min_size=16, max_size=16))
def test_fingerprints_survive_typing(digits: bytes) -> None:
    text = request.grouped(digits.hex())
    assert request.ungrouped(text.upper().replace("-", ":")) == digits.hex()


@pytest.mark.parametrize("text", ["", "5f2a", "g" * 32, "0" * 33])
def test_what_is_no_fingerprint(text: str) -> None:
    with pytest.raises(ValueError, match="32 hex digits"):
        request.ungrouped(text)


def test_the_operators_authority_certifies_and_keeps_its_key(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    asked = request.read_request(request.make_request(KEY, "lab", "cam-7"))
    pem = Authority(home, "lab").issue(asked)
    again = Authority(home, "lab")
    certificate = x509.load_pem_x509_certificate(pem.encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(again.path.read_bytes()))
    assert stat.S_IMODE((home.path / "ca/ca.key").stat().st_mode) == 0o600
    request.check_certificate(pem, KEY, "cam-7")
    with pytest.raises(TrustError, match="another key"):
        request.check_certificate(pem, request.new_key(), "cam-7")
    with pytest.raises(TrustError, match="'cam-8'"):
        request.check_certificate(pem, KEY, "cam-8")
    with pytest.raises(TrustError, match="not a certificate"):
        request.check_certificate("nonsense", KEY, "cam-7")


@pytest.mark.parametrize("lost", ["ca.pem", "ca.key"])
def test_an_authority_that_was_interrupted_while_it_was_made_is_completed(tmp_path: Path, lost: str) -> None:
    home = Home(tmp_path / "home")
    Authority(home, "lab")
    (home.path / "ca" / lost).unlink()
    if lost == "ca.pem":
        (home.path / "ca" / lost).write_bytes(b"")
    pem = Authority(home, "lab").issue(request.read_request(request.make_request(KEY, "lab", "cam-7")))
    request.check_certificate(pem, KEY, "cam-7")
