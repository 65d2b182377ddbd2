"""Workers on asyncio's own event loop, where uvloop is not installed; the other tests run them on uvloop."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system import test_serving as serving
from tests.system.test_serving import Node, scenario


@pytest.fixture
def without_uvloop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find a module of that name which cannot be imported."""
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere/uvloop.py").write_text("raise ImportError('not installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "nowhere"), prepend=os.pathsep)


def libraries(node: Node) -> str:
    return Path(f"/proc/{node.pid('double')}/maps").read_text()


def test_workers_run_on_uvloop_where_it_is_installed(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        assert "uvloop" in libraries(node)

    scenario(tmp_path, steps)


@pytest.mark.usefixtures("without_uvloop")
def test_elsewhere_they_do_without(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        assert "uvloop" not in libraries(node)

    scenario(tmp_path, steps)


@pytest.mark.usefixtures("without_uvloop")
@pytest.mark.parametrize(
    "test",
    [
        serving.test_a_keep_alive_connection_serves_models_and_the_server,
        serving.test_unix_sockets_of_the_front_door_and_of_a_model,
        serving.test_no_request_fails_while_versions_flip,
        serving.test_bad_requests_get_their_error_and_harm_nobody,
        serving.test_pipelined_requests_are_answered_in_order,
        serving.test_runs_that_may_be_long_leave_the_connection_in_order,
        serving.test_no_descriptor_is_left_behind,
    ],
)
def test_connections_behave_the_same(tmp_path: Path, test: Callable[[Path], None]) -> None:
    test(tmp_path)
