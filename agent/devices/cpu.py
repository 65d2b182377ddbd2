"""The CPU as a device: which runtimes work here, and sessions on them.

This module is light; a runtime is imported when a model is opened. ``python -m agent.devices.cpu BACKEND`` proves one
backend (``proving``).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.devices.machine import memory_mb, usable_cores
from agent.devices.proving import PROOF_TIMEOUT_S, Outcome, prove_in_processes, tell_outcome
from agent.errors import RuntimeUnavailable, one_line
from agent.hal import ModelFile, Session
from agent.types import BackendInfo, DeviceInfo


def _open_onnx(model: ModelFile) -> Session:
    from agent.devices.onnx_cpu import OnnxSession

    return OnnxSession(model)


def _prove_onnx() -> str:
    from agent.devices.onnx_cpu import prove

    return prove()


def _warm_onnx() -> None:
    importlib.import_module("agent.devices.onnx_cpu")
    importlib.import_module("onnxruntime")


def _open_litert(model: ModelFile) -> Session:
    from agent.devices.litert_cpu import LiteRtSession

    return LiteRtSession(model)


def _prove_litert() -> str:
    from agent.devices.litert_cpu import prove

    return prove()


def _warm_litert() -> None:
    from agent.devices.litert_cpu import MODULES

    for package in MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"{package}.interpreter")
            return


def _open_program(model: ModelFile) -> Session:
    from agent.devices.program import open_functional

    return open_functional(model)


def _prove_program() -> str:
    from agent.devices.program import prove

    return prove()


def _warm_program() -> None:
    importlib.import_module("agent.devices.program")


def _open_opencl(model: ModelFile) -> Session:
    from agent.devices.opencl.session import open_on_cpu

    return open_on_cpu(model)


def _prove_opencl() -> str:
    from agent.devices.opencl.session import prove_cpu

    return prove_cpu()


@dataclass(frozen=True, slots=True)
class Backend:
    """A runtime: what it opens, the packages that can provide it and the extra that installs them.

    ``prove`` gives the version, or "" where the machine offers nothing and nothing is wrong with that. ``warm`` imports
    what ``open`` needs, and neither opens a model nor starts a thread; None: drivers' threads do not survive a fork.
    ``optional``: nobody misses it.
    """

    formats: tuple[str, ...]
    open: Callable[[ModelFile], Session]
    prove: Callable[[], str]
    warm: Callable[[], None] | None
    packages: tuple[str, ...]
    extra: str
    optional: bool = False


BACKENDS = {
    "onnxruntime": Backend(("onnx",), _open_onnx, _prove_onnx, _warm_onnx, ("onnxruntime",), "onnx"),
    "litert": Backend(
        ("tflite",), _open_litert, _prove_litert, _warm_litert, ("ai_edge_litert", "tflite_runtime"), "litert"
    ),
    "program": Backend(("npu",), _open_program, _prove_program, _warm_program, ("numpy",), "npu"),
    # Last of those that open programs: the golden model is the first choice where any would do.
    "opencl": Backend(("npu",), _open_opencl, _prove_opencl, None, ("pyopencl",), "opencl", optional=True),
}


@dataclass(frozen=True, slots=True)
class Proof:
    """The backends that loaded a model here, and why the others did not."""

    backends: tuple[BackendInfo, ...]
    problems: tuple[str, ...]


class CpuDevice:
    """The processor; see ``hal.Device``. ``info`` and ``proof`` take a second or two when first asked for.

    ``names``: of the backends to have, where they work.
    """

    def __init__(self, names: tuple[str, ...] = tuple(BACKENDS)) -> None:
        self._names = names

    def open(self, model: ModelFile, backend: str) -> Session:
        """See ``hal.Device.open``."""
        if backend not in self._names:
            raise RuntimeUnavailable(
                f"the CPU has no backend {backend!r}; there are {', '.join(self._names)}"
            )
        if model.format not in BACKENDS[backend].formats:
            formats = ", ".join(BACKENDS[backend].formats)
            raise RuntimeUnavailable(f"{backend} opens {formats}, not {model.format}")
        try:
            return BACKENDS[backend].open(model)
        except ImportError as error:
            extra = BACKENDS[backend].extra
            raise RuntimeUnavailable(
                f"{backend} cannot be imported ({one_line(error)}); pip install 'overlaid[{extra}]'"
            ) from error

    @functools.cached_property
    def proof(self) -> Proof:
        """Each backend tried once, in its own process."""
        return prove_backends(self._names)

    @functools.cached_property
    def info(self) -> DeviceInfo:
        """What the CPU is and which backends were proved to work."""
        return DeviceInfo(
            "cpu", "cpu", cpu_name(), self.proof.backends, memory_mb=memory_mb(), parallel=usable_cores()
        )


def prove_backends(names: tuple[str, ...] = tuple(BACKENDS), timeout_s: float = PROOF_TIMEOUT_S) -> Proof:
    """Try these backends, all at the same time, each in its own process; ``timeout_s`` is for all together."""
    wanted = {name: BACKENDS[name] for name in names}
    commands = {
        name: ("agent.devices.cpu", name)
        for name, backend in wanted.items()
        if any(importlib.util.find_spec(package) for package in backend.packages)
    }
    outcomes = prove_in_processes(commands, timeout_s)
    found: list[BackendInfo] = []
    problems: list[str] = []
    for name, backend in wanted.items():
        missing = Outcome(
            problem="" if backend.optional else f"not installed; pip install 'overlaid[{backend.extra}]'"
        )
        outcome = outcomes.get(name, missing)
        if outcome.version:
            found.append(BackendInfo(name, outcome.version, backend.formats))
        elif outcome.problem:
            problems.append(f"{name}: {outcome.problem}")
    return Proof(tuple(found), tuple(problems))


def cpu_name(proc: Path = Path("/proc")) -> str:
    """Processor, board (where a device tree names it) and usable cores, e.g. "ARMv7 Processor (PYNQ-Z2), 2 cores"."""
    processor = next(
        (
            value.strip()
            for key, _, value in (line.partition(":") for line in _text(proc / "cpuinfo").splitlines())
            if key.strip() in ("model name", "Model name") and value.strip()
        ),
        os.uname().machine,
    )
    board = _text(proc / "device-tree" / "model").strip("\0 \n")
    cores = len(os.sched_getaffinity(0))
    return f"{processor}{f' ({board})' if board else ''}, {cores} core{'s' if cores > 1 else ''}"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[:65536]
    except OSError:
        return ""


if __name__ == "__main__":
    tell_outcome(BACKENDS[sys.argv[1]].prove)
