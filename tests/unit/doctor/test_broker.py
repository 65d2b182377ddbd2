from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import Mqtt
from agent.doctor import broker
from agent.doctor.broker import Facts, judge
from agent.doctor.finding import Finding
from agent.doctor.handshake import Attempt, Certificate, attempt, connect_packet
from tests.system.brokers import free_port
from tests.unit.doctor.nodes import node, only, wrong

NOW, DAY = 1_790_000_000.0, 86_400.0
TEXT = '[mqtt]\nhost = "127.0.0.1"\nport = {}\n'
CERTIFICATE = Certificate("broker.lab", "lab authority", NOW - 300 * DAY, NOW + 65 * DAY, ("broker.lab",))


def test_an_old_authority_beside_its_successor_is_no_problem(tmp_path: Path) -> None:
    ca = Certificate("lab authority", "lab authority", NOW - 300 * DAY, NOW + 65 * DAY)
    old, stranger = replace(ca, not_after=NOW - DAY), replace(ca, subject="world", not_after=NOW + 999 * DAY)
    mqtt = Mqtt.model_validate_json('{"host": "broker.lab", "ca": "ca.pem"}')
    for authority, problems in (((old, ca, stranger), 0), ((old, stranger), 1)):
        tried = Attempt("done", peer=CERTIFICATE, authority=authority, code=0)
        assert len(wrong(judge(Facts(tried, NOW), mqtt, node(tmp_path, TEXT.format(1))))) == problems


@contextmanager
def answering(answer: bytes | None) -> Iterator[tuple[int, list[bytes]]]:
    """A port that answers the first packet (None: with silence; empty: by closing); yields what it got."""
    got: list[bytes] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(10)

        def serve() -> None:
            connection = server.accept()[0]
            with connection:
                connection.settimeout(10)
                got.append(connection.recv(4096))
                if answer:
                    connection.sendall(answer)
                if answer != b"":
                    with contextlib.suppress(ConnectionResetError):
                        got.append(connection.recv(4096))

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], got
        thread.join(10)


def tried(tmp_path: Path, mqtt: Mqtt, timeout_s: float = 10.0) -> Finding:
    subject = node(tmp_path, TEXT.format(mqtt.port))
    return only(judge(Facts(attempt(mqtt, login=True, timeout_s=timeout_s), NOW), mqtt, subject))


def test_a_login_is_made_with_an_id_of_its_own_and_ended_in_order() -> None:
    with answering(b"\x20\x02\x00\x00") as (port, got):
        found = attempt(
            Mqtt.model_validate_json(
                f'{{"host": "127.0.0.1", "port": {port}, "username": "u", "password": "p"}}'
            ),
            login=True,
        )

    assert (found.step, found.code) == ("done", 0)
    assert b"overlaid-doctor-" in got[0] and got[0].endswith(b"\x00\x01u\x00\x01p")
    assert got[1] == b"\xe0\x00"


def test_a_connect_packet_is_that_of_mqtt_3_1_1() -> None:
    assert connect_packet("c", None, "ignored") == b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x1e\x00\x01c"
    assert connect_packet("c", "u" * 200, None)[1:3] == bytes([0x80 | (215 & 0x7F), 215 >> 7])


@pytest.mark.parametrize(
    ("code", "user", "what", "mend"),
    [
        (1, None, "does not speak MQTT 3.1.1", "journalctl -u mosquitto"),
        (2, None, "client id", "journalctl -u mosquitto"),
        (3, None, "not available", "systemctl status mosquitto"),
        (4, "cam-7", "wrong user name or password", "mosquitto_passwd"),
        (5, "cam-7", "not authorised", "mosquitto_passwd"),
        (5, None, "not authorised", "username ="),
        (77, None, "code 77", "journalctl -u mosquitto"),
    ],
)
def test_a_refusal_is_told_in_words(
    tmp_path: Path, code: int, user: str | None, what: str, mend: str
) -> None:
    with answering(bytes([0x20, 2, 0, code])) as (port, _):
        found = tried(tmp_path, Mqtt(host="127.0.0.1", port=port, username=user))

    assert found.level == "problem"
    assert what in found.what and mend in found.mend


@pytest.mark.parametrize(
    ("answer", "what"),
    [(b"HTTP/1.1 400 Bad Request\r\n", "does not speak MQTT"), (b"", "closed the connection")],
)
def test_another_program_at_the_port_is_told(tmp_path: Path, answer: bytes, what: str) -> None:
    with answering(answer) as (port, _):
        assert what in tried(tmp_path, Mqtt(host="127.0.0.1", port=port)).what


def test_silence_is_told(tmp_path: Path) -> None:
    with answering(None) as (port, _):
        found = tried(tmp_path, Mqtt(host="127.0.0.1", port=port), timeout_s=0.2)

    assert "does not answer the login" in found.what


def test_nobody_at_the_port_is_told(tmp_path: Path) -> None:
    found = tried(tmp_path, Mqtt(host="127.0.0.1", port=free_port()))

    assert "nothing listens" in found.what
    assert "systemctl start mosquitto" in found.mend and "+3 " in found.mend


@pytest.mark.parametrize(
    ("number", "what"),
    [(socket.EAI_NONAME, "does not resolve"), (socket.EAI_AGAIN, "cannot be looked up")],
)
def test_a_name_that_does_not_resolve_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "x")

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    found = tried(tmp_path, Mqtt(host="broker.lab"))

    assert what in found.what and "broker.lab" in found.mend


@pytest.mark.parametrize(
    ("error", "what", "mend"),
    [
        (TimeoutError(), "does not answer", "ping -c 3"),
        (OSError(101, "Network is unreachable"), "Network is unreachable", "ip route get 192.0.2.1"),
    ],
)
def test_an_address_that_cannot_be_reached_is_told(
    tmp_path: Path, error: OSError, what: str, mend: str
) -> None:
    mqtt = Mqtt(host="broker.lab")
    facts = Facts(Attempt("connect", error, ("192.0.2.1",)), NOW)

    found = only(judge(facts, mqtt, node(tmp_path)))

    assert what in found.what and "192.0.2.1" in found.why and mend in found.mend


def test_where_the_daemon_is_connected_no_login_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def keep(_: Mqtt, login: bool) -> Attempt:
        asked.append(login)
        return Attempt("done")

    monkeypatch.setattr(broker, "attempt", keep)
    broker.look(Mqtt(host="b"), connected=True, now=NOW)
    broker.look(Mqtt(host="b"), connected=False, now=NOW)

    assert asked == [False, True]


def test_secrets_that_this_user_may_not_read_leave_the_login_untried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "mqtt.password"
    secret.write_text("x\n")
    monkeypatch.setattr("os.access", lambda path, _: path != secret)
    mqtt = Mqtt(host="localhost", port=free_port(), username="u", password_file=secret)

    facts = broker.look(mqtt, connected=False, now=NOW)
    found = only(judge(replace(facts, attempt=Attempt("done", logged_in=False)), mqtt, node(tmp_path)))

    assert not facts.attempt.logged_in
    assert found.level == "unknown" and str(secret) in found.why and "sudo" in found.mend


@pytest.mark.parametrize(
    ("left_days", "level", "says"), [(-3, "problem", "expired on"), (3, "warning", "expires in 3.0 days")]
)
def test_certificates_that_end_are_told_before_and_after(
    tmp_path: Path, left_days: float, level: str, says: str
) -> None:
    ends = replace(CERTIFICATE, not_after=NOW + left_days * DAY)
    mqtt = Mqtt(host="localhost", ca=Path("ca.pem"), cert=Path("node.pem"), key=Path("node.key"))
    good = Attempt("done", own=CERTIFICATE, peer=CERTIFICATE, authority=(CERTIFICATE,))
    for tried in (replace(good, own=ends), replace(good, peer=ends), replace(good, authority=(ends,))):
        facts = Facts(tried, NOW)

        found = only(judge(facts, mqtt, node(tmp_path, '[mqtt]\nhost = "localhost"\n')))

        assert (found.level, says in found.what) == (level, True)
    assert not wrong(judge(Facts(good, NOW), mqtt, node(tmp_path)))


def test_a_clock_that_was_never_set_blames_no_certificate(tmp_path: Path) -> None:
    mqtt = Mqtt(host="localhost", ca=Path("ca.pem"))

    assert not wrong(judge(Facts(Attempt("done", peer=CERTIFICATE), 0.0), mqtt, node(tmp_path)))


def test_a_connection_in_the_clear_is_a_warning_unless_it_stays_here(tmp_path: Path) -> None:
    found = only(judge(Facts(Attempt("done"), NOW), Mqtt(host="broker.lab"), node(tmp_path)))

    assert found.level == "warning" and "not encrypted" in found.what
    assert not wrong(judge(Facts(Attempt("done"), NOW), Mqtt(host="127.0.0.1"), node(tmp_path)))


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    (tmp_path / "empty").write_text("\n")

    ca = tried(tmp_path, Mqtt(host="127.0.0.1", ca=tmp_path / "ca.pem"))
    password = tried(tmp_path, Mqtt(host="127.0.0.1", username="u", password_file=tmp_path / "empty"))

    assert "mqtt.ca" in ca.what and "ca.pem" in ca.what
    assert "password, is empty" in password.what
