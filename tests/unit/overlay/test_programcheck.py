"""Programs with the right digest whose header tells of planes that their layers do not make."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.errors import ProgramError
from agent.overlay.compiler import compile_graph
from agent.overlay.descriptor import decode, encode
from agent.overlay.graph import Host
from agent.overlay.program import Segment
from agent.overlay.programfile import read_program, write_program
from agent.overlay.report import make_report
from agent.overlay.selftest import self_test_graph
from agent.overlay.spec import DESCRIPTOR_BYTES, load_spec

NPU = load_spec("npu")
DATA = write_program(compile_graph(self_test_graph(), NPU))
HEAD = struct.Struct("<8sHHI")
Change = Callable[[dict[str, Any]], None]


def changed(change: Change) -> bytes:
    """The self-test's program with another header, under a digest that is right."""
    magic, schema, zero, length = HEAD.unpack_from(DATA)
    header = json.loads(DATA[HEAD.size : HEAD.size + length])
    change(header)
    text = json.dumps(header).encode()
    body = HEAD.pack(magic, schema, zero, len(text)) + text + DATA[HEAD.size + length : -32]
    return body + hashlib.sha256(body).digest()


def with_shift(shift: int) -> bytes:
    """The program whose descriptor of layer d shifts by so many bits."""
    program = compile_graph(self_test_graph(), NPU)
    (segment,) = program.steps
    assert isinstance(segment, Segment)
    at = next(
        at
        for at in range(segment.chain, len(segment.data), DESCRIPTOR_BYTES)
        if segment.data[at] == NPU.opcodes["ADD"]
    )
    fields = decode(NPU, segment.data[at : at + DESCRIPTOR_BYTES]) | {"shift": shift}
    data = segment.data[:at] + encode(NPU, fields) + segment.data[at + DESCRIPTOR_BYTES :]
    return write_program(replace(program, steps=(replace(segment, data=data),)))


def layer(header: dict[str, Any], output: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in header["steps"][0]["layers"] if each["output"] == output)
    return found


def tensor(header: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in header["tensors"] if each["name"] == name)
    return found


def test_an_unchanged_header_is_read() -> None:
    assert read_program(changed(lambda _: None)).name == "selftest"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda h: layer(h, "a").update(stride=[1, 1]), "layer a: its output 'a' has another size"),
        (lambda h: layer(h, "b").update(pads=[1, 1, 1, 2]), "layer b: its output 'b' has another size"),
        (lambda h: layer(h, "b").update(dilation=[1 << 20, 1]), "layer b: its output 'b' has another size"),
        (lambda h: layer(h, "c").update(pads=[1 << 20] * 4), "layer c: its padded input has more than"),
        (lambda h: layer(h, "d").update(b="x"), "layer d: its output 'd' has another size"),
        (lambda h: layer(h, "e").update(kernel=[9, 2]), "layer e: its output 'e' has another size"),
        (lambda h: layer(h, "e").update(input="a", output="x"), "layer e: its output 'x' has another size"),
        (lambda h: h["steps"][0].update(counts=[0] * len(h["steps"][0]["counts"])), "counts of descriptors"),
        (lambda h: tensor(h, "y").update(shape=[0, 10]), "shape [0, 10]"),
        (lambda h: tensor(h, "y").update(shape=[1, -1]), "shape [1, -1]"),
        (lambda h: tensor(h, "y").update(shape=[-1, -1, 10]), "shape [-1, -1, 10]"),
    ],
)  # fmt: skip
def test_planes_of_another_size_are_refused(change: Change, named: str) -> None:
    with pytest.raises(ProgramError, match="corrupt") as refused:
        read_program(changed(change))
    assert named in str(refused.value)


@pytest.mark.parametrize("output", ["a", "b"])
def test_a_tensor_is_written_once(output: str) -> None:
    """Executors reuse memory by that."""
    with pytest.raises(ProgramError, match=f"corrupt: layer c writes '{output}', which is written before"):
        read_program(changed(lambda header: layer(header, "c").update(output=output)))


def test_a_shift_that_the_core_has_not_is_refused() -> None:
    assert read_program(with_shift(16)).name == "selftest"
    for shift in (15, 25, 200):
        with pytest.raises(ProgramError, match=f"shifts by {shift} bits, not 16 to 24"):
            read_program(with_shift(shift))


def test_a_host_operator_writes_one_tensor() -> None:
    program = compile_graph(self_test_graph(), NPU)
    for outputs in ((), ("z", "z")):
        host = Host("softmax", ("y",), outputs, {"axis": 1}, ("softmax",))
        data = write_program(replace(program, steps=(*program.steps, host)))
        with pytest.raises(ProgramError, match=r"corrupt: .*outputs"):
            read_program(data)


def test_a_report_of_a_chain_that_waits_for_itself_says_so() -> None:
    program = compile_graph(self_test_graph(), NPU)
    (segment,) = program.steps
    assert isinstance(segment, Segment)
    first = decode(NPU, segment.data[segment.chain : segment.chain + DESCRIPTOR_BYTES])
    waiting = encode(NPU, first | {"wait": 255})
    data = segment.data[: segment.chain] + waiting + segment.data[segment.chain + DESCRIPTOR_BYTES :]
    waits = read_program(write_program(replace(program, steps=(replace(segment, data=data),))))
    with pytest.raises(ProgramError, match="wait for each other"):
        make_report(waits, NPU)
