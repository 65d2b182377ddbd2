"""``overlaid doctor`` as a command: brokers with wrong certificates, a daemon that it must not disturb, other users."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.doctor import broker
from agent.doctor.configuration import read
from agent.doctor.finding import Finding
from agent.doctor.subject import find
from tests.system.brokers import Broker, find_mosquitto, free_port, start_mosquitto
from tests.system.certificates import Authority
from tests.system.stage import OVERLAID, Node, Stage, stage, wait_until
from tests.unit.doctor.nodes import wrong

pytestmark = pytest.mark.skipif(
    find_mosquitto() is None, reason="mosquitto is missing: sudo apt-get install mosquitto"
)
Found = dict[str, Any]
# Everything is imported before: the interpreter may lie where that user may not look.
AS_STRANGER = """
import encodings.idna, os, sys
import agent.cli, agent.cli.bar, agent.cli.doctor, agent.doctor.examination, agent.devices.remote_transport, bitstreams
import agent.devices.fpga_service.wire, agent.logs.journalctl, xml.sax.saxutils, zipfile, csv, email.message
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(agent.cli.main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Made:
    """PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Maker:
    """Issues certificates with any dates and names, under an authority of its own."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    name: x509.Name

    @classmethod
    def new(cls, folder: Path, name: str) -> Maker:
        folder.mkdir()
        maker = cls(folder, ec.generate_private_key(ec.SECP256R1()), _name(name))
        maker._issue(maker.name, maker.key, (-2, 2), x509.BasicConstraints(ca=True, path_length=0), "ca")
        return maker

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, file: str, days: tuple[float, float] = (-1, 300), host: str = "localhost") -> Made:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        self._issue(_name(file), key, days, names, file)
        made = Made(self.folder / f"{file}.pem", self.folder / f"{file}.key")
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        made.key.chmod(0o400)
        return made

    def _issue(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        days: tuple[float, float],
        extension: x509.ExtensionType,
        file: str,
    ) -> None:
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self.key, hashes.SHA256())
        )
        (self.folder / f"{file}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Site:
    """One mosquitto with a listener for each mistake; ``ports`` by its name. ``maker``: of the right authority."""

    broker: Broker
    maker: Maker
    ports: dict[str, int]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    maker = Maker.new(folder / "pki", "the lab's authority")
    shown = {
        "good": maker.issue("good"),
        "expired": maker.issue("expired", (-30, -3)),
        "early": maker.issue("early", (5, 300)),
        "other-name": maker.issue("other", host="broker.lab"),
        "ending": maker.issue("ending", (-300, 2)),
        "mutual": maker.issue("mutual"),
    }
    ports = {name: free_port() for name in shown}
    lines: list[str] = []
    for name, made in shown.items():
        lines += [f"listener {ports[name]} 127.0.0.1", f"cafile {maker.ca}", f"certfile {made.cert}"]
        lines += [f"keyfile {made.key}"]
    lines += ["require_certificate true"]  # of the last one
    with start_mosquitto(folder / "broker", users={"cam-7": "right"}, more=lines) as started:
        yield Site(started, maker, ports)


def configured(folder: Path, more: str) -> Path:
    config = folder / "agent.toml"
    config.write_text(
        f'[node]\nname = "cam-7"\n[paths]\nstate = "{folder}/state"\nruntime = "{folder}/run"\n'
        f'[serving]\nhttp = "127.0.0.1:{free_port()}"\n{more}'
    )
    config.chmod(0o600)
    return config


def mqtt(site: Site, listener: str, password: Path, **more: Any) -> str:
    table: dict[str, Any] = {
        "host": "localhost",
        "port": site.ports[listener],
        "ca": str(site.maker.ca),
        "username": "cam-7",
    }
    table |= {"password_file": str(password), **more}
    return "[mqtt]\n" + "".join(
        f"{key} = {json.dumps(value)}\n" for key, value in table.items() if value is not None
    )


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "mqtt.password"
    path.write_text("right\n")
    path.chmod(0o400)
    return path


def doctor(config: Path, *prefix: str | Path) -> tuple[int, list[Found]]:
    command = [*(prefix or (OVERLAID,)), "doctor", "--json", "--config", config]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    findings: list[Found] = json.loads(done.stdout)["findings"]
    return done.returncode, findings


def of(findings: list[Found], area: str, level: str = "") -> list[Found]:
    """Those of an area that are not fine, or of a level."""
    return [
        finding
        for finding in findings
        if finding["area"] == area and (finding["level"] == level if level else finding["level"] != "ok")
    ]


def broker_findings(folder: Path, text: str) -> list[Finding]:
    """Looked at in this process: the rest of the doctor takes seconds."""
    reading = read(configured(folder, text), {})
    assert reading.config is not None and reading.config.mqtt is not None, reading.error
    subject = find(reading, None)
    mqtt = reading.config.mqtt
    return wrong(broker.judge(broker.look(mqtt, connected=False, now=time.time()), mqtt, subject))


def of_broker(folder: Path, text: str) -> Finding:
    [found] = broker_findings(folder, text)
    return found


@pytest.mark.parametrize(
    ("port", "what", "mend"),
    [
        ("expired", "expired on", "new certificate"),
        ("early", "not yet valid", "timedatectl set-ntp true"),
        ("other-name", "is for broker.lab, not for localhost", 'host = "broker.lab"'),
        ("ending", "expires in 2.0 days", "new certificate"),
        ("mutual", "wants a client certificate", "--enrol"),
    ],
)
def test_tls_mistakes_of_the_broker(
    tmp_path: Path, site: Site, password: Path, port: str, what: str, mend: str
) -> None:
    found = of_broker(tmp_path, mqtt(site, port, password))

    assert what in found.what and mend in found.mend, found


def test_another_authority_and_one_of_the_same_name(tmp_path: Path, site: Site, password: Path) -> None:
    other = Authority(tmp_path, "somebody else's authority")
    found = of_broker(tmp_path, mqtt(site, "good", password, ca=str(other.ca)))
    assert "issued by the lab's authority, which is not trusted" in found.what
    assert "somebody else's authority" in found.why and f"install -m 644 ca.pem {other.ca}" in found.mend

    again = Maker.new(tmp_path / "again", "the lab's authority")
    found = of_broker(tmp_path, mqtt(site, "good", password, ca=str(again.ca)))
    assert "not trusted" in found.what and "the same name, another key" in found.why


def test_tls_where_there_is_none_and_none_where_there_is(tmp_path: Path, site: Site, password: Path) -> None:
    plain = of_broker(tmp_path, mqtt(site, "good", password, port=site.broker.port))
    assert "TLS" in plain.what and "port = 8883" in plain.mend

    secured = of_broker(tmp_path, mqtt(site, "good", password, ca=None))
    assert "closed the connection" in secured.what or "does not speak MQTT" in secured.what


def test_client_certificates_of_the_node(tmp_path: Path, site: Site, password: Path) -> None:
    def with_certificate(made: Made) -> str:
        return mqtt(site, "mutual", password, cert=str(made.cert), key=str(made.key))

    assert not broker_findings(tmp_path, with_certificate(site.maker.issue("node")))

    found = broker_findings(tmp_path, with_certificate(site.maker.issue("old", (-30, -3))))
    assert "expired on" in found[0].what and "--enrol" in found[0].mend
    assert "refused this node's certificate" in found[1].what

    [soon] = broker_findings(tmp_path, with_certificate(site.maker.issue("soon", (-30, 2))))
    assert "expires in" in soon.what and "--renew &&" in soon.mend and "--enrol" not in soon.mend

    strange = Maker.new(tmp_path / "strange", "strangers").issue("node")
    refused = of_broker(tmp_path, with_certificate(strange))
    assert "refused this node's certificate" in refused.what and "strangers" in refused.why


def test_a_login_that_is_refused_and_one_that_is_not(tmp_path: Path, site: Site, password: Path) -> None:
    assert not broker_findings(tmp_path, mqtt(site, "good", password))

    password.chmod(0o600)
    password.write_text("hunter2\n")
    found = of_broker(tmp_path, mqtt(site, "good", password))
    assert "refused the login" in found.what and "mosquitto_passwd" in found.mend
    assert "hunter2" not in str(found)


def test_nobody_listens(tmp_path: Path, site: Site, password: Path) -> None:
    found = of_broker(tmp_path, mqtt(site, "good", password, port=free_port()))

    assert "nothing listens" in found.what


def test_a_configuration_that_is_broken(tmp_path: Path) -> None:
    config = configured(tmp_path, '[mqtt]\nhost = "b"\nprot = 8883\n')

    code, findings = doctor(config)

    [found] = of(findings, "configuration")
    assert code == 1 and "line 10" in found["what"]
    assert "ConfigError" in found["why"] and "mqtt.prot: unknown key" in found["why"]
    assert of(findings, "runtimes", "ok")  # the rest is looked at all the same


def open_to_all(folder: Path) -> None:
    """Let every user in, from the folder of temporary files on."""
    for each in (folder, *folder.parents):
        if each == Path(tempfile.gettempdir()):
            return
        each.chmod(0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_an_ordinary_user_is_told_what_was_not_checked(tmp_path: Path, site: Site, password: Path) -> None:
    open_to_all(tmp_path)
    config = configured(tmp_path, mqtt(site, "good", password, ca=str(site.maker.ca)))

    _, findings = doctor(config, sys.executable, "-c", AS_STRANGER)
    [found] = of(findings, "configuration")
    assert found["level"] == "unknown" and found["mend"].startswith("sudo ")
    assert not of(findings, "broker")

    config.chmod(0o644)
    open_to_all(site.maker.folder)
    _, findings = doctor(config, sys.executable, "-c", AS_STRANGER)
    [found] = of(findings, "broker")
    assert found["level"] == "unknown" and str(password) in found["why"]
    assert of(findings, "broker", "ok")  # it answers, and its certificate is right


def status(node: Node) -> dict[str, Any]:
    command = [str(OVERLAID), "status", "--json", "--config", str(node.config)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("running")) as it:
        node = it.node("n1")
        node.start()
        node.wait()
        wait_until("the broker", lambda: status(node)["broker_connected"])
        yield it


def test_a_daemon_that_runs_is_not_disturbed(running: Stage) -> None:
    node = running.nodes[0]
    before = {path: path.stat().st_mtime_ns for path in node.state.glob("state.db*")}
    log = running.broker.log.read_text()

    for _ in range(2):
        _, findings = doctor(node.config)

    assert not of(findings, "broker") and not of(findings, "http")
    assert of(findings, "service", "ok")[0]["what"].startswith("the daemon runs")
    assert any(
        "as the daemon saw it" in finding["why"] for finding in findings if finding["area"] == "devices"
    )
    heard = running.broker.log.read_text().removeprefix(log)
    assert "overlaid-doctor" not in heard and "already connected" not in heard
    assert {path: path.stat().st_mtime_ns for path in node.state.glob("state.db*")} == before


def test_a_port_that_another_daemon_has(running: Stage, tmp_path: Path) -> None:
    node = running.nodes[0]
    assert node.process is not None
    config = configured(tmp_path, "")
    config.write_text(re.sub("http = .*", f'http = "{status(node)["http"]}"', config.read_text()))

    code, findings = doctor(config)

    [found] = of(findings, "http")
    assert code == 1 and f"process {node.process.pid}" in found["what"]
