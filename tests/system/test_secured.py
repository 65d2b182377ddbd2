"""The whole flow over TLS, with the sample's ACL: by password, and by client certificate."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.brokers import Broker, start_mosquitto
from tests.system.digits import DIGITS
from tests.system.stage import ROOT, stage, wait_until

BUDGET = ("--latency-p99", "50ms", "--rate", "10/s")
USERS = ("operator", "n1")
ACL = (ROOT / "systemd/mosquitto/acl").read_text().replace("cam-7", "n1").replace("line-1", "all")


def by_password(folder: Path) -> Broker:
    return start_mosquitto(folder, tls=True, users={user: f"{user}-secret" for user in USERS}, acl=ACL)


def by_certificate(folder: Path) -> Broker:
    return start_mosquitto(folder, tls=True, require_certificate=True, acl=ACL)


def password_logins(broker: Broker) -> dict[str, dict[str, str]]:
    logins = {}
    for user in USERS:
        secret = broker.log.parent / f"{user}.password"
        secret.write_text(f"{user}-secret\n")
        logins[user] = {"ca": str(broker.ca), "username": user, "password_file": str(secret)}
    return logins


def certificate_logins(broker: Broker) -> dict[str, dict[str, str]]:
    assert broker.authority is not None
    pairs = {user: broker.authority.issue(user) for user in USERS}
    return {
        user: {"ca": str(broker.ca), "cert": str(pair.cert), "key": str(pair.key)}
        for user, pair in pairs.items()
    }


@pytest.mark.parametrize(
    ("start", "logins"), [(by_password, password_logins), (by_certificate, certificate_logins)]
)
def test_deploy_over_tls_with_one_acl_per_node(tmp_path: Path, start: object, logins: object) -> None:
    with stage(tmp_path, start, logins) as it:  # type: ignore[arg-type]
        it.serve()
        it.publish(DIGITS)
        node = it.node("n1")
        node.start()
        it.fleet("deploy", "digits@1.0.0", "--node", "n1", *BUDGET, "--wait")
        assert node.request("GET", "/v2/models/digits/ready")[0] == 200
        it.fleet("command", "restart", "--node", "n1", "--model", "digits")
        it.fleet("undeploy", "digits", "--group", "all", check=False)
        it.fleet("undeploy", "digits", "--node", "n1")
        wait_until("the removal", lambda: node.model("digits") is None)
        assert "secret" not in node.log.read_text()


def test_a_wrong_password_is_named_and_never_shown(tmp_path: Path) -> None:
    def wrong(broker: Broker) -> dict[str, dict[str, str]]:
        logins = password_logins(broker)
        Path(logins["n1"]["password_file"]).write_text("not-the-password\n")
        return logins

    with stage(tmp_path, by_password, wrong) as it:
        node = it.node("n1")
        node.start()
        warning = wait_until("the reason", lambda: (node.status() or {}).get("warnings"))[0]
        assert "password" in warning and "not-the-password" not in warning
        assert "not-the-password" not in node.log.read_text()
