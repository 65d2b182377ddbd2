"""A daemon whose stderr is systemd's journal: what is in it, ``overlaid logs``, and the ``logs`` command."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.digits import DIGITS
from tests.system.journald import Journald, why_not
from tests.system.stage import OVERLAID, Node, Stage, stage, wait_until

REASON = why_not()
BUDGET = ("--latency-p99", "50ms", "--rate", "10/s")
# As a stranger, who may write any field that does not begin with an underscore.
FORGE = """
import os, socket, sys
os.setuid(65534)
entry = f"MESSAGE=forged\\nPRIORITY=2\\nOVERLAID_STATE={sys.argv[1]}\\nOVERLAID_MODEL=digits\\n_UID=0\\n"
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(entry.encode(), "/run/systemd/journal/socket")
"""

pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture(scope="module")
def journald(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journald]:
    with Journald(tmp_path_factory.mktemp("journal") / "journald.log") as it:
        yield it


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, journald: Journald) -> Iterator[Stage]:
    """A node in the journal, with digits deployed."""
    with stage(tmp_path_factory.mktemp("site")) as it:
        it.serve()
        it.publish(DIGITS)
        node = it.node("n1")
        start(node, journald)
        it.fleet("deploy", "digits@1.0.0", "--node", "n1", *BUDGET, "--wait")
        yield it


def start(node: Node, journald: Journald) -> None:
    node.log.touch()
    node.process = journald.unit(OVERLAID, "run", "--config", node.config)
    node.wait()


def logs(journald: Journald, node: Node, *options: str) -> list[dict[str, Any]]:
    """The rows of ``overlaid logs --json``, which says nothing else."""
    done = journald.run(OVERLAID, "logs", "--json", "--config", node.config, *options)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def sent(site: Stage, *options: str) -> dict[str, Any]:
    """The output of the ``logs`` command."""
    done = site.fleet("command", "logs", "--node", "n1", "--json", *options)
    output: dict[str, Any] = json.loads(done.stdout)["output"]
    return output


def end_of_deployment(journald: Journald) -> dict[str, Any]:
    ended = [entry for entry in journald.entries() if "digits 1.0.0: SUCCEEDED" in str(entry["MESSAGE"])]
    return ended[0]


def test_a_line_has_what_it_is_about_in_fields(site: Stage, journald: Journald) -> None:
    entry = end_of_deployment(journald)
    assert (entry["OVERLAID_MODEL"], entry["OVERLAID_ROOM"], entry["PRIORITY"]) == ("digits", "deploy", "6")
    assert (entry["SYSLOG_IDENTIFIER"], entry["OVERLAID_STATE"]) == ("overlaid", str(site.nodes[0].state))
    assert entry["_TRANSPORT"] == "journal" and entry["CODE_FILE"].endswith("ledger.py")
    assert int(entry["OVERLAID_DEPLOYMENT"]) > 0


def test_rows_are_chosen_by_what_they_are_about(site: Stage, journald: Journald) -> None:
    (node,) = site.nodes
    number = int(end_of_deployment(journald)["OVERLAID_DEPLOYMENT"])
    rows = logs(journald, node)
    assert any("started on demo/n1" in row["text"] for row in rows)
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    of_it = logs(journald, node, "--deployment", str(number))
    assert of_it and {(row["model"], row["deployment"]) for row in of_it} == {("digits", number)}
    assert logs(journald, node, "--model", "digits", "--lines", "1") == [
        [row for row in logs(journald, node) if row.get("model") == "digits"][-1]
    ]
    assert logs(journald, node, "--since", "1h")[: len(rows)] == rows
    for none in (("--model", "kws"), ("--deployment", "999")):
        assert logs(journald, node, *none) == []
    text = journald.run(OVERLAID, "logs", "--config", node.config, "--model", "digits").stdout
    assert "INFO deploy digits 1.0.0: SUCCEEDED" in text


def test_a_worker_s_end_is_followed_as_a_line_of_its_model_and_device(
    site: Stage, journald: Journald
) -> None:
    (node,) = site.nodes
    model = node.model("digits") or {}
    command = (OVERLAID, "logs", "-f", "--json", "--lines", "1", "--model", "digits", "--config", node.config)
    with journald.following(*command) as lines:
        json.loads(lines.readline())  # the newest so far
        os.kill(model["pid"], signal.SIGKILL)
        row = next(row for row in map(json.loads, lines) if "crashed" in row["text"])
    assert (row["level"], row["model"], row["room"]) == ("WARNING", "digits", "app")
    assert logs(journald, node, "--device", row["device"], "--model", "digits")
    wait_until("the successor", lambda: (node.model("digits") or model)["pid"] not in (None, model["pid"]))


def test_another_user_s_lines_are_not_the_daemon_s(site: Stage, journald: Journald) -> None:
    (node,) = site.nodes
    done = journald.run(sys.executable, "-c", FORGE, node.state)
    assert done.returncode == 0, done.stderr
    wait_until("the forged line", lambda: any(entry["MESSAGE"] == "forged" for entry in journald.entries()))
    assert not any(row["text"] == "forged" for row in logs(journald, node))


def test_the_operator_gets_rows_within_the_limits(site: Stage, journald: Journald) -> None:
    number = int(end_of_deployment(journald)["OVERLAID_DEPLOYMENT"])
    rows = sent(site, "--model", "digits")["rows"]
    assert {row["model"] for row in rows} == {"digits"}
    assert any(row.get("deployment") == number and row["level"] == "INFO" for row in rows)
    one = sent(site, "--lines", "1")
    assert len(one["rows"]) == 1 and one["left_out"]
    few = sent(site, "--bytes", "1024")
    assert few["left_out"] and 0 < len(json.dumps(few["rows"])) <= 1026
    assert "level" in sent(site, "--lines", "1000", "--since", "1h")["rows"][0]
    (node,) = site.nodes
    node.stop()
    start(node, journald)
    wait_until("the broker", lambda: (node.status() or {}).get("broker_connected"))
    first, *_, last = sent(site, "--lines", "1000", "--since", "1h")["rows"]
    assert (first["room"], last["level"]) == ("started", "INFO") and "level" not in first  # an event
