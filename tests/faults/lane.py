"""One node with its broker and operator, to be broken again and again: daemons are real processes, only their imports
are done once (``launcher``)."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.control import client
from agent.errors import OverlaidError
from agent.fleet.desired import with_model
from agent.fleet.home import Home
from agent.fleet.keys import load_key, public_keys
from agent.fleet.operator import Operator
from agent.fleet.pack import pack
from agent.fleet.repository import Repository
from agent.link.messages import Desired, sign
from agent.link.topics import Target
from agent.package.manifest import parse_manifest
from agent.trust import PrivateKey
from agent.types import Budget, DesiredModel
from tests.faults import control
from tests.faults.model import FACTORS, NAME, write_versions
from tests.faults.proxy import Proxy
from tests.system.brokers import start_broker
from tests.system.stage import ROOT, SITE, Stage, wait_until

NODE = "n1"
TIMES = (
    "[deploy]\nsoak_s = 0.0\nprofile_s = 0.05\nphase_timeout_s = {phase}\ndownload_timeout_s = {download}\n"
)
FINAL = ("SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED", "SUPERSEDED")
SETTLE_S = 75.0
BLOCK_BYTES = 64 << 10


class Broken(Exception):
    """What must never be; the text says what was found."""


@dataclass(frozen=True, slots=True)
class Model:
    """What the node says of the model."""

    version: str
    state: str
    why: str
    running: str | None
    phase: str | None


class Lane:
    """``folder``: everything of it. ``start`` before anything else; ``close`` ends what was started."""

    def __init__(self, folder: Path, library: Path, phase: float = 20.0, download: float = 20.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.pid = 0
        self.wanted = ""
        self.revision = 0
        self.sessions: list[int] = []
        self._stopped: socket.socket | None = None
        self._ends = contextlib.ExitStack()
        try:
            self._equip(folder, phase, download)
            self._launcher = self._launch(library)
        except BaseException:
            self._ends.close()
            raise

    def _equip(self, folder: Path, phase: float, download: float) -> None:
        self.broker = self._ends.enter_context(start_broker(folder / "broker"))
        self.proxy = Proxy(self.broker.port)
        self._ends.callback(self.proxy.close)
        self.stage = self._ends.enter_context(Stage(folder, self.broker))
        self.stage.prepare()
        self.digests = publish(Home(self.stage.home), folder)
        self.stage.serve()
        self.node = self.stage.node(NODE)
        text = self.node.config.read_text().partition("[deploy]")[0]
        text = text.replace(f"port = {self.broker.port}", f"port = {self.proxy.port}", 1)
        self.node.config.write_text(text + TIMES.format(phase=phase, download=download))
        self.state = self.node.state
        self._operator = self._ends.enter_context(Operator(self.stage.home / "operator.db"))
        self._key = PrivateKey.load(self.stage.home / "keys/commands.pem")
        self._target = Target(SITE, NODE)
        self.page = control.Page(folder / "page", self.state)
        self._ends.callback(self.page.close)

    def _launch(self, library: Path) -> subprocess.Popen[str]:
        # A path of a socket has 107 bytes at most.
        hook = Path(self._ends.enter_context(tempfile.TemporaryDirectory(prefix="faults-"))) / "hook"
        self._hook = self._ends.enter_context(socket.socket(socket.AF_UNIX))
        self._hook.bind(str(hook))
        self._hook.listen()
        command = [sys.executable, "-m", "tests.faults.launcher", str(self.node.config), str(self.node.log)]
        launcher = subprocess.Popen(
            [*command, str(hook)],
            cwd=ROOT,
            env={**os.environ, **self.page.environment(library)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ends.callback(_end_launcher, launcher)
        return launcher

    # -- the daemon ------------------------------------------------------------------------------------------------

    def start(self, wait: bool = True) -> None:
        """A daemon; until it answers."""
        self.pid = int(self._tell("start"))
        self.sessions.append(self.pid)
        if wait:
            wait_until("the daemon", lambda: self.snapshot() is not None or self._check_alive(), 30)

    def _check_alive(self) -> bool:
        if not self.alive():
            raise Broken(f"the daemon ended by itself: {self.node.tail(8)}")
        return False

    def kill(self) -> None:
        """kill -9."""
        if not self.pid:
            return
        assert self._launcher.stdin is not None
        self._launcher.stdin.write("kill\n")
        self.reap()

    def reap(self) -> int:
        """Wait for its end, which must be near."""
        self._release()
        status = int(self._tell("wait"))
        self.pid = 0
        return status

    def alive(self) -> bool:
        try:
            return bool(self.pid) and "State:\tZ" not in Path(f"/proc/{self.pid}/status").read_text()
        except FileNotFoundError:
            return False

    def _tell(self, word: str) -> str:
        assert self._launcher.stdin is not None and self._launcher.stdout is not None
        self._launcher.stdin.write(f"{word}\n")
        self._launcher.stdin.flush()
        line = self._launcher.stdout.readline()
        if not line:
            raise RuntimeError(f"the launcher ended: {self.node.tail()}")
        return line

    def snapshot(self) -> dict[str, Any] | None:
        """None while it does not answer."""
        try:
            return dict(client.ask(self.node.runtime / "control.sock", "snapshot", timeout_s=3.0))
        except (OverlaidError, OSError):
            return None

    def model(self) -> Model | None:
        """As the snapshot shows it; None while there is none, or no answer."""
        models = (self.snapshot() or {"models": []})["models"]
        found = next((m for m in models if m["name"] == NAME), None)
        if found is None:
            return None
        return Model(found["version"], found["state"], found["why"], found["running_version"], found["phase"])

    # -- deploying ---------------------------------------------------------------------------------------------------

    def next_version(self) -> str:
        """One that the store holds nothing of: neither current nor previous."""
        versions = list(FACTORS)
        return versions[(versions.index(self.wanted) + 1) % len(versions)] if self.wanted else versions[0]

    def deploy(self, version: str | None = None) -> str:
        """Publish a new desired state, as the operator does; the version."""
        version = version or self.next_version()
        model = DesiredModel(NAME, version, self.digests[version], Budget(2000.0, 0.1))
        state = self._operator.revise(self._target, lambda content: with_model(content, model))
        command = (
            f"mosquitto_pub -h {self.broker.host} -p {self.broker.port} -q 1 -r -s -t {self._target.desired}"
        )
        payload = sign(Desired.of(self._target, state), self._key)
        subprocess.run(command.split(), input=payload, check=True, timeout=20)
        self.wanted, self.revision = version, state.revision
        return version

    def stopped(self, timeout_s: float = 30.0) -> str:
        """Wait until the daemon has journalled a phase that the page asks for, and waits for ``go_on``."""
        self._hook.settimeout(timeout_s)
        try:
            self._stopped, _ = self._hook.accept()
        except TimeoutError:
            raise Broken(f"the phase was not reached: {self.model()}; {self.node.tail(5)}") from None
        return self._stopped.makefile().readline().strip()

    def go_on(self) -> None:
        """Let the daemon go on."""
        if self._stopped is not None:
            with contextlib.suppress(OSError):
                self._stopped.sendall(b"g")
        self._release()

    def _release(self) -> None:
        if self._stopped is not None:
            self._stopped.close()
            self._stopped = None

    def settled(self, timeout_s: float = SETTLE_S) -> Model:
        """Wait until the newest desired state has come to its end."""
        deadline = time.monotonic() + timeout_s
        model: Model | None = None
        while time.monotonic() < deadline:
            snapshot = self.snapshot()
            if snapshot is None:
                self._check_alive()
            elif snapshot["revision_seen"] >= self.revision:
                model = self.model()
                if model is not None and model.version == self.wanted and model.state in FINAL:
                    return model
            time.sleep(0.04)
        raise Broken(f"not final after {timeout_s:g} s: {model}, wanted {self.wanted}")

    # -- looking -----------------------------------------------------------------------------------------------------

    def answer(self) -> str:
        """The version whose golden outputs come back; Broken when they are nobody's, OSError without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.node.port, timeout=10)
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}
        try:
            body = json.dumps({"inputs": [tensor]})
            connection.request("POST", f"/v2/models/{NAME}/infer", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read() or b"{}")
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise ConnectionError(f"{response.status}: {answer}")
        data = answer["outputs"][0]["data"]
        for version, factor in FACTORS.items():
            if all(abs(y - factor * x) < 1e-4 for x, y in zip((1, 2, 3, 4), data, strict=True)):
                return version
        raise Broken(f"a wrong answer: {data}")

    def serves(self, timeout_s: float = 30.0) -> str:
        """The version that answers, waited for."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.answer()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Broken(f"nobody serves: {error}") from error
                self._check_alive()
                time.sleep(0.03)

    def journalled(self) -> list[tuple[int, str, str, str | None]]:
        """Deployments as the disk has them, (id, version, state, phase), oldest first; Broken when damaged. Looks at
        a copy: reading the file itself would change it."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("state.db", "state.db-wal"):
                source = self.state / name
                if source.exists():
                    (Path(folder) / name).write_bytes(source.read_bytes())
            database = sqlite3.connect(Path(folder) / "state.db")
            try:
                found = database.execute("PRAGMA integrity_check").fetchone()[0]
                if found != "ok":
                    raise Broken(f"state.db: {found}")
                query = "SELECT id, version, state, phase FROM deployments ORDER BY id"
                return database.execute(query).fetchall()
            finally:
                database.close()

    def leftovers(self) -> list[str]:
        """What should not be in the store after a success and its garbage collection."""
        store = self.state / "store"
        try:
            versions = json.loads((store / "models" / f"{NAME}.json").read_text())
        except (OSError, ValueError) as error:
            return [f"models/{NAME}.json: {error}"]
        keep = {versions.get("current"), versions.get("previous")} - {None}
        found = [str(path.relative_to(store)) for path in store.rglob("*.tmp")]
        manifests = (path.stem for path in (store / "manifests").glob("*.json"))
        found += [f"manifest {digest[:12]}" for digest in manifests if digest not in keep]
        found += [f"block {path.name[:12]}" for path in (store / "blocks").glob("*/*")]
        needed = {sha for digest in keep for sha in self._files(digest)}
        found += [f"file {path.name[:12]}" for path in (store / "files").iterdir() if path.name not in needed]
        found += [f"no file {sha[:12]}" for sha in needed if not (store / "files" / sha).exists()]
        sockets = {path.stem for path in (self.node.runtime / "models").glob("*.sock")}
        if sockets != {NAME}:
            found.append(f"sockets {sorted(sockets)}")
        return found

    def _files(self, digest: str) -> set[str]:
        envelope = json.loads((self.state / "store/manifests" / f"{digest}.json").read_text())
        return {file.sha256 for file in parse_manifest(base64.b64decode(envelope["payload"])).files.values()}

    def orphans(self) -> list[str]:
        """Processes of daemons that are gone."""
        gone = {session for session in self.sessions if session != self.pid}
        return [f"{pid} {name}" for pid, name, session in processes() if session in gone]

    def own(self) -> list[tuple[int, str]]:
        """Workers and zygotes of the daemon, oldest first."""
        return [(pid, name) for pid, name, session in processes() if session == self.pid and pid != self.pid]

    def until_gone(self, what: Callable[[], list[str]], name: str, timeout_s: float = 8.0) -> None:
        """Broken unless ``what`` becomes empty."""
        deadline = time.monotonic() + timeout_s
        while found := what():
            if time.monotonic() > deadline:
                raise Broken(f"{name}: {', '.join(found[:4])}")
            time.sleep(0.1)

    def check(self, allowed: set[str]) -> Model:
        """After ``settled``: what answers is what the node says runs, one of ``allowed``; Broken otherwise."""
        model = self.settled()
        version = self.serves()
        model = self.model() or model
        if version not in allowed:
            raise Broken(f"{version} serves, and neither of {sorted(allowed)}: {model}")
        if model.running != version:
            raise Broken(f"{version} serves, but it says {model}")
        if model.state == "SUCCEEDED" and version != self.wanted:
            raise Broken(f"SUCCEEDED with {self.wanted}, but {version} serves")
        if not model.why:
            raise Broken(f"no reason is given: {model}")
        self.until_gone(self.orphans, "orphans")
        return model

    def clean(self) -> None:
        """After a success: nothing is left behind."""
        self.until_gone(self.leftovers, "left behind")

    def close(self) -> None:
        """End everything."""
        self.page.heal()
        self.page.stop_in()
        self._release()
        self._ends.close()


def publish(home: Home, folder: Path) -> dict[str, str]:
    """Every version of the model, as ``overlaid fleet pack`` and ``publish`` do, without a process for each; the
    digests, by version."""
    repository, key, keys = Repository(home.packages), load_key(home, "packages"), public_keys(home)
    digests = {}
    for model in write_versions(folder / "models"):
        package = folder / f"package-{model.name}"
        pack(model, package, key, block_bytes=BLOCK_BYTES, check=False)
        entry = repository.publish(package, keys)
        digests[entry.version] = entry.digest
    return digests


def _end_launcher(launcher: subprocess.Popen[str]) -> None:
    """Its daemon dies with it."""
    assert launcher.stdin is not None and launcher.stdout is not None
    launcher.kill()
    launcher.wait()
    launcher.stdin.close()
    launcher.stdout.close()


def processes() -> list[tuple[int, str, int]]:
    """(pid, name, session) of every process that is no zombie, oldest first."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            head, _, tail = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue
        fields = tail.split()
        if fields[0] not in "ZX":
            found.append((int(fields[19]), int(folder.name), head.partition("(")[2], int(fields[3])))
    return [(pid, name, session) for _, pid, name, session in sorted(found)]


def signal_all(pids: Iterable[int], number: signal.Signals = signal.SIGKILL) -> None:
    """Those that are there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
