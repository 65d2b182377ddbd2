"""How much work a model is: multiply-accumulates and bytes, read from its file without running it.

The speed of a simulated device follows from both by the roofline model (S. Williams, A. Waterman, D. Patterson,
"Roofline", CACM 52(4), 2009): a device is bound by its arithmetic or by its memory.

What counts as moved is what a good runtime moves: reshaping costs nothing, an activation function is done where its
input is made, and a quantised model keeps its tensors as integers between the operators.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import ModelLoadError, RuntimeUnavailable, one_line

MAX_FILE_BYTES = 2 << 30
INSTALL = "pip install 'overlaid[sim]'"

Shape = Sequence[int]


@dataclass(frozen=True, slots=True)
class Work:
    """One inference at batch 1.

    ``macs``: multiply-accumulates of convolutions and matrix products. ``nbytes``: weights, inputs and outputs of every
    operator, each once. ``precision``: fp32, fp16 or int8, that of most of the MACs; fp32 when there are none.
    """

    macs: int
    nbytes: int
    precision: str


def count_work(path: Path, format: str) -> Work:
    """Count the work of a model file; ``format``: onnx or tflite.

    Raises ModelLoadError (corrupt, over 2 GiB, control flow, or sizes that only a run would tell) and
    RuntimeUnavailable (the package that reads the format is not installed).
    """
    readers = {"onnx": _read_onnx, "tflite": _read_tflite}
    if format not in readers:
        raise ModelLoadError(f"the work of {format!r} models cannot be counted, only of {', '.join(readers)}")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelLoadError(f"{size} bytes, the limit is {MAX_FILE_BYTES}")
        return _total(readers[format](path))
    except ImportError as error:
        raise RuntimeUnavailable(f"cannot read {format} files here: {one_line(error)}; {INSTALL}") from error
    except Exception as error:  # whatever a parser makes of a corrupt file
        raise ModelLoadError(
            f"cannot count the work of {path.name}: {one_line(error)}; export the model again, "
            "with fixed sizes but for the batch, and pack a new version"
        ) from error


# -- one form for both formats -----------------------------------------------------------------------------------------

# Roles of a node. _STEP runs and moves bytes; the others give their input another form or finish it in place.
_STEP, _VIEW, _ACTIVATION, _QUANTIZE, _DEQUANTIZE = range(5)


@dataclass(frozen=True, slots=True)
class _Tensor:
    shape: tuple[int, ...]
    dtype: str  # as its format calls it: FLOAT, FLOAT32, INT8 ...

    def __post_init__(self) -> None:
        if any(size < 0 for size in self.shape):
            raise ModelLoadError(f"a tensor has the shape {list(self.shape)}")

    def nbytes(self) -> int:
        return -(-math.prod(self.shape) * _bits(self.dtype) // 8)


@dataclass(frozen=True, slots=True)
class _Node:
    role: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int = 0
    operands: tuple[str, ...] = ()  # the inputs whose types tell the precision of the MACs


@dataclass(frozen=True, slots=True)
class _Graph:
    nodes: tuple[_Node, ...]
    tensors: dict[str, _Tensor]
    inputs: frozenset[str]
    outputs: frozenset[str]


def _total(graph: _Graph) -> Work:
    if not graph.nodes:
        raise ModelLoadError("it holds no operators")
    forms = _forms(graph)
    macs: Counter[str] = Counter()
    nbytes = 0
    for node in graph.nodes:
        touched = {forms[name] for name in (*node.inputs, *node.outputs)}
        if node.role != _STEP and len({forms[node.inputs[0]], forms[node.outputs[0]]}) == 1:
            continue
        nbytes += sum(graph.tensors[name].nbytes() for name in touched)
        macs[_precision(graph.tensors[forms[name]].dtype for name in node.operands)] += node.macs
    precision = max(macs, key=lambda each: macs[each]) if macs.total() else "fp32"
    return Work(macs.total(), nbytes, precision)


def _forms(graph: _Graph) -> dict[str, str]:
    """Tensor → the smallest tensor of the same content: the form in which it lies in memory."""
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while name in parent:
            name = parent[name]
        return name

    for node in graph.nodes:
        if node.role == _STEP:
            continue
        source, target = node.inputs[0], node.outputs[0]
        inner = source not in graph.inputs | graph.outputs and readers[source] == 1
        if node.role == _VIEW or (target not in graph.outputs if node.role == _DEQUANTIZE else inner):
            left, right = sorted((root(source), root(target)), key=lambda name: graph.tensors[name].nbytes())
            if left != right:
                parent[right] = left
    return {name: root(name) for name in graph.tensors}


def _bits(dtype: str) -> int:
    named = {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8}
    if dtype in named:
        return named[dtype]
    width = re.fullmatch(r"(?:U?INT|B?FLOAT)(\d+).*", dtype)  # FLOAT8E4M3FN too
    if width is None:
        raise ModelLoadError(f"tensors of type {dtype} have no fixed size")
    return int(width.group(1))


def _precision(dtypes: Iterable[str]) -> str:
    found = set(dtypes)
    if found <= {"INT8", "UINT8", "INT4", "UINT4"}:
        return "int8"
    return "fp16" if found <= {"FLOAT16", "BFLOAT16"} else "fp32"


# -- MACs, from the shapes of output, data and weights -----------------------------------------------------------------


def _per_output(out: Shape, _data: Shape, weight: Shape) -> int:
    """Convolution: weights [out, in / groups, kernel...] in ONNX, [out, kernel..., in / groups] in TFLite."""
    return math.prod(out) * math.prod(weight[1:])


def _per_input(_out: Shape, data: Shape, weight: Shape) -> int:
    """Transposed convolution in ONNX: weights [in, out / groups, kernel...]."""
    return math.prod(data) * math.prod(weight[1:])


def _per_input_last(_out: Shape, data: Shape, weight: Shape) -> int:
    """Transposed convolution in TFLite: weights [out, height, width, in]."""
    return math.prod(data) * math.prod(weight[:-1])


def _depthwise(out: Shape, _data: Shape, weight: Shape) -> int:
    """TFLite: weights [1, height, width, out]."""
    return math.prod(out) * math.prod(weight[1:-1])


def _product(out: Shape, data: Shape, _weight: Shape) -> int:
    return math.prod(out) * data[-1]


def _transposed_product(out: Shape, data: Shape, _weight: Shape) -> int:
    return math.prod(out) * data[-2]


def _connected(out: Shape, _data: Shape, weight: Shape) -> int:
    """TFLite: weights [out, in]; the data may have any rank."""
    return math.prod(out) * weight[-1]


Rule = Callable[[Shape, Shape, Shape], int]


# -- ONNX --------------------------------------------------------------------------------------------------------------

_ONNX_ROLES = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"), _VIEW),
    **dict.fromkeys(("Relu", "Clip"), _ACTIVATION),
    "QuantizeLinear": _QUANTIZE,
    "DequantizeLinear": _DEQUANTIZE,
}
# Operator → the inputs that are data and weights, and the rule.
_ONNX_MACS: dict[str, tuple[int, int, Rule]] = {
    "Conv": (0, 1, _per_output),
    "ConvInteger": (0, 1, _per_output),
    "QLinearConv": (0, 3, _per_output),
    "ConvTranspose": (0, 1, _per_input),
    "Gemm": (0, 1, _product),
    "MatMul": (0, 1, _product),
    "MatMulInteger": (0, 1, _product),
    "QLinearMatMul": (0, 3, _product),
}
# onnxruntime's own operators (com.microsoft) have no shape inference in onnx; each is read as the standard one, which
# has its shapes. Values: that operator and which inputs are tensors rather than scales and zero points.
_ONNX_CONTRIB = {
    "QGemm": ("Gemm", slice(0, 6, 3)),
    "QLinearAdd": ("Add", slice(0, 6, 3)),
    "QLinearMul": ("Mul", slice(0, 6, 3)),
    "QLinearConcat": ("Concat", slice(2, None, 3)),
    "QLinearAveragePool": ("AveragePool", slice(0, 1)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", slice(0, 1)),
    "QLinearLeakyRelu": ("LeakyRelu", slice(0, 1)),
    "QLinearSigmoid": ("Sigmoid", slice(0, 1)),
    "QLinearSoftmax": ("Softmax", slice(0, 1)),
}


def _read_onnx(path: Path) -> _Graph:
    import onnx
    from onnx import inliner, shape_inference

    model = onnx.load(path, load_external_data=False)
    if model.functions:
        model = inliner.inline_local_functions(model)
    _prepare_onnx(model.graph)
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    name_of = onnx.TensorProto.DataType.Name
    tensors = {
        each.name: _Tensor(tuple(each.dims), name_of(each.data_type)) for each in graph.initializer
    } | {
        each.name: _Tensor(_onnx_shape(each), name_of(each.type.tensor_type.elem_type))
        for each in (*graph.input, *graph.value_info, *graph.output)
    }
    return _Graph(
        tuple(_onnx_node(node, tensors) for node in graph.node if node.op_type != "Constant"),
        tensors,
        frozenset(each.name for each in graph.input) - {each.name for each in graph.initializer},
        frozenset(each.name for each in graph.output),
    )


def _prepare_onnx(graph: Any) -> None:
    """Batch 1, no stale shapes, standard operators."""
    constants = {each.name for each in graph.initializer}
    for each in graph.input:
        size = each.type.tensor_type.shape.dim
        if each.name not in constants and len(size) and not size[0].HasField("dim_value"):
            size[0].dim_value = 1
    del graph.value_info[:]
    for each in graph.output:
        each.type.tensor_type.ClearField("shape")
    for node in graph.node:
        if any(attribute.HasField("g") or len(attribute.graphs) for attribute in node.attribute):
            raise ModelLoadError(f"operator {node.op_type} holds a graph of its own")
        if node.domain == "com.microsoft" and node.op_type in _ONNX_CONTRIB:
            node.op_type, kept = _ONNX_CONTRIB[node.op_type]
            node.domain = ""
            node.input[:] = list(node.input)[kept]


def _onnx_shape(value: Any) -> tuple[int, ...]:
    shape = value.type.tensor_type.shape
    if not value.type.tensor_type.HasField("shape") or not all(d.HasField("dim_value") for d in shape.dim):
        raise ModelLoadError(f"the shape of tensor {value.name!r} is not known before a run")
    return tuple(size.dim_value for size in shape.dim)


def _onnx_node(node: Any, tensors: dict[str, _Tensor]) -> _Node:
    inputs, outputs = tuple(filter(None, node.input)), tuple(filter(None, node.output))
    lost = [name for name in (*inputs, *outputs) if name not in tensors]
    if lost:
        raise ModelLoadError(f"the shape of tensor {lost[0]!r} is not known before a run")
    if node.op_type not in _ONNX_MACS:
        return _Node(_ONNX_ROLES.get(node.op_type, _STEP), inputs, outputs)
    data, weight, rule = _ONNX_MACS[node.op_type]
    if any(each.name == "transA" and each.i for each in node.attribute):
        rule = _transposed_product
    operands = (node.input[data], node.input[weight])
    macs = rule(*(tensors[name].shape for name in (outputs[0], *operands)))
    return _Node(_STEP, inputs, outputs, macs, operands)


# -- TFLite ------------------------------------------------------------------------------------------------------------

_TFLITE_VIEWS = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_TFLITE_MACS: dict[str, tuple[int, int, Rule]] = {
    "CONV_2D": (0, 1, _per_output),
    "DEPTHWISE_CONV_2D": (0, 1, _depthwise),
    "FULLY_CONNECTED": (0, 1, _connected),
    "TRANSPOSE_CONV": (2, 1, _per_input_last),
    "BATCH_MATMUL": (0, 1, _product),
}


def _read_tflite(path: Path) -> _Graph:
    """A size that is open in the signature is stored as 1, which is the batch wanted here."""
    from ai_edge_litert import schema_py_generated as schema

    data = path.read_bytes()
    if not schema.Model.ModelBufferHasIdentifier(data, 0):
        raise ModelLoadError("not a TFLite file: no TFL3 at byte 4")
    model = schema.Model.GetRootAs(data, 0)
    if model.SubgraphsLength() != 1:
        raise ModelLoadError(f"{model.SubgraphsLength()} graphs instead of one")
    graph = model.Subgraphs(0)
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    codes = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    tensors, constants = {}, set()
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        shape = tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))
        tensors[str(index)] = _Tensor(shape, types[tensor.Type()])
        if model.Buffers(tensor.Buffer()).DataLength():
            constants.add(str(index))
    nodes = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = codes[
            max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        ]  # schema.fbs: the larger one holds
        nodes.append(_tflite_node(schema, operator, kind, tensors, constants))
    return _Graph(
        tuple(nodes),
        tensors,
        frozenset(str(graph.Inputs(index)) for index in range(graph.InputsLength())),
        frozenset(str(graph.Outputs(index)) for index in range(graph.OutputsLength())),
    )


def _tflite_node(
    schema: Any, operator: Any, kind: str, tensors: dict[str, _Tensor], constants: set[str]
) -> _Node:
    read = [str(operator.Inputs(index)) for index in range(operator.InputsLength())]
    inputs = tuple(name for name in read if name != "-1")
    outputs = tuple(str(operator.Outputs(index)) for index in range(operator.OutputsLength()))
    if kind in _TFLITE_VIEWS or (kind == "DEQUANTIZE" and inputs[0] in constants):  # FP16 weights
        return _Node(_VIEW, inputs, outputs)
    if kind not in _TFLITE_MACS:
        return _Node(_STEP, inputs, outputs)
    data, weight, rule = _TFLITE_MACS[kind]
    if kind == "BATCH_MATMUL" and _adjoint(schema, operator):
        rule = _transposed_product
    operands = (read[data], read[weight])
    macs = rule(*(tensors[name].shape for name in (outputs[0], *operands)))
    # FP32 data with INT8 weights is computed in INT8: the operator quantises the data on the fly.
    quantised = _precision([tensors[read[weight]].dtype]) == "int8"
    return _Node(_STEP, inputs, outputs, macs, operands[1:] if quantised else operands)


def _adjoint(schema: Any, operator: Any) -> bool:
    """Whether BATCH_MATMUL transposes its left side."""
    table = operator.BuiltinOptions()
    if table is None:
        return False
    options = schema.BatchMatMulOptions()
    options.Init(table.Bytes, table.Pos)
    return bool(options.AdjX())
