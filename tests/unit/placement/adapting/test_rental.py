from __future__ import annotations

import math
from dataclasses import replace

import pytest

from agent.placement.adapting.rental import Regret, Rent, alternatives, load_j, saved_w
from tests.unit.placement.adapting.world import CPU, FAST, FPGA, GPU, LEAN, SLOW

MEASURED = {("m", m.candidate): m for m in (SLOW, FAST, LEAN)}
TO_CPU, TO_FPGA = (("m", CPU),), (("m", FPGA),)


def paid(regret: Regret, rate_hz: float, seconds: int) -> Regret:
    for _ in range(seconds):
        regret = regret.paid({"m": FAST}, MEASURED, {"m": rate_hz}, 1.0)
    return regret


def test_rent_is_what_staying_costs_more() -> None:
    regret = paid(Regret().counting(TO_CPU).counting(TO_FPGA), 10.0, 20)
    here_w = 10 * 0.03 + 0.6
    assert regret.of(TO_CPU).joules == pytest.approx(20 * (0.95 * here_w - 0.2))
    assert regret.of(TO_FPGA).joules == pytest.approx(20 * (0.95 * here_w - 0.35))


def test_rent_is_paid_back_and_never_less_than_nothing() -> None:
    there = {"m": SLOW}
    regret = Regret().counting((("m", GPU),))
    for _ in range(5):
        regret = regret.paid(there, MEASURED, {"m": 10.0}, 1.0)
    assert regret.of((("m", GPU),)) == Rent()


def test_a_saving_of_a_few_per_cent_is_none() -> None:
    near = replace(SLOW, candidate=FPGA, joules=0.0195)
    assert saved_w({"m": SLOW}, {"m": near}, {"m": 10.0}) < 0
    assert saved_w({"m": SLOW}, {"m": replace(near, joules=0.018)}, {"m": 10.0}) > 0


def test_what_others_hold_is_not_saved() -> None:
    both = {"m": FAST, "n": FAST}
    alone = saved_w({"m": FAST}, {"m": SLOW}, {"m": 1.0})
    beside = saved_w(both, {"m": SLOW}, {"m": 1.0})
    assert alone - beside == pytest.approx(0.6 * 1, abs=0.05)
    assert saved_w(both, {"m": SLOW, "n": SLOW}, {"m": 1.0}) == pytest.approx(alone, abs=0.05)


def test_chance_does_not_pay() -> None:
    assert Rent(2.0, 0.1).pays(1.0)
    assert not Rent(2.0, 4.0).pays(1.0)  # twice the standard deviation would be 4 J
    assert not Rent(0.5, 0.0).pays(1.0) and not Rent(0.0, 0.0).pays(0.0)


def test_a_load_costs_what_was_measured_or_what_the_device_draws() -> None:
    assert load_j(FAST) == 6.0
    for unknown in (None, math.nan, -1.0, math.inf):
        assert load_j(replace(FAST, load_j=unknown)) == pytest.approx(1.8 * 0.03 / 0.005)


def test_only_so_many_alternatives_are_counted() -> None:
    now = {f"m{i}": SLOW for i in range(10)}
    few = {(model, m.candidate): m for model in now for m in (SLOW, FAST)}
    assert len(alternatives(few, now)) == 10
    many = {(f"m{i}", m.candidate): m for i in range(50) for m in (SLOW, FAST)}
    assert alternatives(many, {f"m{i}": SLOW for i in range(50)}) == []
    regret = Regret()
    for i in range(1000):
        regret = regret.counting(((f"m{i}", CPU),))
    assert len(regret.rents) <= 64 and (("m999", CPU),) in regret.rents


def test_what_failed_is_counted_anew() -> None:
    regret = paid(Regret().counting(TO_CPU).counting(TO_FPGA), 10.0, 5).without("m", CPU)
    assert TO_CPU not in regret.rents and regret.of(TO_FPGA).joules > 0


def test_what_is_measured_no_more_is_not_counted() -> None:
    regret = Regret().counting(TO_CPU)
    assert regret.paid({"m": FAST}, {}, {"m": 1.0}, 1.0).rents == {}
    assert regret.paid({}, MEASURED, {}, 1.0).rents == {}
