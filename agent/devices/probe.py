"""Look at a board in a helper process: ``python -m agent.devices.probe BOARD FOLDER`` prints its BoardInfo as JSON.

A simulated board's modules and every runtime stay out of the process that asks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from agent.errors import OverlaidError, RuntimeUnavailable, from_name, signal_name
from agent.types import BoardInfo, to_jsonable


def probe_board(name: str, folder: Path, timeout_s: float = 30.0) -> BoardInfo:
    """Describe the board called ``name`` (``folder``: see ``hal.Board``). Blocks for seconds: call it in a thread.

    Raises RuntimeUnavailable (no such board, the helper hung or crashed) or what the board itself raised.
    """
    command = [sys.executable, "-m", "agent.devices.probe", name, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeUnavailable(
            f"probing board {name!r} took longer than {timeout_s:g} s; "
            f"see where it hangs with: {' '.join(command)}"
        ) from None
    if done.returncode < 0:
        raise RuntimeUnavailable(f"probing board {name!r} crashed with {signal_name(-done.returncode)}")
    try:
        answer = json.loads(done.stdout)
        if "error" in answer:
            raise from_name(str(answer["error"]["name"]), str(answer["error"]["text"]))
        return TypeAdapter(BoardInfo).validate_json(done.stdout)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        last = (done.stderr.strip().splitlines() or ["it printed no error"])[-1]
        raise RuntimeUnavailable(f"probing board {name!r} failed: {last[:400]}") from error


def main(name: str, folder: Path) -> int:
    """Print the board, or the error that it raised, as one JSON object."""
    from agent.devices.board import open_board

    try:
        answer = to_jsonable(open_board(name, folder).describe())
    except OverlaidError as error:
        answer = {"error": {"name": error.name, "text": str(error)}}
    print(json.dumps(answer))
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
