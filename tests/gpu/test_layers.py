"""Random layers and small nets on Intel's OpenCL, with integer dot products and without: the golden model's bytes."""

from __future__ import annotations

import numpy as np
import pytest

from agent.devices.opencl.platforms import ClDevice
from agent.overlay.graph import Add, Conv, Pool
from tests.rtl.layers import Sample, random_large, random_layer, random_net
from tests.unit.devices.opencl.layers import Bench, golden, segment_of

LAYERS, NETS, LARGE = 300, 60, 12


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def bench(request: pytest.FixtureRequest, device: ClDevice) -> Bench:
    """The kernels for CPUs, and those for GPUs, which use the dot products."""
    return Bench(device, kind=request.param)


@pytest.mark.parametrize(
    ("make", "count"),
    [(random_layer, LAYERS), (random_net, NETS), (random_large, LARGE)],
    ids=["layers", "nets", "large"],
)
def test_random(bench: Bench, make: object, count: int) -> None:
    assert callable(make)
    for seed in range(count):
        check(bench, make(seed))


def check(bench: Bench, sample: Sample) -> None:
    graph = sample.graph
    layers = [step for step in graph.steps if isinstance(step, Conv | Pool | Add)]
    inputs, outputs = (
        [graph.tensors[spec.name] for spec in specs] for specs in (graph.inputs, graph.outputs)
    )
    segment = segment_of(layers, inputs, outputs)
    samples = [sample.inputs, {name: np.roll(array, 1) for name, array in sample.inputs.items()}]
    for found, given in zip(bench.run(segment, samples), samples, strict=True):
        for name, wanted in golden(segment, given).items():
            wrong = np.count_nonzero(found[name] != wanted)
            assert wrong == 0, f"{graph.name}, {name}: {wrong} of {wanted.size} bytes"
