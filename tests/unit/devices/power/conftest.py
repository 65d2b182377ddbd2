from __future__ import annotations

import pytest

from agent.devices.power import polled


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread reads the sensors: the test does, with ``trees.poll``."""
    monkeypatch.setattr(polled, "_run", lambda poller: None)
