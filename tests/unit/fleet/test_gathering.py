"""When blocks wait for the nodes of a group."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.fleet.gathering import GATHER_S, MAX_GATHER_S, MAX_PACKAGES, PATIENCE_S, QUIET_S, Gathering

PACKAGE, OTHER, BLOCK, LAST = (char * 64 for char in "abcd")


def gathering(several: Callable[[str], bool] = lambda _: True) -> Gathering:
    return Gathering(several)


def test_blocks_of_one_node_never_wait() -> None:
    alone = gathering(lambda _: False)
    assert not alone.holds(PACKAGE, PACKAGE, 0.0)
    assert not alone.holds(PACKAGE, BLOCK, 0.1)
    assert alone.patience(0.1) is None


def test_the_manifest_never_waits_and_the_blocks_do_until_no_more_nodes_come() -> None:
    group = gathering()
    for now in (0.0, 0.1, 0.2):
        assert not group.holds(PACKAGE, PACKAGE, now)
    assert group.patience(0.2) is None
    assert group.holds(PACKAGE, BLOCK, 0.3) and group.holds(PACKAGE, LAST, 0.35)
    assert group.holds(PACKAGE, BLOCK, 0.4)  # by another node
    assert not group.holds(PACKAGE, PACKAGE, 0.5)
    assert len(group) == 2
    assert group.due(0.5 + GATHER_S - 0.01) == []
    assert group.patience(0.5) == pytest.approx(GATHER_S)
    assert group.due(0.5 + GATHER_S) == [(PACKAGE, PACKAGE), (PACKAGE, BLOCK), (PACKAGE, LAST)]
    assert len(group) == 0
    assert not group.holds(PACKAGE, BLOCK, 1.0)  # a late one's, or the next window: at once


def test_nodes_that_verify_for_long_are_waited_for() -> None:
    group = gathering()
    group.holds(PACKAGE, PACKAGE, 0.0)
    assert group.due(QUIET_S) == []
    assert group.holds(PACKAGE, BLOCK, QUIET_S + 0.1)
    assert group.holds(PACKAGE, BLOCK, QUIET_S + 0.3)
    assert group.due(QUIET_S + 0.3 + GATHER_S) == [(PACKAGE, BLOCK)]


def test_a_package_of_which_nobody_wants_blocks_is_forgotten() -> None:
    group = gathering()
    group.holds(PACKAGE, PACKAGE, 0.0)
    assert group.due(PATIENCE_S + 0.1) == []
    assert group.holds(PACKAGE, BLOCK, PATIENCE_S + 1.0)


def test_the_manifest_is_sent_again_only_for_those_who_came_later() -> None:
    group = gathering()
    group.holds(PACKAGE, PACKAGE, 0.0)
    group.holds(PACKAGE, BLOCK, 0.1)
    assert group.due(1.0) == [(PACKAGE, BLOCK)]


def test_nodes_that_keep_coming_hold_nobody_up_for_ever() -> None:
    group = gathering()
    assert group.holds(PACKAGE, BLOCK, 0.0)
    for tick in range(40):
        group.holds(PACKAGE, PACKAGE, tick / 10)
    assert group.due(MAX_GATHER_S) == [(PACKAGE, PACKAGE), (PACKAGE, BLOCK)]


def test_the_next_deployment_of_a_package_waits_again_and_packages_do_not_wait_for_each_other() -> None:
    group = gathering()
    group.holds(PACKAGE, BLOCK, 0.0)
    group.holds(OTHER, LAST, 0.3)
    assert group.due(GATHER_S) == [(PACKAGE, BLOCK)]
    assert group.due(0.3 + GATHER_S) == [(OTHER, LAST)]
    assert not group.holds(PACKAGE, BLOCK, QUIET_S)
    assert group.holds(PACKAGE, BLOCK, 2 * QUIET_S + 0.1)
    group.clear()
    assert group.due(100.0) == [] and group.patience(100.0) is None


def test_only_so_many_packages_are_remembered() -> None:
    asked: list[str] = []

    def alone(digest: str) -> bool:
        asked.append(digest)
        return False

    group = gathering(alone)
    for number in range(MAX_PACKAGES + 1):
        group.holds(f"{number:064x}", BLOCK, 0.0)
    group.holds(f"{0:064x}", BLOCK, 0.0)
    assert len(asked) == MAX_PACKAGES + 2
