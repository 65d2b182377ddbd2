"""Graphs and small overlays on which a plan has to spill, tile and stream."""

from __future__ import annotations

from dataclasses import replace

from agent.overlay.graph import Add, Conv, Graph, Pool
from agent.overlay.program import Program, Segment
from agent.overlay.spec import Overlay, load_spec
from tests.rtl.layers import Sample, random_layer, random_net

NPU = load_spec("npu")
SMALL = load_spec("npu-small")


def tiny(spec: Overlay, words: int, rows: int, accumulators: int = 32, line: int = 32) -> Overlay:
    """The same overlay with less memory."""
    memory = {
        "activation_words": words,
        "weight_rows": rows,
        "accumulators": accumulators,
        "line_words": line,
    }
    return spec.model_copy(update={"memory": spec.memory.model_copy(update=memory)})


def net(seed: int) -> Sample:
    """A random layer or net of which only the last tensors are outputs."""
    sample = random_net(seed) if seed % 3 else random_layer(seed)
    graph = sample.graph
    read = {
        name
        for step in graph.steps
        if isinstance(step, Conv | Pool | Add)
        for name in ((step.a, step.b) if isinstance(step, Add) else (step.input,))
    }
    outputs = tuple(spec for spec in graph.outputs if spec.name not in read)
    return replace(sample, graph=Graph(graph.name, graph.inputs, outputs, graph.tensors, graph.steps))


def only(program: Program) -> Segment:
    """The segment of a program that has no other step."""
    (step,) = program.steps
    assert isinstance(step, Segment)
    return step
