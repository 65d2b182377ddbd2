"""A stage for system tests, the demo and the benches: a broker, an operator and nodes as real processes in one folder.

Everything goes through the ``overlaid`` command, as a user's would; the stage ends only what it started.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.system.brokers import Broker, free_port, start_broker

ROOT = Path(__file__).resolve().parents[2]
OVERLAID = Path(sys.executable).parent / "overlaid"
SITE = "demo"


class StageError(Exception):
    """A process did not do what the stage needed; the text holds the end of its log."""


def wait_until(what: str, ready: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """Poll until ``ready`` returns something true and return it; StageError after the time-out."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = ready()
        if value:
            return value
        time.sleep(0.05)
    raise StageError(f"timed out after {timeout_s:g} s waiting for {what}")


def stop_process(process: subprocess.Popen[bytes], timeout_s: float = 15.0) -> int:
    """SIGTERM, then SIGKILL after the time-out; the exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


@dataclass(slots=True)
class Node:
    """One daemon: its config, its process and its sockets."""

    folder: Path
    name: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def runtime(self) -> Path:
        return self.folder / "run"

    @property
    def log(self) -> Path:
        return self.folder / "agent.log"

    def start(self) -> None:
        """Start the daemon and wait until its control socket answers and its board is probed."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the daemon."""
        with self.log.open("ab") as log:
            command = [str(OVERLAID), "run", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait(self) -> None:
        """Until the control socket answers and the board is probed."""
        wait_until(f"node {self.name}", self._answers, 30.0)

    def _answers(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise StageError(f"the daemon ended with {self.process.returncode}:\n{self.tail()}")
        # First the status: without a daemon `overlaid devices` probes the board itself.
        return self.status() is not None and self.run("devices", "--json", check=False).returncode == 0

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """kill -9, as a power cut would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None:
            stop_process(self.process)

    def run(
        self, *args: str, check: bool = True, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """``overlaid ARGS`` against this node."""
        return run_overlaid(*args, "--config", str(self.config), check=check, timeout_s=timeout_s)

    def status(self) -> dict[str, Any] | None:
        """The snapshot, None while the daemon does not answer."""
        done = self.run("status", "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def model(self, name: str) -> dict[str, Any] | None:
        """One model of the snapshot."""
        status = self.status() or {"models": []}
        return next((model for model in status["models"] if model["name"] == name), None)

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        """One HTTP request to the front door: status and JSON body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            data = answer.read()
            return answer.status, json.loads(data) if data else {}
        finally:
            connection.close()


def run_overlaid(
    *args: str, check: bool = True, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run the command; StageError with its stderr when ``check`` and it fails."""
    done = subprocess.run(
        [str(OVERLAID), *args], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if check and done.returncode != 0:
        raise StageError(f"overlaid {' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


@dataclass(slots=True)
class Stage:
    """A broker, an operator's home with its keys and its repository, ``fleet serve``, and nodes that trust it."""

    folder: Path
    broker: Broker
    nodes: list[Node] = field(default_factory=list)
    server: subprocess.Popen[bytes] | None = None
    # How each user ("operator" or a node's name) signs in: keys of [mqtt], which are also options of fleet init.
    logins: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "fleet"

    def fleet(
        self, *args: str, check: bool = True, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """``overlaid fleet ARGS`` with this stage's home."""
        return run_overlaid("fleet", *args, "--home", str(self.home), check=check, timeout_s=timeout_s)

    def prepare(self) -> None:
        """Make the operator's home, the key for commands and the repository, offline keys included."""
        login = self.logins.get("operator", {})
        options = [part for key, value in login.items() for part in (f"--{key.replace('_', '-')}", value)]
        self.fleet("init", "--site", SITE, "--broker", f"{self.broker.host}:{self.broker.port}", *options)
        self.fleet("keys", "new", "commands")
        self.fleet("repo", "init")

    def trust(self, folder: Path) -> str:
        """The config's ``[trust]``, with a copy of the root as it is now in ``folder``."""
        root = folder / "root.json"
        shutil.copy(self.home / "repo/root.json", root)
        commands = json.loads(self.fleet("keys", "show", "commands", "--json").stdout)["public"]
        return f'[trust]\nroot = "{root}"\ncommand_keys = ["{commands}"]\n'

    def serve(self, *options: str) -> None:
        """Start ``overlaid fleet serve``."""
        with (self.folder / "serve.log").open("ab") as log:
            command = [str(OVERLAID), "fleet", "serve", "--home", str(self.home), *options]
            self.server = subprocess.Popen(command, stdout=log, stderr=log)

    def stop_serving(self) -> None:
        """Stop ``overlaid fleet serve``."""
        if self.server is not None:
            stop_process(self.server)
            self.server = None

    def node(self, name: str, extra: str = "", *, mqtt: bool = True, board: str = "local") -> Node:
        """Write a node's config (not started yet)."""
        node = Node(self.folder / name, name, free_port())
        node.folder.mkdir()
        broker = f'[mqtt]\nhost = "{self.broker.host}"\nport = {self.broker.port}\n' if mqtt else ""
        broker += "".join(f'{key} = "{value}"\n' for key, value in self.logins.get(name, {}).items())
        node.config.write_text(
            f'[node]\nsite = "{SITE}"\nname = "{name}"\ngroups = ["all"]\nboard = "{board}"\n'
            f'[paths]\nstate = "{node.state}"\nruntime = "{node.runtime}"\n{broker}'
            f'{self.trust(node.folder)}[serving]\nhttp = "127.0.0.1:{node.port}"\n'
            f"[deploy]\nsoak_s = 1.0\nprofile_s = 0.5\n{extra}"
        )
        self.nodes.append(node)
        return node

    def publish(self, model_dir: Path, *pack_options: str) -> Path:
        """Pack and publish a model folder; the package's folder, which `overlaid deploy` takes."""
        out = self.folder / f"package-{time.monotonic_ns()}"
        self.fleet("pack", str(model_dir), "-o", str(out), *pack_options)
        self.fleet("publish", str(out))
        return out

    def close(self) -> None:
        """Stop everything that the stage started."""
        for node in self.nodes:
            node.stop()
        self.stop_serving()

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def stage(
    folder: Path,
    start: Callable[[Path], Broker] = start_broker,
    logins: Callable[[Broker], dict[str, dict[str, str]]] = lambda _: {},
) -> Iterator[Stage]:
    """A prepared stage with its broker running; ends what it started."""
    broker = start(folder)
    try:
        with Stage(folder, broker, logins=logins(broker)) as it:
            it.prepare()
            yield it
    finally:
        broker.stop()


def children_of(pid: int) -> list[int]:
    """Process ids whose parent is ``pid``."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    """True while a process exists and is not a zombie."""
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
