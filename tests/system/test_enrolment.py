"""A machine becomes a node: `overlaid init`, its certificate from the operator, the first connection with it."""

from __future__ import annotations

import json
import ssl
import stat
import subprocess
import time
from pathlib import Path

import pytest

from agent.config import load_config
from agent.fleet.authority import Authority
from agent.fleet.home import Home
from tests.system.brokers import Broker, free_port, start_mosquitto
from tests.system.stage import OVERLAID, ROOT, Node, run_overlaid, wait_until

ACL = (ROOT / "systemd/mosquitto/acl").read_text()
SITE = "lab"


class Site:
    """An operator with a broker: one listener for logins with passwords, one that wants certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "fleet"
        self.port = free_port()
        authority = Authority(Home(self.home), SITE).path
        users = {"operator": "operator-secret", "enrol": "enrol-secret"}
        broker = folder / "broker"
        self.broker: Broker = start_mosquitto(
            broker,
            tls=True,
            users=users,
            acl=ACL,
            more=(
                f"listener {self.port} 127.0.0.1",
                f"cafile {authority}",
                f"certfile {broker}/broker.pem",
                f"keyfile {broker}/broker.key",
                "require_certificate true",
                "use_identity_as_username true",
            ),
        )
        for user, password in users.items():
            (folder / user).write_text(f"{password}\n")
        self.fleet(
            "init", "--site", SITE, "--broker", f"127.0.0.1:{self.broker.port}", *self.login("operator")
        )
        self.fleet("keys", "new", "commands")
        self.fleet("repo", "init")

    def login(self, user: str) -> tuple[str, ...]:
        return ("--username", user, "--password-file", str(self.folder / user), "--ca", str(self.broker.ca))

    def fleet(self, *args: str) -> str:
        return run_overlaid("fleet", *args, "--home", str(self.home)).stdout

    def waiting(self) -> dict[str, object]:
        return dict(json.loads(self.fleet("enrol", "--json")))

    def online(self) -> bool:
        found = run_overlaid("fleet", "status", "cam-7", "--json", "--home", str(self.home), check=False)
        return '"online": true' in found.stdout


@pytest.fixture
def site(tmp_path: Path) -> object:
    it = Site(tmp_path)
    with it.broker:
        yield it


def init(site: Site, config: Path, *more: str) -> subprocess.Popen[str]:
    command = [str(OVERLAID), "init", "--config", str(config), "--site", SITE, "--name", "cam-7", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_node_is_enrolled_and_connects_with_its_certificate(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "etc" / "agent.toml"
    trust = str(site.waiting()["trust"])
    asking = init(
        site, config, "--broker", f"127.0.0.1:{site.port}", *site.login("enrol"),
        "--enrol", f"127.0.0.1:{site.broker.port}", "--trust", trust, "--wait", "60",
    )  # fmt: skip
    waiting = wait_until("the request", lambda: site.waiting()["waiting"], 30)
    assert waiting[0]["node"] == "cam-7" and not waiting[0]["problem"]
    wrong = run_overlaid("fleet", "enrol", "cam-8", "--fingerprint", waiting[0]["fingerprint"], "--home",
                         str(site.home), check=False)  # fmt: skip
    assert wrong.returncode == 2 and "calls itself cam-7" in wrong.stderr
    site.fleet("enrol", "cam-7", "--fingerprint", waiting[0]["fingerprint"])
    output, errors = asking.communicate(timeout=60)
    assert asking.returncode == 0, errors
    assert waiting[0]["fingerprint"][:4] in errors and "wrote" in output
    assert site.waiting()["waiting"] == []
    mqtt = load_config(config, {}).mqtt
    assert mqtt is not None and mqtt.username is None and mqtt.password_file is None
    key = config.parent / "pki/node.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o400
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    for file in config.parent.rglob("*"):
        readable = file.is_file() and file.stat().st_mode & 0o004
        assert not (readable and ("PRIVATE" in file.read_text() or "secret" in file.read_text())), file
    again = run_overlaid("init", "--config", str(config), "--site", SITE, "--name", "cam-7", check=False)
    assert again.returncode == 2 and "--force" in again.stderr
    monkeypatch.setenv("OVERLAID_PATHS_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("OVERLAID_PATHS_RUNTIME", str(tmp_path / "run"))
    monkeypatch.setenv("OVERLAID_SERVING_HTTP", "")
    node = Node(config.parent, "cam-7", 0)
    try:
        node.start()
        wait_until("the node at its operator's", site.online, 30)
    finally:
        node.stop()


def test_another_operators_trust_is_refused(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "etc" / "agent.toml"
    asking = init(
        site, config, "--broker", f"127.0.0.1:{site.broker.port}", *site.login("enrol"),
        "--enrol", "--trust", "0" * 32, "--wait", "60",
    )  # fmt: skip
    waiting = wait_until("the request", lambda: site.waiting()["waiting"], 30)
    site.fleet("enrol", "cam-7", "--fingerprint", waiting[0]["fingerprint"])
    _, errors = asking.communicate(timeout=60)
    assert asking.returncode == 1 and "another trust fingerprint" in errors
    assert not config.exists()


def test_the_request_waits_and_the_same_command_goes_on(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "etc" / "agent.toml"
    options = (
        "--broker", f"127.0.0.1:{site.broker.port}", *site.login("enrol"), "--enrol", "--no-test",
        "--trust", str(site.waiting()["trust"]), "--wait", "1",
    )  # fmt: skip
    first = init(site, config, *options)
    first.communicate(timeout=60)
    assert first.returncode == 1 and not config.exists()
    waiting = site.waiting()["waiting"]
    assert isinstance(waiting, list)
    site.fleet("enrol", "cam-7", "--fingerprint", waiting[0]["fingerprint"])
    second = init(site, config, *options)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert config.exists()


def enrolled(site: Site, asking: subprocess.Popen[str]) -> tuple[str, str]:
    """The operator answers; what the node said."""
    waiting = wait_until("the request", lambda: site.waiting()["waiting"], 30)
    site.fleet("enrol", "cam-7", "--fingerprint", waiting[0]["fingerprint"])
    said = asking.communicate(timeout=60)
    assert asking.returncode == 0, said
    return said


def certificate_of(config: Path) -> bytes:
    return (config.parent / "pki/node.pem").read_bytes()


def test_a_certificate_is_renewed_and_the_configuration_stays(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "etc" / "agent.toml"
    enrolment = ("--enrol", f"127.0.0.1:{site.broker.port}")
    options = ("--broker", f"127.0.0.1:{site.port}", *site.login("enrol"), *enrolment)
    enrolled(site, init(site, config, *options, "--trust", str(site.waiting()["trust"]), "--wait", "60"))
    config.write_text(config.read_text().replace("#cap_w = 6.5", "cap_w = 5.5"))
    before, certificate = config.read_bytes(), certificate_of(config)
    login = site.login("enrol")[:4]
    for more in ((), (*enrolment, *login)):  # over its own connection, and as one whose certificate has ended
        time.sleep(1.1)  # dates of certificates have whole seconds
        command = [str(OVERLAID), "init", "--config", str(config), "--renew", "--wait", "60", *more]
        _, errors = enrolled(
            site, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        assert "an earlier answer waits and does not count" in errors
        assert config.read_bytes() == before and certificate_of(config) != certificate
        certificate = certificate_of(config)


def test_an_answer_for_another_name_does_not_stay_in_the_way(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "etc" / "agent.toml"
    trust = str(site.waiting()["trust"])
    options = ("--broker", f"127.0.0.1:{site.broker.port}", *site.login("enrol"), "--enrol", "--no-test",
               "--trust", trust, "--wait", "60")  # fmt: skip
    enrolled(site, init(site, config, *options))
    again = init(site, config, *options, "--force", "--name", "cam-8")
    waiting = wait_until("the request", lambda: site.waiting()["waiting"], 30)
    site.fleet("enrol", "cam-8", "--fingerprint", waiting[0]["fingerprint"])
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert "for ['cam-7'], this node is 'cam-8'" in errors and load_config(config, {}).node.name == "cam-8"


def test_files_that_the_service_would_not_see_are_copied(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "etc" / "agent.toml"
    done = run_overlaid(
        "init", "--config", str(config), "--site", SITE, "--name", "cam-7", "--root",
        str(site.home / "repo/root.json"), "--broker", f"127.0.0.1:{site.broker.port}", *site.login("operator"),
    )  # fmt: skip
    found = load_config(config, {})
    assert found.mqtt is not None and found.mqtt.read_password() == "operator-secret"
    password = found.mqtt.password_file
    assert password is not None and stat.S_IMODE(password.stat().st_mode) == 0o400
    for path in (password, found.mqtt.ca, found.trust.root):
        assert path is not None and path.is_relative_to(config.parent) and str(path) in done.stdout
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o750


def test_a_forged_request_does_not_keep_the_operator_from_seeing_others(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "etc" / "agent.toml"
    options = ("--broker", f"127.0.0.1:{site.broker.port}", *site.login("enrol"), "--enrol", "--wait", "0",
               "--trust", "0" * 32)  # fmt: skip
    init(site, config, *options).communicate(timeout=60)
    der = ssl.PEM_cert_to_DER_cert(
        (config.parent / "pki/node.csr").read_text().replace("CERTIFICATE REQUEST", "CERTIFICATE")
    ).replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f"))
    pem = ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    request = json.dumps({"request": pem, "time": 1.0})
    subprocess.run(
        ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(site.broker.port), "--cafile", str(site.broker.ca),
         "-u", "enrol", "-P", "enrol-secret", "-q", "1", "-r", "-t", f"overlaid/v1/{SITE}/enrol/{'a' * 32}/request",
         "-m", request],
        check=True, timeout=30,
    )  # fmt: skip
    waiting = site.waiting()["waiting"]
    assert isinstance(waiting, list)
    assert [(row["node"], bool(row["problem"])) for row in waiting] == [(None, True), ("cam-7", False)]


def test_no_node_gets_the_operators_rights_by_its_name(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "etc" / "agent.toml"
    options = ("--broker", f"127.0.0.1:{site.broker.port}", *site.login("enrol"), "--enrol", "--wait", "0",
               "--trust", "0" * 32)  # fmt: skip
    init(site, config, *options, "--name", "operator").communicate(timeout=60)
    [row] = json.loads(site.fleet("enrol", "--json"))["waiting"]
    assert "as the operator does" in row["problem"]
    for arguments in (
        ("operator", "--fingerprint", row["fingerprint"]),
        ("--request", str(config.parent / "pki/node.csr"), "-o", str(tmp_path / "operator.pem")),
    ):
        done = run_overlaid("fleet", "enrol", *arguments, "--home", str(site.home), check=False)
        assert done.returncode == 2 and "as the operator does" in done.stderr


def test_a_file_goes_both_ways(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "etc" / "agent.toml"
    options = ("--broker", f"127.0.0.1:{site.broker.port}", *site.login("enrol"), "--enrol", "--wait", "0",
               "--trust", "0" * 32)  # fmt: skip
    init(site, config, *options).communicate(timeout=60)
    certificate = tmp_path / "cam-7.pem"
    site.fleet("enrol", "--request", str(config.parent / "pki/node.csr"), "-o", str(certificate))
    done = run_overlaid(
        "init", "--config", str(config), "--site", SITE, "--name", "cam-7", "--broker", f"127.0.0.1:{site.port}",
        "--ca", str(site.broker.ca), "--cert", str(certificate), "--key", str(config.parent / "pki/node.key"),
        "--root", str(site.home / "repo/root.json"),
    )  # fmt: skip
    assert "it obeys nobody yet" in done.stdout


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--broker", "127.0.0.1:1"), "nothing listens"),
        (("--broker", "not a host"), "HOST:PORT"),
        (("--broker", "127.0.0.1:1", "--password-file", "/nowhere"), "--password-file /nowhere"),
        (("--broker", "127.0.0.1:1", "--enrol"), "--trust"),
        (("--enrol",), "--broker"),
        (("--board", "No Board"), "node.board"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    tmp_path: Path, options: tuple[str, ...], why: str
) -> None:
    config = tmp_path / "etc" / "agent.toml"
    done = run_overlaid(
        "init", "--config", str(config), "--site", SITE, "--name", "cam-7", *options, check=False
    )
    assert done.returncode in (1, 2) and why in done.stderr
    assert not config.parent.exists()


def test_without_a_terminal_the_missing_option_is_named(tmp_path: Path) -> None:
    done = run_overlaid("init", "--config", str(tmp_path / "agent.toml"), check=False)
    assert done.returncode == 2 and "--site is missing" in done.stderr


def test_input_that_ends_is_told(tmp_path: Path) -> None:
    """Ctrl-D at the first question."""
    import os
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(str(OVERLAID), [str(OVERLAID), "init", "--config", str(tmp_path / "agent.toml")])
    shown = b""
    while b"site" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, b"\x04")
    while b"before --site was answered" not in shown:
        shown += os.read(terminal, 1000)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
    os.close(terminal)


def test_it_asks_at_a_terminal(tmp_path: Path) -> None:
    """A real terminal (a pty) with a person who types."""
    import os
    import pty

    config = tmp_path / "etc/agent.toml"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(str(OVERLAID), [str(OVERLAID), "init", "--config", str(config)])
    shown = b""
    for question, typed in (
        (b"site", b"lab\n"), (b"name of this node", b"cam-7\n"), (b"board", b"\n"), (b"broker", b"\n"),
    ):  # fmt: skip
        while question not in shown:
            shown += os.read(terminal, 1000)
        os.write(terminal, typed)
        shown = b""
    assert os.waitpid(pid, 0)[1] == 0
    os.close(terminal)
    text = config.read_text()
    assert 'site = "lab"' in text and 'name = "cam-7"' in text and "#[mqtt]" in text
