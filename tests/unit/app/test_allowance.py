"""The daemon takes the descriptors that it may have."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource
from agent.app.allowance import allow_many_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
allow_many_descriptors()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard", "want"), [(200, 300, "300 300"), (300, 300, "300 300")])
def test_the_soft_limit_follows_the_hard_one(soft: int, hard: int, want: str) -> None:
    script = SCRIPT.format(soft=soft, hard=hard)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == want.split()
