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


@dataclass(frozen=True, slots=True)
class Backend:
    """A runtime: what it opens, the packages that can provide it and the extra that installs them.

    ``prove`` gives the version, or "" where the machine offers nothing and nothing is wrong with that. ``warm`` imports
    what ``open`` needs, and neither opens a model nor starts a thread. ``optional``: nobody misses it.
    """

    formats: tuple[str, ...]
    open: Callable[[ModelFile], Session]
    prove: Callable[[], str]
    warm: Callable[[], None]
    packages: tuple[str, ...]
    extra: str
    optional: bool = False


BACKENDS = {
    "onnxruntime": Backend(("onnx",), _open_onnx, _prove_onnx, _warm_onnx, ("onnxruntime",), "onnx"),
    "litert": Backend(
        ("tflite",), _open_litert, _prove_litert, _warm_litert, ("ai_edge_litert", "tflite_runtime"), "litert"
    ),
    "program": Backend(("npu",), _open_program, _prove_program, _warm_program, ("numpy",), "npu"),
}


@dataclass(frozen=True, slots=True)
class Proof:
    """The backends that loaded a model here, and why the others did not."""

    backends: tuple[BackendInfo, ...]
    problems: tuple[str, ...]


class CpuDevice:
    """The processor; see ``hal.Device``. ``info`` and ``proof`` take a second or two when first asked for."""

    def open(self, model: ModelFile, backend: str) -> Session:
        """See ``hal.Device.open``."""
        if backend not in BACKENDS:
            raise RuntimeUnavailable(f"the CPU has no backend {backend!r}; there are {', '.join(BACKENDS)}")
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
        return prove_backends()

    @functools.cached_property
    def info(self) -> DeviceInfo:
        """What the CPU is and which backends were proved to work."""
        return DeviceInfo(
            "cpu", "cpu", cpu_name(), self.proof.backends, memory_mb=memory_mb(), parallel=usable_cores()
        )


def prove_backends(timeout_s: float = PROOF_TIMEOUT_S) -> Proof:
    """Try every backend, all at the same time, each in its own process; ``timeout_s`` is for all together."""
    installed = [
        name
        for name, backend in BACKENDS.items()
        if any(importlib.util.find_spec(package) for package in backend.packages)
    ]
    outcomes = prove_in_processes({name: ("agent.devices.cpu", name) for name in installed}, timeout_s)
    for name, backend in BACKENDS.items():
        if name not in outcomes and not backend.optional:
            outcomes[name] = Outcome(problem=f"not installed; pip install 'overlaid[{backend.extra}]'")
    found = [(name, outcomes[name]) for name in BACKENDS if name in outcomes]
    return Proof(
        tuple(
            BackendInfo(name, each.version, BACKENDS[name].formats) for name, each in found if each.version
        ),
        tuple(f"{name}: {each.problem}" for name, each in found if each.problem),
    )


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
