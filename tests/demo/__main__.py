"""Run the demo; exit code 0 when everything went as it should and nothing is left running."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.demo import boards, one_node, overlay
from tests.demo.show import say
from tests.system.stage import Stage, alive, children_of, stage


def main() -> int:
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="overlaid-demo-"))
    try:
        say("start a broker and the operator's block server")
        with stage(folder) as it:
            print(f"broker: {it.broker.name} on {it.broker.host}:{it.broker.port}")
            it.serve()
            one_node.play(it)
            overlay.play(folder)
            boards.play(it)
            stop(it)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\ndemo done in {time.monotonic() - started:.0f} s")
    return 0


def stop(it: Stage) -> None:
    say("stop everything")
    processes = [node.process for node in it.nodes if node.process is not None]
    started = [pid for process in processes for pid in (process.pid, *children_of(process.pid))]
    it.close()
    left = [pid for pid in started if alive(pid)]
    if left:
        raise SystemExit(f"demo: still running: {left}")
    print("nothing is left running")


if __name__ == "__main__":
    sys.exit(main())
