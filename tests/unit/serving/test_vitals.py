"""Signs of life: the shared page, and what a daemon makes of looks at it."""

from __future__ import annotations

import gc
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.serving.processes.building import BUILD_S
from agent.serving.processes.vitals import INSTANCES, SLOTS, Patience, Pulse, Vitals


@pytest.fixture
def page() -> Iterator[tuple[Vitals, Vitals]]:
    """The daemon's end and the worker's."""
    ours = Vitals.create()
    theirs = Vitals(os.dup(ours.fd))
    yield ours, theirs
    ours.close()
    theirs.close()


def test_the_daemon_sees_what_the_worker_writes(page: tuple[Vitals, Vitals]) -> None:
    ours, theirs = page
    assert (ours.last_beat, ours.usual_s, ours.running_since) == (0, 0, 0)
    theirs.beat()
    assert ours.last_beat > 0 and ours.running_since == 0
    theirs.states[0], theirs.states[SLOTS - 1] = 1, 2
    assert (ours.states[0], ours.states[SLOTS - 1]) == (1, 2)
    theirs.run_started(INSTANCES - 1)
    first = ours.running_since
    theirs.run_started(0)
    assert ours.running_since == first > 0  # the oldest
    theirs.run_ended(INSTANCES - 1)
    assert ours.running_since >= first
    theirs.run_ended(0)
    assert ours.running_since == 0 and 0 < ours.usual_s < 1


def test_a_run_that_builds_is_not_a_usual_one(page: tuple[Vitals, Vitals]) -> None:
    ours, theirs = page
    theirs.run_started(0)
    theirs.run_started(1)
    theirs.build_began()
    theirs.run_ended(1)
    assert ours.building
    theirs.run_ended(0)
    assert not ours.building and ours.usual_s == 0
    theirs.run_started(0)
    theirs.run_ended(0)
    assert ours.usual_s > 0


def test_the_worker_cannot_cut_the_page_off(page: tuple[Vitals, Vitals]) -> None:
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(page[1].fd, 0)


def test_a_page_too_small_is_refused() -> None:
    fd = os.memfd_create("small")
    with pytest.raises(ValueError, match="length"):
        Vitals(fd)
    os.close(fd)


def test_no_descriptor_and_no_memory_is_left() -> None:
    def count() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text().count("memfd:vitals")
        return len(list(Path("/proc/self/fd").iterdir())), maps

    gc.collect()  # what tests before left behind
    before = count()
    for _ in range(10):
        Vitals.create().close()
    assert count() == before
    assert mmap.PAGESIZE <= 65536


class Worker:
    """A page as the daemon sees it, in made-up time."""

    def __init__(self, **patience: float) -> None:
        self.last_beat, self.running_since, self.usual_s, self.building = 1.0, 0.0, 0.0, False
        self.pulse = Pulse(Patience(**patience))
        self.now = 100.0

    def look(self, seconds: float, beats: bool = False) -> Worker:
        """Pass time, looking every second."""
        for _ in range(int(seconds)):
            self.now += 1.0
            if beats:
                self.last_beat = self.now
            self.pulse.look(self.now, self)  # type: ignore[arg-type]
        return self


def test_a_worker_that_beats_is_well() -> None:
    worker = Worker().look(100, beats=True)
    assert (worker.pulse.hung, worker.pulse.doubtful) == ("", "")


def test_silence_is_doubted_then_means_hung() -> None:
    worker = Worker().look(3)
    assert not worker.pulse.doubtful
    assert worker.look(1).pulse.doubtful == "no sign of life for 3 s" and not worker.pulse.hung
    assert worker.look(7).pulse.hung == "no sign of life for 10 s"
    assert not worker.look(1, beats=True).pulse.doubtful


def test_a_run_excuses_silence_but_not_for_ever() -> None:
    worker = Worker()
    worker.running_since = 100.5
    assert worker.look(4).pulse.doubtful == "a run has lasted 3 s"
    assert not worker.look(26).pulse.hung
    assert worker.look(1).pulse.hung == "a run has lasted 30 s"
    worker.running_since = 130.5  # another one: it goes on
    assert not worker.look(3).pulse.doubtful


def test_a_loop_that_is_alive_during_a_run_is_not_doubted() -> None:
    worker = Worker()
    worker.running_since = 100.5
    assert not worker.look(30, beats=True).pulse.doubtful and not worker.pulse.hung
    assert worker.look(1, beats=True).pulse.hung == "a run has lasted 30 s" and not worker.pulse.doubtful


def test_silence_during_a_run_is_forgiven_at_its_end() -> None:
    worker = Worker()
    worker.usual_s, worker.running_since = 1.0, 100.5
    assert not worker.look(15).pulse.doubtful
    worker.running_since, worker.last_beat = 0.0, 115.5
    assert not worker.look(1).pulse.hung and not worker.pulse.doubtful


def test_a_slow_model_may_be_slow() -> None:
    worker = Worker()
    worker.usual_s, worker.running_since = 4.0, 100.5
    assert not worker.look(80).pulse.doubtful
    assert worker.look(2).pulse.hung == "a run has lasted 81 s"


def test_a_run_that_builds_may_take_as_long_as_a_build() -> None:
    worker = Worker()
    worker.running_since, worker.building = 100.5, True
    assert not worker.look(int(BUILD_S)).pulse.hung
    assert worker.pulse.doubtful  # for whoever looks for one that answers now
    assert "a run has lasted" in worker.look(2).pulse.hung
    worker = Worker()
    worker.building = True
    assert worker.look(12).pulse.hung  # without a run nothing is built


def test_who_was_frozen_himself_blames_nobody() -> None:
    worker = Worker().look(2, beats=True)
    worker.now += 3600.0
    assert not worker.look(1).pulse.doubtful
    assert not worker.look(1, beats=True).pulse.doubtful


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), -1.0])
def test_nonsense_on_the_page_harms_nobody(nonsense: float) -> None:
    worker = Worker()
    worker.running_since = worker.usual_s = worker.last_beat = nonsense
    assert isinstance(worker.look(50).pulse.hung, str)
