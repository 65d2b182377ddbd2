"""Strings from a model folder to the golden vectors that a worker checks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.devices.cpu import CpuDevice
from agent.devices.golden import compare
from agent.devices.tensors import pack_strings
from agent.errors import GoldenMismatch, TensorError
from agent.fleet.pack import Packed, pack
from agent.fleet.source import load_golden
from agent.hal import ModelFile
from agent.package.directory import PackageDir
from agent.serving.spec import Golden
from agent.serving.worker.checks import GoldenData
from agent.types import TensorSpec
from tests.unit.fleet.strings_model import WORDS, make_words

TEXTS = [[WORDS[2].encode()], [WORDS[3].encode()]]


def unpacked(out: Path, packed: Packed, name: str, to: Path) -> Path:
    to.write_bytes(
        b"".join(PackageDir(out).block(block.sha256) for block in packed.manifest.files[name].blocks)
    )
    return to


def test_packed_strings_are_read_and_answered(tmp_path: Path) -> None:
    out = tmp_path / "out"
    packed = pack(make_words(tmp_path / "model"), out)
    assert packed.agreements["onnx"].samples == 2
    manifest, variant = packed.manifest, packed.manifest.variants[0]
    files = manifest.golden.inputs | variant.golden.outputs
    paths = {name: unpacked(out, packed, file, tmp_path / name) for name, file in files.items()}
    assert paths["word"].read_bytes() == pack_strings(np.array(TEXTS, object))
    model = unpacked(out, packed, variant.file, tmp_path / "words.onnx")
    file = ModelFile(model, "onnx", manifest.inputs, manifest.outputs)
    data = GoldenData(Golden(2, paths, paths, 0.0, 0.0), file)
    session = CpuDevice().open(file, "onnxruntime")
    for sample in range(2):
        assert data.inputs(sample)["word"].tolist() == [TEXTS[sample]]
        got = session.run(data.inputs(sample)).outputs
        assert compare(got, data.outputs(sample), 0.0, 0.0) is None


def test_golden_strings_that_differ_are_found(tmp_path: Path) -> None:
    with pytest.raises(GoldenMismatch, match="sample 1, output 'echo': 1 of 1 strings differ"):
        pack(make_words(tmp_path / "model", ("two", "three")), tmp_path / "out")


@pytest.mark.parametrize("damage", [b"", b"\3\0\0\0two", b"\3\0\0\0two\xff\0\0\0drei"])
def test_a_damaged_golden_file_of_strings_is_named(tmp_path: Path, damage: bytes) -> None:
    spec = TensorSpec("word", "BYTES", (-1, 1))
    path = tmp_path / "word"
    path.write_bytes(damage)
    file = ModelFile(tmp_path / "m", "onnx", (spec,), ())
    with pytest.raises(TensorError, match="golden file of tensor 'word'"):
        GoldenData(Golden(2, {"word": path}, {}, 0.0, 0.0), file)


@pytest.mark.parametrize("dtype", ["U4", ">U4", "S4"])
def test_text_and_bytes_of_a_fixed_length(tmp_path: Path, dtype: str) -> None:
    spec, path = TensorSpec("s", "BYTES", (-1, 2)), tmp_path / "s.npy"
    np.save(path, np.array([["a", "bcde"], ["", "b"]], dtype))
    got = load_golden(path, spec, 2)
    assert got.shape == (2, 1, 2) and got.reshape(2, 2).tolist() == [[b"a", b"bcde"], [b"", b"b"]]


def test_numbers_are_no_strings(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.zeros((2, 2), np.float32))
    with pytest.raises(TensorError, match=r"BYTES \[2, 2\]; the file holds FP32"):
        load_golden(tmp_path / "s.npy", TensorSpec("s", "BYTES", (-1, 2)), 2)
