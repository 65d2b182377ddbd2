from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ManifestError
from agent.package.manifest import MAX_MANIFEST_BYTES, parse_manifest
from tests.unit.package.samples import fields, sample

FILES = {name: json.loads(file.model_dump_json()) for name, file in sample().manifest.files.items()}


def parse(value: dict[str, Any]) -> None:
    parse_manifest(json.dumps(value).encode())


@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9-]{0,30}", fullmatch=True).filter(
        lambda n: n not in ("group", "blocks")
    ),
    version=st.from_regex(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,30}", fullmatch=True),
    description=st.text(max_size=100),
    accuracy=st.none() | st.floats(0, 1),
    tolerance=st.floats(0, 1e6),
)
def test_encode_and_parse_are_inverse(
    name: str, version: str, description: str, accuracy: float | None, tolerance: float
) -> None:
    value = fields(FILES, version, name) | {"description": description}
    value["variants"][0] |= {"accuracy": accuracy}
    value["variants"][0]["golden"]["atol"] = tolerance
    manifest = parse_manifest(json.dumps(value).encode())
    assert parse_manifest(manifest.encode()) == manifest
    assert parse_manifest(manifest.encode()).encode() == manifest.encode()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"colour": "red"}, "colour: unknown key"),
        ({"schema": "overlaid-package/2"}, "schema"),
        ({"name": "Net"}, "name: "),
        ({"name": "net_1"}, "name: "),
        ({"name": "../net"}, "name: "),
        ({"name": "blocks"}, "reserved"),
        ({"version": "1/0"}, "version"),
        ({"licence": ""}, "licence"),
        ({"licence": 5}, "licence"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "x", "dtype": "FP8", "shape": [4]}]}, "dtype"),
        ({"inputs": [{"name": "x", "dtype": "FP32", "shape": [4, -1]}]}, "first dimension"),
        ({"inputs": [{"name": "x", "dtype": "FP32", "shape": [-1, 5]}]}, "2 samples need 40"),
        ({"golden": {"count": 2, "inputs": {"z": "golden-x.bin"}}}, "['z'] are not ['x']"),
        ({"golden": {"count": 2, "inputs": {"x": "lost.bin"}}}, "'lost.bin' is not among files"),
        ({"golden": {"count": 0, "inputs": {"x": "golden-x.bin"}}}, "golden.count"),
        ({"variants": []}, "variants"),
        ({"files": {}}, "files"),
        ({"files": {"../../etc/passwd": FILES["net.onnx"]}}, "files"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(fields(FILES) | change)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tolerance": 1}, "variants.0.tolerance: unknown key"),
        ({"format": "pt"}, "variants.0.format"),
        ({"devices": []}, "variants.0.devices"),
        ({"accuracy": 97}, "variants.0.accuracy"),
        ({"accuracy": "0.9"}, "variants.0.accuracy"),
        ({"file": "other.onnx"}, "'other.onnx' is not among files"),
        ({"golden": {"outputs": {"y": "golden-x.bin"}, "atol": 0, "rtol": 0}}, "2 samples need 8"),
        ({"golden": {"outputs": {"y": "golden-fp32-y.bin"}, "atol": -1, "rtol": 0}}, "atol"),
    ],
)
def test_a_wrong_variant_is_named(change: dict[str, Any], named: str) -> None:
    value = fields(FILES)
    value["variants"][0] |= change
    with pytest.raises(ManifestError) as caught:
        parse(value)
    assert named in str(caught.value)


def test_two_variants_of_one_name_are_refused() -> None:
    value = fields(FILES)
    with pytest.raises(ManifestError, match="variants: a name appears twice"):
        parse(value | {"variants": value["variants"] * 2})


def test_block_sizes_must_add_up() -> None:
    short = {**FILES["net.onnx"], "size": FILES["net.onnx"]["size"] + 1}
    with pytest.raises(ManifestError, match="do not add up"):
        parse(fields(FILES | {"net.onnx": short}))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b" " * (MAX_MANIFEST_BYTES + 1)])
def test_bytes_that_are_no_manifest(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(data)


def test_files_for_leaves_out_other_variants() -> None:
    manifest = sample().manifest
    assert set(manifest.files_for(())) == {"golden-x.bin"}
    assert set(manifest.files_for(manifest.variants)) == {"golden-x.bin", "net.onnx", "golden-fp32-y.bin"}
    with pytest.raises(ManifestError, match="no variant 'int8'"):
        manifest.variant("int8")


def test_an_overlay_is_named_where_it_belongs_and_only_there() -> None:
    overlay = {"id": "npu", "version": 1, "lanes": 16}
    for file_format, named, fits in (
        ("npu", overlay, True), ("overlay", overlay, True), ("onnx", None, True),
        ("npu", None, False), ("overlay", None, False), ("onnx", overlay, False),
        ("npu", overlay | {"lanes": 0}, False), ("npu", overlay | {"id": "Npu"}, False), ("npu", {"id": "npu"}, False),
    ):  # fmt: skip
        values = fields(FILES)
        values["variants"][0] |= {"format": file_format} | ({"overlay": named} if named else {})
        if fits:
            assert parse_manifest(json.dumps(values).encode()).variants[0].format == file_format
        else:
            with pytest.raises(ManifestError, match=r"variants\.0"):
                parse(values)
