"""A process that was forked from one with an open client, as servers with several workers do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from agent.serving.client import Client
from tests.unit.serving.client.scripted import double, each, service

X = {"x": np.ones((1, 4), np.float32)}


def test_a_forked_process_has_connections_of_its_own(tmp_path: Path) -> None:
    with service(tmp_path, each([double, double]), double) as address, Client(address) as client:
        client.infer("m", X)
        child = os.fork()
        if child == 0:
            answer = client.infer("m", {"x": -X["x"]})["y"]
            os._exit(0 if np.array_equal(answer, X["x"] * -2) else 1)
        answer = client.infer("m", X)["y"]
        client.close()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(answer, X["x"] * 2)
