"""overlaid-fpga.service as a process of its own, and its unit; a functional overlay stands for the FPGA."""

from __future__ import annotations

import os
import pwd
import select
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.devices.fpga_service.wire import SOCKET_VARIABLE
from agent.devices.remote_transport import ask_status, open_transport
from agent.errors import DeviceLost, RuntimeUnavailable
from agent.overlay.driver import Driver
from agent.overlay.spec import ID, load_spec
from simulator.overlay.functional import FunctionalTransport
from tests.system.stage import wait_until
from tests.system.test_systemd import REPO, copy, needs_root, run, tree
from tests.system.test_systemd import pytestmark as needs_systemd
from tests.unit.devices.fpga_lending import copy_overlay, short_folder
from tests.unit.overlay import handmade

NPU = load_spec("npu")
USER = pwd.getpwuid(os.getuid()).pw_name
UNIT = "overlaid-fpga.service"

__all__ = ["tree"]


class Service:
    """The process, and the datagrams that it sends to systemd."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.socket = folder / "socket"
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.bind(str(folder / "notify"))
        command = [
            sys.executable,
            "-m",
            "agent.devices.fpga_service",
            "--socket",
            str(self.socket),
            *arguments,
        ]
        environment = dict(os.environ) | {"NOTIFY_SOCKET": str(folder / "notify")} | environment
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def notice(self) -> str:
        """The next datagram."""
        ready, _, _ = select.select([self.notices], [], [], 30)
        assert ready, self.process.poll()
        return self.notices.recv(4096).decode()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit status and what it logged."""
        self.process.send_signal(number)
        log = self.process.communicate(timeout=30)[1]
        self.notices.close()
        return self.process.returncode, log


@pytest.fixture
def root(tmp_path: Path) -> Path:
    copy_overlay("npu", tmp_path / "opt")
    return tmp_path / "opt"


@pytest.fixture
def service(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with short_folder() as folder:
        arguments = ("--transport", "functional", "--user", USER, "--allow", str(root))
        service = Service(folder, *arguments, WATCHDOG_USEC="2000000")
        monkeypatch.setenv(SOCKET_VARIABLE, str(service.socket))
        assert service.notice() == "READY=1\nSTATUS=FPGA free"
        yield service
        if service.process.returncode is None:
            service.end()


def test_a_driver_through_the_service(service: Service, root: Path) -> None:
    source = handmade.tensor("x", 12, 9, 7)
    layer, target = handmade.conv(1, source, 20, (3, 3), pads=(1, 1, 1, 1))
    segment = handmade.conv_segment(NPU, layer, source, target)
    outputs = []
    for transport in (open_transport(root / "npu"), FunctionalTransport(NPU)):
        driver = Driver(transport, NPU)
        loaded = driver.load(handmade.program(NPU, segment))
        outputs.append(loaded.run(segment, {"x": handmade.image(2, source)[None]}).outputs["y"])
        driver.close()
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_systemd_is_told(service: Service, root: Path) -> None:
    transport = open_transport(root / "npu")
    seen = {service.notice() for _ in range(4)}
    assert "WATCHDOG=1" in seen
    assert "STATUS=FPGA lent to 1 client" in seen
    status, log = service.end()
    assert status == 0
    assert f"process {os.getpid()} (user {os.getuid()}) uses overlay npu" in log
    assert not service.socket.exists()
    with pytest.raises(DeviceLost, match="see: systemctl status overlaid-fpga"):
        transport.read32(0)
    transport.close()
    with pytest.raises(RuntimeUnavailable, match=r"overlaid-fpga\.service does not answer"):
        ask_status()


def test_a_killed_client_leaves_the_fpga_free(service: Service, root: Path) -> None:
    script = f"""
        import signal
        from pathlib import Path
        from agent.devices.remote_transport import open_transport
        transport = open_transport(Path({str(root / "npu")!r}))
        buffer = transport.allocate(1 << 20)
        print("ready", flush=True)
        signal.pause()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        assert ask_status().clients == (client.pid,)
        client.kill()
    wait_until("the FPGA", lambda: not ask_status().clients)
    transport = open_transport(root / "npu")
    assert transport.read32(0) == ID
    transport.close()


def test_a_second_service_leaves_the_first_alone(service: Service, root: Path) -> None:
    command = [sys.executable, "-m", "agent.devices.fpga_service", "--socket", str(service.socket)]
    command += ["--transport", "functional", "--user", USER, "--allow", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "another FPGA service answers" in done.stderr
    assert not ask_status().clients


def test_a_killed_service_starts_again(service: Service, root: Path) -> None:
    service.end(signal.SIGKILL)
    assert service.socket.exists()
    arguments = ("--transport", "functional", "--user", USER, "--allow", str(root))
    with short_folder() as folder:
        again = Service(folder, *arguments, "--socket", str(service.socket))
        assert again.notice().startswith("READY=1")
        assert not ask_status().clients
        assert again.end()[0] == 0


@needs_root
@pytest.mark.parametrize(("group", "allowed"), [(65534, False), (os.getgid(), True)])
def test_other_users_are_refused(service: Service, group: int, allowed: bool) -> None:
    """Also one who gets past the rights of the socket and its folder."""
    service.socket.chmod(0o666)
    service.socket.parent.chmod(0o755)
    script = f"""
        import os
        from agent.devices.remote_transport import ask_status
        os.setgroups([])
        os.setgid({group})
        os.setuid(65534)
        print(ask_status())
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ("ServiceStatus" in done.stdout) == allowed, done.stderr
    assert ("user 65534 may not use the FPGA" in done.stderr) != allowed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--user", "nobody-of-that-name"), "nobody-of-that-name"),
        (("--user", USER, "--transport", "telepathy"), "choose one of: functional, pynq, remote, rtl"),
    ],
)
def test_what_it_cannot_start_with(root: Path, arguments: tuple[str, ...], text: str) -> None:
    with short_folder() as folder:
        command = [sys.executable, "-m", "agent.devices.fpga_service", "--socket", str(folder / "s")]
        done = subprocess.run(
            [*command, "--allow", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert text in done.stderr


@pytest.fixture
def unit(tree: Path) -> Path:
    """The unit, with a program where a PYNQ image has its Python."""
    copy(REPO / "systemd" / UNIT, tree / "etc/systemd/system" / UNIT)
    python = tree / "usr/local/share/pynq-venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    return tree


@needs_systemd
def test_the_unit_is_clean(unit: Path) -> None:
    assert run("systemd-analyze", "verify", f"--root={unit}", UNIT) == (0, "")


@needs_systemd
def test_exposure_of_the_unit_is_at_most_1_5(unit: Path) -> None:
    command = (
        "systemd-analyze",
        "security",
        "--offline=yes",
        "--threshold=15",
        "--no-pager",
        f"--root={unit}",
        UNIT,
    )
    status, output = run(*command)
    assert status == 0, output


def test_the_unit_starts_what_there_is(unit: Path) -> None:
    text = (unit / "etc/systemd/system" / UNIT).read_text().replace("\\\n", "")
    [line] = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    command = [sys.executable, *line.split()[1:], "--help"]
    assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
