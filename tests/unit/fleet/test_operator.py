"""The operator's database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import StoreError, UsageError
from agent.fleet.arrivals import ROWS as RESULT_ROWS
from agent.fleet.desired import EMPTY, Content, content_of, issue, with_model, with_power_cap
from agent.fleet.operator import Operator
from agent.fleet.views import Heard
from agent.link.messages import Message, Reported, Result, Status, TelemetryBatch
from agent.link.topics import Target
from agent.types import Budget, DesiredModel, DesiredState, State

NODE, OTHER = Target("site", "cam-7"), Target("site", "cam-8")
GROUP = Target("site", "cam-7", group=True)
DAY = 86_400.0


class Clock:
    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def version(text: str) -> Callable[[Content], Content]:
    model = DesiredModel("digits", text, "ab" * 32, Budget(20.0, 10.0, 0.5, 0.97, 3))
    return lambda content: with_model(content, model)


def test_revisions_survive_reopening_with_their_content(tmp_path: Path) -> None:
    clock = Clock()
    with Operator(tmp_path / "operator.db", clock=clock) as operator:
        made = operator.revise(NODE, version("1.0.0"))
        identity = operator.identity
    with Operator(tmp_path / "operator.db", clock=clock) as operator:
        assert operator.latest(NODE) == made
        assert (made.revision, made.issued, made.expires) == (1, clock.now, clock.now + 30 * DAY)
        assert operator.identity == identity
        assert operator.latest(OTHER) is None and operator.latest(GROUP) is None


def test_a_refused_edit_leaves_no_revision(tmp_path: Path) -> None:
    with Operator(tmp_path / "operator.db") as operator:
        operator.revise(NODE, version("1.0.0"))
        with pytest.raises(UsageError):
            operator.revise(NODE, lambda content: with_power_cap(content, -1))
        with pytest.raises(UsageError):
            operator.roll_back(OTHER)
        assert operator.revise(NODE, version("1.0.1")).revision == 2


def test_rolling_back_skips_renewals_and_retries_of_the_same(tmp_path: Path) -> None:
    clock = Clock()
    with Operator(tmp_path / "operator.db", clock=clock) as operator:
        good = operator.revise(NODE, version("1.0.0"))
        operator.revise(NODE, version("2.0.0"))
        operator.revise(NODE, version("2.0.0"))
        clock.now += 25 * DAY
        assert operator.renew(NODE) is not None
        back = operator.roll_back(NODE)
        assert content_of(back) == content_of(good)
        assert back.revision == 5
        assert back.issued == clock.now


def test_two_processes_share_one_count(tmp_path: Path) -> None:
    with Operator(tmp_path / "operator.db") as one, Operator(tmp_path / "operator.db") as two:
        revisions = [
            one.revise(NODE, version("1")).revision,
            two.revise(NODE, version("2")).revision,
            one.revise(GROUP, version("1")).revision,
            two.revise(OTHER, version("1")).revision,
        ]
        assert revisions == [1, 2, 3, 4]
        assert one.next_sequence("key") < two.next_sequence("key") < one.next_sequence("key")


def test_a_look_at_the_latest_neither_blocks_nor_hides_what_another_process_writes(tmp_path: Path) -> None:
    """Python 3.10 keeps the statement of an abandoned generator open; later versions do not."""
    with Operator(tmp_path / "operator.db") as one, Operator(tmp_path / "operator.db") as two:
        for number in range(4):
            one.revise(NODE, version(str(number)))
        for number in range(4, 8):
            assert one.latest(NODE) == two.latest(NODE)
            assert next(iter(one.history(NODE))) == two.latest(NODE)
            made = two.revise(NODE, version(str(number)))
            assert one.latest(NODE) == made
            one.next_sequence("key")


STEPS = st.lists(
    st.tuples(
        st.sampled_from([NODE, OTHER, GROUP]),
        st.sampled_from(["deploy", "cap", "rollback", "renew", "wait"]),
        st.integers(1, 3),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_revisions_strictly_grow_and_rollback_restores(steps: list[tuple[Target, str, int]]) -> None:
    clock = Clock()
    model: dict[Target, list[Content]] = {}
    last = 0
    with Operator(Path(":memory:"), clock=clock) as operator:
        for target, step, number in steps:
            past = model.setdefault(target, [])
            made: DesiredState | None = None
            if step == "deploy":
                made = operator.revise(target, version(str(number)))
                assert [m.version for m in made.models] == [str(number)]
            elif step == "cap":
                made = operator.revise(target, lambda content, w=number: with_power_cap(content, float(w)))  # type: ignore[misc]
            elif step == "renew":
                made = operator.renew(target)
                assert made is None or content_of(made) == past[-1]
            elif step == "rollback":
                different = [content for content in past if content != past[-1]]
                if not different:
                    with pytest.raises(UsageError):
                        operator.roll_back(target)
                else:
                    made = operator.roll_back(target)
                    assert content_of(made) == different[-1]
            else:
                clock.now += number * 10 * DAY
            if made is not None:
                assert made.revision > last
                last = made.revision
                past.append(content_of(made))
                assert operator.latest(target) == made
        for target, past in model.items():
            assert [content_of(state) for state in operator.history(target)] == past[::-1]


def test_a_package_is_wanted_by_several_when_a_group_or_two_nodes_have_it_now(tmp_path: Path) -> None:
    with Operator(tmp_path / "operator.db") as operator:
        operator.revise(NODE, version("1.0.0"))
        latest = operator.latest(NODE)
        assert latest is not None
        digest, newer = latest.models[0].digest, "f" * 64
        assert not operator.wanted_by_several(digest)
        operator.revise(OTHER, version("1.0.0"))
        assert operator.wanted_by_several(digest) and not operator.wanted_by_several(newer)
        operator.revise(OTHER, lambda _: EMPTY)
        assert not operator.wanted_by_several(digest)
        operator.revise(GROUP, version("1.0.0"))
        operator.revise(NODE, lambda _: EMPTY)
        assert operator.wanted_by_several(digest)


def test_renewal_only_in_the_last_third(tmp_path: Path) -> None:
    clock = Clock()
    with Operator(tmp_path / "operator.db", clock=clock) as operator:
        made = operator.revise(NODE, version("1.0.0"))
        clock.now += 19 * DAY
        assert operator.renew(NODE) is None
        clock.now += 2 * DAY
        renewed = operator.renew(NODE)
        assert renewed is not None
        assert (renewed.revision, renewed.models) == (2, made.models)
        assert renewed.expires == clock.now + 30 * DAY
        assert operator.renew(NODE) is None
        assert operator.renew(OTHER) is None


def test_a_newer_state_of_ours_is_taken_over_once(tmp_path: Path) -> None:
    with Operator(tmp_path / "operator.db") as operator:
        operator.revise(NODE, version("1"))
        found = issue(Content(power_cap_w=3.0), 9, now=5.0)
        assert operator.adopt(NODE, found)
        assert not operator.adopt(NODE, found)
        assert operator.latest(NODE) == found
        assert not operator.adopt(NODE, issue(Content(), 4, now=5.0))
        assert operator.revise(NODE, version("2")).revision == 10
        assert operator.adopt(OTHER, issue(Content(power_cap_w=1.0), 9, now=5.0))
        taken = operator.latest(OTHER)
        assert taken is not None and taken.power_cap_w == 1.0 and taken.revision == 11


def test_command_sequences_grow_per_key_even_when_the_clock_steps_back(tmp_path: Path) -> None:
    clock = Clock(1000.5)
    path = tmp_path / "operator.db"
    with Operator(path, clock=clock) as operator:
        assert operator.next_sequence("a") == 1000
        assert operator.next_sequence("a") == 1001
        clock.now = 3.0
    with Operator(path, clock=clock) as operator:
        assert operator.next_sequence("a") == 1002
        assert operator.next_sequence("b") == 3


def heard(message: Message, kind: str, when: float, retained: bool = False, node: str = "cam-7") -> Heard:
    return Heard(node, kind, when, message, retained)


def test_a_retained_copy_keeps_the_time_of_what_is_known(tmp_path: Path) -> None:
    born, died = Status(online=True, boot_id="b1"), Status(online=False, boot_id="b1")
    with Operator(tmp_path / "operator.db") as operator:
        operator.record([heard(born, "status", 10.0), heard(born, "status", 20.0, retained=True)])
        assert operator.views()["cam-7"].heard == 10.0
        operator.record([heard(died, "status", 30.0, retained=True)])
        view = operator.views()["cam-7"]
        assert (view.heard, view.online) == (30.0, False)


def test_nodes_keep_the_last_of_each_kind_and_only_the_heartbeat_of_telemetry(tmp_path: Path) -> None:
    batch = TelemetryBatch(series="s", boot_id="b1", sequence=4, time=1.0, rows=[{"secret": "x" * 1000}])
    reports = [Reported(revision_seen=n, revision_applied=0, time=float(n)) for n in (1, 2)]
    path = tmp_path / "operator.db"
    with Operator(path) as operator:
        operator.record([heard(report, "reported", report.time) for report in reports])
        operator.record([heard(batch, "telemetry", 50.0)])
        view = operator.views()["cam-7"]
        assert view.reported == reports[1]
        assert view.heard == 50.0
    with sqlite3.connect(path) as db:
        assert "secret" not in str(db.execute("SELECT * FROM nodes").fetchall())
    db.close()


def test_results_are_kept_once_newest_first_and_bounded(tmp_path: Path) -> None:
    def result(number: int) -> Heard:
        message = Result(id=f"c{number}", op="logs", state=State.SUCCEEDED, output={"lines": []})
        return heard(message, "result", float(number))

    with Operator(tmp_path / "operator.db") as operator:
        operator.record([result(1), result(2), result(1)])
        assert [r.id for _, r in operator.results("cam-7")] == ["c2", "c1"]
        operator.record(result(n) for n in range(3, RESULT_ROWS + 20))
        kept = operator.results("cam-7", limit=2 * RESULT_ROWS)
        assert len(kept) == RESULT_ROWS
        assert kept[0][1].id == f"c{RESULT_ROWS + 19}"
        assert operator.results("cam-8") == []


def test_a_newer_schema_and_a_foreign_file_are_refused_by_name(tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreError, match=r"newer overlaid.*install that version again"):
        Operator(newer)
    foreign = tmp_path / "foreign.db"
    foreign.write_text("this is no database, whatever its name says" * 50)
    with pytest.raises(StoreError, match=r"foreign\.db"):
        Operator(foreign)


@pytest.mark.parametrize("seen, revision", [(0, 2), (50, 51), (2**60, 10_002)])
def test_a_new_revision_is_newer_than_what_nodes_have_seen_before_this_file_was_restored(
    tmp_path: Path, seen: int, revision: int
) -> None:
    """They would refuse it as replayed, and the broker may have been lost with the file."""
    with Operator(tmp_path / "operator.db") as operator:
        operator.revise(NODE, version("1.0.0"))
        reported = Reported(revision_seen=seen, revision_applied=seen, time=1.0)
        operator.record([Heard("cam-7", "reported", 1.0, reported)])
        assert operator.revise(OTHER, version("1.0.1")).revision == revision
