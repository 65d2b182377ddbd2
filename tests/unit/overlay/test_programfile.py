"""Program files: what is written is read back, and nothing that was tampered with is."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ProgramError
from agent.overlay.compiler import compile_graph
from agent.overlay.descriptor import decode, encode
from agent.overlay.graph import Conv, Foreign, Host
from agent.overlay.program import Part, Program, Segment
from agent.overlay.programfile import read_program, write_program
from agent.overlay.selftest import self_test_graph
from agent.overlay.spec import DESCRIPTOR_BYTES
from agent.types import TensorSpec
from tests.unit.overlay.plans import NPU, SMALL

PROGRAM = compile_graph(self_test_graph(), NPU)
DATA = write_program(PROGRAM)
HEAD = struct.Struct("<8sHHI")


def segment_of(program: Program) -> Segment:
    return next(step for step in program.steps if isinstance(step, Segment))


def with_others() -> Program:
    """The self-test between a host operator and a CPU segment."""
    before = Host("quantize", ("image",), ("x",), {"scale": 0.5, "zero_point": -3, "dtype": "INT8"}, ("q",))
    after = Part(Foreign(("y",), ("z",), ("odd",), "no such operator"), "onnx", b"model")
    image = TensorSpec("image", "FP32", (1, 3, 16, 16))
    end = TensorSpec("z", "INT8", (-1, 10))
    steps = (before, *PROGRAM.steps, after)
    return replace(PROGRAM, inputs=(image,), outputs=(end,), steps=steps)


def nine_bits() -> Program:
    """Weights that int8 does not hold."""
    graph = self_test_graph()
    first, *rest = graph.steps
    assert isinstance(first, Conv)
    weights = first.weights.copy()
    weights[0, 0, 0, 0] = 255
    return compile_graph(replace(graph, steps=(replace(first, weights=weights), *rest)), NPU)


@pytest.mark.parametrize(
    "program", [PROGRAM, with_others(), nine_bits(), compile_graph(self_test_graph(), SMALL)]
)
def test_there_and_back(program: Program) -> None:
    data = write_program(program)
    found = read_program(data)
    assert write_program(found) == data
    assert found.name == program.name and found.tensors == program.tensors
    one, other = segment_of(found), segment_of(program)
    assert (one.data, one.inputs, one.outputs, one.counts) == (
        other.data,
        other.inputs,
        other.outputs,
        other.counts,
    )
    first, same = one.layers[0], other.layers[0]
    assert isinstance(first, Conv) and isinstance(same, Conv)
    np.testing.assert_array_equal(first.weights, same.weights)
    assert (
        first.weights.dtype == np.int16 and first.scale.dtype == np.float32 and first.bias.dtype == np.int32
    )


def test_equal_programs_have_equal_bytes() -> None:
    assert write_program(compile_graph(self_test_graph(), NPU)) == DATA


@given(st.integers(0, len(DATA) - 1))
def test_truncated(length: int) -> None:
    with pytest.raises(ProgramError, match="deploy it again"):
        read_program(DATA[:length])


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_byte_changed(at: int, by: int) -> None:
    with pytest.raises(ProgramError):
        read_program(DATA[:at] + bytes([DATA[at] ^ by]) + DATA[at + 1 :])


@pytest.mark.parametrize("data", [b"", b"OVLNPROG", b"\x08\x07onnx model", DATA + b"\0"])
def test_foreign(data: bytes) -> None:
    with pytest.raises(ProgramError):
        read_program(data)


def sealed(text: bytes, sections: bytes, schema: int = 1) -> bytes:
    body = HEAD.pack(b"OVLNPROG", schema, 0, len(text)) + text + sections
    return body + hashlib.sha256(body).digest()


def opened() -> tuple[dict[str, Any], bytes]:
    """The header of DATA, and its sections."""
    length = HEAD.unpack_from(DATA)[3]
    end = HEAD.size + length
    header: dict[str, Any] = json.loads(DATA[HEAD.size : end])
    return header, DATA[end:-32]


def test_another_schema() -> None:
    with pytest.raises(ProgramError, match="has schema 2, and this agent reads 1"):
        read_program(sealed(b"{}", b"", schema=2))


Change = Callable[[dict[str, Any]], None]


def put(*path: Any, value: Any) -> Change:
    """A change of one value deep in a header."""

    def change(header: dict[str, Any]) -> None:
        *way, last = path
        at: Any = header
        for key in way:
            at = at[key]
        at[last] = value

    return change


SEGMENT = ("steps", 0)
CHANGES = [
    (put("lanes", value=32), "lanes"),
    (put("overlay", value="../npu"), "overlay"),
    (put("steps", value=[]), "steps"),
    (put("unknown", value=1), "unknown key"),
    (put("sections", value=[1 << 40]), "sections"),
    (put("sections", 0, value=7), "bytes instead of"),
    (put("tensors", 0, "channels", value=0), "channels"),
    (put("tensors", 0, "channels", value=1 << 20), "elements"),
    (put("tensors", 0, "layout", value="nc"), "layout"),
    (put("inputs", 0, "name", value="other"), "read before a step writes it"),
    (put("outputs", 0, "name", value="other"), "no step writes output 'other'"),
    (put(*SEGMENT, "chain", value=32), "no multiple of 64"),
    (put(*SEGMENT, "chain", value=1 << 31), "leaves the program's data"),
    (put(*SEGMENT, "resident", value=1 << 20), "leaves the program's data"),
    (put(*SEGMENT, "input_bytes", value=64), "does not fit where its region has it"),
    (put(*SEGMENT, "output_bytes", value=0), "does not fit where its region has it"),
    (put(*SEGMENT, "inputs", 0, "offset", value=1024), "does not fit where its region has it"),
    (put(*SEGMENT, "inputs", 0, "rows", value=1 << 19), "does not fit where its region has it"),
    (put(*SEGMENT, "inputs", 0, "stack", value=3), "does not fit where its region has it"),
    (put(*SEGMENT, "inputs", 0, "tensor", value="nothing"), "nothing"),
    (put(*SEGMENT, "outputs", 0, "tensor", value="x"), "corrupt"),
    (put(*SEGMENT, "counts", value=[1]), "1 counts of descriptors for 7 layers"),
    (put(*SEGMENT, "counts", 0, value=9), "compute descriptors, the layers"),
    (put(*SEGMENT, "data", value=99), "corrupt"),
    (put(*SEGMENT, "layers", 0, "kernel", value=[24, 3, 3, 4]), "bytes of weights for 864 weights"),
    (put(*SEGMENT, "layers", 0, "bias", value=0), "a bias and a scale"),
    (put(*SEGMENT, "layers", 1, "input", value="y"), "reads 'y' before it is written"),
    (put(*SEGMENT, "layers", 0, "stride", value=[0, 1]), "stride"),
    (put(*SEGMENT, "layers", 3, "shift", value=200), "shift"),
]


@pytest.mark.parametrize(("change", "text"), CHANGES, ids=[str(number) for number in range(len(CHANGES))])
def test_headers_that_lie(change: Change, text: str) -> None:
    header, sections = opened()
    change(header)
    with pytest.raises(ProgramError, match=text):
        read_program(sealed(json.dumps(header).encode(), sections))


def descriptors_with(opcode: str, **changes: int) -> bytes:
    """DATA with fields of its first descriptor of a kind changed; sections and digest as they should be."""
    segment = segment_of(PROGRAM)
    at = next(
        at for at in range(0, len(segment.data), DESCRIPTOR_BYTES) if segment.data[at] == NPU.opcodes[opcode]
    )
    fields = decode(NPU, segment.data[at : at + DESCRIPTOR_BYTES]) | changes
    changed = segment.data[:at] + encode(NPU, fields) + segment.data[at + DESCRIPTOR_BYTES :]
    return write_program(replace(PROGRAM, steps=(replace(segment, data=changed),)))


@pytest.mark.parametrize(
    ("opcode", "changes", "text"),
    [
        ("LOAD", {"offset": 1 << 30}, r"\(LOAD\) leaves region 1"),
        ("LOAD", {"offset": 4}, r"\(LOAD\) leaves region 1"),
        ("LOAD", {"words": 0}, r"\(LOAD\) leaves region 1"),
        ("LOAD", {"runs": 60000, "region_step": 1 << 20}, r"\(LOAD\) leaves region 1"),
        ("LOAD", {"chip": 8191}, r"\(LOAD\) leaves the memory on the chip"),
        ("LOAD", {"runs": 5, "words": 1, "chip_step": 4000}, r"\(LOAD\) leaves the memory on the chip"),
        ("STORE", {"region": 3}, r"\(STORE\) leaves region 3"),
        ("STORE", {"region": 0}, r"\(STORE\) writes into region 0, which is read only"),
        ("STORE", {"words": 2000}, r"\(STORE\) leaves region 2"),
    ],
)
def test_descriptors_that_leave_their_memory(opcode: str, changes: dict[str, int], text: str) -> None:
    with pytest.raises(ProgramError, match=text):
        read_program(descriptors_with(opcode, **changes))


def test_chains_without_an_end() -> None:
    segment = segment_of(PROGRAM)
    for data in (segment.data.replace(bytes([NPU.opcodes["END"]]) + bytes(63), b"\xee" + bytes(63)), b""):
        broken = replace(segment, data=data, resident=None)
        with pytest.raises(ProgramError, match=r"opcode 238|leaves the program's data"):
            read_program(write_program(replace(PROGRAM, steps=(broken,))))


def test_another_overlay() -> None:
    with pytest.raises(
        ProgramError, match="for overlay npu version 1 with 16 lanes, not for npu-small version 1 with 8"
    ):
        read_program(DATA, SMALL)


def test_an_overlay_that_is_not_here() -> None:
    """Delivered overlays have their own overlay.toml; without it the sizes of the memories are not known."""
    far = replace(PROGRAM, overlay="elsewhere")
    assert read_program(write_program(far)).overlay == "elsewhere"
    spec = NPU.model_copy(update={"id": "elsewhere"})
    assert read_program(write_program(far), spec).overlay == "elsewhere"
