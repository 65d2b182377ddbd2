from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from agent.placement.adapting.adapt import Look, Seen, State, failed, step, verify
from agent.placement.demand import DeviceState
from agent.types import Budget, Candidate
from tests.unit.placement.adapting.world import (
    CPU,
    FAST,
    FPGA,
    GPU,
    LEAN,
    REST_W,
    SLOW,
    SMALL,
    World,
    demand,
    measurement,
)

ALL = (SLOW, FAST, LEAN)


def devices(moved: list[tuple[int, str, str]]) -> list[str]:
    return [where for _, where, _ in moved]


# -- energy -------------------------------------------------------------------------------------------------------


def test_a_steady_load_moves_nothing() -> None:
    assert World(demand()).run(120) == []


def test_a_model_moves_when_staying_has_cost_as_much_as_moving() -> None:
    world = World(demand(incumbent=GPU))  # 0.9 W against 0.2 W; loading costs 0.2 J
    ((when, where, why),) = world.run(60)
    assert where == "cpu" and when <= 3 and why.startswith("energy: ")


def test_a_dear_move_takes_longer_to_pay() -> None:
    dear = replace(SLOW, load_j=20.0)
    ((when, where, _),) = World(demand(incumbent=GPU, measurements=(dear, FAST))).run(60)
    assert where == "cpu" and 25 <= when <= 35  # 0.65 W


def test_what_is_promised_and_not_asked_for_costs_nothing() -> None:
    lean = replace(LEAN, load_j=0.2)
    world = World(demand(rate_hz=30.0, measurements=(SLOW, lean)))  # 0.6 W against 0.45 W
    world.rates = {"digits": 3.0}  # 0.06 W against 0.315 W
    assert world.run(60) == []
    world.rates = {"digits": 29.0}
    assert devices(world.run(30)) == ["fpga"]


def test_bursts_that_do_not_pay_are_sat_out() -> None:
    lean = replace(LEAN, load_j=3.0)
    world = World(demand(rate_hz=30.0, measurements=(SLOW, lean)))
    for _ in range(20):
        world.rates = {"digits": 29.0}
        assert world.run(3) == []
        world.rates = {"digits": 3.0}
        assert world.run(12) == []


def test_a_model_stays_for_a_while_where_it_was_loaded() -> None:
    lean = replace(LEAN, load_s=2.0, load_j=0.2)
    world = World(demand(rate_hz=30.0, measurements=(SLOW, lean)))
    world.rates = {"digits": 29.0}
    assert devices(world.run(30)) == ["fpga"]
    since = world.state.since["digits"][1]
    world.rates = {"digits": 1.0}
    world.run(40)
    assert world.place("digits") == "cpu"
    assert world.state.since["digits"][1] - since >= 10 * 2.0


def test_what_waits_says_how_far_it_is() -> None:
    world = World(demand(incumbent=GPU, measurements=(replace(SLOW, load_j=20.0), FAST)))
    world.run(5)
    ((model, why),) = world.look().waits
    assert model == "digits" and "fp32 on cpu" in why and "J paid for staying, 20 J for moving" in why


def test_without_energies_nobody_moves_to_save_some() -> None:
    blind = (replace(SLOW, joules=None, energy="missing"), replace(FAST, joules=None, energy="missing"))
    world = World(demand(measurements=blind, incumbent=GPU), rest_w=None)  # the quicker one
    world.metered = False
    assert world.run(60) == []


def test_a_load_that_breaks_the_cap_for_long_saves_no_energy() -> None:
    hungry = measurement(GPU, 5.0, 0.001, load_s=1.8, load_j=18.0)  # 10 W
    world = World(demand(measurements=(SLOW, hungry)), cap_w=6.0)
    assert world.run(300) == []
    assert "over the cap 6 W" in world.look().waits[0][1]
    world.cap(14.0)
    assert devices(world.run(300)) == ["gpu"]


def test_others_that_would_wait_for_a_load_make_it_dear() -> None:
    slow = measurement(Candidate("fp32", "onnx", "gpu"), 5.0, 0.06, load_s=1.8, load_j=0.5)
    lean = measurement(GPU, 5.0, 0.02, load_s=1.8, load_j=0.5)
    alone = demand(
        incumbent=slow.candidate, measurements=(slow, lean)
    )  # 0.4 W less, but 1.8 s of late answers
    beside = demand(measurements=(measurement(CPU, 20.0, 0.06), lean))
    ((soon, _, _),) = World(beside).run(100)
    ((late, _, _),) = World(alone).run(100)
    assert soon <= 4 and late > 20


# -- budgets ------------------------------------------------------------------------------------------------------


def test_a_throttled_device_is_left_after_two_looks() -> None:
    world = World(demand())
    world.run(5)
    world.slow = {"cpu": 3.0}
    ((when, where, why),) = world.run(5)
    assert (when, where) == (2, "gpu") and why.startswith("cpu takes 2.9")


def test_a_hiccup_moves_nothing_but_late_answers_do() -> None:
    world = World(demand())
    world.run(5)
    world.slow = {"cpu": 3.0}
    assert world.run(1) == []
    world.slow = {}
    assert world.run(5) == []
    world.slow, world.late = {"cpu": 3.0}, {"digits": 0.5}
    assert devices(world.run(1)) == ["gpu"]


def test_slow_is_what_runs_take_not_what_waits() -> None:
    world = World(demand(rate_hz=10.0))
    world.late, world.rates = {"digits": 0.9}, {"digits": 49.0}  # a queue, of requests that nobody promised
    assert world.run(30) == []
    assert world.state.slowdowns["cpu"].mean == pytest.approx(1.0)


def test_who_is_late_though_no_profile_says_so_goes_elsewhere() -> None:
    world = World(demand())
    world.late = {"digits": 0.2}
    ((when, where, why),) = world.run(60)
    assert where == "gpu" and 8 <= when <= 20 and why == "20.0% of its answers are late"
    world.late = {}
    assert world.run(300) == []  # though the CPU would take less energy


def test_who_is_late_everywhere_stays() -> None:
    world = World(demand(measurements=(SLOW,)))
    world.late = {"digits": 0.2}
    assert world.run(60) == []


def test_who_was_late_before_it_was_shed_comes_back_as_if_it_had_not_been() -> None:
    world = World(demand(measurements=(SLOW,)), cap_w=6.0)
    world.late = {"digits": 0.2}
    assert world.run(60) == []
    world.cap(3.05)
    outcome = world.look(0.1, quiet=True)
    assert [move.candidate for move in outcome.moves] == [None]
    assert world.run(5) == [] and world.place("digits") == "" and not world.state.tails
    world.cap(6.0)
    assert [move.candidate for move in world.look(0.1, quiet=True).moves] == [CPU]


def test_a_model_comes_back_when_what_slowed_its_device_is_over() -> None:
    world = World(demand())
    world.run(5)
    world.slow = {"cpu": 3.0}
    world.run(60)
    assert world.place("digits") == "gpu"
    tried = world.tried
    assert 2 <= tried <= 8  # moving there, and probes
    world.slow = {}
    assert devices(world.run(30)) == ["cpu"]


def test_a_rest_that_falls_tells_that_another_program_ended() -> None:
    world = World(demand())
    world.run(20)
    world.slow, world.other_w = {"cpu": 3.0}, 0.5
    world.run(200)
    world.slow, world.other_w = {}, 0.0
    ((when, where, _),) = world.run(10)
    assert where == "cpu" and when <= 4


def test_probes_of_what_stays_slow_become_rare() -> None:
    world = World(demand())
    world.run(5)
    world.slow = {"cpu": 3.0}
    world.run(300)
    few = world.tried
    world.run(300)
    assert world.tried - few < few <= 30


def test_who_is_late_goes_back_only_to_what_is_quicker() -> None:
    world = World(demand(incumbent=GPU, latency_ms=15.0))  # the CPU takes 24
    world.run(5)
    world.slow = {"gpu": 10.0}
    assert devices(world.run(5)) == ["cpu"]
    world.stuck = True
    back = next(move for _ in range(100) for move in world.look().moves)
    assert back.candidate == GPU  # believed to be well again
    for z, quick in ((10.0, False), (3.0, True)):
        assert verify(world.state, "digits", GPU, z, world.now)[1] == quick


def test_runs_within_what_profiles_differ_by_are_no_slowdown() -> None:
    world = World(demand(latency_ms=24.5))  # the CPU's bound is 24 ms
    world.slow = {"cpu": 1.04}
    assert world.run(60) == []
    world.slow = {"cpu": 1.2}
    assert devices(world.run(10)) == ["gpu"]


def test_batches_are_no_slowdown() -> None:
    batched = replace(SLOW, max_batch=8, batch_gain=4.0)  # 8 requests take the time of two
    state = State()
    told = [demand(measurements=(batched,))]
    for now in range(10):
        look = Look(float(now), (Seen("digits", CPU, 80, 10, 10 * 0.04),), None)
        state, _ = step(state, told, World().node, look)
    assert state.slowdowns["cpu"].mean == pytest.approx(1.0, abs=0.01)


# -- the cap ------------------------------------------------------------------------------------------------------


def test_a_lower_cap_moves_at_once() -> None:
    world = World(demand(latency_ms=20.0, incumbent=GPU), cap_w=6.0)
    assert world.run(60) == []
    world.cap(3.5)
    outcome = world.look(0.1, quiet=True)
    assert [(m.candidate, m.trigger) for m in outcome.moves] == [(CPU, "cap 6 W -> 3.5 W")]
    assert "3.5 W" in outcome.moves[0].reason
    world.run(30)
    world.cap(6.0)
    assert [m.trigger for m in world.look(0.1, quiet=True).moves] == ["cap 3.5 W -> 6 W"]


def test_a_rest_that_grows_over_the_cap_moves_within_two_looks() -> None:
    world = World(demand(latency_ms=20.0, incumbent=GPU), cap_w=4.2)  # 3.9 W
    assert world.run(30) == []
    world.other_w = 0.5
    ((when, where, why),) = world.run(8)
    assert when <= 2 and where == "cpu" and "over the cap 4.2 W" in why


def test_who_left_for_the_caps_sake_goes_back_when_it_rises() -> None:
    world = World(demand(latency_ms=20.0, incumbent=GPU), cap_w=4.2)
    world.run(20)
    world.other_w = 0.5
    assert devices(world.run(3)) == ["cpu"]
    world.cap(4.1)
    assert world.look(0.1, quiet=True).moves == ()
    world.cap(6.0)
    assert [m.candidate for m in world.look(0.1, quiet=True).moves] == [GPU]


@pytest.mark.parametrize("absurd", [1e300, math.inf, math.nan, -1.0])
def test_absurd_figures_of_a_candidate_disturb_nobody(absurd: float) -> None:
    odd = replace(measurement(GPU, 30.0, absurd, holding_w=absurd, load_j=absurd), joules_sigma=absurd)
    world = World(demand(measurements=(SLOW, odd)), cap_w=6.0)
    world.run(30)
    assert world.place("digits") == "cpu" and world.state.rest.watts == pytest.approx(REST_W, abs=0.05)


def test_a_glitch_of_the_meter_moves_nothing() -> None:
    world = World(demand(latency_ms=20.0, incumbent=GPU), cap_w=4.2)
    world.run(30)
    for glitch in (50.0, 0.01, math.nan, -1.0, math.inf, 1e9):
        world.power_w = glitch
        assert world.look().moves == ()
        world.power_w = None
        assert world.run(10) == []
    assert world.state.rest.watts == pytest.approx(REST_W, abs=0.05)


def test_what_a_meter_shows_of_loads_is_not_the_rest() -> None:
    world = World(demand(), cap_w=6.0)
    world.run(10)
    for incumbent in (GPU, CPU) * 3:
        world.demands = [replace(each, incumbent=incumbent) for each in world.demands]
        world.look(0.6, quiet=True)  # it has moved
        world.power_w = 8.0  # on average since the last reading, which was before the move
        world.look(0.4)
        world.power_w = None
    assert world.state.rest.watts == pytest.approx(REST_W, abs=0.05)


def test_who_was_too_slow_there_when_it_was_tried_goes_there_rather_than_nowhere() -> None:
    world = World(demand(latency_ms=20.0, incumbent=GPU), cap_w=6.0)
    assert world.run(20) == []
    world.state = failed(world.state, "digits", CPU, "took 20 x the profiled time when it was tried", True)
    world.other_w = 2.2
    assert devices(world.run(8)) == ["cpu"]


def test_who_cannot_be_loaded_there_is_shed_when_the_cap_is_broken() -> None:
    world = World(demand(latency_ms=20.0, incumbent=GPU), cap_w=6.0)
    assert world.run(20) == []
    world.state = failed(world.state, "digits", CPU, "GoldenMismatch: other numbers")
    world.other_w = 2.2
    assert devices(world.run(8)) == [""]


def test_while_the_cap_is_broken_what_loads_quickly_bridges() -> None:
    slow = replace(LEAN, load_s=5.0, load_j=1e6)  # keeps budget and cap, but takes long to load
    world = World(demand(latency_ms=20.0, incumbent=GPU, measurements=(SLOW, FAST, slow)), cap_w=6.0)
    assert world.run(30) == []
    world.node = replace(world.node, power_cap_w=3.5)
    assert devices(world.run(1)) == ["cpu"]  # late there
    assert devices(world.run(30)) == ["fpga"]


def test_rates_beyond_the_promised_count_for_the_cap() -> None:
    world = World(demand(rate_hz=10.0, measurements=(SLOW, replace(LEAN, holding_w=0.4))), cap_w=3.6)
    assert world.run(30) == []
    world.rates = {"digits": 40.0}  # 0.8 W on the CPU
    assert "fpga" in devices(world.run(20))


def test_who_was_shed_for_the_cap_comes_back_when_there_is_room() -> None:
    world = World(
        demand(priority=1), demand(model="guest", measurements=(measurement(CPU, 5.0, 0.05),)), cap_w=4.0
    )
    assert world.run(30) == []
    world.cap(3.4)
    (gone,) = world.look(0.1, quiet=True).moves
    assert (gone.model, gone.candidate) == ("guest", None)
    assert world.run(60) == []
    world.cap(4.0)
    (back,) = world.look(0.1, quiet=True).moves
    assert (back.model, back.candidate) == ("guest", CPU)


def test_a_model_is_not_shed_and_brought_back_by_turns() -> None:
    guest = demand(model="guest", measurements=(measurement(CPU, 5.0, 0.05),))
    world = World(demand(priority=1), guest, cap_w=4.0)
    world.run(20)
    moved = 0
    for second in range(300):
        world.other_w = 0.4 if second % 6 < 3 else 0.0
        moved += len(world.look().moves)
    assert moved <= 30


def test_a_sensor_that_is_lost_changes_nothing() -> None:
    world = World(demand(latency_ms=20.0, incumbent=GPU), cap_w=4.0)
    assert world.run(30) == []
    world.metered = False
    assert world.run(3000) == []
    assert world.state.rest.watts == pytest.approx(REST_W, abs=0.05) and world.state.rest.sigma_w > 0.5
    world.metered = True
    assert world.run(30) == []
    assert world.state.rest.sigma_w < 0.05


def test_without_a_meter_uncertain_room_under_the_cap_is_not_used() -> None:
    fast = replace(FAST, load_s=0.5, load_j=0.1)  # 0.9 W, and in time
    world = World(demand(measurements=(SLOW, fast)), cap_w=4.2)
    world.run(30)
    world.metered = False
    world.run(600)
    world.slow = {"cpu": 3.0}
    assert world.run(20) == []
    world.metered = True
    assert devices(world.run(8)) == ["gpu"]


def test_the_rest_is_found_under_what_models_draw() -> None:
    world = World(demand(), rest_w=None)
    world.run(30)
    assert world.state.rest.watts == pytest.approx(REST_W, abs=0.03)
    world.other_w = 1.0
    world.run(10)
    assert world.state.rest.watts == pytest.approx(REST_W + 1, abs=0.05)


# -- devices ------------------------------------------------------------------------------------------------------


def test_a_lost_device_is_left_at_once_and_taken_again() -> None:
    world = World(demand(latency_ms=20.0, incumbent=GPU))
    world.run(10)
    world.lose("gpu")
    outcome = world.look(0.1, quiet=True)
    assert [(m.candidate, m.trigger) for m in outcome.moves] == [(CPU, "gpu is lost")]
    world.run(30)
    world.lose("gpu", "")
    assert [m.trigger for m in world.look(0.1, quiet=True).moves] == ["gpu is back"]
    assert world.place("digits") == "gpu"


def test_a_device_that_is_back_is_no_reason_to_hurry_for_who_is_well() -> None:
    world = World(demand(measurements=ALL))
    world.lose("gpu")
    world.run(10)
    world.lose("gpu", "")
    assert world.run(30) == []


def test_when_everything_is_lost_nothing_can_move() -> None:
    world = World(demand())
    world.run(5)
    for device in ("cpu", "gpu", "fpga"):
        world.lose(device)
    assert all(move.candidate is None for move in world.look().moves)
    world.run(20)
    for device in ("cpu", "gpu", "fpga"):
        world.lose(device, "")
    world.run(5)
    assert world.place("digits")


def test_a_model_that_needs_another_overlay_waits_until_who_holds_the_fpga_has_left() -> None:
    other = measurement(FPGA, 8.0, 0.004, holding_w=0.3, load_s=0.6, overlay=SMALL)
    first = demand(incumbent=FPGA, measurements=(measurement(CPU, 5.0, 0.05), LEAN), latency_ms=30.0)
    world = World(first)
    world.run(10)
    guest = demand(model="a", incumbent=None, measurements=(other,), latency_ms=30.0, priority=2)
    world.demands.append(guest)
    moves = world.look(0.1, quiet=True).moves
    assert [(m.model, m.candidate and m.candidate.device) for m in moves] == [
        ("digits", "cpu"),
        ("a", "fpga"),
    ]
    assert moves[0].trigger == "makes room: a is new" and "fpga holds npu-small" in moves[0].reason


def test_the_draw_falls_before_it_rises() -> None:
    light = demand(model="a", latency_ms=20.0, priority=1)  # late on the CPU
    heavy = demand(model="b", incumbent=GPU, measurements=(SLOW, replace(FAST, candidate=GPU)))
    world = World(light, heavy, cap_w=None)
    moves = world.look().moves
    assert [move.model for move in moves] in (["a"], ["b", "a"])


# -- moves under way ----------------------------------------------------------------------------------------------


def test_a_move_is_asked_for_once() -> None:
    world = World(demand(latency_ms=20.0))
    world.stuck = True
    assert len(world.look().moves) == 1
    assert world.run(20) == []


def test_a_move_that_does_not_come_about_is_tried_again_ever_later() -> None:
    world = World(demand(latency_ms=20.0))
    world.stuck = True
    asked = [when for when, where, _ in world.run(600) if where == "gpu"]
    gaps = [later - sooner for sooner, later in itertools.pairwise(asked)]
    assert 3 <= len(asked) <= 8 and gaps == sorted(gaps)


def test_a_move_that_failed_is_not_asked_for_again_at_once() -> None:
    world = World(demand(latency_ms=20.0))
    world.stuck = True
    world.look()
    world.state = failed(world.state, "digits", GPU, "no worker")
    assert world.run(9) == []
    assert any(v.reason == "no worker" for v in world.look(0.5).demands[0].failed)
    assert devices(world.run(5)) == ["gpu"]


def test_what_failed_a_model_is_better_than_nothing() -> None:
    world = World(demand(incumbent=None, measurements=(SLOW,)))
    world.stuck = True
    world.look()
    world.state = failed(world.state, "digits", CPU, "no worker")
    world.look()
    assert CPU in {placed.candidate for placed in world.look().plan.placed}


def test_while_a_model_moves_a_lower_cap_redirects_it() -> None:
    world = World(demand(latency_ms=20.0), cap_w=6.0)
    world.stuck = True
    assert [m.candidate for m in world.look().moves] == [GPU]
    world.cap(3.5)
    assert [m.candidate for m in world.look(0.2, quiet=True).moves] == [CPU]


def test_only_a_number_can_stop_a_move() -> None:
    world = World(demand(latency_ms=20.0))
    world.stuck = True
    world.look()
    for z in (math.nan, -1.0, 0.0, math.inf):
        assert verify(world.state, "digits", GPU, z, world.now) == (world.state, True)
    assert verify(world.state, "digits", CPU, 50.0, world.now) == (world.state, True)  # nobody asked
    state, good = verify(world.state, "digits", GPU, 50.0, world.now)
    assert not good and "digits" not in state.asked and state.slowdowns["gpu"].mean > 10


# -- what is asked ------------------------------------------------------------------------------------------------


def test_a_new_budget_moves_at_once() -> None:
    world = World(demand())
    world.run(10)
    world.demands = [replace(world.demands[0], budget=Budget(20.0, 10.0))]
    (move,) = world.look(0.1, quiet=True).moves
    assert move.candidate == GPU and move.trigger == "digits asks for something else"


def test_a_model_without_requests_or_rate_stays() -> None:
    world = World(demand(rate_hz=0.0))
    assert world.run(100) == []


def test_no_models_no_moves() -> None:
    world = World()
    assert world.run(3) == [] and world.look().plan.placed == ()
    world.demands.append(demand())
    world.run(3)
    world.demands.clear()
    assert world.run(3) == [] and world.state.loads == {}


def test_a_clock_that_goes_back_is_ignored() -> None:
    world = World(demand(incumbent=GPU, measurements=(replace(SLOW, load_j=5.0), FAST)))
    world.run(3)
    time, rate = world.state.time, world.state.loads["digits"].rate_hz
    world.now = -1e6
    assert world.look().moves == () and world.state.time == time
    assert world.state.loads["digits"].rate_hz == rate
    assert devices(world.run(30)) == ["cpu"]
    world.now += 1e9  # a node that slept
    assert world.look().moves == () and world.state.time <= time + 100
    world.state, outcome = step(world.state, world.demands, world.node, Look(math.nan))
    assert outcome.moves == ()


def test_nothing_is_planned_again_while_nothing_changes() -> None:
    world = World(demand(), cap_w=6.0)
    world.run(60)
    plan = world.look().plan
    assert all(world.look().plan is plan for _ in range(30))


def test_candidates_on_devices_that_the_node_has_not_are_left_out() -> None:
    world = World(demand(latency_ms=20.0))
    world.node = replace(world.node, devices=(DeviceState("cpu", "cpu", 4),))
    assert world.run(5) == []
