"""Run every bench of this folder, each in a process of its own. Exit code 1 when one of them broke."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.harness import parse, show

# What benches use.
SHARED = ("as_onnx", "harness", "mobilenet", "opencl_device", "paced", "peaks", "transfers")


def _names() -> list[str]:
    found = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    return [name for name in found if not name.startswith("_") and name not in SHARED]


def _run(name: str) -> dict[str, Any] | None:
    print(f"bench {name} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"tests.bench.{name}", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    try:
        return dict(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else None
    except (ValueError, IndexError):
        return None


def main() -> int:
    as_json = parse(__doc__)
    figures: dict[str, Any] = {}
    broken = []
    for name in _names():
        found = _run(name)
        if found is None:
            broken.append(name)
        else:
            figures |= found
    show(figures, as_json)
    if broken:
        print(f"benches that broke (see above): {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
