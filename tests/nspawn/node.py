"""The service in a machine, asked from outside through its sockets and with its own command."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.nspawn import network
from tests.nspawn.machine import Machine
from tests.system.digits import DIGITS, infer_body
from tests.system.stage import Node, Stage, StageError, wait_until

UNIT = "overlaid.service"
NODE = "box"
STATE = Path("/var/lib/overlaid")
RUNTIME = Path("/run/overlaid")
CONFIG = Path("/etc/overlaid/agent.toml")
TRUST = Path("/etc/overlaid/root.json")
ANSWER_TIMEOUT_S = 60.0
GOLDEN = {"fp32": (1e-3, 1e-3), "int8": (0.23, 0.0)}  # atol and rtol of models/digits/model.toml


def configure(root: Path, node: Node, host: str, port: int) -> None:
    """Write what ``node`` of a stage has into the file system at ``root``, with the service's own folders and this
    broker."""
    text, anchor = node.config.read_text(), node.folder / TRUST.name
    for here, there in ((node.state, STATE), (node.runtime, RUNTIME), (anchor, TRUST)):
        text = text.replace(str(here), str(there))
    text = re.sub(r'^host = ".*"$', f'host = "{host}"', text, flags=re.MULTILINE)
    text = re.sub(r"^port = \d+$", f"port = {port}", text, flags=re.MULTILINE)
    (root / CONFIG.parent.relative_to("/")).mkdir(exist_ok=True)
    (root / CONFIG.relative_to("/")).write_text(text)
    (root / TRUST.relative_to("/")).write_bytes(anchor.read_bytes())  # anybody may read it


def golden_variant(answer: dict[str, Any]) -> str | None:
    """Which variant's golden outputs these are, None when of none."""
    got = np.array(answer["outputs"][0]["data"], np.float32).reshape(-1, 10)
    for variant, (atol, rtol) in GOLDEN.items():
        want = np.load(DIGITS / "golden" / variant / "logits.npy")
        if got.shape == want.shape and np.allclose(got, want, atol=atol, rtol=rtol):
            return variant
    return None


class DoorConnection(http.client.HTTPConnection):
    """HTTP to the front door's Unix socket."""

    def __init__(self, path: Path, timeout_s: float = 10.0) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


class Service:
    """``overlaid.service`` in ``machine``."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def configure(self, node: Node, broker_port: int) -> None:
        """Give it what ``node`` of a stage has, with the service's own folders and the broker over the cable."""
        configure(self.machine.root, node, network.HOST_ADDRESS, broker_port)
        self.machine.run("systemctl", "restart", UNIT)

    def active(self) -> bool:
        return self.machine.property(UNIT, "ActiveState") == "active"

    def since(self, event: str = "ActiveEnter") -> float:
        """When its state last changed so, on CLOCK_MONOTONIC, seconds."""
        return int(self.machine.property(UNIT, f"{event}TimestampMonotonic")) / 1e6

    def pid(self) -> int:
        """The daemon's number outside the machine; 0 while there is none."""
        inner = int(self.machine.property(UNIT, "MainPID") or 0)
        return self.machine.outer_pid(inner) if inner else 0

    def restarts(self) -> int:
        return int(self.machine.property(UNIT, "NRestarts"))

    def overlaid(self, *args: str, check: bool = True) -> str:
        """The output of ``overlaid ARGS`` inside."""
        return self.machine.run("overlaid", *args, check=check).stdout

    def status(self) -> dict[str, Any] | None:
        """The snapshot, None while the daemon does not answer."""
        done = self.machine.run("overlaid", "status", "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def model(self, name: str) -> dict[str, Any] | None:
        found = (self.status() or {"models": []})["models"]
        return next((model for model in found if model["name"] == name), None)

    def placements(self) -> list[tuple[str, str, str, str]]:
        """Each model's name, version, variant and device."""
        models = (self.status() or {"models": []})["models"]
        return sorted(
            (m["name"], m["running_version"], m["candidate"]["variant"], m["candidate"]["device"])
            for m in models
            if m["candidate"] is not None
        )

    def worker(self, name: str) -> int:
        """The worker's number outside."""
        model = self.model(name)
        if model is None or not model.get("pid"):
            raise StageError(f"{name} has no worker: {model}")
        return self.machine.outer_pid(int(model["pid"]))

    def post(self, model: str, body: bytes, timeout_s: float = 10.0) -> tuple[int, dict[str, Any]]:
        """One inference: status and answer. Raises OSError when nobody answers."""
        connection = DoorConnection(self.machine.inside / "run/overlaid/http.sock", timeout_s)
        try:
            connection.request(
                "POST", f"/v2/models/{model}/infer", body, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except http.client.HTTPException as error:
            raise OSError(f"the connection broke: {error!r}") from error
        finally:
            connection.close()

    def digits(self) -> str:
        """ "" when the golden inputs give the golden outputs of one of digits' variants, else what they gave."""
        try:
            status, answer = self.post("digits", GOLDEN_BODY)
        except OSError as error:
            return f"no answer: {error}"
        if status != 200:
            return f"{status}: {answer}"
        return "" if golden_variant(answer) else f"other outputs than the golden ones: {answer}"

    def answers(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Wait until digits gives its golden outputs; StageError with what it gave last."""
        last = ""

        def good() -> bool:
            nonlocal last
            last = self.digits()
            if last.startswith("other outputs"):
                raise StageError(last)
            return not last

        try:
            wait_until("digits to answer", good, timeout_s)
        except StageError as error:
            told = self.machine.journal(UNIT) if self.machine.leader else ""
            raise StageError(f"{error}; last: {last}\n{told}") from None


GOLDEN_BODY = infer_body(np.load(DIGITS / "golden/image.npy"))


@dataclass(slots=True)
class Watch:
    """A client that asks again and again: ``gap_s`` is its longest time without an answer."""

    gap_s: float = 0.0
    answers: int = 0
    wrong: list[str] = field(default_factory=list)


@contextmanager
def watching(service: Service) -> Iterator[Watch]:
    """Ask for digits every 20 ms meanwhile, from a thread."""
    watch, over = Watch(), threading.Event()

    def ask() -> None:
        last = time.monotonic()
        while not over.is_set():
            said = service.digits()
            now = time.monotonic()
            if not said:
                watch.gap_s, last = max(watch.gap_s, now - last), now
                watch.answers += 1
            elif said.startswith("other outputs"):
                watch.wrong.append(said)
            over.wait(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join(30)


def deploy(it: Stage, reference: str, *options: str, check: bool = True) -> str:
    """``overlaid fleet deploy --wait`` to the machine; its output."""
    budget = ("--latency-p99", "200ms", "--rate", "5/s")
    done = it.fleet("deploy", reference, "--node", NODE, *budget, *options, "--wait", "--json", check=check)
    return done.stdout + done.stderr
