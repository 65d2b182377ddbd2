from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.errors import (
    DeviceError,
    DeviceLost,
    DmaTimeout,
    InferenceError,
    OverlayFault,
    OverlayHung,
    OverlayLoadError,
    ProgramError,
    TensorError,
)
from agent.overlay.descriptor import encode
from agent.overlay.driver import Driver
from agent.overlay.functional import run_layers
from agent.overlay.program import Program, Segment
from agent.overlay.spec import Overlay
from simulator.overlay.functional import FunctionalTransport
from tests.unit.overlay import handmade
from tests.unit.overlay.faulty import FaultyTransport
from tests.unit.overlay.handmade import NPU, SMALL, conv, conv_segment, image, tensor

SOURCE = tensor("x", 5, 6, 7, -3)


def program(seed: int = 1, spec: Overlay = NPU) -> Program:
    layer, target = conv(seed, SOURCE, 20, (3, 3), pads=(1, 1, 1, 1))
    return handmade.program(spec, conv_segment(spec, layer, SOURCE, target), name=f"conv{seed}")


def only(made: Program) -> Segment:
    (step,) = made.steps
    assert isinstance(step, Segment)
    return step


def given(seed: int) -> dict[str, NDArray[Any]]:
    return {"x": image(seed, SOURCE)[None]}


def wanted(made: Program, tensors: Mapping[str, NDArray[Any]]) -> list[Any]:
    found: list[Any] = run_layers(only(made).layers, {"x": tensors["x"][0]})["y"][None].tolist()
    return found


@pytest.fixture
def transport() -> FaultyTransport:
    return FaultyTransport(FunctionalTransport(NPU), NPU)


@pytest.fixture
def driver(transport: FaultyTransport) -> Driver:
    return Driver(transport, NPU)


def test_runs_and_counts(driver: Driver) -> None:
    made = program()
    loaded = driver.load(made)
    for seed in range(3):
        done = loaded.run(only(made), given(seed))
        assert done.outputs["y"].tolist() == wanted(made, given(seed))
    counters = done.counters
    assert counters.descriptors == 3
    assert counters.read_beats == 6 * 7 * 16 // 8 + 4 * 8
    assert counters.write_beats == 2 * 6 * 7 * 16 // 8
    assert counters.cycles > 9 * 42
    assert len(done.compute_ends) == 1
    assert 0 < done.compute_ends[0] < counters.cycles
    assert done.host.pack_s > 0
    assert done.host.transfer_s > 0


def test_weights_are_loaded_once_until_another_program_ran(
    driver: Driver, transport: FaultyTransport
) -> None:
    first, second = program(1), program(2)
    one, two = driver.load(first), driver.load(second)
    for loaded, made, starts in [
        (one, first, 2), (one, first, 3), (two, second, 5), (two, second, 6), (one, first, 8)
    ]:  # fmt: skip
        assert loaded.run(only(made), given(3)).outputs["y"].tolist() == wanted(made, given(3))
        assert transport.starts == starts


def test_two_segments_of_one_program_take_turns(driver: Driver) -> None:
    first, second = only(program(1)), only(program(2))
    loaded = driver.load(handmade.program(NPU, first, second))
    for segment in (first, second, first):
        done = loaded.run(segment, given(5))
        assert (
            done.outputs["y"].tolist()
            == run_layers(segment.layers, {"x": given(5)["x"][0]})["y"][None].tolist()
        )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"overlay": "npu-small"}, "is for overlay npu-small version 1 with 16 lanes, not for npu version 1 with 16"),
        ({"version": 2}, "version 2"),
        ({"lanes": 8}, "with 8 lanes"),
    ],
)  # fmt: skip
def test_a_foreign_program_is_refused_before_anything_is_written(
    driver: Driver, transport: FaultyTransport, change: dict[str, Any], text: str
) -> None:
    with pytest.raises(ProgramError, match=text):
        driver.load(replace(program(), **change))
    assert not transport.buffers


@pytest.mark.parametrize(
    "change",
    [
        {"chain": 64 * 100}, {"chain": 1 << 40}, {"chain": -64}, {"chain": 3}, {"resident": 1 << 20},
        {"data": b""}, {"data": bytes(64)},
    ],
)  # fmt: skip
def test_a_corrupt_program_is_refused_before_anything_is_written(
    driver: Driver, transport: FaultyTransport, change: dict[str, Any]
) -> None:
    made = program()
    with pytest.raises(ProgramError, match="deploy it again"):
        driver.load(replace(made, steps=(replace(only(made), **change),)))
    assert not transport.buffers


def test_a_chain_without_an_end(driver: Driver) -> None:
    made = program()
    data = only(made).data
    with pytest.raises(ProgramError, match="no chain"):
        driver.load(replace(made, steps=(replace(only(made), data=data[:128], resident=None),)))


def test_a_chain_that_waits_for_nothing(driver: Driver) -> None:
    made = program()
    waiting = encode(NPU, handmade.transfer(NPU, "LOAD", 1, 0, 1, wait=2)) + only(made).data[64:]
    with pytest.raises(ProgramError, match="wait for each other; deploy it again"):
        driver.load(replace(made, steps=(replace(only(made), data=waiting),)))


@pytest.mark.parametrize("name", ["version", "memory", "clock", "array"])
def test_another_overlay_answers(name: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "version": {"version": 7},
        "clock": {"clock": NPU.clock.model_copy(update={"hz": 1_000_001})},
        "memory": {"memory": NPU.memory.model_copy(update={"weight_rows": 64})},
        "array": {"array": SMALL.array},
    }
    named = {"version": "VERSION", "clock": "CLOCK_HZ", "memory": "WEIGHT_ROWS", "array": "ARRAY"}[name]
    with pytest.raises(OverlayLoadError, match=f"register {named} reads 0x"):
        Driver(FunctionalTransport(NPU), NPU.model_copy(update=changes[name]))


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("hang", OverlayHung, "has not ended after .* cycles"),
        ("dead", OverlayHung, "has not ended"),
        ("load", DmaTimeout, "a transfer of overlay npu version 1 did not end"),
        ("store", DmaTimeout, "a transfer"),
        ("watchdog", DmaTimeout, "a transfer"),
        ("stuck", OverlayHung, "has not ended"),
        ("lost", DeviceLost, "does not answer"),
    ],
)
def test_what_does_not_end_is_named_and_the_next_run_is_as_new(
    driver: Driver, transport: FaultyTransport, fault: str, error: type[DeviceError], text: str
) -> None:
    made = program()
    loaded = driver.load(made)
    loaded.run(only(made), given(1))
    transport.fault = fault
    with pytest.raises(error, match=text):
        loaded.run(only(made), given(2))
    transport.fault = ""
    before = transport.starts
    assert loaded.run(only(made), given(2)).outputs["y"].tolist() == wanted(made, given(2))
    assert transport.starts == before + 2  # the weights as well


def test_a_core_that_no_reset_ends(driver: Driver, transport: FaultyTransport) -> None:
    made = program()
    loaded = driver.load(made)
    transport.fault = "stuck"
    with pytest.raises(OverlayHung, match="has not ended"):
        loaded.run(only(made), given(2))
    with pytest.raises(OverlayHung, match="busy after a reset; load the overlay again"):
        loaded.run(only(made), given(2))


def test_a_lost_interrupt_costs_nothing_but_time(driver: Driver, transport: FaultyTransport) -> None:
    made = program()
    transport.fault = "lost interrupt"
    assert driver.load(made).run(only(made), given(2)).outputs["y"].tolist() == wanted(made, given(2))


def test_an_error_status_names_code_descriptor_and_layer(driver: Driver) -> None:
    made = program()
    data = bytearray(only(made).data)
    data[64:128] = encode(NPU, {"opcode": NPU.opcodes["CONV"], "weight_row": 6143, "wait": 1, "signal": 4})
    loaded = driver.load(replace(made, steps=(bad := replace(only(made), data=bytes(data)),)))
    with pytest.raises(
        OverlayFault, match=r"error BOUNDS at descriptor 1 \(CONV, layer\): .*compile it again"
    ):
        loaded.run(bad, given(1))
    good = driver.load(made)
    assert good.run(only(made), given(1)).outputs["y"].tolist() == wanted(made, given(1))


def test_tensors_that_do_not_fit(driver: Driver) -> None:
    made = program()
    loaded = driver.load(made)
    with pytest.raises(TensorError, match="'x': wanted INT8"):
        loaded.run(only(made), {"x": np.zeros((1, 5, 6, 8), np.int8)})
    assert loaded.run(only(made), given(1)).outputs["y"].tolist() == wanted(made, given(1))


def test_memory_is_freed(driver: Driver, transport: FaultyTransport) -> None:
    freed = []
    made = program()
    loaded = driver.load(made)
    for buffer in transport.buffers:
        buffer.close = lambda buffer=buffer: freed.append(buffer)  # type: ignore[method-assign, misc]
    loaded.close()
    loaded.close()
    assert sorted(map(id, freed)) == sorted(map(id, transport.buffers))
    with pytest.raises(InferenceError, match="unloaded"):
        loaded.run(only(made), given(1))
    driver.close()
    assert transport.closed


def test_too_little_memory_frees_what_was_taken(driver: Driver, transport: FaultyTransport) -> None:
    made = program()
    huge = replace(only(made), scratch_bytes=1 << 40)
    with pytest.raises(DeviceError, match="no memory"):
        driver.load(replace(made, steps=(only(made), huge)))
    core = transport._inner._core  # type: ignore[attr-defined]
    assert core.memory.used == 0
