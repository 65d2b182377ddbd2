"""Whose turn it is: order, limits and that nobody waits for ever."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from agent.devices.fpga_service.turns import CONTESTED_S, IDLE_S, Phase, Turns


def infer(turns: Turns, now: float) -> None:
    """The holder's inference, from start to outputs."""
    turns.started(now)
    turns.ended(now)
    turns.fetched()


def test_alone_a_turn_goes_on() -> None:
    turns = Turns()
    for now in range(0, 1000, 100):
        assert turns.ask(1, now) == 0
        infer(turns, now)
    assert turns.holder == 1


def test_a_turn_lasts_until_the_outputs_are_fetched() -> None:
    turns = Turns()
    assert turns.ask(1, 0) == 0
    turns.started(0.1)  # loads weights
    turns.ended(0.2)
    assert turns.ask(2, 0.2) == IDLE_S
    assert turns.ask(1, 0.3) == 0
    turns.started(0.3)
    turns.fetched()  # while it runs this does not count
    assert turns.ask(2, 0.4) > 1
    turns.ended(0.5)
    turns.fetched()
    assert turns.ask(2, 0.5) == 0
    assert turns.holder == 2


def test_who_waits_comes_before_the_next_inference_of_the_holder() -> None:
    turns = Turns()
    turns.ask(1, 0)
    turns.started(0)
    assert turns.ask(2, 0.1) > 0
    assert turns.ask(3, 0.1) == math.inf
    turns.ended(0.2)
    turns.fetched()
    assert turns.ask(1, 0.2) == math.inf
    for client in (2, 3, 1):
        assert turns.ask(client, 0.2) == 0
        infer(turns, 0.2)


def test_an_idle_holder_loses_its_turn() -> None:
    turns = Turns()
    turns.ask(1, 0)
    left = turns.ask(2, 0.1)
    assert math.isclose(left, IDLE_S - 0.1)
    assert turns.ask(2, 0.1 + left) == 0


def test_a_chain_runs_on_until_others_have_waited_for_long() -> None:
    turns = Turns()
    turns.ask(1, 0)
    turns.started(0)
    assert turns.ask(2, 100) == CONTESTED_S
    assert turns.ask(2, 100 + CONTESTED_S - 1) == 1
    turns.ended(104.5)
    assert math.isclose(turns.ask(2, 104.5), IDLE_S)
    turns.started(104.6)
    assert turns.ask(2, 100 + CONTESTED_S) == 0
    assert turns.phase is Phase.TAKEN


def test_who_stops_waiting_holds_up_nobody() -> None:
    turns = Turns()
    turns.ask(1, 0)
    turns.started(0)
    turns.ask(2, 1)
    turns.ask(3, 1)
    turns.withdraw(2)
    turns.leave(1)
    assert turns.holder is None
    assert turns.ask(3, 1) == 0
    turns.leave(3)
    assert turns.ask(2, 1) == 0


EVENTS = ("ask", "start", "end", "fetch", "clear", "withdraw", "leave")


@given(
    st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(1, 4), st.sampled_from((0.0, 0.1, IDLE_S, 2.0))))
)
def test_turns_are_in_the_order_of_asking_and_nobody_waits_longer_than_the_limit(
    events: list[tuple[str, int, float]],
) -> None:
    turns, now, waiting = Turns(), 0.0, list[int]()
    contested = 0.0  # since when the holder of now has been waited for
    for event, client, seconds in events:
        now += seconds
        holder = turns.holder
        if event == "ask":
            first = not waiting
            had = client == holder and not (turns.phase is Phase.OVER and waiting)
            left = turns.ask(client, now)
            if not had and client not in waiting:
                contested = now if first else contested
                waiting.append(client)
            if left > 0:
                assert turns.holder == holder
                assert left == math.inf or now + left <= contested + CONTESTED_S + 1e-9
                assert (left == math.inf) == (waiting[0] != client)
            elif not had:
                assert waiting.pop(0) == client == turns.holder
                contested = now
        elif event in ("withdraw", "leave"):
            getattr(turns, event)(client)
            waiting = [each for each in waiting if each != client]
        elif client == holder:  # what the others do not do
            if event in ("start", "end"):
                {"start": turns.started, "end": turns.ended}[event](now)
            else:
                {"fetch": turns.fetched, "clear": turns.cleared}[event]()
            assert turns.holder == holder
    for client in list(waiting):  # and all of them get there
        now += CONTESTED_S + IDLE_S
        assert turns.ask(client, now) == 0
