"""No secret is told by a daemon that logs all it can: where it fails, and where it does not."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.system.brokers import Broker, free_port, start_mosquitto
from tests.system.certificates import Authority
from tests.system.digits import DIGITS
from tests.system.journald import Journald, why_not
from tests.system.stage import OVERLAID, Node, run_overlaid, stage, wait_until

NO_JOURNAL = why_not()
PASSWORD = "Tell-Nobody-6e7b62b21197c6f9"  # the same in every process that collects tests
BUDGET = ("--latency-p99", "50ms", "--rate", "10/s")


@dataclass(slots=True)
class Way:
    """How the daemon goes to its broker: keys of [mqtt], the environment, and what its warning must say."""

    mqtt: dict[str, str]
    says: str
    environ: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Over TLS, for ``me`` with another password than the node's."""
    with start_mosquitto(tmp_path_factory.mktemp("broker"), tls=True, users={"me": "another"}) as it:
        yield it


@pytest.fixture(params=["text", "journal"])
def journald(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journald | None]:
    if request.param == "text":
        yield None
        return
    if NO_JOURNAL:
        pytest.skip(NO_JOURNAL)
    with Journald(tmp_path / "journald.log") as it:
        yield it


def login(folder: Path) -> dict[str, str]:
    (folder / "password").write_text(f"{PASSWORD}\n")
    return {"username": "me", "password_file": str(folder / "password")}


def wrong_password(folder: Path, broker: Broker) -> Way:
    return Way({"ca": str(broker.ca), "username": "me", "password": PASSWORD}, "password")


def wrong_password_in_a_file(folder: Path, broker: Broker) -> Way:
    return Way({"ca": str(broker.ca), **login(folder)}, "password")


def wrong_password_in_the_environment(folder: Path, broker: Broker) -> Way:
    environ = {"OVERLAID_MQTT_PASSWORD": PASSWORD}
    return Way({"ca": str(broker.ca), "username": "me"}, "password", environ)


def another_authority(folder: Path, broker: Broker) -> Way:
    other = Authority(folder, "another")
    pair = other.issue("n1")
    mqtt = {"ca": str(other.ca), "cert": str(pair.cert), "key": str(pair.key)}
    return Way({**mqtt, **login(folder)}, "certificate")


def a_key_that_is_none(folder: Path, broker: Broker) -> Way:
    pair = Authority(folder, "another").issue("n1")
    lines = pair.key.read_text().splitlines()
    pair.key.write_text("\n".join([lines[0], PASSWORD, *lines[1:]]))
    mqtt = {"ca": str(broker.ca), "cert": str(pair.cert), "key": str(pair.key)}
    return Way({**mqtt, **login(folder)}, "mqtt.key")


def no_tls_where_it_is_needed(folder: Path, broker: Broker) -> Way:
    return Way(login(folder), "TLS")


def launch(node: Node, journald: Journald | None, environ: dict[str, str]) -> None:
    """With everything logged that can be."""
    command = (str(OVERLAID), "run", "--verbose", "--config", str(node.config))
    environ = {**os.environ, "PYTHONASYNCIODEBUG": "1", **environ}
    with node.log.open("ab") as log:
        if journald is None:
            node.process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
        else:
            node.process = journald.unit(*command, environ=environ)


def told(node: Node, journald: Journald | None) -> bytes:
    """All that the daemon and the commands about it say, and every file that it keeps."""
    said = [node.log.read_bytes()]
    if journald is not None:
        entries = journald.entries()
        assert any(entry.get("OVERLAID_STATE") == str(node.state) for entry in entries)
        assert any(entry["PRIORITY"] == "7" for entry in entries)
        said.append(json.dumps(entries).encode())
    else:
        assert b" DEBUG " in said[0]
    for command in (["status"], ["status", "--json"], ["logs"]):
        words = [str(OVERLAID), *command, "--config", str(node.config)]
        words = words if journald is None else journald.inside(*words)
        done = subprocess.run(words, capture_output=True, timeout=120, check=False)
        said += [done.stdout, done.stderr]
    status, answer = node.request("GET", "/v2")
    said.append(f"{status} {json.dumps(answer)}".encode())
    said += [path.read_bytes() for folder in (node.state, node.runtime) for path in files(folder)]
    return b"\n".join(said)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def spellings(folder: Path) -> list[bytes]:
    """The password, and each line of every private key in the folder, as they may be told."""
    texts = [path.read_text() for pattern in ("*.key", "*.pem") for path in folder.rglob(pattern)]
    keys = "\n".join(text for text in texts if "PRIVATE KEY" in text)
    lines = [line.encode() for line in keys.splitlines() if len(line) >= 16 and not line.startswith("-----")]
    password = PASSWORD.encode()
    return [password, password.hex().encode(), base64.b64encode(password)[:-4], *lines]


def assert_untold(text: bytes, folder: Path) -> None:
    for secret in spellings(folder):
        assert secret not in text, f"told: ...{text[max(0, text.index(secret) - 200) :][:200]!r}"


def write(node: Node, way: Way, broker: Broker) -> None:
    lines = [f'{key} = "{value}"' for key, value in way.mqtt.items()]
    node.folder.mkdir()
    node.config.write_text(
        f'[node]\nname = "n1"\nboard = "sim:pynq-z2"\n[paths]\nstate = "{node.state}"\nruntime = "{node.runtime}"\n'
        f'[serving]\nhttp = "127.0.0.1:{node.port}"\n'
        f'[mqtt]\nhost = "{broker.host}"\nport = {broker.port}\n' + "\n".join(lines) + "\n"
    )


@pytest.mark.parametrize(
    "make",
    [
        wrong_password,
        wrong_password_in_a_file,
        wrong_password_in_the_environment,
        another_authority,
        a_key_that_is_none,
        no_tls_where_it_is_needed,
    ],
)
def test_a_login_that_fails_tells_why_and_no_secret(
    tmp_path: Path, broker: Broker, journald: Journald | None, make: Callable[[Path, Broker], Way]
) -> None:
    node = Node(tmp_path / "n1", "n1", free_port())
    way = make(tmp_path, broker)
    write(node, way, broker)
    launch(node, journald, way.environ)
    try:
        node.wait()
        wait_until("the reason", lambda: (node.status() or {}).get("warnings"))
        text = told(node, journald)
    finally:
        node.stop()
    assert way.says.encode() in text
    assert_untold(text, tmp_path)


@pytest.mark.parametrize(
    "lines",
    [
        f'host = "mqtts://me:{PASSWORD}@broker:8883"',
        f'host = "me:{PASSWORD}@broker"',
        f'host = "broker"\npassword = "{PASSWORD}',
        f'host = "broker"\npasswort = "{PASSWORD}"',
        f'host = "broker"\npassword = "{PASSWORD}"\npassword_file = "there"',
    ],
)
def test_a_configuration_that_is_none_is_refused_without_the_secret_in_it(tmp_path: Path, lines: str) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f"[mqtt]\n{lines}\n")
    for command in (["run", "--verbose"], ["status"], ["devices"], ["logs"]):
        done = run_overlaid(*command, "--config", str(config), check=False)
        assert done.returncode != 0 or command != ["run", "--verbose"]
        assert_untold((done.stdout + done.stderr).encode(), tmp_path)


def test_a_node_at_work_tells_no_secret(tmp_path: Path, journald: Journald | None) -> None:
    """Deployed, asked, restarted, cut off from its broker, given a command of a stranger."""
    users = ("operator", "n1")

    def start(folder: Path) -> Broker:
        return start_mosquitto(folder, tls=True, users={user: f"{PASSWORD}-{user}" for user in users})

    def logins(broker: Broker) -> dict[str, dict[str, str]]:
        assert broker.authority is not None
        pairs = {user: broker.authority.issue(user) for user in users}
        found = {}
        for user, pair in pairs.items():
            (tmp_path / f"{user}.password").write_text(f"{PASSWORD}-{user}\n")
            found[user] = {
                "ca": str(broker.ca), "cert": str(pair.cert), "key": str(pair.key),
                "username": user, "password_file": str(tmp_path / f"{user}.password"),
            }  # fmt: skip
        return found

    with stage(tmp_path, start, logins) as it:
        it.serve("--json")
        it.publish(DIGITS)
        node = it.node("n1")
        launch(node, journald, {})
        node.wait()
        said = [it.fleet("deploy", "digits@1.0.0", "--node", "n1", *BUDGET, "--wait")]
        it.broker.stop()
        wait_until("the loss", lambda: not (node.status() or {})["broker_connected"])
        it.broker.start()
        wait_until("the broker", lambda: (node.status() or {})["broker_connected"])
        command = ("--node", "n1", "--model", "digits", "--timeout", "2")
        said += [it.fleet("command", op, *command) for op in ("logs", "restart")]
        keys = it.home / "keys"
        (keys / "commands.pem").write_bytes((keys / "packages.pem").read_bytes())
        said.append(it.fleet("command", "restart", *command, check=False))  # with a key that is not trusted
        assert said[-1].returncode != 0
        said.append(it.fleet("status", "--json"))
        outputs = "".join(done.stdout + done.stderr for done in said).encode()
        assert_untold(told(node, journald) + outputs + (tmp_path / "serve.log").read_bytes(), tmp_path)
