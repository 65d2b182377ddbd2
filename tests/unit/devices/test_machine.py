from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.devices.machine import memory_mb, power_mode, usable_cores

REAL_MB = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1_000_000


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, 8),
        ({"system.slice/overlaid.service": "max 100000"}, 8),
        ({"system.slice/overlaid.service": "200000 100000"}, 2),
        ({"system.slice/overlaid.service": "350000 100000"}, 3),
        ({"system.slice/overlaid.service": "50000 100000"}, 1),
        ({"system.slice/overlaid.service": "max 100000", "system.slice": "400000 100000"}, 4),
        ({"system.slice/overlaid.service": "900000 100000"}, 8),
        ({"elsewhere": "100000 100000"}, 8),
        ({"system.slice": "nonsense"}, 8),
        ({"system.slice": "1000 0"}, 8),
        ({"system.slice": ""}, 8),
    ],
)
def test_cores_that_we_may_use(tmp_path: Path, limits: dict[str, str], cores: int) -> None:
    write(tmp_path, "proc/self/cgroup", "1:name=systemd:/x\n0::/system.slice/overlaid.service")
    for group, limit in limits.items():
        write(tmp_path, f"sys/fs/cgroup/{group}/cpu.max", limit)
    assert usable_cores(tmp_path) == cores


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "300000 100000")
    assert usable_cores(tmp_path) == 3


def test_a_machine_without_cgroups(tmp_path: Path) -> None:
    assert (usable_cores(tmp_path), memory_mb(tmp_path)) == (8, REAL_MB)


@pytest.mark.parametrize(
    ("limit", "megabytes"), [("64000000", 64), ("max", REAL_MB), ("", REAL_MB), (str(10**18), REAL_MB)]
)
def test_memory_that_we_may_have(tmp_path: Path, limit: str, megabytes: int) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/system.slice/overlaid.service")
    write(tmp_path, "sys/fs/cgroup/system.slice/overlaid.service/memory.max", limit)
    assert memory_mb(tmp_path) == megabytes


NVPMODEL = """# comment
< PARAM TYPE=FILE NAME=CPU_ONLINE >
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=7W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=0 >"""


@pytest.mark.parametrize(
    ("status", "conf", "mode"),
    [
        ("pmode:0002 fmode:quiet", NVPMODEL, "MAXN_SUPER"),
        ("pmode:0000", NVPMODEL, "15W"),
        ("pmode:0008", NVPMODEL, "nvpmodel 8"),
        ("pmode:0001", "", "nvpmodel 1"),
        ("nonsense", NVPMODEL, "schedutil"),
    ],
)
def test_the_power_mode_of_a_jetson(tmp_path: Path, status: str, conf: str, mode: str) -> None:
    write(tmp_path, "var/lib/nvpmodel/status", status)
    write(tmp_path, "etc/nvpmodel.conf", conf)
    write(tmp_path, "sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "schedutil")
    assert power_mode(tmp_path) == mode


def test_the_governors_of_other_boards(tmp_path: Path) -> None:
    for policy, governor in ((0, "schedutil"), (4, "performance"), (6, "schedutil")):
        write(tmp_path, f"sys/devices/system/cpu/cpufreq/policy{policy}/scaling_governor", governor)
    assert power_mode(tmp_path) == "performance+schedutil"
    assert power_mode(tmp_path / "nothing") == ""
