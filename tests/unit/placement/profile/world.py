"""A clock that sleeping and running move, a model that draws power, and meters that see it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

import pytest

from agent.errors import MeterError
from agent.types import Candidate

CANDIDATE = Candidate("fp32", "onnxruntime", "cpu")


class World:
    """``busy_w`` above ``idle_w`` while something runs."""

    def __init__(self, idle_w: float = 3.0, busy_w: float = 2.0, run_s: float = 0.001) -> None:
        self.time, self.energy = 100.0, 0.0
        self.idle_w, self.busy_w, self.run_s = idle_w, busy_w, run_s

    def clock(self) -> float:
        return self.time

    def pass_time(self, seconds: float, watts: float) -> None:
        self.time += seconds
        self.energy += seconds * watts


class FakeWorker:
    """``Profiled``: runs take ``world.run_s``, after an idle gap ``cold_s`` more, and cost energy."""

    load_s, memory_mb = 0.25, 40.0

    def __init__(self, world: World, cold_s: float = 0.0, parts: Mapping[str, float] | None = None) -> None:
        self.world, self.cold_s = world, cold_s
        self.parts: Mapping[str, float] = parts or {}
        self.calls: list[tuple[float, int]] = []
        self.opened: list[tuple[float, float]] = []

    async def profile(self, seconds: float, max_runs: int) -> list[float]:
        self.calls.append((seconds, max_runs))
        runs = max(1, min(max_runs, round(seconds / self.world.run_s)))
        self.world.pass_time(runs * self.world.run_s, self.world.idle_w + self.world.busy_w)
        await asyncio.sleep(0)
        return [self.world.run_s] * runs

    async def open_loop(self, seconds: float, rate_hz: float, seed: int) -> list[float]:
        self.opened.append((seconds, rate_hz))
        world = self.world
        expected = seconds * rate_hz
        count = int(expected) + (random.Random(seed).random() < expected % 1)
        run_s = world.run_s + self.cold_s
        world.pass_time(count * run_s, world.idle_w + world.busy_w)
        world.pass_time(max(0.0, seconds - count * run_s), world.idle_w)
        await asyncio.sleep(0)
        return [run_s] * count


class FakeMeter:
    """Reads the world's energy (or a share of it), or fails from the n-th reading on."""

    def __init__(
        self, world: World, share: float = 1.0, tag: str = "measured", fails_at: int | None = None
    ) -> None:
        self.rail, self.tag = "package-0", tag
        self._world, self._share, self._fails_at, self.readings = world, share, fails_at, 0

    def joules(self) -> float:
        self.readings += 1
        if self._fails_at is not None and self.readings >= self._fails_at:
            raise MeterError("gone")
        return self._world.energy * self._share


class Glitch(FakeMeter):
    """Shows something else at one reading."""

    def __init__(self, world: World, at: int, value: Callable[[float], float]) -> None:
        super().__init__(world)
        self._at, self._value = at, value

    def joules(self) -> float:
        joules = super().joules()
        return self._value(joules) if self.readings == self._at else joules


class SlowSensor(FakeMeter):
    """Converts every ``period_s``, and shows the last conversion until the next."""

    def __init__(self, world: World, period_s: float) -> None:
        super().__init__(world)
        self._period_s, self._shown = period_s, (-1e9, 0.0)

    def joules(self) -> float:
        now, joules = self._world.clock(), super().joules()
        if now - self._shown[0] >= self._period_s:
            self._shown = now, joules
        return self._shown[1]


def in_event_time(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Sleeping moves the world's clock instead of the machine's."""
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        world.pass_time(seconds, world.idle_w)
        await real_sleep(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
