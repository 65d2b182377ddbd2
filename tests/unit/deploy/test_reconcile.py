"""Decisions of the reconciler: merging targets, deploying, removing, not retrying."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.deploy.journal import Deployment
from agent.deploy.reconcile import Installed, Wanted, effective, reconcile
from agent.types import Binding, Budget, DesiredModel, DesiredState, State

BUDGET = Budget(20.0, 10.0)
A, B = "a" * 64, "b" * 64


def model(name: str = "digits", version: str = "1.0.0", digest: str = A) -> DesiredModel:
    return DesiredModel(name, version, digest, BUDGET)


def want(item: DesiredModel, revision: int = 1) -> Wanted:
    return Wanted(item, "lab/n1", revision)


def deployment(item: DesiredModel, state: State, revision: int = 1, origin: str = "fleet") -> Deployment:
    return Deployment(1, origin, "lab/n1", revision, item, state)


def state(revision: int, *models: DesiredModel, cap: float | None = None) -> DesiredState:
    return DesiredState(revision, 0.0, 1e10, tuple(models), cap)


def test_another_number_of_instances_is_a_new_deployment() -> None:
    several = replace(model(), instances=4)
    installed = {"digits": Installed(A, BUDGET, "fleet")}
    latest = {"digits": deployment(model(), State.SUCCEEDED)}
    assert reconcile({"digits": want(several, 2)}, installed, latest).deploy == (want(several, 2),)
    installed = {"digits": Installed(A, BUDGET, "fleet", instances=4)}
    assert reconcile({"digits": want(several, 2)}, installed, latest).deploy == ()


def test_the_node_wins_over_its_groups_model_by_model() -> None:
    merged = effective(
        {
            "lab/n1": state(4, model(version="2.0.0", digest=B)),
            "lab/group/a": state(2, model(), model("kws")),
            "lab/group/b": state(9, replace(model("kws"), version="9")),
        },
        "lab/n1",
        ("lab/group/a", "lab/group/b"),
    )
    assert merged.models["digits"].model.version == "2.0.0"
    assert merged.models["kws"] == Wanted(model("kws"), "lab/group/a", 2)


def test_power_cap_is_the_nodes_own_else_the_lowest_of_its_groups() -> None:
    groups = {"lab/group/a": state(1, cap=5.0), "lab/group/b": state(1, cap=3.0)}
    names = ("lab/group/a", "lab/group/b")
    assert effective(groups, "lab/n1", names).power_cap_w == 3.0
    assert effective({**groups, "lab/n1": state(1, cap=8.0)}, "lab/n1", names).power_cap_w == 8.0
    assert effective({**groups, "lab/n1": state(1)}, "lab/n1", names).power_cap_w == 3.0


def test_bindings_merge_by_their_topics_under_the_nodes_name() -> None:
    fast, slow = Binding("s/n1", "a", "t/n1", "raw", 9.0), Binding("s/{node}", "b", "t/{node}", "json")
    more = Binding("s/{node}", "c", "u/{node}")
    merged = effective(
        {
            "lab/n1": replace(state(1), bindings=(fast,)),
            "lab/group/a": replace(state(2), bindings=(slow, more)),
        },
        "lab/n1",
        ("lab/group/a",),
    )
    assert merged.bindings == (fast, Binding("s/n1", "c", "u/n1"))


def test_a_new_model_is_deployed_and_one_in_service_is_left_alone() -> None:
    assert reconcile({"digits": want(model())}, {}, {}).deploy == (want(model()),)
    installed = {"digits": Installed(A, BUDGET, "fleet")}
    latest = {"digits": deployment(model(), State.SUCCEEDED)}
    assert reconcile({"digits": want(model(), 2)}, installed, latest) == reconcile({}, {}, {})


def test_a_changed_budget_is_a_deployment() -> None:
    installed = {"digits": Installed(A, Budget(5.0, 1.0), "fleet")}
    assert reconcile({"digits": want(model())}, installed, {}).deploy == (want(model()),)


def test_a_failed_digest_waits_for_the_next_revision() -> None:
    latest = {"digits": deployment(model(), State.FAILED)}
    assert reconcile({"digits": want(model())}, {}, latest).deploy == ()
    assert reconcile({"digits": want(model(), 2)}, {}, latest).deploy == (want(model(), 2),)


def test_a_download_that_timed_out_may_be_tried_again() -> None:
    latest = {"digits": deployment(model(), State.TIMED_OUT)}
    assert reconcile({"digits": want(model())}, {}, latest).deploy == ()
    assert reconcile({"digits": want(model())}, {}, latest, may_retry={1}).deploy == (want(model()),)


def test_a_model_that_could_not_be_restored_is_deployed_anew_or_removed() -> None:
    installed = {"digits": Installed(A, BUDGET, "fleet", healthy=False)}
    latest = {"digits": deployment(model(), State.SUCCEEDED)}
    assert reconcile({"digits": want(model())}, installed, latest).deploy == (want(model()),)
    assert reconcile({}, installed, latest).remove == ("digits",)


def test_a_local_model_that_the_fleet_asks_for_just_so_becomes_the_fleets() -> None:
    installed = {"digits": Installed(A, BUDGET, "local")}
    actions = reconcile({"digits": want(model())}, installed, {})
    assert (actions.adopt, actions.deploy) == (("digits",), ())


def test_an_open_deployment_goes_on_under_a_newer_revision_and_is_superseded_by_another_digest() -> None:
    latest = {"digits": deployment(model(), State.IN_PROGRESS)}
    same = reconcile({"digits": want(model(), 2)}, {}, latest)
    assert (same.deploy, same.supersede) == ((), ())
    other = want(model(version="1.1.0", digest=B), 2)
    changed = reconcile({"digits": other}, {}, latest)
    assert (changed.deploy, changed.supersede) == ((other,), ("digits",))


def test_what_nobody_wants_is_removed_but_local_models_stay() -> None:
    installed = {"digits": Installed(A, BUDGET, "fleet"), "mine": Installed(B, BUDGET, "local")}
    latest = {"late": deployment(model("late"), State.QUEUED)}
    actions = reconcile({}, installed, latest)
    assert (actions.remove, actions.supersede) == (("digits",), ("late",))


def test_a_return_to_the_installed_digest_deploys_nothing() -> None:
    installed = {"digits": Installed(A, BUDGET, "fleet")}
    latest = {"digits": deployment(model(version="1.1.0", digest=B), State.FAILED, 2)}
    assert reconcile({"digits": want(model(), 3)}, installed, latest).deploy == ()


names = st.sampled_from(["digits", "kws", "vww"])
digests = st.sampled_from([A, B])


@given(
    st.dictionaries(names, digests),
    st.dictionaries(names, st.tuples(digests, st.sampled_from(["fleet", "local"]))),
)
def test_after_the_actions_succeed_there_is_nothing_left_to_do(
    wanted: dict[str, str], installed: dict[str, tuple[str, str]]
) -> None:
    wants = {name: want(model(name, digest=digest)) for name, digest in wanted.items()}
    before = {name: Installed(digest, BUDGET, origin) for name, (digest, origin) in installed.items()}
    actions = reconcile(wants, before, {})
    after = {name: item for name, item in before.items() if name not in actions.remove}
    after |= {w.model.name: Installed(w.model.digest, w.model.budget, "fleet") for w in actions.deploy}
    after = {
        name: replace(item, origin="fleet") if name in actions.adopt else item for name, item in after.items()
    }
    assert reconcile(wants, after, {}) == reconcile({}, {}, {})
