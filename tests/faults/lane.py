"""One node with its broker and operator, to be broken again and again."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.fleet.desired import with_model
from agent.fleet.home import Home
from agent.fleet.operator import Operator
from agent.fleet.pack import pack
from agent.fleet.repo.publish import publish
from agent.link.messages import Desired, sign
from agent.link.topics import Target
from agent.trust import PrivateKey
from agent.types import Budget, DesiredModel
from tests.faults import control, remains
from tests.faults.daemon import Broken, Daemon
from tests.faults.model import FACTORS, NAME, write_versions
from tests.faults.proxy import Proxy
from tests.system.brokers import start_broker
from tests.system.stage import SITE, Stage

NODE = "n1"
TIMES = (
    "[deploy]\nsoak_s = 0.0\nprofile_s = 0.05\nphase_timeout_s = {phase}\ndownload_timeout_s = {download}\n"
)
FINAL = ("SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED", "SUPERSEDED")
SETTLE_S = 75.0
BLOCK_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Model:
    """What the node says of the model."""

    version: str
    state: str
    why: str
    running: str | None
    phase: str | None


class Lane:
    """``folder``: everything of it. ``daemon.start`` before anything else; ``close`` ends what was started."""

    def __init__(self, folder: Path, library: Path, phase: float = 20.0, download: float = 20.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.wanted = ""
        self.revision = 0
        self._ends = contextlib.ExitStack()
        try:
            self._equip(folder, phase, download)
            self.daemon = Daemon(self._node, self.page, library)
            self._ends.callback(self.daemon.close)
        except BaseException:
            self._ends.close()
            raise

    def _equip(self, folder: Path, phase: float, download: float) -> None:
        self.broker = self._ends.enter_context(start_broker(folder / "broker"))
        self.proxy = Proxy(self.broker.port)
        self._ends.callback(self.proxy.close)
        self.stage = self._ends.enter_context(Stage(folder, self.broker))
        self.stage.prepare()
        self.digests = publish_versions(Home(self.stage.home), folder)
        self.stage.serve()
        self._node = self.stage.node(NODE)
        text = self._node.config.read_text().partition("[deploy]")[0]
        text = text.replace(f"port = {self.broker.port}", f"port = {self.proxy.port}", 1)
        self._node.config.write_text(text + TIMES.format(phase=phase, download=download))
        self._operator = self._ends.enter_context(Operator(self.stage.home / "operator.db"))
        self._key = PrivateKey.load(self.stage.home / "keys/commands.pem")
        self._target = Target(SITE, NODE)
        self.page = control.Page(folder / "page", self._node.state)
        self._ends.callback(self.page.close)

    def model(self) -> Model | None:
        """As the snapshot shows it; None while there is none, or no answer."""
        models = (self.daemon.snapshot() or {"models": []})["models"]
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

    def settled(self, timeout_s: float = SETTLE_S) -> Model:
        """Wait until the newest desired state has come to its end."""
        deadline = time.monotonic() + timeout_s
        model: Model | None = None
        while time.monotonic() < deadline:
            snapshot = self.daemon.snapshot()
            if snapshot is None:
                self.daemon.check_alive()
            elif snapshot["revision_seen"] >= self.revision:
                model = self.model()
                if model is not None and model.version == self.wanted and model.state in FINAL:
                    return model
            time.sleep(0.04)
        raise Broken(f"not final after {timeout_s:g} s: {model}, wanted {self.wanted}")

    # -- looking -----------------------------------------------------------------------------------------------------

    def answer(self) -> str:
        """The version whose golden outputs come back; Broken when they are nobody's, OSError without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._node.port, timeout=10)
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
                self.daemon.check_alive()
                time.sleep(0.03)

    def journalled(self) -> list[tuple[int, str, str, str | None]]:
        """Deployments as the disk has them, (id, version, state, phase), oldest first; Broken when damaged."""
        return remains.journalled(self._node.state)

    def _until_gone(self, what: Callable[[], list[str]], name: str, timeout_s: float = 8.0) -> None:
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
        self._until_gone(self.daemon.orphans, "orphans")
        return model

    def clean(self) -> None:
        """After a success: nothing is left behind."""
        self._until_gone(lambda: remains.leftovers(self._node.state, self._node.runtime), "left behind")

    def close(self) -> None:
        """End everything."""
        self.page.heal()
        self.page.stop_in()
        self._ends.close()


def publish_versions(home: Home, folder: Path) -> dict[str, str]:
    """Every version of the model, as ``overlaid fleet pack`` and ``publish`` do, without a process for each; the
    digests, by version."""
    digests = {}
    for model in write_versions(folder / "models"):
        package = folder / f"package-{model.name}"
        pack(model, package, block_bytes=BLOCK_BYTES, check=False)
        entry = publish(home, package).entry
        digests[entry.version] = entry.digest
    return digests
