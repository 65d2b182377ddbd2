"""A worker that eats memory, and a disk that takes no more writes: who suffers, what is said, and how it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nspawn import memory
from tests.nspawn.models import digits_as, glutton
from tests.nspawn.node import UNIT, Service, deploy
from tests.nspawn.table import Table
from tests.system.stage import Stage, StageError, wait_until

MIB = 1 << 20
UNIT_LIMIT_MB = 700
DROP_IN = Path("etc/systemd/system/overlaid.service.d/test.conf")


def eat(box: Service, megabytes: int) -> tuple[int, str]:
    """A run of the glutton with so much memory: status and what was said. Broken connections are status 0."""
    tensor = {"name": "n", "shape": [1], "datatype": "INT64", "data": [megabytes * MIB // 4]}
    try:
        status, answer = box.post("glutton", json.dumps({"inputs": [tensor]}).encode(), 60)
    except OSError as error:
        return 0, str(error)
    return status, answer.get("error", "")


def limited(box: Service, worker_mb: int) -> None:
    """Restart it with MemoryMax and with a limit for each worker."""
    path = box.machine.root / DROP_IN
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"[Service]\nMemoryMax={UNIT_LIMIT_MB}M\nEnvironment=OVERLAID_SERVING_WORKER_MEMORY_MB={worker_mb}\n"
    )
    box.machine.shell(f"systemctl daemon-reload && systemctl restart {UNIT}")
    box.answers()
    wait_until("the glutton", lambda: eat(box, 1)[0] == 200, 30)


@pytest.fixture
def hungry(box: Service, fleet: Stage, tmp_path: Path) -> Iterator[Service]:
    """The box with a second model, the glutton."""
    if box.model("glutton") is None:
        fleet.publish(glutton(tmp_path / "glutton"))
        deploy(fleet, "glutton@1.0.0")
    yield box
    (box.machine.root / DROP_IN).unlink()
    box.machine.shell(f"systemctl daemon-reload && systemctl restart {UNIT}")
    box.answers()


def test_a_run_beyond_the_workers_limit_fails_alone(hungry: Service) -> None:
    limited(hungry, 400)
    before = hungry.pid(), hungry.worker("digits"), hungry.worker("glutton")
    status, said = eat(hungry, 600)
    assert status == 500 and "serving.worker_memory_mb" in said
    assert eat(hungry, 50)[0] == 200
    assert (hungry.pid(), hungry.worker("digits"), hungry.worker("glutton")) == before
    assert not hungry.digits()


def test_a_worker_that_reaches_the_units_limit_dies_alone(hungry: Service, table: Table) -> None:
    hungry.machine.shell(memory.OPEN)
    limited(hungry, 4000)
    if not hungry.machine.property(UNIT, "MemoryCurrent").isdigit():
        pytest.skip("systemd in the machine controls no memory here")
    daemon, digits, worker = hungry.pid(), hungry.worker("digits"), hungry.worker("glutton")
    table.add(
        "memory of the service with two models",
        int(hungry.machine.property(UNIT, "MemoryCurrent")) / MIB,
        "MiB",
    )
    status, said = eat(hungry, 1500)
    assert status == 503 and "SIGKILL" in said, (status, said)
    assert not hungry.digits()
    assert (hungry.pid(), hungry.worker("digits")) == (daemon, digits)
    wait_until("the glutton again", lambda: eat(hungry, 1)[0] == 200, 30)
    assert hungry.worker("glutton") != worker
    assert hungry.active() and hungry.restarts() == 0


def test_a_disk_that_refuses_writes_is_named_and_gets_over(
    box: Service, fleet: Stage, tmp_path: Path, table: Table
) -> None:
    fleet.publish(digits_as("1.2.0", tmp_path / "m"), "--no-check")
    box.machine.disk.fail()
    assert box.machine.run("touch", "/var/tmp/x", check=False).stderr.endswith("Read-only file system\n")
    told = deploy(fleet, "digits@1.2.0", check=False)
    assert '"REJECTED"' in told and "StoreError: state.db: " in told and "check the disk" in told

    box.machine.run("systemctl", "restart", UNIT)
    box.answers()  # it starts on such a disk too, and serves what is there
    warnings = (box.status() or {})["warnings"]
    assert any("state.db" in warning and "check" in warning for warning in warnings), warnings
    assert "readonly database" in box.machine.run("journalctl", "--no-pager", "-u", UNIT).stdout

    box.machine.power_off()
    box.machine.boot()
    box.answers()
    table.add("disk mended: power on → golden outputs", time.monotonic() - box.machine.switched_on)
    running(box, "1.2.0")  # what was refused is asked for again, by nobody


def running(box: Service, version: str) -> None:
    def runs() -> bool:
        model = box.model("digits")
        return model is not None and (model["running_version"], model["state"]) == (version, "SUCCEEDED")

    try:
        wait_until(f"digits {version}", runs, 60)
    except StageError as error:
        raise StageError(f"{error}: {box.status()}\n{box.machine.journal(UNIT)}") from None
    assert not box.digits() and not (box.status() or {})["warnings"]
