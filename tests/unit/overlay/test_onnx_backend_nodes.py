"""The ONNX project's own tests of the quantised operators: its outputs, ONNX Runtime's and the golden model's agree."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case import node as cases

from agent.overlay.importers.import_onnx import import_onnx
from tests.unit.overlay.onnx_nets import golden, kinds, runtime

MODULES = ("qlinearconv", "qlinearmatmul", "quantizelinear", "dequantizelinear")
TYPES = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32}
BYTES = {TensorProto.INT8, TensorProto.UINT8}
# The steps of those that are not foreign to the overlay.
EXPRESSED = {
    "test_qlinearconv": ["Conv"],
    "test_qlinearmatmul_2D_uint8_float32": ["Conv"],
    "test_qlinearmatmul_2D_int8_float32": ["Conv"],
    "test_quantizelinear": ["quantize"],
    "test_quantizelinear_axis": ["quantize"],
    "test_dequantizelinear": ["dequantize"],
    "test_dequantizelinear_axis": ["dequantize"],
}


def collect() -> dict[str, Any]:
    """The cases on INT8 and UINT8 by name."""
    for module in MODULES:
        importlib.import_module(f"{cases.__name__}.{module}")
    found = {}
    for case in cases._NodeTestCases:
        graph = case.model.graph
        types = [each.type.tensor_type.elem_type for each in (*graph.input, *graph.output)]
        if graph.node[0].op_type.lower() in MODULES and TYPES.issuperset(types) and BYTES.intersection(types):
            found[case.name] = case
    return found


CASES = collect()


def test_the_cases_are_those_that_are_known() -> None:
    assert set(EXPRESSED) <= set(CASES)
    assert len(CASES) > len(EXPRESSED)  # and some that are foreign


@pytest.mark.parametrize("name", sorted(CASES))
def test_agrees(name: str) -> None:
    model, value, wanted = prepare(CASES[name])
    given = {model.graph.input[0].name: value}
    data = model.SerializeToString()
    graph = import_onnx(data, name)
    assert kinds(graph) == EXPRESSED.get(name, ["Foreign"])
    (got,), (run,) = golden(data, graph, given).values(), runtime(data, given).values()
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(got, run)


def prepare(case: Any) -> tuple[onnx.ModelProto, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The model with all inputs but the first as constants, in an opset that ONNX Runtime knows; input and output."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    ((inputs, outputs),) = case.data_sets
    others = model.graph.input[1:]
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), each.name)
        for each, array in zip(others, inputs[1:], strict=True)
    )
    del model.graph.input[1:]
    model.ir_version, model.opset_import[0].version = 10, 21
    return model, np.asarray(inputs[0]), np.asarray(outputs[0])
