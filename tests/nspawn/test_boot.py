"""Switched on, the machine soon has an active service, which says how it is."""

from __future__ import annotations

from tests.nspawn.machine import Machine
from tests.nspawn.node import UNIT, Service
from tests.nspawn.table import Table
from tests.system.stage import wait_until

BOUND_S = 5.0
SLACK = 4.0  # for other people's work on the machine that tests run on


def test_the_service_is_active_soon_after_power_on(machine: Machine, table: Table) -> None:
    machine.boot()
    service = Service(machine)
    wait_until("the service", service.active, 60)
    took = service.since() - machine.switched_on
    table.add("power on → active", took, at_most=BOUND_S)
    started = service.since() - service.since("InactiveExit")
    table.add("start → active", started)
    assert took < BOUND_S * SLACK
    wait_until("its status", service.status, 30)
    assert "Status: " in machine.shell(f"systemctl status --no-pager {UNIT}")
    assert machine.run("systemctl", "is-system-running", check=False).stdout.strip() == "running"
