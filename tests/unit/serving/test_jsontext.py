"""JSON where memory is short: an error, never the end of the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILD = """
import resource, sys
import numpy as np
from agent.serving.protocol.data import to_json
from agent.serving.protocol.jsontext import parse_object
number, way = int(sys.argv[1]), sys.argv[2]
if way == "numbers":
    text = b'{"inputs":[{"data":[' + b"1.5," * (number - 1) + b"1.5]}]}"
elif way == "lists":
    text = b'{"inputs":[{"data":[' + b"[1]," * (number - 1) + b"[1]]}]}"
else:
    text = b'{"inputs":[{"data":["\\xf0\\x9f\\x8c\\x8d' + b"a" * (16 * number) + b'"]}]}'
array = np.full(4 * number, -1.2345678e-38)
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
limit = (used << 10) + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
for work in (lambda: parse_object(text), lambda: to_json("y", array)):
    try:
        work()
        print("ok", end=" ")
    except MemoryError:
        print("no memory", end=" ")
"""


@pytest.mark.parametrize("way", ["numbers", "lists", "text"])
def test_want_of_memory_is_an_error(way: str) -> None:
    told = set()
    for room in (0, 1 << 20, 4 << 20, 10 << 20, 20 << 20, 30 << 20, 50 << 20, 1 << 30):
        command = [sys.executable, "-c", CHILD, "200000", way, str(room)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (room, done)
        told.add(done.stdout)
    assert {"no memory no memory ", "ok ok "} <= told
