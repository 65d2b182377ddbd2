"""What a node that has one export of a model fetches of another one (also see ``tests.bench.delta``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.errors import ModelLoadError
from agent.fleet.boundaries import tensor_boundaries
from agent.fleet.spans import tensor_spans
from agent.overlay.compiler import compile_model
from agent.overlay.programfile import write_program
from agent.overlay.spec import find_overlay, read_spec
from agent.package.blocks import cut
from agent.package.manifest import MAX_BLOCK_BYTES, MAX_MANIFEST_BYTES
from agent.package.store import Store
from tests.system.mlperf import FOLDER, MODELS, reason_to_skip
from tests.unit.fleet import reexport
from tests.unit.fleet.reexport import entry, fetched_bytes

COMMITTED = Path(__file__).parents[3] / "models"
ONNX = sorted(COMMITTED.glob("*/*.onnx"))
TFLITE = COMMITTED / "camera-digits" / "camera-digits-int8.tflite"
FLOAT = COMMITTED / "digits" / "digits-fp32.onnx"
INT8 = COMMITTED / "digits" / "digits-int8.onnx"


def share(old: bytes, new: bytes, file_format: str) -> float:
    return fetched_bytes(old, new, file_format) / len(new)


def layers(count: int, nbytes: int) -> bytes:
    """``count`` additions in a row, each with ``nbytes`` of weights of its own."""
    source = np.random.default_rng(5)
    tensors = [
        numpy_helper.from_array(
            source.standard_normal(nbytes // 4).astype(np.float32), f"layer{number}.weight"
        )
        for number in range(count)
    ]
    nodes = [
        helper.make_node("Add", [f"v{number}", f"layer{number}.weight"], [f"v{number + 1}"])
        for number in range(count)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [nbytes // 4]) for name in ("v0", f"v{count}")
    ]
    return bytes(
        helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)).SerializeToString()
    )


def rotated(data: bytes) -> bytes:
    """The last third of the tensors comes first."""
    model = onnx.ModelProto.FromString(data)
    tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in model.graph.initializer]
    del model.graph.initializer[:]
    place = 2 * len(tensors) // 3
    model.graph.initializer.extend(tensors[place:] + tensors[:place])
    return bytes(model.SerializeToString())


# -- ONNX --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ONNX, ids=lambda path: path.stem)
def test_onnx_names_and_order_cost_little_more_than_the_names(path: Path) -> None:
    data = path.read_bytes()
    model = onnx.ModelProto.FromString(data)
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer if len(tensor.raw_data) >= 512)
    renamed, reordered = reexport.renamed_onnx(data), reexport.reordered_onnx(data)
    assert fetched_bytes(data, renamed, "onnx") <= len(renamed) - weights  # not one byte of the weights
    assert share(data, reordered, "onnx") < 0.1
    assert fetched_bytes(data, reordered, "onnx") <= fetched_bytes(data, renamed, "onnx")


def test_onnx_floats_cost_next_to_nothing_again() -> None:
    data = FLOAT.read_bytes()
    assert share(data, reexport.renamed_onnx(data), "onnx") < 0.01
    assert share(data, reexport.reordered_onnx(data), "onnx") < 0.01


@pytest.mark.parametrize("path", ONNX, ids=lambda path: path.stem)
def test_onnx_a_layer_costs_its_weights(path: Path) -> None:
    data = path.read_bytes()
    retrained, nbytes = reexport.retrained_onnx(data)
    assert nbytes <= fetched_bytes(data, retrained, "onnx") < 0.11 * len(retrained)


def test_onnx_typed_data_is_a_tensor_as_well() -> None:
    raw = FLOAT.read_bytes()
    data = reexport.typed_onnx(raw)
    assert b"".join(cut(data, tensor_boundaries(data, "onnx"))) == data
    assert share(data, reexport.renamed_onnx(data), "onnx") < 0.01
    # A float has the same four bytes in either field, so that even this costs next to nothing.
    assert share(raw, data, "onnx") < 0.01


def test_onnx_tensors_in_subgraphs_lists_functions_and_sparse_ones_are_found() -> None:
    values = [np.random.default_rng(seed).standard_normal(1024).astype(np.float32) for seed in range(6)]
    tensors = [numpy_helper.from_array(value, f"t{index}") for index, value in enumerate(values)]
    output = helper.make_tensor_value_info("o", TensorProto.FLOAT, [1024])
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["o"], value=tensors[0])], "b", [], [output], tensors[1:2]
    )
    node = helper.make_node("If", ["c"], ["o"], then_branch=branch, else_branch=branch, tensors=[tensors[2]])
    sparse = helper.make_sparse_tensor(
        tensors[3], helper.make_tensor("i", TensorProto.INT64, [1024], list(range(1024))), [4096]
    )
    graph = helper.make_graph([node], "g", [], [output], sparse_initializer=[sparse])
    inside = helper.make_node("Constant", [], ["y"], value=tensors[4])
    function = helper.make_function("d", "f", [], ["y"], [inside], [helper.make_opsetid("", 17)])
    data = helper.make_model(graph, functions=[function]).SerializeToString()
    found = {data[start:stop] for start, stop in tensor_spans(data, "onnx")}
    assert {value.tobytes() for value in values[:5]} <= found


def test_onnx_weights_in_other_files_are_refused_in_a_subgraph_too() -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.external_data.add(key="location", value="weights.bin")
    branch = helper.make_graph([], "b", [], [], [tensor])
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], [], then_branch=branch, else_branch=branch)], "g", [], []
    )
    with pytest.raises(ModelLoadError, match="save it in one"):
        tensor_boundaries(helper.make_model(graph).SerializeToString(), "onnx")


def test_onnx_graphs_within_graphs_have_an_end() -> None:
    graph = helper.make_graph([], "g", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("If", ["c"], [], then_branch=graph)], "g", [], [])
    with pytest.raises(ModelLoadError, match="more than 16 deep"):
        tensor_boundaries(helper.make_model(graph).SerializeToString(), "onnx")


def test_a_tensor_of_several_blocks_costs_the_blocks_that_changed() -> None:
    data = layers(3, 5 * MAX_BLOCK_BYTES)
    model = onnx.ModelProto.FromString(data)
    values = bytearray(model.graph.initializer[1].raw_data)
    values[3 * MAX_BLOCK_BYTES + 7] ^= 1
    model.graph.initializer[1].raw_data = bytes(values)
    changed = model.SerializeToString()
    assert fetched_bytes(data, changed, "onnx") == MAX_BLOCK_BYTES
    assert share(data, reexport.renamed_onnx(changed), "onnx") < 0.08  # that block, and names


def test_equal_tensors_are_one_block(tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(layers(6, 8192))
    for tensor in model.graph.initializer:
        tensor.raw_data = bytes(8192)
    data = model.SerializeToString()
    file = entry(data, "onnx")
    pieces = cut(data, tensor_boundaries(data, "onnx"))
    store = Store(tmp_path, 1 << 20)
    missing = store.missing({"net.onnx": file})
    assert sum(block.size for block in missing) < 8192 + 2000
    for block in missing:
        store.put_block(
            block, next(piece for piece, made in zip(pieces, file.blocks, strict=True) if made == block)
        )
    assert store.assemble(file).read_bytes() == data


# -- many small tensors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "nbytes"), [(3000, 64), (3000, 1024), (4000, 8192)])
def test_thousands_of_tensors_make_a_bounded_number_of_blocks(count: int, nbytes: int) -> None:
    data = layers(count, nbytes)
    file = entry(data, "onnx")
    assert len(file.blocks) <= 260 + len(data) // 4096
    assert len(file.model_dump_json()) < 0.03 * len(data)
    assert len(file.model_dump_json()) < MAX_MANIFEST_BYTES / 2
    last = onnx.ModelProto.FromString(data)
    last.graph.initializer[-1].raw_data = bytes(nbytes)
    assert share(data, last.SerializeToString(), "onnx") < 0.05
    assert share(data, rotated(data), "onnx") < 0.1


def test_a_tensor_that_is_added_leaves_the_runs_of_small_ones() -> None:
    data = layers(2000, 256)
    model = onnx.ModelProto.FromString(data)
    new = numpy_helper.from_array(np.ones(300, np.float32), "new")
    tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in model.graph.initializer]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*tensors[:900], new, *tensors[900:]])
    assert share(data, model.SerializeToString(), "onnx") < 0.1


# -- TFLite ------------------------------------------------------------------------------------------------------------


def check_tflite(data: bytes) -> None:
    """Another writer, names and order cost no byte of the buffers and the scales of at least 512 bytes."""
    spans = {data[start:stop] for start, stop in tensor_spans(data, "tflite") if stop - start >= 512}
    budget = 64 + len(data) // 16384
    weights = sum(sorted(map(len, spans))[-budget:])
    written = reexport.packed_tflite(data)
    for old, new in (
        (data, written),
        (written, reexport.renamed_tflite(data)),
        (written, reexport.reordered_tflite(data)),
    ):
        assert fetched_bytes(old, new, "tflite") <= len(new) - weights


def test_tflite_names_order_and_padding_cost_none_of_the_weights() -> None:
    check_tflite(TFLITE.read_bytes())


def test_tflite_a_layer_costs_its_weights() -> None:
    data = TFLITE.read_bytes()
    retrained, nbytes = reexport.retrained_tflite(data)
    assert nbytes <= fetched_bytes(reexport.packed_tflite(data), retrained, "tflite") < 0.11 * len(retrained)


@pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
@pytest.mark.parametrize("name", MODELS)
def test_tflite_of_mlperf_tiny(name: str) -> None:
    check_tflite((FOLDER / MODELS[name]).read_bytes())


def test_tflite_buffers_after_the_flatbuffer_are_found() -> None:
    import flatbuffers  # type: ignore[import-untyped, unused-ignore]
    from ai_edge_litert import schema_py_generated as schema

    contents = [bytes([number]) * 3000 for number in (1, 2)]
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [], []
    for place, content in zip((1024, 1024 + 3008), contents, strict=True):
        buffer = schema.BufferT()
        buffer.offset, buffer.size = place, len(content)
        model.buffers = [*(model.buffers or []), buffer]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    data = bytes(builder.Output()).ljust(1024, b"\0") + contents[0] + bytes(8) + contents[1]
    assert [data[start:stop] for start, stop in tensor_spans(data, "tflite")] == contents
    with pytest.raises(ModelLoadError, match="ends after the file"):
        tensor_boundaries(data[:-1], "tflite")


# -- overlay programs --------------------------------------------------------------------------------------------------


def program(model: bytes) -> bytes:
    return write_program(compile_model(model, read_spec(find_overlay("npu-small"))))


def test_npu_names_and_order_cost_the_header_and_a_layer_its_weights() -> None:
    data = INT8.read_bytes()
    old = program(data)
    assert fetched_bytes(old, program(reexport.reordered_onnx(data)), "npu") == 0
    assert share(old, program(reexport.renamed_onnx(data)), "npu") < 0.05
    assert share(old, program(reexport.retrained_onnx(data)[0]), "npu") < 0.11


@pytest.mark.parametrize(
    "damage", [b"", b"OVLNPROG", b"OVLNPROG\1\0\0\0\2\0\0\0[]", b"OVLNPROG\1\0\0\0\2\0\0\0{}"]
)
def test_npu_damaged(damage: bytes) -> None:
    with pytest.raises(ModelLoadError, match="overlay program"):
        tensor_boundaries(damage, "npu")
