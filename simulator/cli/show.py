"""``overlaid sim show``: the simulated board of a running node."""

from __future__ import annotations

import argparse
import copy
import time
from typing import TYPE_CHECKING, Any

from agent.cli.output import Commands, add_command, add_config, add_json, print_json, print_table

if TYPE_CHECKING:
    from simulator.cell import SharedCell
    from simulator.physics import BoardState

WINDOW_S = 1.0  # watts and shares are averages over it: a run of a millisecond is seldom seen at an instant


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    show = add_command(
        commands,
        "show",
        _show,
        "the node's simulated board over one second: watts, heat, clocks, faults",
        "overlaid sim show --json",
    )
    add_config(show)
    add_json(show)


def _show(args: argparse.Namespace) -> int:
    from simulator.cell import SharedCell
    from simulator.cli.faults import describe_faults
    from simulator.cli.node_board import find_node_board
    from simulator.clock import RealClock

    board = find_node_board(args.config)
    cell = SharedCell(board.folder, board.profile, RealClock())
    before, _ = _look(cell)
    time.sleep(WINDOW_S)
    now, clocks = _look(cell)
    told = {
        **_tell(cell, before, now, clocks),
        "faults": [each for each in describe_faults(board) if each["state"] == "active"],
    }
    if args.json:
        print_json(told)
    else:
        _print(told)
    return 0


def _look(cell: SharedCell) -> tuple[BoardState, list[float]]:
    """The state, and the share of its clock at which each device would start a run."""
    with cell.update() as moment:
        clocks = [moment.physics.clock(moment.state, i) for i in range(len(cell.profile.devices))]
        return copy.deepcopy(moment.state), clocks


def _tell(cell: SharedCell, before: BoardState, now: BoardState, clocks: list[float]) -> dict[str, Any]:
    profile = cell.profile
    seconds = now.time - before.time
    lost = cell.conditions().lost
    devices = [
        {
            "id": device.id,
            "models": now.held[i],
            "runs": now.runs[i],
            "busy_s": now.busy_s[i],
            # A run is booked whole when it begins, so a long one can fill more than the window.
            "busy_share": min(1.0, (now.busy_s[i] - before.busy_s[i]) / seconds),
            "watts": (now.device_j[i] - before.device_j[i]) / seconds,
            "clock_share": clocks[i],
            "overlay": device.overlay.names[now.overlay[i] % len(device.overlay.names)]
            if device.overlay and now.overlay[i] >= 0
            else None,
            "lost": lost[i],
        }
        for i, device in enumerate(profile.devices)
    ]
    zones = [
        {"name": zone.name, "celsius": now.temp_c[i], "throttle_level": now.level[i],
         "throttle_levels": len(zone.throttle)}
        for i, zone in enumerate(profile.zones)
    ]  # fmt: skip
    base_w = (now.base_j - before.base_j) / seconds
    watts = base_w + sum((now.device_j[i] - before.device_j[i]) / seconds for i in range(len(devices)))
    return {"board": profile.name, "watts": watts, "base_watts": base_w, "devices": devices, "zones": zones}


def _print(told: dict[str, Any]) -> None:
    from simulator.cli.faults import state_text

    print(
        f"{told['board']} (simulated): {told['watts']:.3g} W, {told['base_watts']:.3g} W of them the base\n"
    )
    print_table(
        ("DEVICE", "WATTS", "BUSY", "CLOCK", "MODELS", "RUNS", "OVERLAY", "STATE"),
        [
            (d["id"], f"{d['watts']:.3f}", f"{d['busy_share']:.0%}", f"{d['clock_share']:.0%}", d["models"], d["runs"],
             d["overlay"], "lost" if d["lost"] else "there")
            for d in told["devices"]
        ],
    )  # fmt: skip
    print()
    print_table(
        ("ZONE", "CELSIUS", "THROTTLED"),
        [
            (z["name"], f"{z['celsius']:.1f}", f"level {z['throttle_level']} of {z['throttle_levels']}")
            for z in told["zones"]
        ],
    )
    print()
    for fault in told["faults"]:
        print(f"fault: {fault['text']}, {state_text(fault)}")
    if not told["faults"]:
        print("no faults; break something: overlaid sim inject --help")
