"""Whatever a node is told, second by second: adaptation answers, and its moves make sense."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.placement.adapting.adapt import Look, Seen, State, failed, step, verify
from agent.placement.demand import Demand, DeviceState, Node
from agent.types import Budget, Candidate, Measurement
from tests.unit.placement.adapting.world import CPU, FPGA, GPU, NPU, SMALL, measurement

NONSENSE = [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e300]
numbers = st.floats(1e-3, 1e3) | st.sampled_from(NONSENSE)
DEVICES = (("cpu", "cpu", 4), ("gpu", "gpu", 1), ("fpga", "fpga", 1))


@st.composite
def measurements(draw: st.DrawFn) -> Measurement:
    candidate = draw(st.sampled_from([CPU, GPU, FPGA]))
    return measurement(
        candidate,
        draw(st.floats(0.1, 200)),
        draw(st.none() | st.floats(0, 1)),
        holding_w=draw(st.none() | st.floats(0, 2)),
        load_s=draw(st.floats(0, 5)),
        load_j=draw(st.none() | numbers),
        overlay=draw(st.sampled_from([NPU, SMALL])) if candidate is FPGA else None,
    )


@st.composite
def demands(draw: st.DrawFn, model: str) -> Demand:
    found = draw(st.lists(measurements(), max_size=4))
    budget = Budget(
        draw(st.floats(1, 300)),
        draw(st.sampled_from([0.0, 0.1, 5.0, 40.0])),
        priority=draw(st.integers(0, 3)),
    )
    incumbent = draw(st.sampled_from([None, *(m.candidate for m in found)]))
    return Demand(model, budget, tuple(found), incumbent=incumbent)


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    devices = tuple(
        DeviceState(name, kind, parallel, 4096, lost=draw(st.sampled_from(["", "", "", "gone"])))  # type: ignore[arg-type]
        for name, kind, parallel in DEVICES
    )
    return Node(
        devices, draw(st.none() | st.floats(0.5, 8)), draw(st.none() | numbers), draw(st.floats(0, 1))
    )


@st.composite
def looks(draw: st.DrawFn, models: list[str]) -> Look:
    def seen(model: str) -> Seen:
        counts = [draw(st.integers(-1, 200)) for _ in range(3)]
        candidate = draw(st.sampled_from([CPU, GPU, FPGA, Candidate("other", "onnx", "cpu")]))
        return Seen(model, candidate, counts[0], counts[1], draw(numbers), counts[2])

    passed = draw(st.sampled_from([0.0, 0.1, 1.0, 1.0, 1.0, -5.0, 1e4, math.nan]))
    return Look(
        passed,
        tuple(seen(model) for model in draw(st.sets(st.sampled_from([*models, "nobody"])))),
        draw(st.none() | numbers),
    )


@settings(max_examples=60)
@given(st.data())
def test_moves_make_sense_whatever_a_node_is_told(data: st.DataObject) -> None:
    names = ["a", "b", "c"][: data.draw(st.integers(0, 3))]
    told = [data.draw(demands(name)) for name in names]
    node = data.draw(nodes())
    state, now = State(), 0.0
    for _ in range(data.draw(st.integers(1, 8))):
        look = data.draw(looks(names))
        now = look.now if math.isnan(look.now) else (0.0 if math.isnan(now) else now) + look.now
        look = replace(look, now=now)
        before = state
        state, outcome = step(state, told, node, look)
        assert step(before, told[::-1], node, look) == (state, outcome)  # pure, and no order among models
        assert state.time >= before.time
        assert {placed.model for placed in outcome.plan.placed} == set(names)
        assert len({move.model for move in outcome.moves}) == len(outcome.moves)
        for move in outcome.moves:
            assert move.trigger and move.reason
            there = next(each for each in told if each.model == move.model)
            lost = {device.id for device in node.devices if device.lost}
            assert move.candidate is None or move.candidate.device not in lost
            assert move.candidate in {None, *(m.candidate for m in there.measurements)}
            if move.candidate is not None and data.draw(st.booleans()):
                state, good = verify(state, move.model, move.candidate, data.draw(numbers), now)
                if good and data.draw(st.booleans()):
                    told = [
                        replace(d, incumbent=move.candidate) if d.model == move.model else d for d in told
                    ]
            elif move.candidate is not None and data.draw(st.booleans()):
                state = failed(state, move.model, move.candidate, "no worker")
        if data.draw(st.integers(0, 4)) == 0:
            node = data.draw(nodes())
        if names and data.draw(st.integers(0, 6)) == 0:
            told[0] = data.draw(demands(names[0]))


@settings(max_examples=25)
@given(st.data())
def test_a_node_on_which_nothing_happens_comes_to_rest(data: st.DataObject) -> None:
    names = ["a", "b", "c"][: data.draw(st.integers(1, 3))]
    told = [data.draw(demands(name)) for name in names]
    node = replace(data.draw(nodes()), rest_w=3.0, rest_sigma_w=0.0)
    state = State()
    moved = []
    for now in range(200):
        running = [(d, m) for d in told for m in d.measurements[::-1] if m.candidate == d.incumbent]
        first = {d.model: (d, m) for d, m in reversed(running)}  # of two of one candidate the last counts
        held: dict[str, float] = {}
        for _, m in first.values():
            held[m.candidate.device] = max(held.get(m.candidate.device, 0.0), m.holding_w or 0.0)
        watts = 3.0 + sum(held.values())
        watts += sum(d.budget.rate_hz * (m.joules or 0.0) for d, m in first.values())
        seen = tuple(
            Seen(
                d.model,
                m.candidate,
                round(d.budget.rate_hz),
                round(d.budget.rate_hz),
                d.budget.rate_hz * m.mean_ms / 1e3,
            )
            for d, m in first.values()
            if d.budget.rate_hz >= 1
        )
        state, outcome = step(state, told, node, Look(float(now), seen, watts))
        for move in outcome.moves:
            moved.append(now)
            told = [replace(d, incumbent=move.candidate) if d.model == move.model else d for d in told]
    assert not [when for when in moved if when > 150]
