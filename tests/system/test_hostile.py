"""What an attacker or a confused tool may put on the wire: refused by name, the running model untouched."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.link.messages import Command, Desired, sign
from agent.link.topics import Target
from agent.trust import PrivateKey
from agent.types import DesiredModel, DesiredState
from tests.system.digits import DIGITS
from tests.system.stage import SITE, Node, Stage, stage, wait_until

BUDGET = ("--latency-p99", "50ms", "--rate", "10/s")
N1 = Target(SITE, "n1")
STRANGER = PrivateKey.generate()


@dataclass
class Scene:
    """A node that serves digits, and an attacker who may publish anything."""

    it: Stage
    node: Node
    pid: int
    commands: PrivateKey
    team: PrivateKey

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        command = ["mosquitto_pub", "-h", self.it.broker.host, "-p", str(self.it.broker.port), "-t", topic]
        command += ["-q", "1", "-s", *(["-r"] if retain else [])]
        subprocess.run(command, input=payload, check=True, timeout=20)

    def untouched(self) -> bool:
        model = self.node.model("digits")
        return model is not None and model["pid"] == self.pid and model["ready"]

    def events(self) -> str:
        return self.node.run("telemetry", "--since", "1h", "--json").stdout


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with stage(tmp_path_factory.mktemp("hostile")) as it:
        it.serve()
        it.publish(DIGITS)
        node = it.node("n1")
        node.start()
        it.fleet("deploy", "digits@1.0.0", "--node", "n1", *BUDGET, "--wait")
        pid = (node.model("digits") or {})["pid"]
        # Some payloads below are signed by the operator's own key: a running server would take them for its own.
        it.stop_serving()
        keys = [PrivateKey.load(it.home / "keys" / f"{name}.pem") for name in ("commands", "packages")]
        yield Scene(it, node, pid, *keys)


def desired(revision: int, target: Target = N1, expires: float = 4e9, *models: DesiredModel) -> Desired:
    return Desired.of(target, DesiredState(revision, time.time(), expires, tuple(models)))


def raw(message: Desired, **changes: Any) -> bytes:
    return json.dumps(json.loads(message.encode()) | changes).encode()


def seal_raw(payload: bytes, key: PrivateKey) -> bytes:
    from agent.trust import seal

    return seal("desired", payload, key)


BAD_DESIRED: dict[str, tuple[str, Callable[[Scene], bytes]]] = {
    "unsigned": ("MessageError", lambda s: desired(900).encode()),
    "lone surrogate": (
        "MessageError",
        lambda s: b'{"kind":"desired","key":"\\ud800","payload":"","signature":""}',
    ),
    "noise": ("MessageError", lambda s: b"\x00\xff" * 100),
    "oversized": ("MessageError", lambda s: b" " * 300_000),
    "by a stranger": ("UnknownKey", lambda s: sign(desired(900), STRANGER)),
    "by a team's key": ("UnknownKey", lambda s: sign(desired(900), s.team)),
    "for another node": ("WrongTarget", lambda s: sign(desired(900, Target(SITE, "n2")), s.commands)),
    "for a group": ("WrongTarget", lambda s: sign(desired(900, Target(SITE, "all", group=True)), s.commands)),
    "expired": ("Expired", lambda s: sign(desired(900, N1, 1000.0), s.commands)),
    "unknown key": ("unknown key", lambda s: seal_raw(raw(desired(900), surprise=1), s.commands)),
    "wrong type": ("revision", lambda s: seal_raw(raw(desired(900), revision="900"), s.commands)),
    "wrong unit": ("power_cap_w", lambda s: seal_raw(raw(desired(900), power_cap_w=-3.0), s.commands)),
    "bad name": ("model", lambda s: seal_raw(raw(desired(900), models=[_model("../etc")]), s.commands)),
    "bad budget": (
        "rate_hz",
        lambda s: seal_raw(raw(desired(900), models=[_model("x", rate=-1.0)]), s.commands),
    ),
    "twice": ("twice", lambda s: seal_raw(raw(desired(900), models=[_model("x"), _model("x")]), s.commands)),
}


def _model(name: str, rate: float = 1.0) -> dict[str, Any]:
    budget = {"latency_p99_ms": 1.0, "rate_hz": rate}
    return {"name": name, "version": "1", "digest": "0" * 64, "budget": budget}


@pytest.fixture
def served(scene: Scene) -> Iterator[None]:
    """The operator's server runs for one test."""
    scene.it.serve()
    yield
    scene.it.stop_serving()


@pytest.mark.parametrize("case", BAD_DESIRED)
def test_a_bad_desired_state_is_refused_by_name(scene: Scene, case: str) -> None:
    named, make = BAD_DESIRED[case]
    scene.it.fleet("power-cap", "90W", "--node", "n1")  # the next good revision clears the last refusal
    wait_until("a clean state", lambda: not (scene.node.status() or {"warnings": [1]})["warnings"])
    scene.send(N1.desired, make(scene))
    warnings = wait_until(case, lambda: (scene.node.status() or {}).get("warnings"))
    assert named in warnings[0]
    assert scene.untouched()


def test_a_replayed_desired_state_changes_nothing(scene: Scene) -> None:
    old = sign(desired(1), scene.commands)  # it would remove every model
    scene.send(N1.desired, old)
    wait_until("the refusal", lambda: "Replayed" in scene.events())
    assert scene.untouched()


def result_of(scene: Scene, command_id: str, payload: bytes, op: str = "restart") -> dict[str, Any] | None:
    """Send a command and wait up to two seconds for its result."""
    listen = ["mosquitto_sub", "-h", scene.it.broker.host, "-p", str(scene.it.broker.port)]
    listen += ["-t", N1.result(op, command_id), "-C", "1", "-W", "2"]
    listener = subprocess.Popen(listen, stdout=subprocess.PIPE)
    time.sleep(0.3)
    scene.send(N1.command(op, command_id), payload)
    out, _ = listener.communicate(timeout=20)
    return json.loads(out) if out else None


def command(sequence: int, command_id: str, target: Target = N1, expires: float = 4e9) -> Command:
    fields = {
        "target": str(target),
        "id": command_id,
        "op": "restart",
        "sequence": sequence,
        "model": "digits",
    }
    return Command.model_validate(fields | {"issued": time.time(), "expires": expires})


def test_bad_commands_are_rejected_by_name(scene: Scene) -> None:
    far = 2**50
    cases = {
        "unsigned": ("MessageError", command(far, "c-1").encode()),
        "stranger": ("UnknownKey", sign(command(far, "c-2"), STRANGER)),
        "a team's key": ("UnknownKey", sign(command(far, "c-3"), scene.team)),
        "expired": ("Expired", sign(command(far, "c-4", expires=1000.0), scene.commands)),
        "elsewhere": ("WrongTarget", sign(command(far, "c-5", Target(SITE, "n2")), scene.commands)),
    }
    for number, (name, (named, payload)) in enumerate(cases.items(), start=1):
        result = result_of(scene, f"c-{number}", payload)
        assert result is not None and result["state"] == "REJECTED", name
        assert named in result["why"]
    assert scene.untouched()


def test_a_replayed_command_is_not_carried_out_again(scene: Scene) -> None:
    once = sign(command(2**51, "once"), scene.commands)
    first = result_of(scene, "once", once)
    assert first is not None and first["state"] == "SUCCEEDED"
    restarted = wait_until("the new worker", lambda: scene.node.model("digits"))
    scene.pid = restarted["pid"]
    assert result_of(scene, "once", once) is None
    assert "Replayed" in scene.events() and scene.untouched()


@pytest.mark.usefixtures("served")
def test_a_model_that_no_runtime_can_load_ends_in_a_named_failure(scene: Scene, tmp_path: Path) -> None:
    shutil.copytree(DIGITS, tmp_path / "onnx")
    toml = tmp_path / "onnx/model.toml"
    toml.write_text(toml.read_text().replace('version = "1.0.0"', 'version = "6.6.6"', 1))
    for path in (tmp_path / "onnx").glob("*.onnx"):
        path.write_bytes(path.read_bytes().replace(b"Conv", b"Vnoc"))  # operators that do not exist
    refused = scene.it.fleet("pack", str(tmp_path / "onnx"), "-o", str(tmp_path / "out"), check=False)
    assert refused.returncode == 1 and "ModelLoadError" in refused.stderr
    scene.it.publish(tmp_path / "onnx", "--no-check")
    done = scene.it.fleet("deploy", "digits@6.6.6", "--node", "n1", *BUDGET, "--wait", check=False)
    assert done.returncode == 1 and "ModelLoadError" in done.stdout + done.stderr
    assert scene.untouched()
    scene.it.fleet("rollback", "--node", "n1")


@pytest.mark.usefixtures("served")
def test_blocks_that_anyone_publishes_do_not_get_in(scene: Scene) -> None:
    """Frames with wrong bytes under a right digest, all the time while a package is fetched."""
    import threading

    from agent.link.blocks import encode_frame
    from agent.link.topics import block_data
    from tests.system.bigmodel import make_big_model

    scene.it.publish(make_big_model(scene.it.folder / "flooded", "flooded", "1.0.0", width=1600))
    versions = json.loads(scene.it.fleet("packages", "--json").stdout)
    digest = next(entry["digest"] for entry in versions if entry["name"] == "flooded")
    stop = threading.Event()

    def flood() -> None:
        while not stop.wait(0.05):
            scene.send(block_data(SITE, digest), encode_frame(digest, b"not the manifest"))

    attacker = threading.Thread(target=flood)
    attacker.start()
    try:
        scene.it.fleet(
            "deploy", "flooded@1.0.0", "--node", "n1", "--latency-p99", "1s", "--rate", "1/s", "--wait"
        )
    finally:
        stop.set()
        attacker.join()
    assert scene.untouched()
    scene.it.fleet("undeploy", "flooded", "--node", "n1")
