"""``overlaid sim boards``: the boards that can be simulated, and what one of them is made of."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from agent.cli.output import Commands, add_command, add_json, print_json, print_table

if TYPE_CHECKING:
    from simulator.profile import BoardProfile, Device, Zone


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    boards = add_command(
        commands, "boards", _boards, "the simulated boards, or one in detail", "overlaid sim boards pynq-z2"
    )
    boards.add_argument(
        "name", nargs="?", metavar="NAME", help="one board: its devices, heat, sensors and file"
    )
    add_json(boards)


def _boards(args: argparse.Namespace) -> int:
    from simulator.profile import BOARDS, board_names, load_profile

    profiles = [load_profile(name) for name in ([args.name] if args.name else board_names())]
    if args.json:
        told = [
            {**p.model_dump(mode="json"), "file": str(BOARDS / f"{p.name}.toml"), "board": f"sim:{p.name}"}
            for p in profiles
        ]
        print_json(told[0] if args.name else told)
    elif args.name:
        _show_board(profiles[0], str(BOARDS / f"{args.name}.toml"))
    else:
        _show_list(profiles)
    return 0


def _show_list(profiles: list[BoardProfile]) -> None:
    print_table(
        ("BOARD", "DEVICES", "IDLE W", "MOST W", "RAILS", "TITLE"),
        [
            (p.name, ", ".join(d.id for d in p.devices), f"{_idle_w(p):.3g}", f"{_most_w(p):.3g}", len(p.rails),
             p.title)
            for p in profiles
        ],
    )  # fmt: skip
    print(
        '\nuse one: board = "sim:NAME" under [node] in the configuration; details: overlaid sim boards NAME'
    )


def _idle_w(profile: BoardProfile) -> float:
    return profile.base.watts + sum(device.idle_w for device in profile.devices)


def _most_w(profile: BoardProfile) -> float:
    return _idle_w(profile) + sum(device.holding_w + device.active_w for device in profile.devices)


def _show_board(profile: BoardProfile, file: str) -> None:
    print(f"{profile.name}: {profile.title}")
    print(f"file     {file} (names the source of every number)")
    print(f'use      board = "sim:{profile.name}" under [node] in the configuration')
    print(
        f"power    {profile.base.watts:g} W base, {_idle_w(profile):.3g} W idle, {_most_w(profile):.3g} W at most"
    )
    print(f"supply   {profile.supply_w:g} W\nambient  {profile.ambient_c:g} C\n")
    print_table(
        ("DEVICE", "KIND", "FORMATS", "GMAC/S", "GB/S", "RUN +US", "LOAD S", "IDLE/HELD/ACTIVE W", "ZONE", "NAME"),
        [
            (d.id, d.kind, ", ".join(d.formats), _peak(d), d.bandwidth_gb_s, d.overhead_us, d.load_s,
             f"{d.idle_w:g} / {d.holding_w:g} / {d.active_w:g}", d.zone, d.name)
            for d in profile.devices
        ],
    )  # fmt: skip
    for device in profile.devices:
        if device.overlay is not None:
            overlay = device.overlay
            names = ", ".join(overlay.names)
            print(
                f"{device.id} takes the overlays {names}: {overlay.load_s:g} s, {overlay.load_j:g} J to load one"
            )
    print()
    print_table(
        ("ZONE", "C PER W", "J PER C", "SETTLES S", "THROTTLES"),
        [
            (z.name, z.r_c_per_w, z.c_j_per_c, f"{3 * z.r_c_per_w * z.c_j_per_c:.0f}", _throttles(z))
            for z in profile.zones
        ],
    )
    print()
    if not profile.rails:
        print("no power sensor: energy is missing and placement goes by latency")
        return
    print_table(
        ("RAIL", "MEASURES", "STEP W", "READINGS/S"),
        [(r.name, ", ".join(r.measures), r.resolution_w, r.rate_hz) for r in profile.rails],
    )


def _peak(device: Device) -> str:
    return ", ".join(f"{precision} {value:g}" for precision, value in device.peak.items())


def _throttles(zone: Zone) -> str | None:
    points = (f"to {point.factor:.0%} at {point.at_c:g} C" for point in zone.throttle)
    return ", ".join(points) or None
