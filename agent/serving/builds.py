"""What the workers of each model build, for people to read and for clocks that stand still meanwhile."""

from __future__ import annotations

from collections import defaultdict

from agent.serving.processes.process import Worker

STEP_S = 10  # so that what is reported does not change all the time


class Builds:
    """``changed`` is called when a worker begins to build something, and when it is over."""

    def __init__(self) -> None:
        self._now: dict[str, list[Worker]] = defaultdict(list)  # by model
        self._total_s: dict[str, float] = defaultdict(float)

    def changed(self, worker: Worker) -> None:
        """See ``Building`` for what it builds now."""
        building, now = worker.building, self._now[worker.spec.model]
        if worker in now:
            now.remove(worker)
        if building.what:
            now.append(worker)
        else:
            self._total_s[worker.spec.model] += building.last_s

    def text(self, model: str) -> str:
        """E.g. "building the TensorRT engine of digits, 30 s so far"; empty when nothing is built for the model."""
        now = self._now.get(model)
        return f"building {now[-1].building.what}{_so_far(now[-1].building.seconds)}" if now else ""

    def seconds(self, model: str) -> float:
        """Spent on building for the model since the daemon started; it only grows."""
        return self._total_s.get(model, 0.0) + sum(w.building.seconds for w in self._now.get(model, ()))


def _so_far(seconds: float) -> str:
    if seconds < STEP_S:
        return ""
    if seconds < 60:
        return f", {int(seconds // STEP_S) * STEP_S} s so far"
    return f", {int(seconds // 60)} min so far"
