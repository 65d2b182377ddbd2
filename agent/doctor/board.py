"""What the look at the board found: GPUs, cards and sensors that are there and not usable."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from agent.config import Config
from agent.control import client
from agent.devices.cpu import BACKENDS, Proof
from agent.devices.power import NO_SENSOR
from agent.devices.probe import probe_board
from agent.doctor.finding import Finding, cause_and_cure, ok, problem, warning
from agent.doctor.subject import Subject
from agent.errors import OverlaidError, one_line
from agent.types import BoardInfo

AREA = "devices"
PROBE_S = 120.0
ANSWER_S = 10.0
FPGA = "fpga: "


@dataclass(frozen=True, slots=True)
class Facts:
    """``info`` is None where ``error`` says why. ``by_daemon``: what the running daemon saw, with its rights, when it
    started; else seen by this user just now."""

    info: BoardInfo | None
    error: str = ""
    by_daemon: bool = False

    @property
    def proof(self) -> Proof | None:
        """The CPU's runtimes, when they were tried here and now, on this machine's own CPU."""
        if self.info is None or self.by_daemon or self.info.simulated:
            return None
        backends = next((device.backends for device in self.info.devices if device.id == "cpu"), ())
        return Proof(backends, tuple(text for text in self.info.problems if _of_runtime(text)))


def look(config: Config | None, socket: Path, running: bool) -> Facts:
    """Ask the daemon; look at the board, which takes seconds, when it does not run."""
    if running:
        try:
            answer: Mapping[str, Any] = client.ask(socket, "devices", timeout_s=ANSWER_S)
            return Facts(TypeAdapter(BoardInfo).validate_python(answer), by_daemon=True)
        except (OverlaidError, ValidationError):
            pass  # it is still looking itself, or is of another version
    try:
        # Not the daemon's folder, in which a board may keep what it knows.
        with tempfile.TemporaryDirectory(prefix="overlaid-doctor-") as folder:
            return Facts(probe_board(config.node.board if config else "local", Path(folder), PROBE_S))
    except OverlaidError as error:
        return Facts(None, one_line(error))


def judge(facts: Facts, subject: Subject) -> list[Finding]:
    """The reasons are those that ``overlaid devices`` shows, each with its cure behind a semicolon."""
    if facts.info is None:
        cause, cure = cause_and_cure(facts.error)
        return [
            problem(
                AREA, cause, cure or "the daemon cannot start without its board",
                subject.edit("node", "board", 'board = "local"'),
            )
        ]  # fmt: skip
    seen = (
        "as the daemon saw it when it started"
        if facts.by_daemon
        else f"as user {subject.viewer.name} sees it"
    )
    found = [ok(AREA, f"{device.id}: {device.name}", seen) for device in facts.info.devices]
    for text in facts.info.problems:
        if text.startswith(NO_SENSOR):
            found.append(_without_sensor(subject))
        elif not _of_runtime(text) and not text.startswith(FPGA):
            cause, cure = cause_and_cure(text)
            again = "" if facts.by_daemon or not subject.by_service else "; the daemon may have other rights"
            found.append(warning(AREA, cause, f"{seen}{again}", cure or "overlaid devices"))
    return found


def _without_sensor(subject: Subject) -> Finding:
    return warning(
        AREA, "no power sensor was found (RAPL, INA2xx, an NVIDIA GPU, a Raspberry Pi 5's PMIC)",
        "energy is missing, and placement goes by latency",
        "sudo modprobe intel_rapl_common, or the sensor's driver; without one let it be estimated: "
        + subject.edit("power", "idle_w", "idle_w and busy_w = watts at the plug"),
    )  # fmt: skip


def _of_runtime(text: str) -> bool:
    return text.partition(": ")[0] in BACKENDS
