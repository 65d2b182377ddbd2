"""The package's life: a newer version over a running one, an older one over a newer, and away with it."""

from __future__ import annotations

import json

import pytest

from tests.nspawn import package
from tests.nspawn.conftest import Installed
from tests.nspawn.machine import Machine
from tests.nspawn.node import UNIT, Service, deploy, watching
from tests.nspawn.table import Table
from tests.system.stage import Node, Stage, wait_until


@pytest.fixture
def service(machine: Machine, fleet: Stage, node: Node, cable_port: int) -> Service:
    """A machine of one's own that serves digits."""
    machine.boot()
    service = Service(machine)
    service.configure(node, cable_port)
    deploy(fleet, "digits@1.0.0")
    service.answers()
    return service


def version(service: Service) -> str:
    return service.machine.shell("dpkg-query -W -f '${Version}' overlaid")


def deployments(service: Service) -> set[str]:
    """What the node recorded of each phase of each; the last ones may not be on the disk yet."""
    return {repr(row) for row in json.loads(service.overlaid("telemetry", "--json"))["deployments"]}


@pytest.mark.slow
def test_an_upgrade_keeps_what_runs_and_a_downgrade_is_refused(service: Service, table: Table) -> None:
    newer = package.deb(package.NEXT)
    if not newer.exists():
        pytest.fail(f"{newer} is missing: make deb VERSION={package.NEXT}")
    before, history, config = service.placements(), deployments(service), settings(service)
    with watching(service) as watch:
        service.machine.run("dpkg", "-i", package.put(service.machine, newer))
        service.answers()
    assert not watch.wrong
    table.add("upgrade: longest without an answer", watch.gap_s)
    assert version(service) == package.NEXT
    assert f"overlaid {package.NEXT}, pid " in service.overlaid("status")
    wait_until("the placements", lambda: service.placements() == before, 30)
    assert history <= deployments(service) and settings(service) == config

    with watching(service) as watch:
        old = package.put(service.machine, package.deb())
        done = service.machine.run("dpkg", "-i", old, check=False)
        service.answers()
    assert done.returncode != 0 and "newer version's state" in done.stderr
    table.add("downgrade refused: longest without an answer", watch.gap_s)
    assert version(service) == package.NEXT and service.placements() == before
    assert service.machine.run("dpkg", "--audit").stdout == ""


def settings(service: Service) -> str:
    return (service.machine.root / "etc/overlaid/agent.toml").read_text()


def test_a_purge_leaves_nothing(service: Service, installed: Installed) -> None:
    root = service.machine.root
    (root / "etc/overlaid/mqtt.password").write_text("secret")
    service.machine.run("dpkg", "--remove", "overlaid")
    assert not service.active()
    assert (root / "etc/overlaid/agent.toml").exists() and (root / "var/lib/overlaid/state.db").exists()
    service.machine.run("dpkg", "--purge", "overlaid")
    left = changes(installed.before, package.files(root))
    assert not left, left
    assert "overlaid" not in (root / "etc/passwd").read_text() + (root / "etc/group").read_text()
    assert service.machine.shell("find /run -name '*overlaid*' -not -name '*.deb'") == ""
    assert service.machine.property(UNIT, "LoadState") == "not-found"


# What any machine writes as it runs.
OTHERS = (
    "/var/log/",
    "/var/cache/",
    "/var/lib/systemd/",
    "/var/lib/dpkg/",
    "/var/tmp/systemd-private",
    "/etc/mtab",
)
BACKUPS = {"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-"}


def changes(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    """Files that came or went, but those of others."""
    found = {path: "came" for path in after.keys() - before.keys()}
    found |= {path: "went" for path in before.keys() - after.keys()}
    return {
        path: what
        for path, what in found.items()
        if ("overlaid" in path or not path.startswith(OTHERS)) and path not in BACKUPS
    }
