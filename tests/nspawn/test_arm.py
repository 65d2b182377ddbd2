"""Other architectures, run by qemu in roots of their own: what a Raspberry Pi and a PYNQ-Z2 would install and run.

``make test-arm64``. Emulated, so slow: it says what works, not how fast a board is.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.nspawn import armhf, package
from tests.nspawn.disk import Disk
from tests.nspawn.foreign import binfmt, command_in, missing, run_in
from tests.nspawn.node import GOLDEN_BODY, configure, golden_variant
from tests.nspawn.rootfs import NoRoot, base_root
from tests.nspawn.table import Table
from tests.system.brokers import HOST
from tests.system.digits import DIGITS
from tests.system.stage import ROOT, Stage, run_overlaid, stage, stop_process, wait_until

TESTED = (
    "tests/unit/package tests/unit/link tests/unit/placement tests/unit/overlay/test_functional.py "
    # They compare with HiGHS, in a scipy that no node has.
    "--ignore=tests/unit/placement/planning/test_solve.py"
)
DEBIANS = ("python3.11", "python3-pytest", "python3-hypothesis", "passwd", "systemd", "libstdc++6", "procps")


@contextmanager
def foreign_root(architecture: str, packages: tuple[str, ...], folder: Path) -> Iterator[Path]:
    """A root of the architecture that may be written to."""
    reason = missing(architecture)
    if reason:
        pytest.skip(reason)
    with binfmt(architecture):
        try:
            disk = Disk(folder, base_root(packages, architecture))
        except NoRoot as error:
            pytest.skip(f"no Debian for {architecture}: {error}")
        disk.format()
        disk.mount()
        try:
            yield disk.root
        finally:
            disk.delete()


@pytest.fixture(scope="module")
def arm64(alone: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    deb = package.deb(architecture="arm64")
    if not deb.exists():
        pytest.fail(f"{deb} is missing: make deb ARCH=arm64")
    with foreign_root("arm64", DEBIANS, tmp_path_factory.mktemp("arm64")) as root:
        shutil.copy(deb, root / "root")
        done = run_in(root, f"dpkg -i /root/{deb.name}")
        assert done.returncode == 0, done.stdout
        yield root


@pytest.fixture(scope="module")
def pynq(alone: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with foreign_root("armhf", armhf.PACKAGES, tmp_path_factory.mktemp("armhf")) as root:
        armhf.install(root)
        yield root


def unit_tests(root: Path) -> None:
    """Those of the core, in the installed environment, with Debian's pytest."""
    source = root / "srv/overlaid"
    for name in ("tests", "models", "docs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", source)
    (root / armhf.SITE / "debian.pth").write_text("/usr/lib/python3/dist-packages\n")
    # No OpenCL: tests/conftest.py would look for one of this machine's architecture.
    script = "cd /srv/overlaid && OVERLAID_OPENCL_DEVICE=none /opt/overlaid/bin/python -m pytest -p no:cacheprovider "
    done = run_in(root, script + TESTED, timeout_s=1800)
    print(done.stdout)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:]


def overlay_agrees(root: Path, folder: Path) -> None:
    """The functional executor gives the same bytes there as here."""
    program, here = folder / "digits.npu", folder / "here.npy"
    image = DIGITS / "golden/image.npy"
    run_overlaid("overlay", "compile", str(DIGITS / "digits-int8.onnx"), "-o", str(program))
    one = folder / "one.npy"
    np.save(one, np.load(image)[:1])
    run_overlaid("overlay", "run", str(program), "--input", str(one), "--output", str(here))
    for path in (program, one):
        shutil.copy(path, root / "root")
    script = "/opt/overlaid/bin/overlaid overlay run /root/digits.npu --input /root/one.npy --output /root/there.npy"
    done = run_in(root, script)
    assert done.returncode == 0, done.stdout
    assert (root / "root/there.npy").read_bytes() == here.read_bytes()


@contextmanager
def daemon(root: Path, it: Stage, table: Table, name: str) -> Iterator[int]:
    """The daemon of the root as a node of the stage; the port of its front door. Emulated, it takes its time."""
    node = it.node(name, "phase_timeout_s = 900.0\n")
    configure(root, node, it.broker.host, it.broker.port)
    command = command_in(root, "exec /opt/overlaid/bin/overlaid run")
    began = time.monotonic()
    with node.log.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until("the daemon", lambda: status(root)["broker_connected"], 180)
        table.add(f"{name}: start → connected, emulated", time.monotonic() - began)
        yield node.port
    finally:
        stop_process(process)
        print(node.tail())


def status(root: Path) -> dict[str, bool]:
    done = run_in(root, "/opt/overlaid/bin/overlaid status --json 2>/dev/null")
    return json.loads(done.stdout) if done.returncode == 0 else {"broker_connected": False}


def ask(port: int) -> str | None:
    """The variant whose golden outputs digits gives."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v2/models/digits/infer", GOLDEN_BODY, headers)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return golden_variant(json.loads(body))


def test_the_arm64_package_deploys_and_infers(arm64: Path, tmp_path: Path, table: Table) -> None:
    down = run_in(arm64, "overlaid status")
    assert down.returncode != 0 and "daemon" in down.stdout
    with stage(tmp_path) as it:
        it.publish(DIGITS)
        it.serve()
        with daemon(arm64, it, table, "arm64") as port:
            assert "overlaid" in run_in(arm64, "overlaid status").stdout
            budget = ("--latency-p99", "2s", "--rate", "1/s", "--wait")
            it.fleet("deploy", "digits@1.0.0", "--node", "arm64", *budget, timeout_s=600)
            assert ask(port) in {"fp32", "int8"}
            began = time.monotonic()
            ask(port)
            table.add("arm64: 16 digits by onnxruntime, emulated", time.monotonic() - began)


def test_the_core_passes_its_tests_on_arm64(arm64: Path) -> None:
    unit_tests(arm64)


def test_the_functional_overlay_agrees_on_arm64(arm64: Path, tmp_path: Path) -> None:
    overlay_agrees(arm64, tmp_path)


def test_the_core_passes_its_tests_on_armhf(pynq: Path) -> None:
    unit_tests(pynq)


def test_the_functional_overlay_agrees_on_armhf(pynq: Path, tmp_path: Path) -> None:
    overlay_agrees(pynq, tmp_path)


def test_a_daemon_on_armhf_is_a_node(pynq: Path, tmp_path: Path, table: Table) -> None:
    with stage(tmp_path) as it, daemon(pynq, it, table, "armhf"):
        assert "armhf" in run_in(pynq, "/opt/overlaid/bin/overlaid status").stdout
