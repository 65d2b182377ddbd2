"""LiteRT on a GPU, which a software Vulkan renderer stands in for: a process of its own runs what is done on it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from agent.devices.gpu import litert_gpu
from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.native_log import captured
from agent.devices.litert_cpu import LiteRtSession
from agent.errors import (
    DeviceLost,
    DeviceMismatch,
    InferenceError,
    ModelLoadError,
    OutOfDeviceMemory,
    TensorError,
)
from agent.hal import ModelFile, Session
from agent.types import TensorSpec
from tests.contract.software_vulkan import software_vulkan
from tests.contract.tiny import tflite_double

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[4]
ZOO = REPOSITORY.parent / "shared" / "data" / "mlperf-tiny"
SOFTWARE = Gpu("gpu", "a software renderer", software=True)
X, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))
FLOAT = ("ad01_fp32", "kws_ref_model_float32", "pretrainedResnet", "vww_96_float")
INT8 = ("ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "vww_96_int8")


def _begin(variables: dict[str, str]) -> None:
    os.environ.update(variables)


def process(icd: str, folder: Path) -> ProcessPoolExecutor:
    """A process with this Vulkan driver; ``opened`` writes to ``folder``."""
    variables = {"VK_ICD_FILENAMES": icd, "XDG_RUNTIME_DIR": str(folder), "MODELS": str(folder)}
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (variables,))


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """``there(function, *arguments)``: in the process with the renderer."""
    with process(software_vulkan(), tmp_path_factory.mktemp("models")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(timeout=120)


def opened(
    data: bytes | Path, inputs: Sequence[TensorSpec] = (X,), outputs: Sequence[TensorSpec] = (Y,)
) -> litert_gpu.LiteRtGpuSession:
    path = data if isinstance(data, Path) else Path(os.environ["MODELS"]) / "m.tflite"
    if isinstance(data, bytes):
        path.write_bytes(data)
    return litert_gpu.open_session(ModelFile(path, "tflite", tuple(inputs), tuple(outputs)), SOFTWARE)


def ramp(batch: int) -> np.ndarray[Any, Any]:
    return np.arange(batch * 4, dtype=np.float32).reshape(batch, 4)


def test_the_proof_names_the_adapter(there: Callable[..., Any]) -> None:
    assert "(" in there(litert_gpu.prove, SOFTWARE)


def test_a_software_renderer_is_no_gpu(there: Callable[..., Any]) -> None:
    with pytest.raises(
        DeviceMismatch, match=r"only a software renderer \(.+\) answers LiteRT here; .*a Mali"
    ):
        there(litert_gpu.prove, Gpu("gpu", "a Mali", "arm"))


def test_no_vulkan_at_all(tmp_path: Path) -> None:
    with (
        process("/nowhere/icd.json", tmp_path) as pool,
        pytest.raises(DeviceLost, match=r"Vulkan has no a Mali for LiteRT"),
    ):
        pool.submit(litert_gpu.prove, Gpu("gpu", "a Mali", "arm")).result(timeout=120)


def any_batch() -> list[tuple[list[Any], bool]]:
    session, found = opened(tflite_double()), []
    for batch in (3, 1, 7, 1):
        run = session.run({"x": ramp(batch)})
        found.append((run.outputs["y"].tolist(), run.device_s == run.wall_s > 0))
    return found


def test_any_batch_in_any_order(there: Callable[..., Any]) -> None:
    assert there(any_batch) == [((2 * ramp(batch)).tolist(), True) for batch in (3, 1, 7, 1)]


def outlives() -> tuple[list[Any], str]:
    session = opened(tflite_double())
    first = session.run({"x": ramp(1)}).outputs["y"]
    session.run({"x": ramp(1) + 5})
    session.close()
    session.close()
    with pytest.raises(InferenceError, match="closed"):
        session.run({"x": ramp(1)})
    return first.tolist(), session.adapter


def test_outputs_outlive_the_next_run_and_the_session(there: Callable[..., Any]) -> None:
    assert there(outlives)[0] == [[0, 2, 4, 6]]


def test_a_fixed_size_is_kept(there: Callable[..., Any]) -> None:
    with pytest.raises(ModelLoadError, match=r"promises FP32 \[any, 4\], the model has FP32 \[1, 4\]"):
        there(opened, tflite_double((1, 4)))


def unharmed(tensors: dict[str, Any]) -> str:
    session = opened(tflite_double())
    with pytest.raises(TensorError) as caught:
        session.run(tensors)
    assert session.run({"x": ramp(1)}).outputs["y"].tolist() == [[0, 2, 4, 6]]
    return str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"x": np.zeros((1, 5), np.float32)}, "wanted FP32 [any, 4], got FP32 [1, 5]"),
        ({"x": np.zeros((1, 4), np.int32)}, "wanted FP32 [any, 4], got INT32 [1, 4]"),
        ({"z": np.zeros((1, 4), np.float32)}, "wanted inputs ['x'], got ['z']"),
    ],
)
def test_tensors_that_do_not_fit(there: Callable[..., Any], tensors: dict[str, Any], text: str) -> None:
    assert text in there(unharmed, tensors)


def too_large() -> str:
    session = opened(tflite_double())
    with pytest.raises(OutOfDeviceMemory) as caught:
        session.run({"x": np.zeros((1 << 28, 4), np.float32)})  # 4 GiB of address space, untouched
    assert session.run({"x": ramp(2)}).outputs["y"].tolist() == (2 * ramp(2)).tolist()
    return str(caught.value)


def test_a_batch_that_no_buffer_holds(there: Callable[..., Any]) -> None:
    text = there(too_large)
    assert "a batch of 268435456 8589.9 MB" in text
    assert "smaller batches" in text


@pytest.mark.parametrize(
    "data", [*(tflite_double()[:keep] for keep in (0, 7, 40, 70)), b"<html>404</html>" * 50]
)
def test_a_damaged_file(there: Callable[..., Any], data: bytes) -> None:
    with pytest.raises(ModelLoadError, match=r"does not load m\.tflite: .+; .* pack a new version"):
        there(opened, data)


def test_a_file_that_is_not_there(there: Callable[..., Any]) -> None:
    with pytest.raises(ModelLoadError):
        there(opened, Path("/nowhere/m.tflite"))


@pytest.mark.parametrize(
    ("inputs", "outputs", "text"),
    [
        (TensorSpec("input", "FP32", (-1, 4)), Y, r"promises inputs \['input'\], the model has \['x'\]"),
        (TensorSpec("x", "INT8", (-1, 4)), Y, r"promises INT8 \[any, 4\], the model has FP32 \[any, 4\]"),
        (X, TensorSpec("y", "FP32", (-1, 3)), "output 'y'"),
    ],
)
def test_a_manifest_that_promises_others(
    there: Callable[..., Any], inputs: TensorSpec, outputs: TensorSpec, text: str
) -> None:
    with pytest.raises(ModelLoadError, match=text):
        there(opened, tflite_double(), (inputs,), (outputs,))


def test_a_datatype_that_its_buffers_do_not_hold(there: Callable[..., Any]) -> None:
    x, y = TensorSpec("x", "INT64", (-1, 4)), TensorSpec("y", "INT64", (-1, 4))
    with pytest.raises(ModelLoadError, match=r"tensor 'x' is INT64; LiteRT moves FP32, .* to a GPU"):
        there(opened, tflite_double(dtype="INT64"), (x,), (y,))


def handmade(
    operators: Sequence[tuple[str, int, int]], sizes: Sequence[int], signature: bool = False
) -> bytes:
    """Operators (name, input, output) on FP32 tensors t0, t1 … of [1, size]; inputs t0 and t1, outputs the last two.

    ``signature``: with other names, in the opposite order.
    """
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    graph, model = schema.SubGraphT(), schema.ModelT()
    graph.tensors, graph.operators, model.operatorCodes = [], [], []
    for number, size in enumerate(sizes):
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.buffer, tensor.shape = b"t%d" % number, 0, 0, [1, size]
        graph.tensors.append(tensor)
    for number, (name, source, target) in enumerate(operators):
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version, operator.opcodeIndex, operator.outputs = 1, number, [target]
        operator.inputs = [source, source] if name == "ADD" else [source]
        if name == "ADD":
            operator.builtinOptionsType = schema.BuiltinOptions.AddOptions
            operator.builtinOptions = schema.AddOptionsT()
        graph.operators.append(operator)
        model.operatorCodes.append(code)
    last = len(sizes) - 1
    graph.inputs, graph.outputs = [0, 1], [last - 1, last]
    model.version, model.buffers, model.subgraphs = 3, [schema.BufferT()], [graph]
    if signature:
        definition = schema.SignatureDefT()
        definition.signatureKey, definition.subgraphIndex = b"serving_default", 0

        def named(name: bytes, index: int) -> Any:
            made = schema.TensorMapT()
            made.name, made.tensorIndex = name, index
            return made

        definition.inputs = [named(b"aa", 1), named(b"zz", 0)]
        definition.outputs = [named(b"first", last), named(b"second", last - 1)]
        model.signatureDefs = [definition]
    builder = flatbuffers.Builder(64)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def specs(**sizes: int) -> list[TensorSpec]:
    return [TensorSpec(name, "FP32", (1, size)) for name, size in sizes.items()]


def two(signature: bool) -> dict[str, list[Any]]:
    data = handmade([("ADD", 0, 2), ("ABS", 1, 3)], [4, 3, 4, 3], signature)
    session = opened(data, specs(t0=4, t1=3), specs(t2=4, t3=3))
    tensors = {"t0": ramp(1), "t1": np.array([[-1, 2, -3]], np.float32)}
    return {name: array.tolist() for name, array in session.run(tensors).outputs.items()}


@pytest.mark.parametrize("signature", [False, True])
def test_tensors_go_by_their_own_names_whatever_the_signature_calls_them(
    there: Callable[..., Any], signature: bool
) -> None:
    assert there(two, signature) == {"t2": [[0, 2, 4, 6]], "t3": [[1, 2, 3]]}


def test_an_operator_that_would_not_run_on_the_gpu(there: Callable[..., Any]) -> None:
    data = handmade([("ADD", 0, 2), ("ZEROS_LIKE", 1, 3)], [4, 4, 4, 4])
    with pytest.raises(
        DeviceMismatch, match=r"cannot run all of m\.tflite: ZEROS_LIKE: .*leave this variant to"
    ):
        there(opened, data, specs(t0=4, t1=4), specs(t2=4, t3=4))


def log_of_a_run() -> str:
    with captured() as log:
        session = opened(tflite_double())
        session.run({"x": ramp(2)})
        session.close()
    return log.text


def test_a_good_model_leaves_nothing_in_the_log(there: Callable[..., Any]) -> None:
    assert there(log_of_a_run) == ""


def of_cpu(path: Path) -> tuple[Session, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]:
    """The model on the CPU, and its tensors."""
    from ai_edge_litert.interpreter import Interpreter

    from agent.devices.tensors import NAMES

    interpreter = Interpreter(model_path=str(path))

    def tensors(details: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        found = ((d["name"], NAMES[np.dtype(d["dtype"])], d["shape_signature"]) for d in details)
        return tuple(TensorSpec(name, dtype, tuple(int(n) for n in shape)) for name, dtype, shape in found)

    sides = tensors(interpreter.get_input_details()), tensors(interpreter.get_output_details())
    return LiteRtSession(ModelFile(path, "tflite", *sides)), sides


def sample(name: str, spec: TensorSpec) -> np.ndarray[Any, Any]:
    if name == "kws_ref_model":
        return np.asarray(np.load(ZOO / "kws_inputs.npy")).reshape(-1, 49, 10, 1)[:1]
    rng = np.random.default_rng(0)
    if spec.dtype == "INT8":
        return rng.integers(-60, 60, spec.concrete(1)).astype(np.int8)
    return rng.random(spec.concrete(1)).astype(np.float32)


def compare(name: str, path: Path) -> tuple[float, float]:
    """The largest difference between GPU and CPU, and the largest value."""
    cpu, (inputs, outputs) = of_cpu(path)
    gpu = opened(path, inputs, outputs)
    assert (gpu.inputs, gpu.outputs) == (cpu.inputs, cpu.outputs)
    tensors = {spec.name: sample(name, spec) for spec in inputs}
    want, got = cpu.run(tensors).outputs, gpu.run(tensors).outputs
    gpu.close()
    differences = [np.abs(got[key].astype(float) - want[key].astype(float)).max() for key in want]
    return float(max(differences)), float(max(np.abs(array.astype(float)).max() for array in want.values()))


@pytest.mark.parametrize("name", FLOAT)
def test_float_models_agree_with_the_cpu(there: Callable[..., Any], name: str) -> None:
    if not ZOO.exists():
        pytest.skip("needs the MLPerf Tiny models in ../shared/data/mlperf-tiny")
    difference, largest = there(compare, name, ZOO / f"{name}.tflite")
    assert difference <= 1e-3 * max(largest, 1.0)


def close_or_refused(there: Callable[..., Any], name: str, path: Path, steps: float) -> None:
    try:
        difference, _ = there(compare, name, path)
    except ModelLoadError as error:
        assert "Shape mismatch" in str(error)  # the accelerator's own fault, seen at loading
    else:
        assert difference <= steps


@pytest.mark.parametrize("name", INT8)
def test_quantised_models_are_close_to_the_cpu_or_refused(there: Callable[..., Any], name: str) -> None:
    if not ZOO.exists():
        pytest.skip("needs the MLPerf Tiny models in ../shared/data/mlperf-tiny")
    close_or_refused(there, name, ZOO / f"{name}.tflite", 3)


def test_camera_digits_is_close_to_the_cpu_or_refused(there: Callable[..., Any]) -> None:
    path = REPOSITORY / "models" / "camera-digits" / "camera-digits-int8.tflite"
    close_or_refused(there, "camera-digits", path, 0.26)
