"""The operator's certificate authority, ``ca/`` in its folder: says to the broker which node is which.

The broker is given ``ca/ca.pem`` (mosquitto's ``cafile``); ``ca/ca.key`` stays here.
"""

from __future__ import annotations

import datetime
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.errors import TrustError
from agent.fleet.home import Home, unreadable
from agent.package import disk
from agent.paths import exists
from agent.setup.request import Request, load_key, new_key

AUTHORITY_DAYS = 3650
NODE_DAYS = 825  # as long as common TLS libraries take a certificate without a word
BEFORE = datetime.timedelta(hours=1)  # clocks of nodes differ


class Authority:
    """``issue`` certifies nodes. Opening makes key and certificate when they are not there; TrustError, StoreError."""

    def __init__(self, home: Home, site: str) -> None:
        self.path = home.path / "ca" / "ca.pem"
        key_path = home.path / "ca" / "ca.key"
        if not exists(key_path):
            home.make()
            disk.make_folder(key_path.parent)
            disk.write(
                self.path, b""
            )  # its certificate comes after its key: without the key it is worth nothing
            disk.write(key_path, new_key())  # mode 0600, as every temporary file
        self._key = load_key(_read(key_path))
        if not _read(self.path):
            disk.write(self.path, _authority(self._key, f"overlaid {site} {secrets.token_hex(4)}"))
            self.path.chmod(0o644)
        try:
            self._certificate = x509.load_pem_x509_certificate(_read(self.path))
        except ValueError as error:
            raise TrustError(f"{self.path} is not a certificate; restore it from your backup") from error

    def issue(self, request: Request) -> str:
        """A client certificate as PEM, valid for 825 days."""
        now = datetime.datetime.now(datetime.timezone.utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, request.name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._certificate.subject)
            .public_key(request.public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BEFORE)
            .not_valid_after(now + datetime.timedelta(days=NODE_DAYS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _authority(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    now = datetime.datetime.now(datetime.timezone.utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BEFORE)
        .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
