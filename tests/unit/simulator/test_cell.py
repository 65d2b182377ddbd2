"""State that processes share: whatever is killed, torn or foreign, it decodes and its counters fit."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import DeviceError
from simulator import cell as cells
from simulator.cell import HEADER, MAX_LEASES, SLOT, STATE_NAME, Cell, MemoryCell, SharedCell
from simulator.clock import EventClock, RealClock
from simulator.faultfile import NAME, FaultFile
from simulator.physics import BoardState
from simulator.profile import BoardProfile
from tests.unit.simulator.small import CPU, FPGA, GPU, happening, laws, small_board

BOARD = small_board()
RUN_S = 1e-5
# Children fork from a server without threads, which has imported what they need.
CONTEXT: Any = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.unit.simulator.test_cell"])


def shared(
    folder: Path, clock: RealClock | EventClock | None = None, profile: BoardProfile = BOARD
) -> SharedCell:
    return SharedCell(folder, profile, clock or RealClock())


def look(cell: Cell) -> BoardState:
    with cell.update() as moment:
        return moment.state


def run_once(cell: Cell, device: int = CPU) -> None:
    with cell.update() as moment:
        moment.physics.run(moment.state, device, RUN_S, moment.now)


@pytest.fixture
def children() -> Iterator[Callable[..., BaseProcess]]:
    started: list[BaseProcess] = []

    def start(target: Callable[..., None], *args: object) -> BaseProcess:
        started.append(CONTEXT.Process(target=target, args=args, daemon=True))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        if process.is_alive():
            process.kill()
        process.join(10)
        process.close()


@pytest.fixture(params=["memory", "shared"])
def cell(request: pytest.FixtureRequest, tmp_path: Path) -> Cell:
    clock = EventClock(100.0)
    return MemoryCell(laws(), clock) if request.param == "memory" else shared(tmp_path, clock)


# -- what both cells promise -------------------------------------------------------------------------------------------


def test_starts_at_rest_and_keeps_what_is_done(cell: Cell) -> None:
    assert look(cell) == BoardState.at_rest(BOARD, 100.0)
    run_once(cell, GPU)
    cell.clock.wait_until(110.0)
    assert (look(cell).runs[GPU], look(cell).time) == (1, 110.0)
    assert look(cell).base_j == pytest.approx(20.0)


def test_models_are_counted_and_never_below_none(cell: Cell) -> None:
    cell.release(GPU)
    assert look(cell).held == [0, 0, 0]
    for device in (GPU, GPU, CPU):
        cell.hold(device)
    assert look(cell).held == [1, 2, 0]
    for _ in range(4):
        cell.release(GPU)
    assert look(cell).held == [1, 0, 0]


def test_a_held_model_draws(cell: Cell) -> None:
    cell.hold(GPU)
    cell.clock.wait_until(110.0)
    cell.release(GPU)
    cell.clock.wait_until(120.0)
    assert look(cell).device_j[GPU] == pytest.approx(20 * 1.0 + 10 * 3.0)


def test_threads_of_a_process_take_turns(cell: Cell) -> None:
    def work() -> None:
        for _ in range(100):
            run_once(cell, FPGA)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = look(cell)
    assert state.runs[FPGA] == 400
    assert state.busy_s[FPGA] == pytest.approx(400 * RUN_S)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_processes_see_each_other(tmp_path: Path) -> None:
    mine, other = shared(tmp_path), shared(tmp_path)
    run_once(mine)
    run_once(other)
    other.hold(GPU)
    assert (look(mine).runs[CPU], look(mine).held[GPU]) == (2, 1)
    assert (tmp_path / STATE_NAME).stat().st_mode & 0o777 == 0o600


def test_an_error_in_the_block_undoes_it(tmp_path: Path) -> None:
    mine = shared(tmp_path)
    with pytest.raises(KeyError), mine.update() as moment:
        moment.state.runs[CPU] = 99
        raise KeyError
    assert look(shared(tmp_path)).runs[CPU] == 0  # and the lock is free


def slot_offset(data: bytearray, newest: bool) -> int:
    size = (len(data) - HEADER.size) // 2
    offsets = [HEADER.size, HEADER.size + size]
    by_age = sorted(offsets, key=lambda offset: SLOT.unpack_from(data, offset)[0])
    return by_age[1 if newest else 0]


@pytest.mark.parametrize("byte", [0, 8, SLOT.size, SLOT.size + 100, -1])
def test_a_torn_slot_leaves_the_other(tmp_path: Path, byte: int) -> None:
    mine = shared(tmp_path, EventClock(50.0))
    for _ in range(5):
        run_once(mine)
    path = tmp_path / STATE_NAME
    data = bytearray(path.read_bytes())
    size = (len(data) - HEADER.size) // 2
    data[slot_offset(data, newest=True) + byte % size] ^= 0x41
    path.write_bytes(data)
    assert look(shared(tmp_path, EventClock(50.0))).runs[CPU] == 4
    run_once(mine)  # takes the torn slot's place
    assert look(shared(tmp_path, EventClock(50.0))).runs[CPU] == 5


def test_two_torn_slots_are_a_board_at_rest(tmp_path: Path) -> None:
    mine = shared(tmp_path, EventClock(50.0))
    run_once(mine)
    run_once(mine)
    path = tmp_path / STATE_NAME
    data = bytearray(path.read_bytes())
    for newest in (True, False):
        data[slot_offset(data, newest) + SLOT.size] ^= 0xFF
    path.write_bytes(data)
    assert look(mine) == BoardState.at_rest(BOARD, 50.0)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"ovlboard", b"{}" * 5000, bytes(100_000), bytes(range(256)) * 12], ids=len
)
def test_a_file_of_something_else(tmp_path: Path, data: bytes) -> None:
    (tmp_path / STATE_NAME).write_bytes(data)
    mine = shared(tmp_path, EventClock(50.0))
    assert look(mine) == BoardState.at_rest(BOARD, 50.0)
    run_once(mine)
    assert look(shared(tmp_path, EventClock(50.0))).runs[CPU] == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_the_file_holds(tmp_path: Path, data: st.DataObject) -> None:
    """Cut and altered at random: a state that was once whole, or one at rest."""
    path = tmp_path / STATE_NAME
    path.unlink(missing_ok=True)
    mine = shared(tmp_path, EventClock(50.0))
    for _ in range(3):
        run_once(mine)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([None, 0, 7, 40, 100, len(content) - 1]))])
    assert look(shared(tmp_path, EventClock(50.0))).runs[CPU] in (0, 2, 3)


def test_a_file_that_is_removed_or_replaced(tmp_path: Path) -> None:
    one, other = shared(tmp_path), shared(tmp_path)
    run_once(one)
    (tmp_path / STATE_NAME).unlink()
    run_once(other)
    assert look(one).runs == look(other).runs == [1, 0, 0]  # anew, and the same board for both
    (tmp_path / "copy").write_bytes((tmp_path / STATE_NAME).read_bytes())
    (tmp_path / "copy").replace(tmp_path / STATE_NAME)
    run_once(one)
    assert look(one).runs == look(other).runs == [2, 0, 0]


def test_another_board_s_state(tmp_path: Path) -> None:
    run_once(shared(tmp_path, EventClock(50.0)))
    hotter = small_board(ambient_c=30.0)
    found = look(shared(tmp_path, EventClock(60.0), hotter))
    assert found == BoardState.at_rest(hotter, 60.0)


def test_the_state_of_an_earlier_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shared(tmp_path, EventClock(5000.0))
    before.hold(GPU)
    assert look(shared(tmp_path, EventClock(30.0))) == BoardState.at_rest(BOARD, 30.0)  # its time is to come
    before.hold(GPU)
    monkeypatch.setattr(cells, "_boot_id", lambda: b"another")
    assert look(shared(tmp_path, EventClock(9000.0))) == BoardState.at_rest(BOARD, 9000.0)


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, name: str, outcome: Callable[..., Any]) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(os, name, outcome)
        yield


def test_a_folder_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken" / STATE_NAME).mkdir(parents=True)
    for folder, why in (("none", "No such file"), ("file", "Not a directory"), ("taken", "Is a directory")):
        with pytest.raises(DeviceError, match=f"board.state: {why}.*a simulated board keeps its state there"):
            look(shared(tmp_path / folder))

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    mine = shared(tmp_path)
    with (
        failing(monkeypatch, "open", refuse),
        pytest.raises(DeviceError, match=r"board.state: Permission denied"),
    ):
        look(mine)
    assert look(mine).runs == [0, 0, 0]


def test_a_full_disk_keeps_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    mine = shared(tmp_path)
    with (
        failing(monkeypatch, "pwrite", full),
        pytest.raises(DeviceError, match=r"board.state: No space left"),
    ):
        look(mine)  # the file is made
    run_once(mine)
    really = os.pwrite
    for outcome in (full, lambda file, data, at: really(file, data[:40], at)):
        with failing(monkeypatch, "pwrite", outcome), pytest.raises(DeviceError, match="No space left"):
            run_once(mine)
    assert look(mine).runs[CPU] == 1
    run_once(mine)
    assert look(mine).runs[CPU] == 2


# -- processes that die ------------------------------------------------------------------------------------------------


def die_amid(folder: Path, call: str, nbytes: int | None, what: str) -> None:
    """Be killed in the first ``call`` (of module os) of an update, after ``nbytes`` of it were written."""
    cell = shared(folder)
    really = getattr(os, call)

    def write(file: int, data: Any, *rest: int) -> None:
        really(file, data[:nbytes] if isinstance(data, bytes) else data, *rest)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, call, write)
    {"run": run_once, "hold": lambda it: it.hold(GPU)}[what](cell)


@pytest.mark.parametrize("what", ["run", "hold"])
@pytest.mark.parametrize("nbytes", [0, 5, SLOT.size - 4, SLOT.size, SLOT.size + 60, None])
def test_killed_amid_a_write(
    tmp_path: Path, children: Callable[..., BaseProcess], nbytes: int | None, what: str
) -> None:
    mine = shared(tmp_path)
    for _ in range(3):
        run_once(mine)
    before = look(mine)
    child = children(die_amid, tmp_path, "pwrite", nbytes, what)
    child.join(20)
    assert child.exitcode == -signal.SIGKILL
    mine._pruned = 0.0
    after = look(mine)
    assert after.runs[CPU] == (4 if (nbytes, what) == (None, "run") else 3)
    assert after.held == [0, 0, 0]
    assert after.base_j >= before.base_j


@pytest.mark.parametrize(
    ("call", "nbytes"), [("ftruncate", None), ("pwrite", 0), ("pwrite", 20), ("pwrite", 500)]
)
def test_killed_while_the_file_is_made(
    tmp_path: Path, children: Callable[..., BaseProcess], call: str, nbytes: int | None
) -> None:
    child = children(die_amid, tmp_path, call, nbytes, "run")
    child.join(20)
    assert child.exitcode == -signal.SIGKILL
    mine = shared(tmp_path)
    run_once(mine)
    assert look(mine).runs[CPU] == 1


def hammer(folder: Path, counter: Path, seed: int) -> None:
    """Runs, looks, holds and releases without end; ``counter`` tells how many runs were surely kept, by device."""
    cell, draw = shared(folder), random.Random(seed)
    kept = [0, 0, 0]
    actions: list[Callable[[SharedCell, int], None]] = [
        run_once,
        run_once,
        SharedCell.hold,
        SharedCell.release,
    ]
    with counter.open("wb", buffering=0) as file:
        while True:
            device = draw.randrange(3)
            action = draw.choice(actions)
            try:
                action(cell, device)
            except DeviceError:  # the places for models are taken
                continue
            if action is run_once:
                kept[device] += 1
                os.pwrite(file.fileno(), struct.pack("<3Q", *kept), 0)


def test_processes_that_are_killed_at_random_moments(
    tmp_path: Path, children: Callable[..., BaseProcess]
) -> None:
    draw = random.Random(4)
    watcher = shared(tmp_path)
    counters: list[Path] = []

    def another() -> BaseProcess:
        counters.append(tmp_path / f"counter-{len(counters)}")
        return children(hammer, tmp_path, counters[-1], len(counters))

    working = [another() for _ in range(3)]
    before = look(watcher)
    for _ in range(10):
        until = time.monotonic() + draw.uniform(0.02, 0.12)
        while time.monotonic() < until:
            now = look(watcher)
            assert now.time >= before.time
            assert now.base_j >= before.base_j
            assert all(late >= early for early, late in zip(before.device_j, now.device_j, strict=True))
            assert all(late >= early for early, late in zip(before.runs, now.runs, strict=True))
            assert min(now.held) >= 0
            assert sum(now.held) <= MAX_LEASES
            before = now
        victim = working.pop(draw.randrange(3))
        victim.kill()
        victim.join(10)
        working.append(another())
    deadline = time.monotonic() + 30
    while sum(look(watcher).runs) < 300 and time.monotonic() < deadline:
        time.sleep(0.01)
    for process in working:
        process.kill()
        process.join(10)

    watcher._pruned = 0.0
    state = look(watcher)  # a DeviceError if one of the dead held the lock
    assert state.held == [0, 0, 0]
    tallies = [struct.unpack("<3Q", path.read_bytes() or bytes(24)) for path in counters if path.exists()]
    kept = [sum(tally) for tally in zip(*tallies, strict=True)]
    # A process may be killed after its last run was kept and before it noted that.
    assert all(low <= runs <= low + len(counters) for low, runs in zip(kept, state.runs, strict=True))
    assert sum(kept) > 100
    assert state.busy_s == pytest.approx([runs * RUN_S for runs in state.runs])


def take_lock(folder: Path, taken: Any) -> None:
    with shared(folder).update():
        taken.set()
        time.sleep(60)


def test_a_process_that_stops_with_the_lock(
    tmp_path: Path, children: Callable[..., BaseProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "LOCK_TIMEOUT_S", 0.05)
    taken = CONTEXT.Event()
    child = children(take_lock, tmp_path, taken)
    assert taken.wait(20)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGSTOP)
    mine = shared(tmp_path)
    with pytest.raises(DeviceError, match=r"board.state is locked by a process that hangs; restart the node"):
        look(mine)
    assert mine.conditions().lost == (False,) * 3  # needs no lock
    child.kill()
    child.join(10)
    assert look(mine).runs == [0, 0, 0]


def hold_and_tell(folder: Path, held: Any) -> None:
    shared(folder).hold(GPU)
    held.set()
    time.sleep(60)


def test_what_a_dead_process_held_is_released(tmp_path: Path, children: Callable[..., BaseProcess]) -> None:
    held = CONTEXT.Event()
    child = children(hold_and_tell, tmp_path, held)
    assert held.wait(20)
    clock = EventClock(RealClock().now() + 1.0)
    mine = shared(tmp_path, clock)
    mine.hold(GPU)
    assert look(mine).held[GPU] == 2
    child.kill()
    child.join(10)
    clock.wait_until(clock.now() + cells.PRUNE_S)
    assert look(mine).held[GPU] == 1  # its own stays


def test_a_dead_child_that_nobody_waited_for_holds_nothing(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import sys, time; from tests.unit.simulator import test_cell as t;"
        f"t.shared(Path({str(tmp_path)!r})).hold(t.GPU); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert look(shared(tmp_path)).held[GPU] == 1
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is dead and still there
        assert look(shared(tmp_path)).held[GPU] == 0


def test_no_more_models_than_there_are_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = shared(tmp_path, EventClock(50.0))
    for _ in range(MAX_LEASES):
        mine.hold(CPU)
    with pytest.raises(DeviceError, match="64 models are loaded on this simulated board; undeploy one"):
        mine.hold(GPU)
    assert look(shared(tmp_path, EventClock(50.0))).held == [64, 0, 0]
    mine.release(CPU)
    mine.hold(GPU)
    # Those of dead processes count no more, however recently the others looked.
    monkeypatch.setattr(cells, "_born", lambda pid: 7)
    mine.hold(FPGA)
    assert look(mine).held == [0, 0, 1]


# -- faults from outside -----------------------------------------------------------------------------------------------


def test_injected_faults_reach_every_process(tmp_path: Path) -> None:
    clock = EventClock(100.0)
    mine = shared(tmp_path, clock)
    look(mine)
    FaultFile(tmp_path, BOARD).write(3, [happening("device-lost", "gpu", at_s=110.0)])
    assert mine.conditions().lost == (False, False, False)
    clock.wait_until(110.0)
    assert mine.conditions().lost == (False, True, False)
    clock.wait_until(120.0)
    assert look(mine).device_j[GPU] == pytest.approx(10 * 1.0)
    (tmp_path / NAME).unlink()
    assert mine.conditions().lost == (False, False, False)


def test_a_broken_faults_file_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It counts as none, and the log says so once."""
    clock = EventClock(100.0)
    mine = shared(tmp_path, clock)
    FaultFile(tmp_path, BOARD).write(3, [happening("disk-full")])
    assert mine.conditions().disk_full
    with caplog.at_level(logging.WARNING, "simulator"):
        (tmp_path / NAME).write_text('{"seed": ')
        for _ in range(3):
            assert not mine.conditions().disk_full
            run_once(mine)
        assert len(caplog.records) == 1
        assert "no faults are injected: " in caplog.text
        assert "remove it to clear the injected faults" in caplog.text
        assert not shared(tmp_path, clock).conditions().disk_full  # a process that starts now
    FaultFile(tmp_path, BOARD).write(3, [happening("disk-full")])
    assert mine.conditions().disk_full
