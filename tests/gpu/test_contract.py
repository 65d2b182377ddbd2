"""What every device promises, on Intel's OpenCL: the suite of tests/contract, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CASES = ("local/cpu/opencl", "local:software-gpu/gpu/opencl")


def test_the_devices_contract() -> None:
    command = [sys.executable, "-m", "pytest", "tests/contract/test_device.py", "-k", " or ".join(CASES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed, \d+ deselected in", done.stdout)
    assert passed is not None and int(passed[1]) >= 30 * len(CASES), done.stdout
