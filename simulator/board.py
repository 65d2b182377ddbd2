"""A simulated board behind ``hal``: the node's own code runs on it unchanged. ``board = "sim:NAME"``."""

from __future__ import annotations

import errno
import functools
import math
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.devices.cpu import CpuDevice
from agent.devices.fpga import FPGA_BACKENDS, FpgaDevice, shipped_overlays
from agent.errors import (
    DeviceError,
    DeviceLost,
    InferenceError,
    MeterError,
    ModelLoadError,
    RuntimeUnavailable,
)
from agent.hal import Device, ModelFile, PowerMeter, Run, Session
from agent.hal.device import Tensors
from agent.types import BackendInfo, BoardInfo, DeviceInfo, OverlayRef
from simulator.cell import Cell, SharedCell
from simulator.clock import RealClock
from simulator.faults import Conditions
from simulator.fpga import failing, load_overlay
from simulator.physics import Interval
from simulator.profile import BASE, BoardProfile, load_profile
from simulator.profile import Device as DeviceProfile
from simulator.runs import parts_of, reserve_run
from simulator.speed import run_time

if TYPE_CHECKING:
    from simulator.work import Work

OVERLAY_FORMATS = ("npu", "overlay")
TRANSPORTS = ("functional", "rtl")  # of entry-point group overlaid.transports
SLICE_S = 0.1  # a slow write looks that often whether the disk is slow still


class SimBoard:
    """The board called ``name``; its processes share their state in ``folder``.

    ``name/rtl`` runs overlay programs on the overlay's RTL instead of the functional model.
    """

    def __init__(self, name: str, folder: Path, cell: Cell | None = None) -> None:
        """RuntimeUnavailable that lists the boards when there is none of this name."""
        name, _, transport = name.partition("/")
        if transport not in ("", *TRANSPORTS):
            raise RuntimeUnavailable(
                f'a simulated overlay runs on {" or ".join(TRANSPORTS)}, not {transport!r}: board = "sim:{name}/rtl"'
            )
        self._cell = cell or SharedCell(folder, load_profile(name), RealClock())
        self._host = CpuDevice(tuple(backend.name for backend in BACKENDS))
        self._overlays = folder / "overlays"
        self._transport = transport or TRANSPORTS[0]

    @property
    def profile(self) -> BoardProfile:
        return self._cell.profile

    def describe(self) -> BoardInfo:
        """See ``hal.Board.describe``. What is lost at the moment is a device and a problem: it may come back."""
        lost = self._cell.conditions().lost
        devices = self.profile.devices
        gone = [
            f"{d.id}: lost when it was looked for (simulated)"
            for d, away in zip(devices, lost, strict=True)
            if away
        ]
        none = (
            [] if self.profile.rails else ["no power sensor: energy is missing and placement goes by latency"]
        )
        return BoardInfo(
            name=f"sim:{self.profile.name}",
            simulated=True,
            devices=tuple(self.device(d.id).info for d in devices),
            meters=tuple(self.profile.rail_names),
            problems=(*gone, *none, *self._host.proof.problems),
        )

    def device(self, device_id: str) -> Device:
        """See ``hal.Board.device``."""
        self.profile.device(device_id)
        return SimDevice(self._cell, device_id, self._host, self._transport, self._overlays)

    def meters(self) -> Sequence[PowerMeter]:
        """See ``hal.Board.meters``."""
        return [SimMeter(self._cell, index) for index in range(len(self.profile.rails))]

    def wall_time(self) -> float:
        """See ``hal.Board.wall_time``."""
        return time.time() + self._cell.conditions().clock_jump_s

    def before_write(self, nbytes: int) -> None:
        """See ``hal.Board.before_write``."""
        left = float(nbytes)
        while True:
            now = self._cell.conditions()
            if now.disk_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            slice_s = min(left / (now.disk_mb_s * 1e6), SLICE_S)
            if slice_s <= 0:  # the disk is as fast as it is
                return
            time.sleep(slice_s)
            left -= slice_s * now.disk_mb_s * 1e6


class SimDevice:
    """A device with the profile's speed and watts; ``host`` computes the true outputs, and an overlay's driver on
    ``transport`` those of overlay programs. ``overlays``: where delivered ones are unpacked. See ``hal.Device``."""

    def __init__(
        self,
        cell: Cell,
        device_id: str,
        host: CpuDevice,
        transport: str = TRANSPORTS[0],
        overlays: Path | None = None,
    ) -> None:
        self._cell, self._host = cell, host
        self._profile = cell.profile.device(device_id)
        self._index = cell.profile.devices.index(self._profile)
        name = self._profile.name
        self._fpga = FpgaDevice(device_id, name, transport, overlays) if self._profile.overlay else None

    @functools.cached_property
    def info(self) -> DeviceInfo:
        """See ``hal.Device.info``: the host's runtimes that open what this device opens."""
        return _device_info(self._profile, self._host.proof.backends)

    def open(self, model: ModelFile, backend: str) -> Session:
        """See ``hal.Device.open``; DeviceLost and OverlayLoadError when they are injected."""
        from simulator.work import count_work

        self.check_format(model.format)
        started = self._cell.clock.now()
        self.check_lost()
        host = (self._fpga if self._fpga and model.format in OVERLAY_FORMATS else self._host).open(
            model, backend
        )
        try:
            work = count_work(model.path, model.format, model.overlay)
            self._cell.clock.wait_until(self.begin_load(work))
            self.check_lost(started)
            self._cell.hold(self._index)
        except BaseException:
            host.close()
            raise
        return SimSession(self._cell, self._index, work, host)

    def check_format(self, format: str) -> None:
        """RuntimeUnavailable when the device does not open such files."""
        if format not in self._profile.formats and not (
            format == "overlay" and "npu" in self._profile.formats
        ):
            raise RuntimeUnavailable(
                f"{self._profile.id} opens {', '.join(self._profile.formats)}, not {format}"
            )

    def check_lost(self, since: float = math.inf) -> None:
        """DeviceLost when it is lost now, or was after ``since`` (board time)."""
        _check_lost(self._cell, self._index, since)

    def begin_load(self, work: Work) -> float:
        """Reserve the time and energy of loading: the overlay if another one is loaded, then the model. Returns when
        it ends, in board time. Raises ModelLoadError (precision, memory), OverlayLoadError."""
        device = self._profile
        run_time(self._cell.profile, self._index, work)
        if work.nbytes > device.memory_mb * 1e6:
            raise ModelLoadError(
                f"the model moves {work.nbytes / 1e6:.0f} MB, {device.id} has {device.memory_mb} MB"
            )
        with self._cell.update() as moment:
            load_overlay(moment, self._index, work)
            return moment.physics.load(
                moment.state, self._index, device.load_s, device.load_j, moment.now
            ).end


class SimSession:
    """True outputs from the host, at the modelled time and power. See ``hal.Session``.

    A program on an FPGA takes the CPU's time as well: for its CPU segments, and for packing.
    """

    def __init__(self, cell: Cell, device: int, work: Work, host: Session) -> None:
        from agent.devices.tensors import check_inputs  # numpy, which the daemon never imports

        self._check_inputs = check_inputs
        self._cell, self._device, self._work, self._host = cell, device, work, host
        self._profile = cell.profile.devices[device]
        self.inputs, self.outputs = host.inputs, host.outputs
        self._open = True

    def run(self, tensors: Tensors) -> Run:
        """See ``hal.Session.run``: held back until the modelled time has passed. DeviceLost and DmaTimeout when they
        are injected; OverlayLoadError when the overlay was lost and cannot be loaded again."""
        if not self._open:
            raise InferenceError("the session is closed; open the model again")
        wall, started = time.perf_counter(), self._cell.clock.now()
        interval = self._reserve(self._check_inputs(self.inputs, tensors))
        outputs = self._host.run(tensors).outputs
        self._cell.clock.wait_until(interval.end)
        _check_lost(self._cell, self._device, started)
        parts = parts_of(interval, self._profile.kind)
        return Run(outputs, interval.seconds, time.perf_counter() - wall, parts)

    def close(self) -> None:
        """See ``hal.Session.close``."""
        self._host.close()
        if self._open:
            self._open = False
            self._cell.release(self._device)

    def _reserve(self, batch: int) -> Interval:
        """When the device works on the run."""
        _check_lost(self._cell, self._device)
        with self._cell.update() as moment:
            load_overlay(moment, self._device, self._work)
            failure = failing(moment, self._device)
            if failure is None:
                run = run_time(self._cell.profile, self._device, self._work, batch)
                return reserve_run(moment.physics, moment.state, self._device, run, moment.now)
            interval = moment.physics.load(moment.state, self._device, failure.after_s, 0.0, moment.now)
        self._cell.clock.wait_until(interval.end)
        raise failure.error


def _check_lost(cell: Cell, device: int, since: float = math.inf) -> None:
    now = cell.conditions()
    if now.lost[device] or now.back_at[device] > since:
        profile = cell.profile
        raise DeviceLost(
            f"{profile.devices[device].id} of {profile.name} does not answer (simulated); see: overlaid sim faults"
        )


class SimMeter:
    """A rail's sensor: averages over its own period, in its own steps. See ``hal.PowerMeter``."""

    tag = "simulated"

    def __init__(self, cell: Cell, rail: int) -> None:
        self._cell, self._index = cell, rail
        self._rail = cell.profile.rails[rail]
        self.rail = self._rail.name
        self._devices = [i for i, d in enumerate(cell.profile.devices) if d.id in self._rail.measures]
        self._nonsense = random.Random(f"{cell.profile.name}/{self.rail}")  # noqa: S311
        self._total_j = 0.0
        self._last: tuple[float, float] | None = None  # board time and true joules of the last conversion

    def joules(self) -> float:
        """See ``hal.PowerMeter``."""
        now, true_j, conditions = self._look()
        if conditions.missing[self._index]:
            raise MeterError(f"{self.rail} does not answer (simulated); see: overlaid sim faults")
        if conditions.nonsense[self._index]:
            return self._nonsense.choice((math.nan, -1.0, self._total_j + 1e9))
        if self._last is None or true_j < self._last[1]:  # the first reading, or a board that started anew
            self._last = now, true_j
        then, before_j = self._last
        if now - then >= 1 / self._rail.rate_hz:
            steps = round((true_j - before_j) / (now - then) / self._rail.resolution_w)
            self._total_j += steps * self._rail.resolution_w * (now - then)
            self._last = now, true_j
        return self._total_j

    def _look(self) -> tuple[float, float, Conditions]:
        """Board time, the joules that went through the rail until then, and what holds."""
        try:
            with self._cell.update() as moment:
                true_j = sum(moment.state.device_j[i] for i in self._devices)
                if BASE in self._rail.measures:
                    true_j += moment.state.base_j
                return moment.now, true_j, moment.conditions
        except DeviceError as error:
            raise MeterError(f"{self.rail}: {error}") from error


BACKENDS = (
    BackendInfo("onnxruntime", "modelled", ("onnx",)),
    BackendInfo("litert", "modelled", ("tflite",)),
    BackendInfo("program", "modelled", ("npu",)),
)


def modelled_board(profile: BoardProfile) -> BoardInfo:
    """The board with the runtimes that its devices would have, none of them looked for on this machine."""
    devices = tuple(_device_info(device, BACKENDS) for device in profile.devices)
    return BoardInfo(f"sim:{profile.name}", True, devices, tuple(profile.rail_names))


def _device_info(device: DeviceProfile, backends: Sequence[BackendInfo]) -> DeviceInfo:
    """``backends``: those at hand, of which the device has the ones that open its formats."""
    its = tuple(backend for backend in backends if set(backend.formats) & set(device.formats))
    overlays: tuple[OverlayRef, ...] = ()
    if device.overlay is not None and "npu" in device.formats:
        its, overlays = FPGA_BACKENDS, shipped_overlays(device.overlay.names)
    note = describe(device)
    return DeviceInfo(device.id, device.kind, device.name, its, True, device.memory_mb, note, overlays)


def describe(device: DeviceProfile) -> str:
    """Speed and watts in one line, for ``overlaid devices``."""
    peak = ", ".join(f"{name} {value:g}" for name, value in device.peak.items())
    watts = f"{device.active_w:g} W at work, {device.holding_w:g} W with a model, {device.idle_w:g} W idle"
    speed = f"{peak} GMAC/s, {device.bandwidth_gb_s:g} GB/s, " if device.bandwidth_gb_s else ""
    text = f"{speed}{device.overhead_us:g} us a run; {watts}"
    if device.overlay is not None:
        overlay = device.overlay
        text += f"; {overlay.load_s:g} s and {overlay.load_j:g} J to load an overlay"
    return text
