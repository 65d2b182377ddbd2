"""Prove runtimes by loading a tiny model, each in a process of its own.

A runtime that crashes on import (a wheel built for newer instructions), or a driver that hangs, harms nothing else.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent.children import environment_of_children
from agent.devices.gpu.findings import DROP_IN
from agent.errors import one_line, signal_name

PROOF_TIMEOUT_S = 20.0
MOST_KEPT = 1 << 20  # bytes of what a process prints, the last ones
READ_S = 0.3  # to read what has ended by then, when another one has used up the time
# Of a service's sandbox, to follow the name of who needs it.
FORBIDDEN = (
    f"to execute code that it has just made, which the service forbids (MemoryDenyWriteExecute); {DROP_IN}"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """``version`` of a runtime that works, or the ``problem``; neither where there is nothing to prove."""

    version: str = ""
    problem: str = ""


def prove_in_processes(commands: Mapping[str, Sequence[str]], timeout_s: float) -> dict[str, Outcome]:
    """Run every command, all at the same time; ``timeout_s`` is for all together.

    A command: what follows ``python -m``. Its process ends with ``tell_outcome``.
    """
    deadline = time.monotonic() + timeout_s
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            env=environment_of_children(),
        )
        for name, command in commands.items()
    }  # fmt: skip
    return {name: _outcome(process, deadline) for name, process in running.items()}


def tell_outcome(prove: Callable[[], str]) -> None:
    """In the process: run ``prove`` (version of a runtime, "" where there is none to prove), print what came of it."""
    try:
        answer = {"version": prove(), "problem": ""}
    except Exception as error:
        answer = {"version": "", "problem": one_line(error)}
    print(f"\n{json.dumps(answer)}")  # runtimes print, too, and not always whole lines


def forbids_new_code() -> bool:
    """Whether this process may not execute memory that it has written, as systemd's MemoryDenyWriteExecute has it."""
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except PermissionError:
        return True
    return False


def _outcome(process: subprocess.Popen[bytes], deadline: float) -> Outcome:
    said = _last_words(process, max(deadline, time.monotonic() + READ_S))
    if said is None:
        return Outcome(
            problem="took too long to load a tiny model; is the machine overloaded, or the runtime hanging?"
        )
    if process.returncode < 0:
        name = signal_name(-process.returncode)
        advice = "its wheel may be built for another CPU, or a driver be broken"
        if name != "SIGILL" and forbids_new_code():
            advice = f"a compiler in it may need {FORBIDDEN}"
        return Outcome(problem=f"crashed with {name} while loading a tiny model; {advice}")
    try:
        answer = json.loads(said.strip().splitlines()[-1])
        return Outcome(str(answer["version"]), str(answer["problem"]))
    except (ValueError, TypeError, KeyError, IndexError):
        return Outcome(problem=f"ended with exit code {process.returncode} while loading a tiny model")


def _last_words(process: subprocess.Popen[bytes], deadline: float) -> str | None:
    """The end of what it printed, once it has ended; None when it has not by the deadline, and was killed."""
    assert process.stdout is not None
    said = b""
    with process.stdout as pipe, selectors.DefaultSelector() as readable:
        readable.register(pipe, selectors.EVENT_READ)
        while (left_s := deadline - time.monotonic()) > 0 and readable.select(left_s):
            if not (data := os.read(pipe.fileno(), MOST_KEPT)):
                break
            said = (said + data)[-MOST_KEPT:]
    try:
        process.wait(max(deadline - time.monotonic(), 0.0))
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # who waits for a driver in the kernel stays
            process.wait(READ_S)
        return None
    return said.decode(errors="replace")
