"""Keys that sign metadata: which are at hand, and new ones.

Metadata says each key's name beside its public part, and ``<name>.pem`` holds the secret: in the operator's ``keys/``
(online key and teams), or in an offline folder (root and targets) that lies in a safe most of the time. A name is used
once: ``root-4`` follows ``root-3``, ``online.2`` follows ``online``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.metadata import Metadata, T

from agent.errors import RepositoryError, TrustError, UsageError
from agent.fleet.home import Home
from agent.fleet.keys import load_file, make_key
from agent.paths import exists
from agent.trust import PrivateKey, PublicKey

NAME = "x-overlaid-name"  # a key's field that the specification leaves to us
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}(\.[0-9]{1,4})?")


def name_of(key: Key) -> str:
    """The key's name, its id when it has none."""
    name = key.unrecognized_fields.get(NAME)
    return name if isinstance(name, str) and _NAME.fullmatch(name) else key.keyid[:16]


def short_id(key: Key) -> str:
    """The id by which ``overlaid fleet keys list`` knows the key."""
    return PublicKey(bytes.fromhex(key.keyval["public"])).id


class Signers:
    """The keys in ``home``'s folders and in further ``offline`` ones. New offline keys go to the first of these."""

    def __init__(self, home: Home, offline: Sequence[Path] = ()) -> None:
        self.home = home
        self._offline = [*map(Path.absolute, offline)] or [home.offline]
        for folder in offline:
            if not folder.is_dir():
                raise UsageError(
                    f"--offline {folder}: there is no such folder; name the one that holds the keys"
                )
        self._folders = [*self._offline, home.offline, home.keys]

    @property
    def offline(self) -> Path:
        """Where new keys of root and targets go."""
        return self._offline[0]

    def find(self, key: Key) -> CryptoSigner | None:
        """What signs for a public key, None when it is not here. RepositoryError: a file is no key; StoreError."""
        for folder in self._folders:
            path = folder / f"{name_of(key)}.pem"
            if exists(path):
                secret = _load(path)
                if secret.public.raw.hex() == key.keyval["public"]:
                    return CryptoSigner(_secret(secret), cast(SSlibKey, key))
        return None

    def make(self, folder: Path, name: str, reuse: bool = False) -> CryptoSigner:
        """A new key; with ``reuse`` the one that is there. UsageError when it is there otherwise, StoreError."""
        path = folder / f"{name}.pem"
        self.home.make()
        key = _load(path) if reuse and exists(path) else make_key(path)
        secret = _secret(key)
        public = SSlibKey.from_crypto(secret.public_key())
        public.unrecognized_fields[NAME] = name
        return CryptoSigner(secret, public)

    def free_name(self, role: str, used: Iterable[str]) -> str:
        """The next name for a key of a role that neither metadata (``used``) nor a file has."""
        stem, taken = "root-" if role == "root" else f"{role}.", set(used)
        for number in itertools.count(2):
            name = f"{stem}{number}"
            if name not in taken and not any(exists(folder / f"{name}.pem") for folder in self._folders):
                break
        return name

    def sign(self, metadata: Metadata[T], keys: Iterable[Key]) -> None:
        """Add the signatures of those of the keys that are here."""
        for key in keys:
            signer = self.find(key)
            if signer is not None:
                metadata.sign(signer, append=True)

    def need(self, keys: Iterable[Key], why: str) -> None:
        """RepositoryError, which says how to give them, unless one of the keys is here."""
        keys = list(keys)
        if any(self.find(key) for key in keys):
            return
        names = " or ".join(f"{name_of(key)}.pem" for key in keys)
        looked = ", ".join(str(folder) for folder in dict.fromkeys(self._folders))
        raise RepositoryError(
            f"{why} needs {names}, which is not here (looked into {looked}); name the folder that holds it, "
            "e.g. on a USB stick: --offline DIR"
        )


def _load(path: Path) -> PrivateKey:
    try:
        return load_file(path)
    except TrustError as error:
        raise RepositoryError(
            f"{path} is no Ed25519 key (PKCS#8, PEM): restore it from a backup, or move it away and replace the key: "
            "overlaid fleet repo rotate"
        ) from error


def _secret(key: PrivateKey) -> Ed25519PrivateKey:
    return cast(Ed25519PrivateKey, load_pem_private_key(key.pem(), None))
