"""/metrics, read by the parser of Prometheus' own client."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from agent.app.power import PowerLog
from agent.histogram import Histogram
from agent.serving.door.exposition import Metric
from agent.serving.door.metrics import Metrics
from agent.serving.door.node import Energy, NodeState, Rail
from agent.serving.events import WorkerStatus
from agent.types import Binding, BindingStatus, Budget, Candidate, ModelStatus, PowerSample, State
from tests.system.serving_models import bare_node
from tests.system.stage import ROOT

CANDIDATE = Candidate("int8", "onnxruntime", "cpu")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: bytes) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@given(st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 1 << 60))
def test_any_text_and_number_comes_through(label: str, value: float, count: int) -> None:
    gauge = Metric("a_b", "gauge", "Says \\ and\nmore.")
    gauge.add(value, label=label)
    counter = Metric("c_total", "counter", "Counts.")
    counter.add(count)
    samples = parse((gauge.text() + counter.text()).encode())
    assert samples == {("a_b", (("label", label),)): value, ("c_total", ()): float(count)}


@given(st.lists(st.floats(1e-7, 100.0), max_size=50))
def test_a_histogram_adds_up(latencies: list[float]) -> None:
    latency = Histogram()
    for seconds in latencies:
        latency.add(seconds)
    metrics = Metrics()
    metrics.worker("m", WorkerStatus(True, None, "1", "d", CANDIDATE, 0, 0, 0, latency, 0.0, latency), 0)
    samples = parse(metrics.text())
    labels = (("model", "m"), ("version", "1"))
    assert samples["overlaid_model_latency_seconds_count", labels] == len(latencies)
    assert samples["overlaid_model_latency_seconds_sum", labels] == pytest.approx(math.fsum(latencies))
    buckets = {
        float(dict(pairs)["le"]): count
        for (name, pairs), count in samples.items()
        if name == "overlaid_model_latency_seconds_bucket"
    }
    assert sorted(buckets.values()) == [count for _, count in sorted(buckets.items())]
    for bound, count in buckets.items():
        # A latency on a bound may count on either side of it.
        assert (
            sum(s < bound * 0.9999 for s in latencies) <= count <= sum(s < bound * 1.0001 for s in latencies)
        )


def test_what_is_known_of_node_and_models() -> None:
    budget = Budget(latency_p99_ms=20.0, rate_hz=10.0)
    model = ModelStatus("m", "1", "d", State.SUCCEEDED, budget=budget)
    bound = BindingStatus(Binding("a/+", "m", "b"), "RUNNING", over_rate=6)
    snapshot = replace(
        bare_node().snapshot,
        models=(model,),
        bindings=(bound,),
        power_cap_w=6.5,
        warnings=("a",),
        broker_connected=True,
    )
    rails = (Rail("package-0", "measured", 4.25, 1000.5),)
    metrics = Metrics()
    metrics.node(NodeState(snapshot, rails, energy={"m": Energy(0.01, "estimated")}))
    status = WorkerStatus(
        True, os.getpid(), "1", "d", CANDIDATE, 3, 7, 2, Histogram(), 0.0, failures={"run": 2}, waiting=4
    )
    metrics.worker("m", status, 5)
    metrics.worker("absent", None, 0)
    samples = parse(metrics.text())
    shown = set(re.findall(r"^# TYPE (\w+)", metrics.text().decode(), re.MULTILINE))
    table = (ROOT / "docs/serving.md").read_text().partition("\n## Metrics\n")[2].partition("\n| Metric")[2]
    assert set(re.findall(r"`((?:overlaid|process)_\w+)`", table)) == shown
    model_label, rail = ("model", "m"), (("rail", "package-0"), ("tag", "measured"))
    want = {
        ("overlaid_info", (("node", "bare"), ("site", "test"), ("version", "0"))): 1,
        ("overlaid_broker_connected", ()): 1,
        ("overlaid_warnings", ()): 1,
        ("overlaid_power_cap_watts", ()): 6.5,
        ("overlaid_power_watts", rail): 4.25,
        ("overlaid_energy_joules_total", rail): 1000.5,
        ("overlaid_model_request_joules", (model_label, ("tag", "estimated"))): 0.01,
        ("overlaid_model_latency_budget_seconds", (model_label,)): 0.02,
        ("overlaid_model_ready", (model_label,)): 1,
        ("overlaid_model_ready", (("model", "absent"),)): 0,
        ("overlaid_model_restarts_total", (model_label,)): 3,
        ("overlaid_model_requests_total", (model_label, ("version", "1"))): 7,
        ("overlaid_model_failures_total", (("kind", "run"), model_label)): 2,
        ("overlaid_model_failures_total", (("kind", "deadline"), model_label)): 0,
        ("overlaid_model_queue_length", (model_label,)): 4,
        (
            "overlaid_binding_messages_total",
            (("input_topic", "a/+"), model_label, ("output_topic", "b"), ("result", "over_rate")),
        ): 6,
        ("overlaid_model_failures_total", (("kind", "unavailable"), model_label)): 5,
        (
            "overlaid_model_placement_info",
            (("backend", "onnxruntime"), ("device", "cpu"), model_label, ("variant", "int8"), ("version", "1")),
        ): 1,
    }  # fmt: skip
    assert {key: samples.get(key) for key in want} == want
    assert samples["process_resident_memory_bytes", ()] > 1e6
    assert samples["overlaid_model_memory_bytes", (model_label,)] > 1e6


def test_energy_is_power_over_time() -> None:
    now = 100.0
    log = PowerLog(lambda: now)
    for watts in (5.0, 10.0, 20.0):
        log.add([PowerSample(1e9 + now, "soc", watts), PowerSample(1e9 + now, "fpga", 1.0, "estimated")])
        now += 2.0
    assert log.rails == (Rail("fpga", "estimated", 1.0, 4.0), Rail("soc", "measured", 20.0, 60.0))
    assert log.totals == ((1e9 + 100, 6.0), (1e9 + 102, 11.0), (1e9 + 104, 21.0)) and log.watts == 21.0
    log.add([])
    assert log.watts is None and log.rails[1].joules == 60.0
    now += 200.0
    log.add([PowerSample(1e9 + now, "soc", 1.0)])
    assert log.totals == ((1e9 + now, 1.0),)
