"""A process that uses the lent FPGA: ``python -m tests.system.fpga_client FOLDER PROGRAM RUNS [PAUSE_AT]``.

It says when it is ready, and begins when it is told to. It compares every answer with that of the golden model and
prints, for every run, how often another process has taken the overlay from it by then; at run PAUSE_AT it starts the
core and then sleeps, without a word to the service.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from agent.devices.program import FunctionalEngine
from agent.devices.remote_transport import RemoteTransport, open_transport
from agent.errors import OverlayTaken
from agent.overlay.driver import Driver
from agent.overlay.program import Segment
from agent.overlay.programfile import read_program
from agent.overlay.spec import read_spec


def main(folder: Path, path: Path, runs: int, pause_at: int = -1) -> None:
    spec = read_spec(folder)
    program = read_program(path.read_bytes(), spec)
    transport = open_transport(folder)
    assert isinstance(transport, RemoteTransport)
    taken = 0
    ask = transport._connection.ask

    def counted(request: dict[str, Any], *rest: float) -> tuple[Any, int | None]:
        nonlocal taken
        try:
            return ask(request, *rest)
        except OverlayTaken:
            taken += 1
            raise

    transport._connection.ask = counted  # type: ignore[method-assign,assignment]
    loaded, golden = Driver(transport, spec).load(program), FunctionalEngine(program)
    [segment] = [step for step in program.steps if isinstance(step, Segment)]
    rng = np.random.default_rng(runs)
    print("ready", flush=True)
    input()
    for run in range(runs):
        if run == pause_at:
            transport.wait = lambda timeout_s: bool(signal.pause())  # type: ignore[method-assign,func-returns-value]
        tensors = {
            each.tensor.name: rng.integers(0, 128, each.tensor.shape).astype(each.tensor.dtype.lower())
            for each in segment.inputs
        }
        got, wanted = loaded.run(segment, tensors).outputs, golden.run(segment, tensors)
        assert all(np.array_equal(got[name], wanted[name]) for name in wanted), f"run {run} differs"
        print(taken, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
