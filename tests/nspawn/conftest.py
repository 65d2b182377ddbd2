"""One Debian with the package installed, from which all machines of the tests begin; a table of figures at the end."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.nspawn import network, package
from tests.nspawn.disk import Disk
from tests.nspawn.machine import Machine
from tests.nspawn.node import NODE, Service, deploy
from tests.nspawn.rootfs import NoRoot, base_root, cache, hindrance
from tests.nspawn.table import Table
from tests.system.brokers import Broker, free_port, start_mosquitto
from tests.system.digits import DIGITS
from tests.system.stage import Node, Stage, stage, wait_until

TABLE = Table()


@pytest.fixture(scope="session")
def table() -> Table:
    return TABLE


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TABLE.figures:
        terminalreporter.section("figures")
        TABLE.show()
        TABLE.write()


@pytest.fixture(scope="session")
def alone() -> Iterator[None]:
    """One run at a time, others wait: binfmt_misc, loop devices and the machine's name are everybody's."""
    reason = hindrance()
    if reason:
        pytest.skip(reason)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def debian(alone: None) -> Path:
    """The root below every disk. From here on no network but the tests' own."""
    try:
        root = base_root()
    except NoRoot as error:
        pytest.skip(f"no Debian to boot: {error}")
    if not package.deb().exists():
        pytest.fail(f"{package.deb()} is missing: make deb")
    network.leave_the_machines_network()
    return root


@dataclass(frozen=True, slots=True)
class Installed:
    """A disk with the package, its service started once; what was on it before."""

    disk: Disk
    before: dict[str, str]


@pytest.fixture(scope="session")
def installed(debian: Path, tmp_path_factory: pytest.TempPathFactory, table: Table) -> Iterator[Installed]:
    disk = Disk(tmp_path_factory.mktemp("installed"), debian)
    disk.format()
    disk.mount()
    machine = Machine(disk)
    try:
        machine.furnish()
        machine.boot()
        before = package.files(machine.root)
        deb = package.put(machine, package.deb())
        machine.run("dpkg", "-i", deb)
        service = Service(machine)
        wait_until("the service after the installation", service.active, 30)
        table.add("installed package", tree_mb(machine.root / "opt/overlaid"), "MB")
        machine.power_off()
        yield Installed(disk, before)
    finally:
        machine.close()


def tree_mb(root: Path) -> float:
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file()) / 1e6


@pytest.fixture(scope="session")
def cable_port(debian: Path) -> int:
    """Where the broker listens on the cable."""
    return free_port()


@pytest.fixture(scope="session")
def fleet(cable_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A broker and an operator outside of every machine; the broker listens on the cable too."""

    def start(folder: Path) -> Broker:
        return start_mosquitto(folder, more=[f"listener {cable_port}"])

    with stage(tmp_path_factory.mktemp("fleet"), start) as it:
        it.serve()
        it.publish(DIGITS)
        yield it


@pytest.fixture
def machine(installed: Installed, tmp_path: Path) -> Iterator[Machine]:
    """A machine of one's own: the package is installed, and it is off."""
    machine = Machine(installed.disk.twin(tmp_path / "box"))
    try:
        yield machine
    finally:
        machine.close()


@pytest.fixture(scope="session")
def node(fleet: Stage) -> Node:
    """What the operator knows of the machine: any of them, one at a time."""
    return fleet.node(NODE)


@pytest.fixture(scope="module")
def box(
    installed: Installed,
    fleet: Stage,
    node: Node,
    cable_port: int,
    tmp_path_factory: pytest.TempPathFactory,
    table: Table,
) -> Iterator[Service]:
    """A machine that runs, and serves digits 1.0.0 that came over MQTT; whoever breaks it leaves it whole."""
    machine = Machine(installed.disk.twin(tmp_path_factory.mktemp("box")))
    try:
        machine.boot()
        service = Service(machine)
        service.configure(node, cable_port)
        began = time.monotonic()
        deploy(fleet, "digits@1.0.0")
        table.add("deploy over MQTT → SUCCEEDED (1 s of it soak)", time.monotonic() - began)
        service.answers()
        yield service
    finally:
        machine.close()
