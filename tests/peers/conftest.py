"""We and Triton side by side, for every test here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers import servers
from tests.peers.ours import ours
from tests.peers.served import everything
from tests.peers.servers import Peer


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Peer, Peer]]:
    """We and Triton, with the same models."""
    problem = servers.missing()
    assert problem is None, problem
    root = tmp_path_factory.mktemp("peers")
    for name in ("ours", "triton"):
        (root / name).mkdir()
    with (
        ours(root / "ours") as we,
        servers.triton(root / "triton", everything(root / "models")) as triton,
    ):
        yield we, triton
