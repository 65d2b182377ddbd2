"""Where a board's state lives: in one process's memory, or in a file that all processes of a node share."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.errors import ConfigError, DeviceError
from simulator.clock import Clock
from simulator.faultfile import FaultFile
from simulator.faults import Conditions, Timeline
from simulator.physics import BoardState, Physics
from simulator.profile import BoardProfile

log = logging.getLogger("simulator")
STATE_NAME = "board.state"
MAGIC = b"ovlboard"
VERSION = 1
HEADER = struct.Struct("<8sII16s")  # magic, version, numbers per slot, digest of the profile and of the boot
SLOT = struct.Struct("<QI4x")  # sequence, CRC-32 of the numbers
MAX_LEASES = 64  # models loaded at once, by all processes of the node
LOCK_TIMEOUT_S = 2.0
PRUNE_S = 0.25


@dataclass(frozen=True, slots=True)
class Moment:
    """A board at one instant, exclusively: what is done to ``state`` is kept."""

    state: BoardState
    physics: Physics
    now: float

    @property
    def conditions(self) -> Conditions:
        return self.physics.timeline.at(self.now)


class Cell(Protocol):
    """One board's state. ``update`` brings it to the present, gives it to one caller at a time and keeps the changes
    when the block ends without an error."""

    profile: BoardProfile
    clock: Clock

    def update(self) -> AbstractContextManager[Moment]: ...

    def conditions(self) -> Conditions:
        """What holds now, without waiting for others."""
        ...

    def hold(self, device: int) -> None:
        """A model is loaded on the device, by this process."""
        ...

    def release(self, device: int) -> None:
        """One model less, if this process holds one; a process that ends releases what it holds."""
        ...


class MemoryCell:
    """A board of one process: scenarios in event time, light nodes."""

    def __init__(self, physics: Physics, clock: Clock) -> None:
        self.profile, self.clock = physics.profile, clock
        self.physics = physics
        self.state = BoardState.at_rest(self.profile, clock.now())
        self._lock = threading.RLock()

    @contextmanager
    def update(self) -> Iterator[Moment]:
        with self._lock:
            now = self.clock.now()
            self.physics.advance(self.state, now)
            yield Moment(self.state, self.physics, now)

    def conditions(self) -> Conditions:
        return self.physics.timeline.at(self.clock.now())

    def hold(self, device: int) -> None:
        with self.update() as moment:
            moment.state.held[device] += 1

    def release(self, device: int) -> None:
        with self.update() as moment:
            moment.state.held[device] = max(0, moment.state.held[device] - 1)


@dataclass(frozen=True, slots=True)
class _Lease:
    """A model that a process has loaded; ``born`` (clock ticks since boot) tells it from a later one of its pid."""

    pid: int
    born: int
    device: int


class SharedCell:
    """A board whose state the processes of a node share through ``folder/board.state``.

    The file holds two slots. A writer, alone by flock (which the kernel frees when it dies), writes the slot that is
    not the newest: killed at any point, it leaves the newest whole slot as it was, and a CRC tells the torn one. Board
    time is the machine's monotonic clock; after a reboot the board starts at rest. Not to be used across a fork.
    Raises DeviceError when the file cannot be used or a process that hangs has it locked.
    """

    def __init__(self, folder: Path, profile: BoardProfile, clock: Clock) -> None:
        self.profile, self.clock = profile, clock
        self._file = -1
        self._path = folder / STATE_NAME
        self._faults = FaultFile(folder, profile)
        self._physics = self._read_faults()
        self._numbers = struct.Struct(f"<{_count(profile)}d")
        digest = hashlib.sha256(profile.model_dump_json().encode() + _boot_id()).digest()[:16]
        self._header = HEADER.pack(MAGIC, VERSION, _count(profile), digest)
        self._lock = threading.RLock()
        self._pruned = 0.0

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    @contextmanager
    def update(self) -> Iterator[Moment]:
        with self._exclusive() as (moment, _):
            yield moment

    def conditions(self) -> Conditions:
        return self._current().timeline.at(self.clock.now())

    def hold(self, device: int) -> None:
        with self._exclusive() as (moment, leases):
            if len(leases) >= MAX_LEASES:
                leases[:] = [lease for lease in leases if lease.born == _born(lease.pid)]
            if len(leases) >= MAX_LEASES:
                raise DeviceError(f"{MAX_LEASES} models are loaded on this simulated board; undeploy one")
            leases.append(_Lease(os.getpid(), _born(os.getpid()), device))
            _count_held(moment.state, leases)

    def release(self, device: int) -> None:
        with self._exclusive() as (moment, leases):
            mine = (lease for lease in leases if (lease.pid, lease.device) == (os.getpid(), device))
            if (lease := next(mine, None)) is not None:
                leases.remove(lease)
            _count_held(moment.state, leases)

    @contextmanager
    def _exclusive(self) -> Iterator[tuple[Moment, list[_Lease]]]:
        with self._lock, self._locked() as file:
            physics, now = self._current(), self.clock.now()
            try:
                sequence, state, leases = self._load(file, now)
            except OSError as error:
                raise self._unusable(error) from error
            physics.advance(state, now)
            if now - self._pruned >= PRUNE_S:
                self._pruned = now
                leases = [lease for lease in leases if lease.born == _born(lease.pid)]
                _count_held(state, leases)
            yield Moment(state, physics, now), leases
            try:
                self._store(file, sequence + 1, state, leases)
            except OSError as error:
                raise self._unusable(error) from error

    @contextmanager
    def _locked(self) -> Iterator[int]:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                if self._file < 0:
                    self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_there():
                    break
                os.close(self._file)
                self._file = -1
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DeviceError(
                        f"{self._path} is locked by a process that hangs; restart the node"
                    ) from None
                time.sleep(0.0002)
            except OSError as error:
                raise self._unusable(error) from error
        try:
            yield self._file
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _is_there(self) -> bool:
        """False when somebody removed or replaced the open file: others would not see what is written to it."""
        try:
            there = os.stat(self._path)  # noqa: PTH116 (hot: at every run)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._file))

    def _unusable(self, error: OSError) -> DeviceError:
        return DeviceError(f"{self._path}: {error.strerror}; a simulated board keeps its state there")

    def _current(self) -> Physics:
        if self._faults.changed():
            self._physics = self._read_faults()
        return self._physics

    def _read_faults(self) -> Physics:
        """A broken file counts as none, in every process: a node does not stop for it."""
        try:
            seed, timeline = self._faults.read()
        except ConfigError as error:
            log.warning("no faults are injected: %s", error)
            seed, timeline = 0, Timeline(self.profile)
        return Physics(self.profile, timeline, seed)

    def _load(self, file: int, now: float) -> tuple[int, BoardState, list[_Lease]]:
        """The newest whole slot; the board at rest when there is none of this profile and boot."""
        slot_bytes = SLOT.size + self._numbers.size
        data = os.pread(file, HEADER.size + 2 * slot_bytes, 0)
        newest = 0, b""
        if data[: HEADER.size] == self._header and len(data) == HEADER.size + 2 * slot_bytes:
            for start in (HEADER.size, HEADER.size + slot_bytes):
                sequence, crc = SLOT.unpack_from(data, start)
                numbers = data[start + SLOT.size : start + slot_bytes]
                if sequence > newest[0] and crc == zlib.crc32(numbers, sequence & 0xFFFFFFFF):
                    newest = sequence, numbers
        else:
            os.ftruncate(file, 0)
            _write(file, self._header + bytes(2 * slot_bytes), 0)
        if newest[0]:
            state, leases = self._decode(newest[1])
            if state.time <= now:
                return newest[0], state, leases
        return newest[0], BoardState.at_rest(self.profile, now), []

    def _store(self, file: int, sequence: int, state: BoardState, leases: list[_Lease]) -> None:
        numbers = self._encode(state, leases)
        crc = zlib.crc32(numbers, sequence & 0xFFFFFFFF)
        offset = HEADER.size + (sequence % 2) * (SLOT.size + self._numbers.size)
        _write(file, SLOT.pack(sequence, crc) + numbers, offset)

    def _encode(self, state: BoardState, leases: list[_Lease]) -> bytes:
        flat = [number for lease in leases for number in (lease.pid, lease.born, lease.device)]
        return self._numbers.pack(
            state.time, state.base_j, *state.temp_c, *state.level, *state.busy_until, *state.busy_w, *state.overlay,
            *state.runs, *state.busy_s, *state.device_j, len(leases), *flat, *[0.0] * (3 * MAX_LEASES - len(flat)),
        )  # fmt: skip

    def _decode(self, data: bytes) -> tuple[BoardState, list[_Lease]]:
        numbers = iter(self._numbers.unpack(data))
        zones, devices = len(self.profile.zones), len(self.profile.devices)

        def take(count: int) -> list[float]:
            return list(itertools.islice(numbers, count))

        def whole(count: int) -> list[int]:
            return [int(number) for number in itertools.islice(numbers, count)]

        clock, base_j = take(2)
        state = BoardState(
            clock, take(zones), whole(zones), take(devices), take(devices), [], whole(devices), whole(devices),
            take(devices), take(devices), base_j,
        )  # fmt: skip
        leases = [_Lease(*whole(3)) for _ in range(int(next(numbers)))]
        _count_held(state, leases)
        return state, leases


def _count(profile: BoardProfile) -> int:
    return 3 + 2 * len(profile.zones) + 6 * len(profile.devices) + 3 * MAX_LEASES


def _count_held(state: BoardState, leases: list[_Lease]) -> None:
    state.held = [0] * len(state.overlay)
    for lease in leases:
        state.held[lease.device] += 1


def _write(file: int, data: bytes, offset: int) -> None:
    if os.pwrite(file, data, offset) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _born(pid: int) -> int:
    """When the process started, in clock ticks since boot (proc(5), stat, fields 3 and 22); -1 when it has ended."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return -1 if fields[0] in "ZX" else int(fields[19])
    return -1


def _boot_id() -> bytes:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()
    return b""
