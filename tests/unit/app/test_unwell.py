"""From a worker's word to the manager, and from the manager to what is shown."""

from __future__ import annotations

from pathlib import Path

from agent.app.daemon import Daemon
from agent.config import load_config
from agent.errors import DeviceLost, OverlaidError
from agent.serving.events import PoolEvent
from agent.types import BoardInfo, Candidate

GPU = Candidate("fp16", "sim", "gpu")


class Heard:
    """What Reporter and Daemon use of a manager, with one device lost."""

    revision_seen = revision_applied = 0
    power_cap_w = None
    problem = ""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.lost_devices: dict[str, str] = {}

    def statuses(self) -> tuple[()]:
        return ()

    def unwell(self, model: str, device: str, error: OverlaidError) -> None:
        self.told.append((model, device, str(error)))
        self.lost_devices = {device: str(error)}


def test_a_lost_device_is_told_to_the_manager_and_shown_as_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        f'[paths]\nstate = "{tmp_path}/state"\nruntime = "{tmp_path}/run"\n[serving]\nhttp = ""\n'
    )
    daemon = Daemon(load_config(path))
    try:
        event = PoolEvent("unwell", "kws", "1.0.0", GPU, failure=DeviceLost("it fell off the bus"))
        daemon._pool_event(event)  # before the board is probed nobody minds
        heard = Heard()
        daemon.manager = heard  # type: ignore[assignment]
        daemon.reporter.attach(heard, BoardInfo("sim", True, ()), None)  # type: ignore[arg-type]
        assert daemon.reporter.snapshot().warnings == ()
        daemon._pool_event(event)
        assert heard.told == [("kws", "gpu", "it fell off the bus")]
        assert daemon.reporter.snapshot().warnings == ("device gpu is lost: it fell off the bus",)
    finally:
        daemon.journal.close()
        daemon.telemetry.close()
