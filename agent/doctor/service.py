"""Whether the daemon runs, stays up, comes up again, and has the memory that its configuration counts on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agent import __version__
from agent.control import client
from agent.control.snapshot import check
from agent.devices.machine import memory_mb
from agent.doctor.finding import Finding, ok, problem, unknown, warning
from agent.doctor.subject import Subject
from agent.doctor.unit import Unit
from agent.errors import DaemonNotRunning, OverlaidError, one_line
from agent.logs.rows import LogRow, Wanted
from agent.setup.service import DEBIAN

AREA = "service"
ANSWER_S = 5.0
LOOP = 3  # restarts, the last within
LOOP_S = 120.0
OWN_MB = 128  # MiB that the daemon has beside its workers
MIB = 1 << 20
LOOK = "overlaid logs --lines 50, or: sudo journalctl -u overlaid -n 50"
# Exit codes of systemd's own, before the daemon is one (systemd.exec(5), "Process exit codes").
EXITS = {
    203: "its program cannot be executed",
    217: "its user is not there",
    218: "its capabilities could not be set",
    226: "its sandbox could not be set up; a path that the unit names may be missing",
    233: "its runtime folder could not be made",
    238: "its state folder could not be made",
    240: "its configuration folder could not be made",
}


@dataclass(frozen=True, slots=True)
class Daemon:
    """What answered on the control socket."""

    state: Literal["running", "down", "refused", "silent"]
    why: str = ""
    snapshot: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """``version``, ``prefix``: this command's. ``program_there``: the unit's program; ``elsewhere``: it is of another
    installation. ``last_words``: the newest error in the journal. ``machine_bytes``: memory that we may have.
    ``debian``: the package brought the service."""

    unit: Unit | None
    daemon: Daemon
    version: str
    prefix: str
    program_there: bool = True
    elsewhere: bool = False
    last_words: str = ""
    machine_bytes: int | None = None
    debian: bool = False


def ask_daemon(socket: Path) -> Daemon:
    """One question that changes nothing."""
    try:
        return Daemon("running", snapshot=check(client.ask(socket, "snapshot", timeout_s=ANSWER_S)))
    except DaemonNotRunning as error:
        return Daemon("down", one_line(error))
    except (OverlaidError, ValueError) as error:
        refused = isinstance(error.__context__, PermissionError)
        return Daemon("refused" if refused else "silent", one_line(error))


def look(unit: Unit | None, subject: Subject) -> Facts:
    program = Path(unit.program) if unit is not None and unit.program else None
    there = program is None or program.exists()
    elsewhere = (
        program is not None and there and program.resolve().parent.parent != Path(sys.prefix).resolve()
    )
    in_trouble = unit is not None and subject.by_service and (unit.active == "failed" or loops(unit))
    return Facts(
        unit, ask_daemon(subject.folders.control_socket), __version__, sys.prefix, there, elsewhere,
        last_words(subject.folders.state) if in_trouble else "", memory_mb() * 1_000_000,
        DEBIAN.exists(),
    )  # fmt: skip


def last_words(state: Path) -> str:
    """The newest error that the daemon, or systemd of it, wrote to the journal; "" when it cannot be read."""
    from agent.logs import journalctl

    try:
        if journalctl.access() != "readable":
            return ""
        rows, _ = journalctl.newest(journalctl.Daemon.on(state), Wanted(50))
    except (OverlaidError, OSError):
        return ""
    return newest_error(rows)


def newest_error(rows: Sequence[LogRow]) -> str:
    """The daemon's own word, else systemd's; "" when there is none."""
    errors = [
        row
        for row in rows
        # What the command itself prints has no level in the journal.
        if row.level in ("ERROR", "CRITICAL") or row.text.startswith("overlaid: ")
    ]
    own = [row for row in errors if row.room != "systemd"]
    return " ".join((own or errors)[-1].text.split())[:300] if errors else ""


def judge(facts: Facts, subject: Subject) -> list[Finding]:
    return [
        *_of_unit(facts, subject), *_of_daemon(facts, subject), *_of_version(facts, subject),
        *_of_memory(facts, subject),
    ]  # fmt: skip


def _of_unit(facts: Facts, subject: Subject) -> Iterator[Finding]:
    unit = facts.unit
    if unit is None or not subject.by_service:
        return
    if subject.user is None:
        yield problem(
            AREA, f"the service's user {unit.user} is not there", "systemd cannot start it",
            "sudo systemd-sysusers && sudo systemctl restart overlaid",
        )  # fmt: skip
    if unit.enabled == "masked" or unit.load == "masked":
        yield problem(
            AREA, "the service is masked", "somebody forbade systemd to start it",
            "sudo systemctl unmask overlaid && sudo systemctl enable --now overlaid",
        )  # fmt: skip
        return
    if unit.enabled == "disabled":
        yield warning(
            AREA, "the service is disabled", "it does not start when this machine boots",
            "sudo systemctl enable overlaid",
        )  # fmt: skip
    if unit.needs_reload:
        yield warning(
            AREA, "the unit or a drop-in was changed and systemd has not read it", "the old one is in force",
            "sudo systemctl daemon-reload && sudo systemctl restart overlaid",
        )  # fmt: skip
    if not facts.program_there:
        yield problem(
            AREA, f"the unit's program {unit.program} is not there", "the service cannot start",
            "sudo apt-get install --reinstall overlaid"
            if facts.debian
            else f"sudo {facts.prefix}/bin/overlaid service install",
        )  # fmt: skip
    if loops(unit) and facts.daemon.state == "running":
        yield warning(
            AREA, f"the daemon was restarted {unit.restarts} times, and runs for {unit.up_s or 0:.0f} s",
            _end(facts), f"{subject.again}  # in two minutes; until then: {LOOK}",
        )  # fmt: skip
    elif loops(unit):
        yield problem(
            AREA, f"the daemon restarts in a loop: {unit.restarts} times, now {unit.active} ({unit.sub})",
            _end(facts), LOOK,
        )  # fmt: skip
    elif unit.active == "failed":
        mend = f"sudo systemctl restart overlaid; when it fails again: {LOOK}"
        yield problem(AREA, "the service failed", _end(facts), mend)


def loops(unit: Unit) -> bool:
    """It was started again several times, and has not stayed up since."""
    short = unit.up_s is None or unit.up_s < LOOP_S
    return unit.restarts >= LOOP and (unit.sub == "auto-restart" or unit.active != "active" or short)


def _end(facts: Facts) -> str:
    """How the daemon ended last, and what it said."""
    unit = facts.unit
    assert unit is not None
    if unit.result == "watchdog":
        how = "the daemon hung and the watchdog killed it"
    elif unit.result == "oom-kill":
        how = "the kernel killed it: out of memory"
    elif unit.result == "timeout":
        how = "it did not become ready, or did not end, in time"
    elif unit.killed:
        how = f"the daemon was ended by {_signal(unit.exit_status)}"
    elif not unit.exit_status:
        how = "how it ended is in its log"
    else:
        how = EXITS.get(unit.exit_status, f"the daemon ended with exit code {unit.exit_status}")
    return f"{how}; it said: {facts.last_words}" if facts.last_words else how


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _of_daemon(facts: Facts, subject: Subject) -> Iterator[Finding]:
    daemon, unit = facts.daemon, facts.unit
    match daemon.state:
        case "running":
            yield ok(AREA, f"the daemon runs (process {daemon.snapshot['pid']})")
            if unit is not None and subject.by_service and unit.active not in ("active", "reloading"):
                yield warning(
                    AREA, "a daemon that systemd did not start answers",
                    f"the service is {unit.active}; that daemon has neither its limits nor its sandbox",
                    f"sudo kill {daemon.snapshot['pid']} && sudo systemctl start overlaid",
                )  # fmt: skip
        case "refused":
            yield unknown(AREA, "the daemon cannot be asked", daemon.why, subject.again)
        case "silent":
            yield problem(
                AREA, "the daemon does not answer", daemon.why, f"{subject.restart}; before that: {LOOK}"
            )
        case "down":
            if unit is None or not subject.by_service:
                install = f"; as a service: sudo {facts.prefix}/bin/overlaid service install"
                yield problem(AREA, "the daemon does not run", daemon.why, subject.restart + install)
            elif unit.active in ("inactive", "deactivating") and unit.load != "masked":
                yield problem(
                    AREA, "the service is stopped", "somebody stopped it, or it was never started",
                    "sudo systemctl start overlaid",
                )  # fmt: skip
            elif unit.active == "activating" and not loops(unit):
                yield warning(
                    AREA,
                    "the daemon is starting",
                    unit.text or "it does not answer yet",
                    "systemctl status overlaid",
                )
            elif unit.active == "active" and not loops(unit):
                yield problem(
                    AREA, f"the service runs, and nothing answers on {subject.folders.control_socket}",
                    "paths.runtime may be another than when it started", subject.restart,
                )  # fmt: skip


def _of_version(facts: Facts, subject: Subject) -> Iterator[Finding]:
    running = facts.daemon.snapshot.get("agent_version")
    if running is not None and running != facts.version:
        yield warning(
            AREA, f"overlaid {running} runs, {facts.version} is installed", "it was not restarted since",
            subject.restart,
        )  # fmt: skip
    if facts.unit is not None and subject.by_service and facts.elsewhere:
        yield warning(
            AREA, f"the service runs {facts.unit.program}, and this command belongs to {facts.prefix}",
            "what is installed here, runtimes for one, is not what the service has",
            f"sudo {facts.unit.program} doctor",
        )  # fmt: skip


def _of_memory(facts: Facts, subject: Subject) -> Iterator[Finding]:
    config, unit = subject.config, facts.unit
    if config is None:
        return
    limit, whose = facts.machine_bytes, "this machine's memory"
    if unit is not None and subject.by_service and unit.memory_max is not None:
        limit, whose = unit.memory_max, "the service's MemoryMax"
    needed = config.serving.worker_memory_mb
    if limit is None or limit // MIB >= needed + OWN_MB:
        return
    fits = max(128, (limit // MIB - OWN_MB) // 64 * 64)
    yield warning(
        AREA, f"a worker may have {needed} MiB (serving.worker_memory_mb), and {whose} is {limit // MIB} MiB",
        "a model that needs more than there is does not fail by name: the kernel kills its worker, or the daemon",
        subject.edit("serving", "worker_memory_mb", f"worker_memory_mb = {fits}"),
    )  # fmt: skip
