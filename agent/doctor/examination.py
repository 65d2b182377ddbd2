"""All checks: what takes long goes on side by side, what fails to be looked at becomes a finding."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from agent.doctor import (
    board,
    broker,
    certificates,
    clock,
    configuration,
    disk,
    overlay,
    permissions,
    port,
    runtimes,
    service,
    subject,
    trust,
    unit,
)
from agent.doctor.finding import LEVELS, Finding, unknown
from agent.doctor.subject import Subject
from agent.errors import one_line
from agent.setup.service import UNIT, program

TELL_S = 0.2
# In which they are shown.
AREAS = (
    configuration.AREA, permissions.AREA, service.AREA, clock.AREA, disk.AREA, port.AREA, certificates.AREA, trust.AREA,
    runtimes.AREA, board.AREA, overlay.AREA,
)  # fmt: skip

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Check:
    """``run`` looks and judges; ``text``: what it does, for the progress."""

    area: str
    text: str
    run: Callable[[], list[Finding]]


def examine(config: Path | None, progress: Progress) -> list[Finding]:
    """Everything, by area and the worst first. Raises nothing but KeyboardInterrupt."""
    reading = configuration.read(config)
    service_unit = unit.ask(UNIT)
    node = subject.find(reading, service_unit)
    state = service.look(service_unit, node)
    checks = [
        Check(configuration.AREA, "configuration", lambda: _of_configuration(node)),
        Check(permissions.AREA, "permissions", lambda: permissions.judge(permissions.look(node), node)),
        Check(service.AREA, "service", lambda: service.judge(state, node)),
        Check(clock.AREA, "clock", lambda: clock.judge(clock.look(node.folders.state), node)),
        Check(disk.AREA, "disks", lambda: disk.judge(disk.look(node))),
        Check(board.AREA, "runtimes and devices", lambda: _of_board(node, state)),
        Check(overlay.AREA, "FPGA", lambda: overlay.judge(overlay.look(), node)),
        *_configured(node, state),
    ]
    found = [finding for findings in _all(checks, progress, node) for finding in findings]
    return sorted(found, key=lambda finding: (AREAS.index(finding.area), LEVELS.index(finding.level)))


def _of_configuration(node: Subject) -> list[Finding]:
    return configuration.judge(node.reading, node.restart, str(program()))


def _of_board(node: Subject, state: service.Facts) -> list[Finding]:
    facts = board.look(node.config, node.folders.control_socket, state.daemon.state == "running")
    return board.judge(facts, node) + runtimes.judge(runtimes.look(facts.proof))


def _configured(node: Subject, state: service.Facts) -> list[Check]:
    """What cannot be looked at without a valid configuration."""
    config = node.config
    if config is None:
        return []
    now, snapshot = time.time(), state.daemon.snapshot
    checks = [
        Check(trust.AREA, "trust", lambda: trust.judge(trust.look(config), config, node, now)),
    ]
    if config.serving.http:
        number = int(config.serving.http.rpartition(":")[2])
        checks.append(
            Check(port.AREA, "HTTP port", lambda: port.judge(number, port.look(number), state.daemon, node))
        )
    mqtt = config.mqtt
    if mqtt is None:
        return checks

    def of_broker() -> list[Finding]:
        connected = bool(snapshot.get("broker_connected"))
        return broker.judge(broker.look(mqtt, connected, now), mqtt, node)

    return [*checks, Check(certificates.AREA, f"broker {mqtt.host}", of_broker)]


def _all(checks: list[Check], progress: Progress, node: Subject) -> list[list[Finding]]:
    """Their findings, in the order of the checks."""
    threads = ThreadPoolExecutor(len(checks))
    try:
        running: dict[Future[list[Finding]], Check] = {
            threads.submit(_guarded, check, node): check for check in checks
        }
        left = set(running)
        while left:
            _, left = wait(left, timeout=TELL_S)
            names = ", ".join(check.text for future, check in running.items() if future in left)
            progress(names, 1 - len(left) / len(checks))
        return [future.result() for future in running]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _guarded(check: Check, node: Subject) -> list[Finding]:
    """What one check stumbles over must not cost the others."""
    try:
        return check.run()
    except Exception as error:
        why = f"{type(error).__name__}: {one_line(error)}"
        return [unknown(check.area, f"{check.text}: the check itself failed", why, node.again)]
