"""``/metrics``: the node for Prometheus. Pure, but for the resident memory of processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

from agent.histogram import Histogram
from agent.serving.door.exposition import Metric
from agent.serving.door.node import NodeState
from agent.serving.events import WorkerStatus
from agent.serving.recent import Failure
from agent.types import BindingStatus, ModelStatus

OCTAVES = range(4, 25)  # 16 us to 16.8 s


class Metrics:
    """Collects the samples of one scrape. ``unavailable``: requests that no worker was there for, by model."""

    def __init__(self) -> None:
        self._all: list[Metric] = []
        gauge, counter = self._gauge, self._counter
        self._info = gauge("overlaid_info", "The agent; always 1.")
        self._started = gauge("process_start_time_seconds", "When the daemon began, in Unix seconds.")
        self._memory = gauge("process_resident_memory_bytes", "Resident memory of the daemon.")
        self._broker = gauge("overlaid_broker_connected", "1 while the node is connected to its broker.")
        self._warnings = gauge("overlaid_warnings", "Warnings that `overlaid status` shows.")
        self._download = counter(
            "overlaid_download_bytes_total",
            "Bytes of models through the broker since the daemon began, by kind.",
        )
        self._rail = gauge("overlaid_power_watts", "Average power of the last interval, by rail.")
        self._energy = counter("overlaid_energy_joules_total", "Energy since the daemon began, by rail.")
        self._cap = gauge("overlaid_power_cap_watts", "Power cap of the node.")
        self._ready = gauge("overlaid_model_ready", "1 while the model's worker answers.")
        self._placed = gauge("overlaid_model_placement_info", "Where the model runs; always 1.")
        self._requests = counter(
            "overlaid_model_requests_total", "Requests answered, or failed in their run."
        )
        self._failures = counter("overlaid_model_failures_total", "Requests that failed, by kind.")
        self._latency = self._metric(
            Metric(
                "overlaid_model_latency_seconds",
                "histogram",
                "From a complete request to its answer, in the worker.",
            )
        )
        self._queue = gauge("overlaid_model_queue_length", "Requests that wait for a run.")
        self._restarts = counter("overlaid_model_restarts_total", "Times that the worker was started anew.")
        self._worker_memory = gauge("overlaid_model_memory_bytes", "Resident memory of the model's worker.")
        self._budget = gauge("overlaid_model_latency_budget_seconds", "Budget of the 99th percentile.")
        self._joules = gauge("overlaid_model_request_joules", "Energy of a run, as profiled.")
        self._messages = counter("overlaid_binding_messages_total", "MQTT messages of a binding, by result.")

    def text(self) -> bytes:
        """The exposition."""
        return "".join(metric.text() for metric in self._all).encode()

    def node(self, state: NodeState) -> None:
        """The node and its power."""
        now = state.snapshot
        self._info.add(1, version=now.agent_version, site=now.site, node=now.node)
        self._started.add(now.started)
        self._memory.add(resident_bytes(now.pid))
        self._broker.add(now.broker_connected)
        self._warnings.add(len(now.warnings))
        for kind in ("received", "useful", "asked_again"):
            self._download.add(getattr(now.delivery, kind), kind=kind)
        if now.power_cap_w is not None:
            self._cap.add(now.power_cap_w)
        for rail in state.rails:
            self._rail.add(rail.watts, rail=rail.name, tag=rail.tag)
            self._energy.add(rail.joules, rail=rail.name, tag=rail.tag)
        for model, energy in sorted(state.energy.items()):
            self._joules.add(energy.joules, model=model, tag=energy.tag)
        for status in now.models:
            self._of_budget(status)
        for binding in now.bindings:
            self._of_binding(binding)

    def worker(self, model: str, status: WorkerStatus | None, unavailable: int) -> None:
        """One model; ``status`` is None while it waits for its first start."""
        self._ready.add(status is not None and status.ready, model=model)
        self._failures.add(unavailable, model=model, kind="unavailable")
        if status is None:
            return
        placed = status.candidate
        self._placed.add(
            1,
            model=model,
            version=status.version,
            variant=placed.variant,
            backend=placed.backend,
            device=placed.device,
        )
        self._requests.add(status.requests, model=model, version=status.version)
        for kind in get_args(Failure):
            self._failures.add(status.failures.get(kind, 0), model=model, kind=kind)
        self._queue.add(status.waiting, model=model)
        self._of_latency(status.total, model, status.version)
        self._restarts.add(status.restarts, model=model)
        if status.pid is not None:
            self._worker_memory.add(resident_bytes(status.pid), model=model)

    def _of_latency(self, latency: Histogram, model: str, version: str) -> None:
        buckets = [(2.0**octave / 1e6, latency.below(octave)) for octave in OCTAVES]
        self._latency.add_histogram(buckets, latency.total, latency.seconds, model=model, version=version)

    def _of_binding(self, status: BindingStatus) -> None:
        bound = status.binding
        for result in ("answered", "over_rate", "dropped", "errors"):
            self._messages.add(
                getattr(status, result),
                model=bound.model,
                input_topic=bound.input_topic,
                output_topic=bound.output_topic,
                result=result,
            )

    def _of_budget(self, status: ModelStatus) -> None:
        if status.budget is not None:
            self._budget.add(status.budget.latency_p99_ms / 1e3, model=status.name)

    def _gauge(self, name: str, text: str) -> Metric:
        return self._metric(Metric(name, "gauge", text))

    def _counter(self, name: str, text: str) -> Metric:
        return self._metric(Metric(name, "counter", text))

    def _metric(self, metric: Metric) -> Metric:
        self._all.append(metric)
        return metric


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
