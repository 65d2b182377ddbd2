"""A Debian that boots: systemd-nspawn without a systemd outside, with a disk and a network of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.nspawn import network
from tests.nspawn.disk import Disk
from tests.nspawn.memory import MemoryGroup
from tests.nspawn.rootfs import PATH
from tests.system.stage import StageError, children_of, wait_until

NAME = "overlaid-box"
BOOT_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
SIGRTMIN_4 = signal.SIGRTMIN + 4  # systemd(1): powers the machine off
NETWORK_UNIT = f"""[Unit]
Description=The cable to the machine outside
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/ip address replace {network.BOX_ADDRESS}/24 dev {network.BOX_LINK}
ExecStart=/sbin/ip link set {network.BOX_LINK} up
[Install]
WantedBy=multi-user.target
"""


class Machine:
    """Started by ``boot``; ended by ``power_off``, or by ``cut_power`` and whatever that loses."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.memory = MemoryGroup(NAME)
        self.log = disk.folder / "console.log"
        self.leader = 0
        self.switched_on = 0.0  # on CLOCK_MONOTONIC, which the machine shares
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        """Its files, also while it is off."""
        return self.disk.root

    @property
    def inside(self) -> Path:
        """Its files as its processes see them: with /run and what else is mounted."""
        return Path(f"/proc/{self.leader}/root")

    def furnish(self) -> None:
        """What a fresh root needs: its cable, and a journal that survives."""
        unit = self.root / "etc/systemd/system/cable.service"
        unit.write_text(NETWORK_UNIT)
        wanted = unit.parent / "multi-user.target.wants"
        wanted.mkdir(exist_ok=True)
        (wanted / unit.name).symlink_to(f"../{unit.name}")
        (self.root / "var/log/journal").mkdir(exist_ok=True)

    def boot(self) -> None:
        """Switch it on; returns when systemd says that all is started. Raises StageError."""
        if not self.root.is_mount():
            self.disk.mount()
        command = [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", f"--machine={NAME}",
            f"--directory={self.root}", f"--network-veth-extra={network.LINK}:{network.BOX_LINK}",
            "--console=pipe", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
        ]  # fmt: skip
        self.switched_on = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.memory.command(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.leader = wait_until("the machine's process 1", self._find_leader, BOOT_TIMEOUT_S)
        network.plug_in()
        wait_until("the machine to be up", self._is_up, BOOT_TIMEOUT_S)

    def _find_leader(self) -> int:
        assert self._process is not None
        if self._process.poll() is not None:
            raise StageError(f"systemd-nspawn ended with {self._process.returncode}:\n{self._console()}")
        for child in children_of(self._process.pid):
            if self._is_first(child):
                return child
        return 0

    def _is_first(self, pid: int) -> bool:
        """Process 1 of its namespace, and it runs systemd by now."""
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            program = Path(f"/proc/{pid}/exe").readlink().name
        except OSError:
            return False
        numbers = status.partition("NSpid:")[2].splitlines()[0].split()
        return len(numbers) == 2 and numbers[-1] == "1" and program == "systemd"

    def _is_up(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise StageError(f"systemd-nspawn ended with {self._process.returncode}:\n{self._console()}")
        done = self.run("systemctl", "is-system-running", check=False)
        return done.stdout.strip() in {"running", "degraded"}

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 120.0, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as root; StageError when ``check`` and it fails."""
        enter = ["nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        words = [*enter, "--root", "--wd", "--", "env", "-i", f"PATH={PATH}", "LC_ALL=C.UTF-8", *command]
        done = subprocess.run(
            words, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if check and done.returncode != 0:
            raise StageError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def shell(self, script: str, check: bool = True) -> str:
        """The output of a line of shell inside."""
        return self.run("sh", "-c", script, check=check).stdout

    def property(self, unit: str, name: str) -> str:
        """What systemd says of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()

    def journal(self, unit: str, lines: int = 30) -> str:
        return self.run("journalctl", "-b", "--no-pager", "-o", "cat", "-n", str(lines), "-u", unit).stdout

    def outer_pid(self, pid: int) -> int:
        """The number outside of a process inside. Raises StageError."""
        own = Path(f"/proc/{self.leader}/ns/pid").stat()
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
                same = (status.parent / "ns/pid").stat() == own
            except OSError:
                continue
            numbers = text.partition("NSpid:")[2].splitlines()[0].split()
            if same and numbers[-1] == str(pid):
                return int(status.parent.name)
        raise StageError(f"no process {pid} in the machine")

    def cut_power(self) -> None:
        """Every process and the link end at once, and what the disk had not got yet is lost. ``boot`` then."""
        network.pull_out()
        self._end(signal.SIGKILL)
        self.disk.lose_power()
        self.disk.unmount()

    def power_off(self) -> None:
        """In order; its disk is unmounted."""
        self._end(SIGRTMIN_4)
        self.disk.unmount()

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        if self.leader and self._process.poll() is None:
            os.kill(self.leader, number)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # takes the machine with it
            self._process.wait()
        self._process, self.leader = None, 0
        self.memory.remove()

    def _console(self) -> str:
        """The last that it said, and what its root is."""
        mounts = [
            line for line in Path("/proc/mounts").read_text().splitlines() if str(self.disk.folder) in line
        ]
        return "\n".join([*self.log.read_text(errors="replace").splitlines()[-10:], *mounts])

    def close(self) -> None:
        """End it, whatever its state, and delete its disk."""
        self._end(signal.SIGKILL)
        self.disk.delete()
