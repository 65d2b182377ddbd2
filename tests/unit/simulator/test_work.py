"""Counted work against hand-computed figures, operator by operator."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ModelLoadError, RuntimeUnavailable
from simulator import work
from simulator.work import Work, count_work
from tests.contract.tiny import onnx_double, tflite_double
from tests.system.mlperf import FOLDER, MODELS, reason_to_skip

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "models/digits"

Arrays = Mapping[str, np.ndarray[Any, Any]]
Shapes = Mapping[str, Sequence[int | str]]


def onnx_work(
    folder: Path,
    nodes: Sequence[Any],
    inputs: Shapes,
    constants: Arrays,
    dtype: str = "FLOAT",
    out: str = "FLOAT",
) -> Work:
    """The work of a graph with output y; ``dtype`` is that of the inputs, ``out`` that of y."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        list(nodes),
        "g",
        [
            helper.make_tensor_value_info(name, getattr(TensorProto, dtype), list(inputs[name]))
            for name in inputs
        ],
        [helper.make_tensor_value_info("y", getattr(TensorProto, out), None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return count_work(path, "onnx")


def node(kind: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs.split(), [output], **attributes)


def zeros(*shape: int, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.zeros(shape, dtype)


# -- ONNX, one operator each -------------------------------------------------------------------------------------------


def test_conv_with_stride_padding_and_bias(tmp_path: Path) -> None:
    got = onnx_work(
        tmp_path,
        [node("Conv", "x w b", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])],
        {"x": ("n", 3, 8, 8)},
        {"w": zeros(16, 3, 3, 3), "b": zeros(16)},
    )
    out = 16 * 4 * 4
    assert got == Work(out * 27, 4 * (3 * 64 + 16 * 27 + 16 + out), "fp32")


def test_depthwise_conv(tmp_path: Path) -> None:
    conv = node("Conv", "x w", kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=8)
    got = onnx_work(tmp_path, [conv], {"x": ("n", 8, 5, 5)}, {"w": zeros(8, 1, 3, 3)})
    assert got == Work(8 * 25 * 9, 4 * (200 + 72 + 200), "fp32")


def test_conv_transpose(tmp_path: Path) -> None:
    conv = node("ConvTranspose", "x w", kernel_shape=[2, 2], strides=[2, 2])
    got = onnx_work(tmp_path, [conv], {"x": ("n", 4, 3, 3)}, {"w": zeros(4, 6, 2, 2)})
    # Every input element meets the kernel of each of the 6 output channels.
    assert got == Work(4 * 9 * 6 * 4, 4 * (36 + 96 + 6 * 36), "fp32")


def test_conv_integer(tmp_path: Path) -> None:
    got = onnx_work(
        tmp_path,
        [node("ConvInteger", "x w", kernel_shape=[3, 3])],
        {"x": ("n", 2, 4, 4)},
        {"w": zeros(5, 2, 3, 3, dtype="int8")},
        dtype="UINT8",
        out="INT32",
    )
    assert got == Work(5 * 4 * 18, 32 + 90 + 4 * 20, "int8")


def test_qlinear_conv(tmp_path: Path) -> None:
    scale, zero = np.float32(1), np.uint8(0)
    got = onnx_work(
        tmp_path,
        [node("QLinearConv", "x s z w s wz s z", kernel_shape=[3, 3])],
        {"x": ("n", 2, 4, 4)},
        {
            "w": zeros(5, 2, 3, 3, dtype="int8"),
            "s": np.asarray(scale),
            "z": np.asarray(zero),
            "wz": np.asarray(np.int8(0)),
        },
        dtype="UINT8",
        out="UINT8",
    )
    assert got == Work(5 * 4 * 18, 32 + 90 + 20 + (4 + 1 + 1), "int8")  # and scale, two zero points


@pytest.mark.parametrize(("trans_a", "shape"), [(0, (1, 12)), (1, (12, 1))])
def test_gemm(tmp_path: Path, trans_a: int, shape: tuple[int, int]) -> None:
    gemm = node("Gemm", "x w b", transA=trans_a, transB=1)
    got = onnx_work(tmp_path, [gemm], {"x": shape}, {"w": zeros(10, 12), "b": zeros(10)})
    assert got == Work(120, 4 * (12 + 120 + 10 + 10), "fp32")


def test_batched_matmul_of_two_activations(tmp_path: Path) -> None:
    got = onnx_work(tmp_path, [node("MatMul", "a b")], {"a": ("n", 2, 3, 4), "b": ("n", 2, 4, 5)}, {})
    assert got == Work(2 * 3 * 5 * 4, 4 * (24 + 40 + 30), "fp32")


def test_half_precision(tmp_path: Path) -> None:
    constants = {"w": zeros(4, 5, dtype="float16")}
    got = onnx_work(
        tmp_path, [node("MatMul", "x w")], {"x": ("n", 4)}, constants, dtype="FLOAT16", out="FLOAT16"
    )
    assert got == Work(20, 2 * (4 + 20 + 5), "fp16")


def test_matmul_integer(tmp_path: Path) -> None:
    constants = {"w": zeros(4, 5, dtype="int8")}
    matmul = node("MatMulInteger", "x w")
    got = onnx_work(tmp_path, [matmul], {"x": ("n", 4)}, constants, dtype="UINT8", out="INT32")
    assert got == Work(20, 4 + 20 + 4 * 5, "int8")


def test_qlinear_matmul(tmp_path: Path) -> None:
    constants = {
        "w": zeros(4, 5, dtype="uint8"),
        "s": np.asarray(np.float32(1)),
        "z": np.asarray(np.uint8(0)),
    }
    matmul = node("QLinearMatMul", "x s z w s z s z")
    got = onnx_work(tmp_path, [matmul], {"x": ("n", 4)}, constants, dtype="UINT8", out="UINT8")
    assert got == Work(20, 4 + 20 + 5 + (4 + 1), "int8")


def test_operators_of_onnxruntime(tmp_path: Path) -> None:
    """An Add and a Gemm as onnxruntime's quantiser writes them, without shapes: com.microsoft."""
    microsoft = {"domain": "com.microsoft"}
    got = onnx_work(
        tmp_path,
        [
            node("QLinearAdd", "x s z x s z s z", "sum", **microsoft),
            node("QGemm", "sum s z w s z", transB=1, **microsoft),
        ],
        {"x": ("n", 4)},
        {
            "w": zeros(5, 4, dtype="uint8"),
            "s": np.asarray(np.float32(1)),
            "z": np.asarray(np.uint8(0)),
        },
        dtype="UINT8",
        out="UINT8",
    )
    assert got == Work(20, (4 + 4) + (4 + 20 + 5), "int8")


# -- ONNX, what moves bytes --------------------------------------------------------------------------------------------


def test_add_alone_reads_its_input_once(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_double())
    assert count_work(tmp_path / "model.onnx", "onnx") == Work(0, 2 * 16, "fp32")


def test_reshape_and_relu_move_nothing(tmp_path: Path) -> None:
    chain = [
        node("MatMul", "x w", "product"),
        node("Relu", "product", "active"),
        node("Flatten", "active", "flat"),
        node("MatMul", "flat v"),
    ]
    got = onnx_work(tmp_path, chain, {"x": ("n", 4)}, {"w": zeros(4, 6), "v": zeros(6, 2)})
    assert got == Work(24 + 12, 4 * (4 + 24 + 6) + 4 * (6 + 12 + 2), "fp32")


def test_relu_whose_input_is_needed_again_moves_bytes(tmp_path: Path) -> None:
    chain = [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("Add", "h r")]
    got = onnx_work(tmp_path, chain, {"x": ("n", 4)}, {"w": zeros(4, 6)})
    assert got == Work(24, 4 * (4 + 24 + 6) + 4 * (6 + 6) + 4 * (6 + 6 + 6), "fp32")


def qdq_chain(*, quantised_data: bool) -> list[Any]:
    """x (FP32), quantised or not, times w (INT8), quantised, dequantised to y."""
    data = [node("QuantizeLinear", "x s z", "xq"), node("DequantizeLinear", "xq s z", "xf")]
    return [
        *(data if quantised_data else [node("Neg", "x", "xf")]),
        node("DequantizeLinear", "w s wz", "wf"),
        node("MatMul", "xf wf", "yf"),
        node("QuantizeLinear", "yf s z", "yq"),
        node("DequantizeLinear", "yq s z"),
    ]


QDQ_CONSTANTS = {
    "w": zeros(4, 5, dtype="int8"),
    "s": np.asarray(np.float32(1)),
    "z": np.asarray(np.uint8(0)),
    "wz": np.asarray(np.int8(0)),
}
SCALE_AND_ZERO = 4 + 1


def test_product_between_dequantised_tensors_is_int8(tmp_path: Path) -> None:
    got = onnx_work(tmp_path, qdq_chain(quantised_data=True), {"x": ("n", 4)}, QDQ_CONSTANTS)
    quantise, dequantise = 4 * 4 + 4 + SCALE_AND_ZERO, 5 + 4 * 5 + SCALE_AND_ZERO  # the edges of the model
    assert got == Work(20, quantise + (4 + 20 + 5) + dequantise, "int8")


def test_product_with_dequantised_weights_alone_is_fp32(tmp_path: Path) -> None:
    got = onnx_work(tmp_path, qdq_chain(quantised_data=False), {"x": ("n", 4)}, QDQ_CONSTANTS)
    negate, dequantise = 2 * 4 * 4, 5 + 4 * 5 + SCALE_AND_ZERO
    assert got == Work(20, negate + (4 * 4 + 20 + 5) + dequantise, "fp32")


def test_precision_is_that_of_most_macs(tmp_path: Path) -> None:
    chain = [
        *qdq_chain(quantised_data=True)[:-1],
        node("DequantizeLinear", "yq s z", "h"),
        node("MatMul", "h v"),
    ]
    for columns, precision in ((3, "int8"), (5, "fp32")):  # 20 INT8 MACs against 5 * columns
        got = onnx_work(tmp_path, chain, {"x": ("n", 4)}, {**QDQ_CONSTANTS, "v": zeros(5, columns)})
        assert (got.macs, got.precision) == (20 + 5 * columns, precision)


# -- TFLite ------------------------------------------------------------------------------------------------------------


def tflite_work(
    folder: Path,
    kind: str,
    tensors: Sequence[tuple[str, Sequence[int]]],
    constants: Sequence[int] = (),
    options: Any = None,
) -> Work:
    """The work of one operator whose inputs are all tensors (type, shape) but the last, its output."""
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    model, graph, operator, code = (
        schema.ModelT(),
        schema.SubGraphT(),
        schema.OperatorT(),
        schema.OperatorCodeT(),
    )
    filled = schema.BufferT()
    filled.data = [0]
    graph.tensors = []
    for index, (dtype, shape) in enumerate(tensors):
        tensor = schema.TensorT()
        tensor.type, tensor.shape = getattr(schema.TensorType, dtype), list(shape)
        tensor.buffer = 1 if index in constants else 0
        graph.tensors.append(tensor)
    last = len(tensors) - 1
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, list(range(last)), [last]
    if options is not None:
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        operator.builtinOptions = options
    graph.inputs, graph.outputs, graph.operators = [0], [last], [operator]
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    model.version, model.buffers = 3, [schema.BufferT(), filled]
    model.operatorCodes, model.subgraphs = [code], [graph]
    builder = flatbuffers.Builder(64)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path = folder / "model.tflite"
    path.write_bytes(bytes(builder.Output()))
    return count_work(path, "tflite")


def test_tflite_conv(tmp_path: Path) -> None:
    tensors = [
        ("INT8", (1, 8, 8, 3)),
        ("INT8", (16, 3, 3, 3)),
        ("INT32", (16,)),
        ("INT8", (1, 4, 4, 16)),
    ]
    assert tflite_work(tmp_path, "CONV_2D", tensors) == Work(256 * 27, 192 + 432 + 64 + 256, "int8")


def test_tflite_depthwise_conv(tmp_path: Path) -> None:
    tensors = [("FLOAT32", (1, 5, 5, 8)), ("FLOAT32", (1, 3, 3, 8)), ("FLOAT32", (1, 5, 5, 8))]
    assert tflite_work(tmp_path, "DEPTHWISE_CONV_2D", tensors) == Work(1800, 4 * (200 + 72 + 200), "fp32")


def test_tflite_fully_connected(tmp_path: Path) -> None:
    tensors = [("FLOAT32", (1, 2, 2, 3)), ("FLOAT32", (10, 12)), ("FLOAT32", (1, 10))]
    assert tflite_work(tmp_path, "FULLY_CONNECTED", tensors) == Work(120, 4 * (12 + 120 + 10), "fp32")


def test_tflite_weights_alone_quantised_compute_in_int8(tmp_path: Path) -> None:
    tensors = [("FLOAT32", (1, 12)), ("INT8", (10, 12)), ("FLOAT32", (1, 10))]
    assert tflite_work(tmp_path, "FULLY_CONNECTED", tensors) == Work(120, 48 + 120 + 40, "int8")


def test_tflite_transposed_conv(tmp_path: Path) -> None:
    tensors = [("INT32", (4,)), ("INT8", (6, 2, 2, 4)), ("INT8", (1, 3, 3, 4)), ("INT8", (1, 6, 6, 6))]
    assert tflite_work(tmp_path, "TRANSPOSE_CONV", tensors) == Work(36 * 24, 16 + 96 + 36 + 216, "int8")


@pytest.mark.parametrize(("adjoint", "left"), [(False, (1, 3, 4)), (True, (1, 4, 3))])
def test_tflite_batch_matmul(tmp_path: Path, adjoint: bool, left: tuple[int, ...]) -> None:
    from ai_edge_litert import schema_py_generated as schema

    options = schema.BatchMatMulOptionsT()
    options.adjX = adjoint
    tensors = [("FLOAT32", left), ("FLOAT32", (1, 4, 5)), ("FLOAT32", (1, 3, 5))]
    got = tflite_work(tmp_path, "BATCH_MATMUL", tensors, options=options)
    assert got == Work(60, 4 * (12 + 20 + 15), "fp32")


def test_tflite_add_alone(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(tflite_double())
    assert count_work(tmp_path / "model.tflite", "tflite") == Work(0, 2 * 16, "fp32")


@pytest.mark.parametrize(("constants", "nbytes"), [((), 8 + 16), ((0,), 0)])
def test_tflite_dequantise_moves_bytes_unless_constant(
    tmp_path: Path, constants: Sequence[int], nbytes: int
) -> None:
    tensors = [("FLOAT16", (4,)), ("FLOAT32", (4,))]
    assert tflite_work(tmp_path, "DEQUANTIZE", tensors, constants) == Work(0, nbytes, "fp32")


# -- whole models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_digits(variant: str) -> None:
    stem, residual = 8 * 8 * 9 * 1 * 32, 8 * 8 * 9 * 32 * 32  # pixels * kernel * in * out
    widen, top, head = 4 * 4 * 9 * 32 * 64, 4 * 4 * 9 * 64 * 128, 512 * 10
    got = count_work(DIGITS / f"digits-{variant}.onnx", "onnx")
    assert (got.macs, got.precision) == (stem + residual + widen + top + head, variant)
    assert got.macs == 2_087_936


def test_digits_moves_a_quarter_of_the_bytes_when_quantised() -> None:
    full, quantised = (count_work(DIGITS / f"digits-{each}.onnx", "onnx") for each in ("fp32", "int8"))
    assert full.nbytes / 4 < quantised.nbytes < full.nbytes / 3.5


@pytest.mark.parametrize(
    ("file", "precision"), [("fp32.onnx", "fp32"), ("int8.onnx", "int8"), ("int8.tflite", "int8")]
)
def test_camera_digits_is_the_same_work_in_every_format(file: str, precision: str) -> None:
    """The ResNet-8 of below on 64x64x1, its shortcuts included."""
    stem, first = 64 * 64 * 9 * 16, 2 * 64 * 64 * 9 * 16 * 16
    second = 32 * 32 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32)
    third = 16 * 16 * (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64)
    path = ROOT / "models/camera-digits" / f"camera-digits-{file}"
    got = count_work(path, path.suffix[1:])
    assert (got.macs, got.precision) == (stem + first + second + third + 64 * 10, precision)
    assert got.macs == 48_824_960


@pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
@pytest.mark.parametrize(("name", "precision"), [("resnet8", "fp32"), ("resnet8-int8", "int8")])
def test_resnet8(name: str, precision: str) -> None:
    """MLPerf Tiny's ResNet-8: 32x32x3; stages of 16, 32 and 64 channels, the last two halve the picture."""
    stem, first = 32 * 32 * 9 * 3 * 16, 2 * 32 * 32 * 9 * 16 * 16
    second = 16 * 16 * (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32)  # two 3x3 and the 1x1 of the shortcut
    third = 8 * 8 * (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64)
    got = count_work(FOLDER / MODELS[name], "tflite")
    assert (got.macs, got.precision) == (stem + first + second + third + 64 * 10, precision)
    assert got.macs == 12_501_632


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("content", [b"", b"not a model", b"\xff" * 300])
def test_corrupt_file(tmp_path: Path, format: str, content: bytes) -> None:
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(ModelLoadError, match="export the model again"):
        count_work(tmp_path / "model", format)


@given(st.data())
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_damaged_file_is_counted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, format: str, data: st.DataObject
) -> None:
    content = bytearray(onnx_double() if format == "onnx" else tflite_double())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    try:
        got = count_work(path, format)
    except ModelLoadError:
        return
    assert got.macs >= 0 and got.nbytes >= 0


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"model\.onnx"):
        count_work(tmp_path / "model.onnx", "onnx")


def test_file_over_the_limit(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(work.MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(ModelLoadError, match="limit"):
        count_work(tmp_path / "model.onnx", "onnx")


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="'gguf'"):
        count_work(tmp_path / "model.gguf", "gguf")


def test_size_that_only_a_run_tells(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="not known before a run"):
        onnx_work(tmp_path, [node("Relu", "x")], {"x": ("n", "width")}, {})


@pytest.mark.parametrize(("format", "module"), [("onnx", "onnx"), ("tflite", "ai_edge_litert")])
def test_missing_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, format: str, module: str) -> None:
    (tmp_path / "model").write_bytes(b"any")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'overlaid\[sim\]'"):
        count_work(tmp_path / "model", format)
