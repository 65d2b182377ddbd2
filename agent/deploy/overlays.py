"""FPGA overlays that came as packages: which there are, and where their files lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.deploy.resources import Resources
from agent.errors import PackageError, TrustError
from agent.package.manifest import Manifest
from agent.package.verify import verify_package
from agent.types import OverlayRef

FORMAT = "overlay"


def is_overlay(manifest: Manifest) -> bool:
    """True for the package of an overlay: it is installed for programs to use and serves nobody itself."""
    return all(variant.format == FORMAT for variant in manifest.variants)


def delivered(res: Resources) -> Mapping[OverlayRef, Path]:
    """The installed overlays, current versions before previous ones; damaged ones are left out."""
    found: dict[OverlayRef, Path] = {}
    versions = list(res.store.models().values())
    for digest in [v.current for v in versions] + [v.previous for v in versions]:
        if digest is None:
            continue
        try:
            manifest = verify_package(res.store.manifest(digest), res.package_keys, digest).manifest
            for variant in manifest.variants:
                if variant.format == FORMAT and variant.overlay is not None:
                    found.setdefault(variant.overlay, res.store.path(manifest.files[variant.file]))
        except (PackageError, TrustError):
            continue
    return found
