"""Bad links, a kill, an operator who is away and a damaged outbox: every message arrives once, by its number."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from agent.fleet.home import Home
from agent.fleet.operator import Operator
from tests.system.link_profiles import BUDGET, Figures, HurriedNode, Observer, figures, fill, prepared
from tests.system.stage import Stage, wait_until

BATCHES, ENDS, RESULTS = 300, 10, 5


@pytest.fixture(scope="module")
def measured() -> dict[str, Figures]:
    return {row.profile: row for row in figures()}


@pytest.mark.parametrize("profile", ["satellite", "3G", "offline 5/5 min"])
def test_nothing_is_lost_or_doubled_over_a_bad_link_and_a_kill(
    measured: dict[str, Figures], profile: str
) -> None:
    row = measured[profile]
    assert (row.lost, row.doubled, row.received) == (0, 0, row.sent), row
    assert row.sent > 1500 and row.copies >= row.dropped, row
    assert (row.deployment, row.answers) == ("SUCCEEDED", row.commands), row
    # Of two boots: one connection for control each, a few for blocks. Every other one has its cause.
    assert row.connections <= 6 + row.resets + row.failed, row
    assert row.failed <= 60, row
    assert row.failed or not profile.startswith("offline"), row


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with prepared(tmp_path_factory.mktemp("delivery")) as it:
        yield it


def hurried(it: Stage, name: str) -> HurriedNode:
    plain = it.node(name)
    node = HurriedNode(plain.folder, plain.name, plain.port)
    it.nodes[it.nodes.index(plain)] = node
    return node


def test_what_nodes_send_while_the_operator_is_away_waits_for_it(it: Stage) -> None:
    node = hurried(it, "away")
    # Its sessions at the broker begin with its first connection.
    wait_until("fleet serve", lambda: "connected to" in (it.folder / "serve.log").read_text())
    it.stop_serving()
    fill(node, BATCHES, ENDS, RESULTS)
    with Observer(it.broker, "away") as observer:
        node.start()
        wait_until("all at the broker", lambda: len(observer.copies) >= BATCHES + ENDS + RESULTS)
        node.stop()
    it.serve()
    with Operator(Home(it.home).database) as operator:

        def arrived() -> bool:
            tallies = {stream.name: stream.tally for stream in operator.streams("away")}
            return (
                set(tallies) == {"summary", "events"}
                and tallies["summary"].received >= BATCHES
                and len(operator.results("away", 100)) == RESULTS
            )

        wait_until("all at the operator", arrived)
        assert not any(stream.tally.missing for stream in operator.streams("away"))
        assert len(operator.ends("away", 100)) == ENDS
    shown = json.loads(it.fleet("status", "away", "--json").stdout)["nodes"][0]
    assert {one["stream"]: one["missing"] for one in shown["streams"]} == {"summary": 0, "events": 0}
    assert len(shown["deployments"]) == 10
    assert f"deployment {100_000 + ENDS - 1}: old 1.0.0 FAILED" in it.fleet("status", "away").stdout


def test_a_damaged_outbox_stops_neither_the_node_nor_the_ends_of_its_deployments(it: Stage) -> None:
    node = hurried(it, "damaged")
    node.state.mkdir(parents=True)
    (node.state / "outbox.db").write_bytes(b"\x00garbage" * 1000)
    node.start()
    assert (node.state / "outbox.db.damaged").exists()
    it.fleet("deploy", "digits@1.0.0", "--node", "damaged", *BUDGET, "--wait")
    with Operator(Home(it.home).database) as operator:
        wait_until("the end", lambda: operator.ends("damaged"))
    node.kill()
    (node.state / "outbox.db-wal").unlink(missing_ok=True)
    (node.state / "outbox.db").write_bytes(b"\x00garbage" * 1000)
    node.start()
    with Operator(Home(it.home).database) as operator:
        wait_until("two series", lambda: len(operator.streams("damaged")) == 2)
        assert [(end.model, end.state.value) for end in operator.ends("damaged")] == [("digits", "SUCCEEDED")]

    def told() -> int:
        log = json.loads(it.fleet("command", "logs", "--node", "damaged", "--json").stdout)
        return sum("outbox.db" in row["text"] for row in log["output"]["rows"])

    wait_until("both events", lambda: told() == 2)
