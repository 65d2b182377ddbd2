"""Attacks on the repository and on what operators sign, against a real daemon through a real broker.

A hostile server answers in place of ``overlaid fleet serve``. Whatever it does, the refusal has its name, the version
before serves on with its golden outputs, nothing is left half-installed, and the honest server's next deployment
succeeds.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import TargetFile, Targets

from agent.control import client
from agent.errors import OverlaidError
from agent.fleet.desired import with_model
from agent.fleet.home import Home
from agent.fleet.operator import Operator
from agent.fleet.pack import pack
from agent.fleet.repo import Repo
from agent.fleet.repo.publish import publish
from agent.link.messages import Command, Desired, sign
from agent.link.topics import Target, metadata_data
from agent.package.tuf.client import ROOT_LIMIT, SNAPSHOT_LIMIT, TARGETS_LIMIT, TIMESTAMP_LIMIT
from agent.package.tuf.parent import HELPER
from agent.trust import PrivateKey
from agent.types import Budget, DesiredModel, DesiredState
from tests.faults.model import FACTORS, NAME, write_versions
from tests.system.brokers import start_broker
from tests.system.hostile_repo import Files, HostileServer, forged, served
from tests.system.stage import SITE, Node, Stage, children_of, stage, wait_until

N1, ALL = Target(SITE, "n1"), Target(SITE, "all", group=True)
DAY = 86_400.0
FINAL = ("SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED", "SUPERSEDED")
BLOCK_BYTES = 64 << 10
MAX_GROWTH_KIB = 24 << 10  # of the daemon, as during a transfer


@dataclass
class Scene:
    """A node that serves a model, its operator, and who sits in the server's place. ``digests``: of what is packed, by
    version; ``running``: the version that must answer."""

    it: Stage
    node: Node
    server: HostileServer
    operator: Operator
    key: PrivateKey
    folder: Path
    digests: dict[str, str] = field(default_factory=dict)
    running: str = ""

    @property
    def home(self) -> Home:
        return Home(self.it.home)

    # -- the operator --------------------------------------------------------------------------------------------

    def pack(self, version: str) -> Path:
        package = self.folder / f"package-{version}"
        if not package.exists():
            pack(self.folder / f"models/m-{version}", package, block_bytes=BLOCK_BYTES, check=False)
        return package

    def publish(self, version: str) -> None:
        self.digests[version] = publish(self.home, self.pack(version)).entry.digest

    def twin(self, name: str) -> Home:
        """The operator's folder as somebody copied it."""
        shutil.copytree(self.it.home, self.folder / name)
        return Home(self.folder / name)

    def send(self, topic: str, payload: bytes, *options: str) -> None:
        command = f"mosquitto_pub -h {self.it.broker.host} -p {self.it.broker.port} -q 1 -s -t {topic}"
        subprocess.run([*command.split(), *options], input=payload, check=True, timeout=20)

    def desire(self, version: str, digest: str | None = None) -> bytes:
        """Publish a desired state, as ``overlaid fleet deploy`` does; what was published."""
        model = DesiredModel(NAME, version, digest or self.digests[version], Budget(2000.0, 0.1))
        state = self.operator.revise(N1, lambda content: with_model(content, model))
        payload = sign(Desired.of(N1, state), self.key)
        self.send(N1.desired, payload, "-r")
        wait_until("the node heard it", lambda: self.snapshot()["revision_seen"] >= state.revision)
        return payload

    def deploy(self, version: str, digest: str | None = None) -> dict[str, Any]:
        """The model as the node shows it, once its deployment has ended."""
        self.desire(version, digest)
        return self.settled(version)

    def settled(self, version: str) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            model = self.model()
            return model if model["version"] == version and model["state"] in FINAL else None

        found: dict[str, Any] = wait_until(f"the end of {version}", ended, 60)
        return found

    def succeeds(self, version: str) -> None:
        """The honest server is back."""
        self.server.files = served(self.home)
        model = self.deploy(version)
        assert model["state"] == "SUCCEEDED", model
        self.running = version
        self.healthy()

    # -- the node ------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        try:
            return dict(client.ask(self.node.runtime / "control.sock", "snapshot", timeout_s=10.0))
        except OverlaidError:
            return {"models": [], "revision_seen": -1}

    def model(self) -> dict[str, Any]:
        models = [model for model in self.snapshot()["models"] if model["name"] == NAME]
        return models[0] if models else {"version": None, "state": None}

    def healthy(self) -> None:
        """The right version answers its golden outputs, and the node says so."""
        connection = http.client.HTTPConnection("127.0.0.1", self.node.port, timeout=10)
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}
        connection.request("POST", f"/v2/models/{NAME}/infer", json.dumps({"inputs": [tensor]}).encode())
        answer = json.loads(connection.getresponse().read())
        connection.close()
        factor = FACTORS[self.running]
        assert answer["outputs"][0]["data"] == pytest.approx([factor * x for x in (1, 2, 3, 4)])
        assert self.model()["running_version"] == self.running

    def kept(self) -> set[str]:
        """Files of the store, and leftovers of what is trusted."""
        state = self.node.state
        files = [path for path in (state / "store").rglob("*") if path.is_file()]
        return {str(path.relative_to(state)) for path in (*files, *(state / "repo").rglob("*.tmp"))}

    def rss_kib(self) -> int:
        assert self.node.process is not None
        lines = Path(f"/proc/{self.node.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    def refuses(self, version: str, error: str, says: str, digest: str | None = None) -> None:
        """Deploying it ends in this error, in the words of ``overlaid models``, and nothing else changes."""
        kept, pid = self.kept(), self.model()["pid"]
        model = self.deploy(version, digest or self.digests.get(version, "0" * 64))
        assert model["state"] == "REJECTED" and model["why"].startswith(f"{error}: "), model["why"]
        assert says in model["why"], model["why"]
        shown = json.loads(self.node.run("models", "--json").stdout)
        assert model["why"] in json.dumps(shown, ensure_ascii=False)
        assert self.kept() <= kept and self.model()["pid"] == pid  # what was replaced before may go meanwhile
        self.healthy()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """1.0.0 and 1.0.1 were deployed; 1.0.2 to 1.0.4 are packed and not published."""
    folder = tmp_path_factory.mktemp("attacks")
    write_versions(folder / "models")
    with stage(folder, start_broker) as it:
        home = Home(it.home)
        Repo(home).delegate("vision", ["cam*/*"])
        node = it.node("n1")
        text = node.config.read_text().partition("[deploy]")[0]
        node.config.write_text(text + "[deploy]\nsoak_s = 0.0\nprofile_s = 0.05\n")
        key = PrivateKey.load(home.keys / "commands.pem")
        node.start()
        with HostileServer(it.broker, home.packages) as server, Operator(it.home / "operator.db") as operator:
            scene = Scene(it, node, server, operator, key, folder)
            for version in ("1.0.0", "1.0.1"):
                scene.publish(version)
                scene.succeeds(version)
            yield scene


def file_of(files: Files, role: str, before: int = 0) -> str:
    """The name of a role's newest file, or of one so many versions before."""
    newest = max(int(name.split(".")[0]) for name in files if name.endswith(f".{role}.json"))
    return f"{newest - before}.{role}.json"


def with_other(role: str, change: Callable[[Files], bytes]) -> Callable[[Files], Files]:
    return lambda now: {**now, file_of(now, role): change(now)}


WITHOUT_KEYS: list[tuple[str, str, Callable[[Files], Files]]] = [
    (
        "MetadataMismatch",
        "snapshot.json",
        with_other("snapshot", lambda now: now[file_of(now, "snapshot", before=1)]),
    ),
    (
        "MetadataMismatch",
        "packages.json",
        with_other("packages", lambda now: now[file_of(now, "packages", before=1)]),
    ),
    (
        "MetadataMismatch",
        "packages.json",
        with_other("packages", lambda now: now[file_of(now, "packages")] + b" "),
    ),
    ("MetadataTooLarge", "2.root.json", lambda now: {**now, "2.root.json": bytes(ROOT_LIMIT + 1)}),
    ("MetadataTooLarge", "timestamp.json", lambda now: {**now, "timestamp.json": bytes(TIMESTAMP_LIMIT + 1)}),
    ("MetadataTooLarge", "snapshot.json", with_other("snapshot", lambda _: bytes(SNAPSHOT_LIMIT + 1))),
    ("MetadataTooLarge", "packages.json", with_other("packages", lambda _: bytes(TARGETS_LIMIT + 1))),
    ("MetadataDamaged", "timestamp.json", lambda now: {**now, "timestamp.json": b"[" * 9000}),
    ("MetadataMissing", "timestamp.json", lambda _: {}),
]


def goes_back(targets: Targets) -> None:
    targets.version -= 2


def signs_for_another(digest: str) -> Callable[[Targets], None]:
    def change(targets: Targets) -> None:
        targets.version += 1
        path = f"{NAME}/1.0.9.json"
        targets.targets[path] = TargetFile(1000, {"sha256": digest}, path)

    return change


def test_each_attack_is_refused_by_its_name_and_the_honest_server_succeeds(scene: Scene) -> None:
    home, server, rss = scene.home, scene.server, scene.rss_kib()
    scene.publish("1.0.2")
    for number, (error, says, change) in enumerate(WITHOUT_KEYS):
        Repo(home).add(NAME, f"9.0.{number}", b"so that every file is a new one")
        server.files = change(served(home))
        scene.refuses("1.0.2", error, says)
    other = Home(scene.folder / "other")
    Repo(other).init()
    publish(other, scene.pack("1.0.2"))
    server.files = served(other)
    scene.refuses("1.0.2", "WrongKeys", "[trust] root")
    server.files = served(home)
    scene.refuses("8.8.8", "UnknownTarget", "packages version")  # which nobody published
    scene.refuses("1.0.2", "UnknownTarget", "with digest", digest="1" * 64)
    scene.succeeds("1.0.2")
    before = served(home)
    scene.publish("1.0.3")
    scene.succeeds("1.0.3")
    server.files = before
    scene.refuses("8.8.8", "MetadataRollback", "timestamp version")
    scene.publish("1.0.4")
    scene.succeeds("1.0.4")
    assert scene.rss_kib() - rss < MAX_GROWTH_KIB


def test_stolen_keys_do_what_they_may_until_they_are_replaced(scene: Scene) -> None:
    home, server = scene.home, scene.server
    frozen = scene.twin("frozen")
    Repo(frozen, lambda: time.time() - 8 * DAY).add(NAME, "7.7.7", b"a new state, that expired")
    server.files = served(frozen)
    scene.refuses("8.8.8", "MetadataExpired", "timestamp version")
    evil = forged(home, "vision", signs_for_another(scene.digests["1.0.2"]))
    server.files = evil
    scene.refuses("1.0.9", "UnknownTarget", "packages version", scene.digests["1.0.2"])
    server.files = forged(home, "packages", goes_back, later=200)
    scene.refuses("8.8.8", "MetadataRollback", "with packages version")
    server.files = served(home)
    scene.refuses("8.8.8", "MetadataRollback", "timestamp version")  # it looks old now
    Repo(home).rotate("online")
    scene.succeeds("1.0.2")
    server.files = {**evil, **{name: data for name, data in served(home).items() if "root" in name}}
    scene.refuses("8.8.8", "WrongKeys", "timestamp.json")


def test_what_is_larger_than_any_message_neither_arrives_nor_fills_the_daemon(scene: Scene) -> None:
    """Endless data that no limit of metadata sees: the connection drops it, and the deployment waits for a better
    answer."""
    scene.server.files = {}
    scene.node.log.write_text("")
    rss, asked = scene.rss_kib(), len(scene.server.asked)
    scene.server.silent = True
    scene.desire("1.0.0")
    wait_until("the question", lambda: len(scene.server.asked) > asked)
    question = scene.server.asked[-1]
    for _ in range(10):
        scene.send(metadata_data(SITE, question), bytes(6 << 20))
    assert scene.model()["state"] not in FINAL
    scene.healthy()
    scene.server.files, scene.server.silent = served(scene.home), False
    assert scene.settled("1.0.0")["state"] == "SUCCEEDED"
    scene.running = "1.0.0"
    scene.healthy()
    assert scene.rss_kib() - rss < MAX_GROWTH_KIB


# -- what operators sign ---------------------------------------------------------------------------------------------


def command(scene: Scene, name: str, target: Target = N1) -> bytes:
    fields: dict[str, Any] = {"target": str(target), "id": name, "op": "restart", "model": NAME}
    fields["sequence"] = scene.operator.next_sequence(scene.key.public.id)
    life = {"issued": time.time(), "expires": time.time() + 600}
    return sign(Command.model_validate(fields | life), scene.key)


def refused(scene: Scene, topic: str, payload: bytes, error: str) -> None:
    """Sending it leaves one more refusal of this name, and the model as it is."""

    def told() -> int:
        return scene.node.log.read_text().count(f"{topic} refused: {error}: ")

    time.sleep(0.25)  # of refusals five a second are told
    pid, before = scene.model()["pid"], told()
    scene.send(topic, payload)
    wait_until(f"{error} on {topic}", lambda: told() > before)
    assert scene.model()["pid"] == pid
    scene.healthy()


def test_what_was_signed_once_cannot_be_sent_again_nor_elsewhere(scene: Scene) -> None:
    scene.server.files = served(scene.home)
    old = scene.desire("1.0.1")
    assert scene.settled("1.0.1")["state"] == "SUCCEEDED"
    scene.running = "1.0.1"
    once, pid = command(scene, "once"), scene.model()["pid"]
    scene.send(N1.command("restart", "once"), once)
    wait_until("the new worker", lambda: scene.model().get("pid") not in (None, pid))
    wait_until("the model", lambda: scene.model()["ready"])
    scene.succeeds("1.0.3")
    for_all = sign(Desired.of(ALL, DesiredState(1, time.time(), time.time() + DAY, ())), scene.key)

    refused(scene, N1.desired, old, "Replayed")
    refused(scene, ALL.desired, old, "WrongTarget")
    refused(scene, N1.desired, for_all, "WrongTarget")
    refused(scene, N1.command("restart", "once"), once, "Replayed")
    refused(scene, N1.command("restart", "twice"), once, "Replayed")
    refused(scene, ALL.command("restart", "once"), once, "WrongTarget")
    refused(scene, N1.command("restart", "all"), command(scene, "all", ALL), "WrongTarget")
    refused(scene, N1.command("restart", "n2"), command(scene, "n2", Target(SITE, "n2")), "WrongTarget")
    refused(scene, N1.command("restart", "kind"), old, "MessageError")
    refused(scene, N1.desired, once, "MessageError")

    scene.send(N1.desired, old, "-r")  # the broker has it for whoever comes back
    scene.node.kill()
    scene.node.start()
    wait_until("the model", lambda: scene.model().get("ready"))
    wait_until("the refusal", lambda: f"{N1.desired} refused: Replayed" in scene.node.tail(200))
    refused(scene, N1.command("restart", "once"), once, "Replayed")
    scene.succeeds("1.0.0")


# -- the helper's end ------------------------------------------------------------------------------------------------


def kill_a_helper(scene: Scene, version: str, after_s: float) -> bool:
    """End the daemon's helper, that long after it began; whether there was one before the deployment ended."""
    assert scene.node.process is not None
    while not ((model := scene.model())["version"] == version and model["state"] in FINAL):
        for child in children_of(scene.node.process.pid):
            try:
                words = Path(f"/proc/{child}/cmdline")
                if HELPER in words.read_text():
                    time.sleep(after_s)
                    if HELPER not in words.read_text():
                        continue
                    os.kill(child, signal.SIGKILL)
                    return True
            except OSError:
                continue
        time.sleep(0.005)
    return False


def test_a_helper_that_is_killed_at_any_instant_leaves_the_trust_whole(scene: Scene) -> None:
    versions = list(FACTORS)
    scene.server.files = served(scene.home)
    kills = 0
    for turn, after_s in enumerate((0.0, 0.05, 0.1, 0.2, 0.4, 0.8)):
        Repo(scene.home).rotate("online")  # so that every file is written anew
        scene.server.files = served(scene.home)
        version = next(v for v in versions[turn % 5 :] + versions if v not in _installed(scene))
        scene.desire(version)
        kills += kill_a_helper(scene, version, after_s)
        model = scene.settled(version)
        if model["state"] == "SUCCEEDED":
            scene.running = version
        else:
            assert model["why"].startswith("RepositoryError: the process that verifies packages"), model
        scene.healthy()
    assert kills
    before = served(scene.home)
    Repo(scene.home).rotate("online")
    version = next(v for v in versions if v not in _installed(scene))
    scene.succeeds(version)
    scene.server.files = before
    scene.refuses("8.8.8", "WrongKeys", "timestamp")
    assert not list((scene.node.state / "repo").rglob("*.tmp"))


def _installed(scene: Scene) -> set[str]:
    """Current and previous, which need no metadata."""
    versions = json.loads((scene.node.state / f"store/models/{NAME}.json").read_text())
    return {version for version, digest in scene.digests.items() if digest in versions.values()}


# -- keys change hands, with the command and the operator's own server -----------------------------------------------


def test_a_root_key_is_lost_and_the_others_replace_it_while_the_node_runs(scene: Scene) -> None:
    offline = scene.folder / "usb"
    shutil.move(scene.it.home / "offline", offline)
    lost = scene.folder / "lost"
    lost.mkdir()
    shutil.move(offline / "root-2.pem", lost)
    before, now = scene.twin("before"), served(scene.home)
    new, newer = (f"{int(file_of(now, 'root').split('.')[0]) + more}.root.json" for more in (1, 2))
    done = json.loads(
        scene.it.fleet(
            "repo", "rotate", "root", "--lost", "root-2", "--offline", str(offline), "--json"
        ).stdout
    )
    assert new in done["published"]
    assert scene.it.fleet("repo", "status").returncode == 0
    version = next(v for v in FACTORS if v not in _installed(scene))
    scene.succeeds(version)
    history = scene.node.state / "repo/root_history"
    assert (history / new).read_bytes() == (scene.home.repo / "root.json").read_bytes()

    # Who found the lost key, and one of the others, is nobody any more.
    shutil.copy(offline / "root-1.pem", lost)
    Repo(before).rotate("targets", offline=[lost])
    scene.server.files = served(before) | {newer: served(before)[new]}
    scene.refuses("8.8.8", "WrongKeys", newer)
    # A node that saw nothing of it yet, with the root of the first day.
    scene.node.stop()
    shutil.rmtree(scene.node.state / "repo")
    scene.node.start()
    wait_until("the model", lambda: scene.model().get("ready"))
    version = next(v for v in FACTORS if v not in _installed(scene))
    scene.succeeds(version)
    assert (history / new).exists()
