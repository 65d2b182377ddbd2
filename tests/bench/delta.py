"""What a node that has a model fetches of its next version, over that version's bytes: new blocks and manifest.

Convolutions and a dense layer, 3.1 million random weights, the dense layer a tenth of them: float32 and INT8 in ONNX's
QDQ form, and the INT8 tensors as TFLite. Each is exported anew: with longer names for everything, with its tensors in
another order, with floats as typed instead of raw data; or its last layer is retrained. Overlay programs are compiled
from the committed INT8 models. ``tiny``: 5000 tensors of 128 bytes, which no cut keeps apart from their names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agent.overlay.compiler import compile_model
from agent.overlay.programfile import write_program
from agent.overlay.spec import find_overlay, read_spec
from tests.bench.harness import Figure, main
from tests.system.stage import ROOT
from tests.unit.fleet import reexport
from tests.unit.fleet.reexport import fetched_bytes, manifest_bytes

SEED = 8
# Of 3x3 convolutions that follow each other; outputs of the dense layer.
CHANNELS = (32, 64, 128, 256, 256, 256, 512)
DENSE = 300


def onnx_net(dtype: str, seed: int = SEED) -> bytes:
    """Convolutions and a dense layer with random weights: float32, or int8 behind DequantizeLinear (QDQ)."""
    source = np.random.default_rng(seed)
    nodes, tensors, value = [], [], "image"
    widths = [*zip((3, *CHANNELS), CHANNELS, strict=False), (CHANNELS[-1], DENSE)]
    for number, (into, out) in enumerate(widths):
        shape = (out, into, 3, 3) if number < len(CHANNELS) else (out, into * 2)
        weight, bias = f"layer{number}.weight", f"layer{number}.bias"
        tensors.append(numpy_helper.from_array(source.standard_normal(out).astype(np.float32), bias))
        if dtype == "float32":
            tensors.append(numpy_helper.from_array(source.standard_normal(shape).astype(np.float32), weight))
        else:
            stored = source.integers(-127, 128, shape).astype(np.int8)
            scale, zero = source.uniform(0.001, 0.01, out).astype(np.float32), np.zeros(out, np.int8)
            names = (f"{weight}_quantized", f"{weight}_scale", f"{weight}_zero_point")
            tensors += [
                numpy_helper.from_array(*each) for each in zip((stored, scale, zero), names, strict=True)
            ]
            nodes.append(helper.make_node("DequantizeLinear", names, [weight], axis=0))
        kind, options = ("Conv", {"pads": [1] * 4}) if number < len(CHANNELS) else ("Gemm", {"transB": 1})
        nodes.append(
            helper.make_node(
                kind, [value, weight, bias], [f"v{number}"], f"/layers.{number}/{kind}", **options
            )
        )
        value = f"v{number}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("image", value)]
    return bytes(
        helper.make_model(helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)).SerializeToString()
    )


def tiny_net(count: int = 5000, floats: int = 32) -> bytes:
    """Many small tensors."""
    source = np.random.default_rng(SEED)
    tensors = [
        numpy_helper.from_array(source.standard_normal(floats).astype(np.float32), f"layer{number}.weight")
        for number in range(count)
    ]
    nodes = [
        helper.make_node("Add", [f"v{number}", f"layer{number}.weight"], [f"v{number + 1}"])
        for number in range(count)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [floats]) for name in ("v0", f"v{count}")]
    return bytes(
        helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)).SerializeToString()
    )


def tflite_net() -> bytes:
    """The same weights as TFLite tensors."""
    import flatbuffers  # type: ignore[import-untyped, unused-ignore]
    from ai_edge_litert import schema_py_generated as schema

    model, graph, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers, graph.tensors, graph.operators = [schema.BufferT()], [], []
    for each in onnx.ModelProto.FromString(onnx_net("int8")).graph.initializer:
        buffer, tensor = schema.BufferT(), schema.TensorT()
        buffer.data = np.frombuffer(each.raw_data, np.uint8)
        tensor.name, tensor.buffer = each.name.encode(), len(model.buffers)
        if each.name.endswith("_quantized"):
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = (
                np.random.default_rng(each.dims[0]).random(each.dims[0]).astype(np.float32)
            )
            tensor.quantization.zeroPoint = np.zeros(each.dims[0], np.int64)
        model.buffers.append(buffer)
        graph.tensors.append(tensor)
    operator = schema.OperatorT()
    operator.inputs = np.array([len(graph.tensors) - 3], np.int32)
    graph.operators.append(operator)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def share(old: bytes, new: bytes, file_format: str) -> float:
    """Bytes that are sent over those of the version."""
    return (fetched_bytes(old, new, file_format) + manifest_bytes(new, file_format)) / len(new)


def npu_shares(change: Callable[[bytes], bytes]) -> float:
    """The worst of the committed models' programs."""
    spec = read_spec(find_overlay("npu-small"))

    def program(model: bytes) -> bytes:
        return write_program(compile_model(model, spec))

    models = [
        (ROOT / "models" / name / f"{name}-int8.onnx").read_bytes() for name in ("digits", "camera-digits")
    ]
    return max(share(program(model), program(change(model)), "npu") for model in models)


def measure() -> Mapping[str, Figure]:
    """See the module's text."""
    nets = [onnx_net("float32"), onnx_net("int8")]
    lite = reexport.packed_tflite(tflite_net())
    figures = {
        "delta_onnx_renamed_share": max(share(net, reexport.renamed_onnx(net), "onnx") for net in nets),
        "delta_onnx_reordered_share": max(share(net, reexport.reordered_onnx(net), "onnx") for net in nets),
        "delta_onnx_typed_share": share(nets[0], reexport.typed_onnx(nets[0]), "onnx"),
        "delta_tflite_renamed_share": share(lite, reexport.renamed_tflite(lite), "tflite"),
        "delta_tflite_reordered_share": share(lite, reexport.reordered_tflite(lite), "tflite"),
    }
    last = {
        "delta_last_layer_share": max(share(net, reexport.retrained_onnx(net)[0], "onnx") for net in nets),
        "delta_tflite_last_layer_share": share(lite, reexport.retrained_tflite(lite)[0], "tflite"),
        "delta_npu_last_layer_share": npu_shares(lambda model: reexport.retrained_onnx(model)[0]),
    }
    tiny = tiny_net()
    return {
        **{name: Figure(value, "of the model", at_most=0.02) for name, value in figures.items()},
        **{name: Figure(value, "of the model", at_most=0.11) for name, value in last.items()},
        "delta_tiny_reordered_share": Figure(
            share(tiny, reexport.reordered_onnx(tiny), "onnx"), "of the model"
        ),
        "delta_tiny_renamed_share": Figure(share(tiny, reexport.renamed_onnx(tiny), "onnx"), "of the model"),
        "delta_tiny_manifest_share": Figure(
            manifest_bytes(tiny, "onnx") / len(tiny), "of the model", at_most=0.02
        ),
    }


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
