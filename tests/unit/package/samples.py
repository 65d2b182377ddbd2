"""A small package, made by hand: what the tests of this room and of fleet deliver."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.package.blocks import file_entry
from agent.package.manifest import Manifest, parse_manifest
from agent.package.verify import Trusted, VerifiedPackage, digest_of, verify_package


@dataclass(frozen=True)
class Sample:
    manifest: Manifest
    encoded: bytes
    blocks: dict[str, bytes]
    contents: dict[str, bytes]

    @property
    def digest(self) -> str:
        return digest_of(self.encoded)

    @property
    def package(self) -> VerifiedPackage:
        return verify_package(self.encoded, Trusted(self.digest))

    def write(self, folder: Path) -> Path:
        (folder / "blocks").mkdir(parents=True)
        (folder / "manifest.json").write_bytes(self.encoded)
        for sha, data in self.blocks.items():
            (folder / "blocks" / sha).write_bytes(data)
        return folder


def contents(weights: bytes = b"w" * 5000) -> dict[str, bytes]:
    """Files of a package: a model whose last 5000 bytes are ``weights``, and golden vectors of two samples."""
    return {
        "net.onnx": b"header" * 100 + weights,
        "golden-x.bin": bytes(range(32)),
        "golden-fp32-y.bin": bytes(8),
    }


def fields(files: dict[str, Any], version: str = "1.0.0", name: str = "net") -> dict[str, Any]:
    """The manifest as JSON values."""
    return {
        "schema": "overlaid-package/1",
        "name": name,
        "version": version,
        "licence": "Apache-2.0",
        "inputs": [{"name": "x", "dtype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "dtype": "FP32", "shape": [-1, 1]}],
        "golden": {"count": 2, "inputs": {"x": "golden-x.bin"}},
        "variants": [
            {
                "name": "fp32",
                "format": "onnx",
                "precision": "fp32",
                "devices": ["cpu"],
                "accuracy": 0.9,
                "file": "net.onnx",
                "golden": {"outputs": {"y": "golden-fp32-y.bin"}, "atol": 0.001, "rtol": 0.0},
            }
        ],
        "files": files,
    }


def sample(
    version: str = "1.0.0",
    weights: bytes = b"w" * 5000,
    name: str = "net",
    boundaries: tuple[int, ...] = (600,),
) -> Sample:
    entries: dict[str, Any] = {}
    blocks: dict[str, bytes] = {}
    data = contents(weights)
    for file, content in data.items():
        entry, pieces = file_entry(content, boundaries if file == "net.onnx" else (), 2048)
        entries[file] = entry.model_dump()
        blocks.update(zip((block.sha256 for block in entry.blocks), pieces, strict=True))
    manifest = parse_manifest(json.dumps(fields(entries, version, name)).encode())
    return Sample(manifest, manifest.encode(), blocks, data)
