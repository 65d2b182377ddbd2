"""FPGA overlays that came as packages: which there are, and where their files lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.deploy.resources import Resources
from agent.deploy.service import Service
from agent.errors import PackageError
from agent.package.verify import Trusted, verify_package
from agent.types import PROGRAMS, OverlayRef, Placement

FORMAT = "overlay"


def delivered(res: Resources) -> Mapping[OverlayRef, Path]:
    """The installed overlays, current versions before previous ones; damaged ones are left out."""
    found: dict[OverlayRef, Path] = {}
    for _, ref, path in _installed(res):
        found.setdefault(ref, path)
    return found


def users(res: Resources, overlay: str, services: Mapping[str, Service]) -> list[str]:
    """The models in service whose programs run on a version of the installed package ``overlay``."""
    versions = {ref for name, ref, _ in _installed(res) if name == overlay}
    return [
        name for name, s in services.items() if s.serves and versions and _needs(res, s.placement) in versions
    ]


def _needs(res: Resources, placement: Placement) -> OverlayRef | None:
    """The overlay that the placement's program runs on."""
    if placement.candidate.backend != PROGRAMS:
        return None
    digest = placement.digest
    try:
        manifest = verify_package(res.store.manifest(digest), Trusted(digest)).manifest
        return manifest.variant(placement.candidate.variant).overlay
    except PackageError:
        return None


def _installed(res: Resources) -> Iterator[tuple[str, OverlayRef, Path]]:
    """Package, overlay and archive."""
    versions = res.store.models()
    current = [(name, v.current) for name, v in versions.items()]
    for name, digest in current + [(name, v.previous) for name, v in versions.items()]:
        if digest is None:
            continue
        try:
            manifest = verify_package(res.store.manifest(digest), Trusted(digest)).manifest
            for variant in manifest.variants:
                if variant.format == FORMAT and variant.overlay is not None:
                    yield name, variant.overlay, res.store.path(manifest.files[variant.file])
        except PackageError:
            continue
