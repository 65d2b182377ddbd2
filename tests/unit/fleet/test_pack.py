from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.devices import cpu
from agent.errors import (
    GoldenMismatch,
    ManifestError,
    ModelLoadError,
    OverlaidError,
    RuntimeUnavailable,
    TensorError,
    UsageError,
)
from agent.fleet.overlays import write_overlay_model
from agent.fleet.pack import pack
from agent.hal import Session
from agent.overlay.compiler import compile_graph
from agent.overlay.programfile import write_program
from agent.overlay.selftest import self_test_graph
from agent.overlay.spec import load_spec
from agent.package.directory import PackageDir
from agent.package.store import Store
from agent.package.verify import Trusted, VerifiedPackage, digest_of, verify_package
from tests.unit.fleet.models import MODEL_TOML, make_folder, onnx_bytes, weights

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "models" / "digits"


def opened(out: Path) -> VerifiedPackage:
    data = PackageDir(out).manifest()
    return verify_package(data, Trusted(digest_of(data)))


def content(out: Path, name: str) -> bytes:
    package = PackageDir(out)
    return b"".join(package.block(block.sha256) for block in opened(out).manifest.files[name].blocks)


def refused(
    tmp_path: Path, kind: type[OverlaidError], named: str, toml: str = MODEL_TOML, **files: Any
) -> None:
    folder = make_folder(tmp_path / "model", toml, **files)
    with pytest.raises(kind) as caught:
        pack(folder, tmp_path / "out")
    assert named in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_package_holds_the_files_and_raw_golden_vectors(tmp_path: Path) -> None:
    folder, out = make_folder(tmp_path / "model"), tmp_path / "deep" / "out"
    packed = pack(folder, out)
    package = opened(out)
    assert (package.manifest, package.digest) == (packed.manifest, packed.digest)
    assert set(packed.manifest.files) == {"golden-x.bin", "golden-fp32-y-0.bin", "net.onnx"}
    assert content(out, "net.onnx") == (folder / "net.onnx").read_bytes()
    golden = np.load(folder / "golden" / "x.npy")
    assert content(out, "golden-x.bin") == golden.astype("<f4").tobytes()
    assert packed.agreements["fp32"].samples == 3
    assert packed.agreements["fp32"].worst_difference < 1e-4
    assert len(list((out / "blocks").iterdir())) == packed.blocks
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_the_same_folder_gives_the_same_package(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    assert pack(folder, tmp_path / "1").digest == pack(folder, tmp_path / "2").digest


def test_a_renamed_tensor_costs_only_the_bytes_around_it(tmp_path: Path) -> None:
    one = pack(make_folder(tmp_path / "a"), tmp_path / "1")
    renamed = onnx_bytes(weights(), "an.entirely.new.name")
    two = pack(make_folder(tmp_path / "b", net=renamed), tmp_path / "2")
    known = {block.sha256 for block in one.manifest.files["net.onnx"].blocks}
    new = [block for block in two.manifest.files["net.onnx"].blocks if block.sha256 not in known]
    assert sum(block.size for block in new) < 300


def test_blocks_are_as_small_as_asked(tmp_path: Path) -> None:
    packed = pack(make_folder(tmp_path / "model"), tmp_path / "out", block_bytes=1024)
    assert max(block.size for file in packed.manifest.files.values() for block in file.blocks) == 1024


def test_what_was_packed_is_installed_by_the_store(tmp_path: Path) -> None:
    folder, out = make_folder(tmp_path / "model"), tmp_path / "out"
    manifest = pack(folder, out).manifest
    store, package = Store(tmp_path / "store", 1 << 20), PackageDir(out)
    for block in store.missing(manifest.files):
        store.put_block(block, package.block(block.sha256))
    assert store.assemble(manifest.files["net.onnx"]).read_bytes() == (folder / "net.onnx").read_bytes()


def test_the_committed_model_packs(tmp_path: Path) -> None:
    packed = pack(DIGITS, tmp_path / "out")
    assert set(packed.agreements) == {"fp32", "int8"}


def test_a_program_is_made_for_every_kind_and_checked_in_numpy(tmp_path: Path) -> None:
    packed = pack(DIGITS, tmp_path / "out", overlays=("npu-small",))
    assert packed.manifest.variant("npu-small").devices == ("fpga", "gpu", "cpu")
    assert packed.agreements["npu-small"].backend == "program"


def test_golden_vectors_that_disagree(tmp_path: Path) -> None:
    y = np.ones((3, 32), np.float32)
    refused(tmp_path, GoldenMismatch, "variant fp32: sample 0, output 'y:0': 32 of 32 values differ", y=y)


def test_one_wrong_value_in_the_last_sample_is_found(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    y = x @ weights()
    y[2, 7] += 1
    refused(tmp_path, GoldenMismatch, "sample 2, output 'y:0': 1 of 32 values differ, worst at [0, 7]", y=y)


def test_disagreement_is_not_looked_for_without_the_check(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", y=np.ones((3, 32), np.float32))
    assert pack(folder, tmp_path / "out", check=False).agreements == {}


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"x": np.zeros((2, 64), np.float32)}, "needs 3 samples, FP32 [3, 64]; the file holds FP32 [2, 64]"),
        ({"x": np.zeros((3, 65), np.float32)}, "FP32 [3, 65]"),
        ({"x": np.zeros((3, 64), np.float64)}, "FP64 [3, 64]"),
        ({"x": np.zeros((3, 64), np.complex64)}, "complex64"),
        ({"y": np.full((3, 32), np.nan, np.float32)}, "NaN or infinity"),
        ({"y": np.full((3, 32), np.inf, np.float32)}, "NaN or infinity"),
        ({"x": np.array([{"a": 1}], dtype=object)}, "not a .npy file of numbers"),
    ],
)
def test_golden_vectors_that_do_not_fit(tmp_path: Path, files: dict[str, Any], named: str) -> None:
    refused(tmp_path, TensorError, named, **files)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{"])
def test_golden_files_that_are_not_arrays(tmp_path: Path, data: bytes) -> None:
    folder = make_folder(tmp_path / "model")
    (folder / "golden" / "x.npy").write_bytes(data)
    with pytest.raises((TensorError, ManifestError), match=r"x\.npy"):
        pack(folder, tmp_path / "out")


def test_an_archive_is_not_a_golden_file(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    with (folder / "golden" / "x.npy").open("wb") as file:
        np.savez(file, x=np.zeros((3, 64), np.float32))
    with pytest.raises(TensorError, match="archive"):
        pack(folder, tmp_path / "out")


@pytest.mark.parametrize("shape", [(3, 1, 64), (3, 64)])
def test_golden_files_of_either_shape_and_byte_order_give_the_same_bytes(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    foreign = np.asfortranarray(x.reshape(shape).astype(">f4"))
    pack(make_folder(tmp_path / "model", x=foreign), tmp_path / "out")
    assert content(tmp_path / "out", "golden-x.bin") == x.tobytes()


def test_a_corrupt_onnx_file(tmp_path: Path) -> None:
    refused(
        tmp_path, ModelLoadError, "variant fp32: net.onnx: not an ONNX file", net=onnx_bytes(weights())[:-10]
    )


def test_an_onnx_file_that_only_the_runtime_refuses(tmp_path: Path) -> None:
    net = onnx_bytes(weights()).replace(b"MatMul", b"NatMul")
    refused(tmp_path, ModelLoadError, "variant fp32: ", net=net)


def test_a_corrupt_tflite_file(tmp_path: Path) -> None:
    toml = MODEL_TOML.replace('format = "onnx"', 'format = "tflite"')
    refused(tmp_path, ModelLoadError, "variant fp32: net.onnx: not a TFLite file", toml)


def test_a_tflite_file_that_only_the_runtime_refuses(tmp_path: Path) -> None:
    from agent.devices.litert_cpu import TINY

    toml = MODEL_TOML.replace('format = "onnx"', 'format = "tflite"')
    refused(tmp_path, ModelLoadError, "variant fp32: ", toml, net=TINY)  # its tensors are not those promised


@pytest.mark.parametrize(
    ("old", "new", "kind", "named"),
    [
        ('licence = "Apache-2.0"', 'licence = "x"\ncolour = 1', ManifestError, "colour: unknown key"),
        ("count = 3", "count = 3\nseed = 1", ManifestError, "golden.seed: unknown key"),
        ("accuracy = 0.5", "accurracy = 0.5", ManifestError, "variants.0.accurracy: unknown key"),
        ("accuracy = 0.5", 'accuracy = "0.5"', ManifestError, "variants.0.accuracy"),
        ("accuracy = 0.5", "accuracy = 50", ManifestError, "variants.0.accuracy"),
        ("accuracy = 0.5", "accuracy = nan", ManifestError, "variants.0.accuracy"),
        ('name = "net"', 'name = "Net 1"', ManifestError, "name: "),
        ('name = "fp32"', 'name = "fp_32"', ManifestError, "variants.0.name"),
        ('name = "net"', "name = 1999-01-01", ManifestError, "name"),
        ('version = "1.0.0"', "", ManifestError, "version: Field required"),
        ('dtype = "FP32"\nshape = [-1, 64]', 'dtype = "FP8"\nshape = [-1, 64]', ManifestError, "FP8"),
        ("shape = [-1, 64]", "shape = [64, -1]", ManifestError, "only the first dimension"),
        ("shape = [-1, 64]", "shape = [-1, 64]\nunit = 1", ManifestError, "inputs.0.unit: unknown key"),
        ('format = "onnx"', 'format = "pt"', ManifestError, "variants.0.format"),
        ('precision = "fp32"', 'precision = "fp8"', ManifestError, "variants.0.precision"),
        ("x = ", "z = ", TensorError, "golden.inputs: tensors ['z'] are not ['x']"),
        ('"net.onnx"', '"lost.onnx"', ManifestError, "lost.onnx"),
        ('"net.onnx"', '"../../etc/passwd"', ManifestError, "outside"),
        ('"net.onnx"', '"/etc/passwd"', ManifestError, "outside"),
        ('"golden/x.npy"', '"golden"', ManifestError, "no file"),
        ('name = "x"\ndtype', 'name = "image"\ndtype', TensorError, "['x'] are not ['image']"),
        ("[golden]", "[golden", ManifestError, "not valid TOML"),
    ],
)
def test_what_is_wrong_with_model_toml_is_named(
    tmp_path: Path, old: str, new: str, kind: type[OverlaidError], named: str
) -> None:
    assert old in MODEL_TOML
    refused(tmp_path, kind, named, MODEL_TOML.replace(old, new))


def test_tensors_that_are_not_those_of_the_model(tmp_path: Path) -> None:
    toml = MODEL_TOML.replace("shape = [-1, 32]", "shape = [-1, 31]")
    refused(tmp_path, ModelLoadError, "'y:0'", toml, y=np.zeros((3, 31), np.float32))


def test_a_folder_without_model_toml(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not a model folder"):
        pack(tmp_path, tmp_path / "out")


def test_an_empty_model_file(tmp_path: Path) -> None:
    refused(tmp_path, ManifestError, "has 0 bytes", net=b"")


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="choose another"):
        pack(make_folder(tmp_path / "model"), tmp_path / "out")


def test_a_missing_runtime_says_what_to_install_or_to_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object) -> Session:
        raise ImportError("No module named 'onnxruntime'")

    backend = cpu.BACKENDS["onnxruntime"]
    without = replace(backend, open=gone)
    monkeypatch.setitem(cpu.BACKENDS, "onnxruntime", without)
    with pytest.raises(RuntimeUnavailable) as caught:
        pack(make_folder(tmp_path / "model"), tmp_path / "out")
    assert "overlaid[onnx]" in str(caught.value)
    assert "--no-check" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_files_of_one_name_in_two_folders_are_kept_apart(tmp_path: Path) -> None:
    variant = MODEL_TOML[MODEL_TOML.index("[[variants]]") :]
    second = variant.replace('name = "fp32"', 'name = "other"').replace('"net.onnx"', '"golden/net.onnx"')
    folder = make_folder(tmp_path / "model", MODEL_TOML + second)
    other = onnx_bytes(weights(), "v")
    (folder / "golden" / "net.onnx").write_bytes(other)
    manifest = pack(folder, tmp_path / "out").manifest
    names = [variant.file for variant in manifest.variants]
    assert len(set(names)) == 2
    assert content(tmp_path / "out", names[1]) == other


@pytest.mark.parametrize("how", [signal.SIGKILL, KeyboardInterrupt])
def test_interrupting_leaves_no_package_and_the_next_run_cleans_up(
    tmp_path: Path, how: signal.Signals | type[BaseException]
) -> None:
    folder, out = make_folder(tmp_path / "model"), tmp_path / "out"

    def interrupt(text: str, _share: float) -> None:
        if text.startswith("checking"):
            if isinstance(how, signal.Signals):
                os.kill(os.getpid(), how)
            else:
                raise how

    child = os.fork()
    if child == 0:
        try:
            pack(folder, out, progress=interrupt)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert not out.exists()
    pack(folder, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


@pytest.mark.parametrize(
    ("what", "overlays", "named"),
    [
        (ROOT / "bitstreams" / "npu", ("npu",), "npu is an overlay itself"),
        (DIGITS, ("npu", "npu"), "there is a variant 'npu' already"),
    ],
)
def test_overlays_that_cannot_be_compiled_for(
    tmp_path: Path, what: Path, overlays: tuple[str, ...], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        pack(what, tmp_path / "out", overlays=overlays)
    assert not list(tmp_path.iterdir())


def test_a_program_for_another_overlay_than_its_variant_says(tmp_path: Path) -> None:
    folder = write_overlay_model(ROOT / "bitstreams" / "npu", tmp_path)
    program = write_program(compile_graph(self_test_graph(), load_spec("npu-small")))
    (folder / "npu.overlay").write_bytes(program)
    toml = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(toml.replace('format = "overlay"', 'format = "npu"'))
    with pytest.raises(ModelLoadError, match=r"is for overlay npu-small version 1 .* says npu version 1"):
        pack(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
