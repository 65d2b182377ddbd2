"""What the node's commands show to people, from the JSON values that the daemon and its records give."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from agent.cli.output import print_table, print_wrapped

Values = Mapping[str, Any]
LEAST_SHOWN = 5e-7


def show_status(snapshot: Values) -> None:
    """The node, its broker, power and models at the time of the snapshot."""
    up = span(snapshot["time"] - snapshot["started"])
    pairs(
        ("node", f"{snapshot['site']}/{snapshot['node']}"),
        ("daemon", f"overlaid {snapshot['agent_version']}, pid {snapshot['pid']}, up {up}"),
        ("board", _board(snapshot["board"])),
        ("broker", _broker(snapshot)),
        ("revision", f"{snapshot['revision_applied']} applied, {snapshot['revision_seen']} seen"),
        ("power", _power(snapshot)),
        ("http", snapshot["http"]),
        ("received", _received(snapshot["delivery"])),
        *(("warning", text) for text in snapshot["warnings"]),
    )
    print()
    if not snapshot["models"]:
        print("no models; deploy one: overlaid deploy PACKAGE --latency-p99 20ms --rate 10/s")
        _show_bindings(snapshot["bindings"])
        return
    columns = (
        "MODEL",
        "VERSION",
        "STATE",
        "RUNS",
        "P50 MS",
        "P99 MS",
        "REQUESTS",
        "ERRORS",
        "RESTARTS",
        "WHY",
    )
    print_table(columns, [_status_row(model) for model in snapshot["models"]])
    _show_bindings(snapshot["bindings"])


def _show_bindings(statuses: Sequence[Values]) -> None:
    if not statuses:
        return
    columns = (
        "FROM",
        "MODEL",
        "TO",
        "BINDING",
        "RECEIVED",
        "ANSWERED",
        "OVER RATE",
        "DROPPED",
        "ERRORS",
        "P50 MS",
        "WHY",
    )
    rows = [
        [
            each["binding"]["input_topic"],
            each["binding"]["model"],
            each["binding"]["output_topic"],
            each["state"],
            each["received"],
            each["answered"],
            each["over_rate"],
            each["dropped"],
            each["errors"],
            number(each["p50_ms"]),
            each["why"],
        ]
        for each in statuses
    ]
    print()
    print_table(columns, rows)


def _status_row(model: Values) -> list[object]:
    return [
        model["name"],
        _version(model),
        _state(model),
        runs(model["candidate"], backend=False),
        number(model["p50_ms"]),
        number(model["p99_ms"]),
        model["requests"],
        model["errors"],
        model["restarts"],
        model["why"],
    ]


def _version(model: Values) -> str:
    running = model["running_version"]
    return (
        f"{model['version']} ({running} runs)"
        if running not in {None, model["version"]}
        else model["version"]
    )


def _state(model: Values) -> str:
    state = model["phase"] or model["state"]
    if model["progress"] is not None and model["phase"]:
        return f"{state} {model['progress']:.0%}"
    return f"{state}, not ready" if model["state"] == "SUCCEEDED" and not model["ready"] else str(state)


def _board(board: Values | None) -> str | None:
    if board is None:
        return "being probed"
    return f"{board['name']}{' (simulated)' if board['simulated'] else ''}: " + ", ".join(
        device["id"] for device in board["devices"]
    )


def _broker(snapshot: Values) -> str:
    if snapshot["broker"] == "none":
        return "none; only overlaid deploy changes what runs here"
    return f"{snapshot['broker']}, {'connected' if snapshot['broker_connected'] else 'NOT CONNECTED'}"


def _received(delivery: Values) -> str | None:
    """``12.3 MB of models, 12.1 MB of use, 0.0 MB asked for again``; None when nothing was fetched."""
    if not delivery["received"]:
        return None
    received, useful, again = (delivery[key] / 1e6 for key in ("received", "useful", "asked_again"))
    return f"{received:.1f} MB of models, {useful:.1f} MB of use, {again:.1f} MB asked for again"


def _power(snapshot: Values) -> str:
    now = "not known" if snapshot["power_w"] is None else f"{snapshot['power_w']:.2f} W"
    cap = "no cap" if snapshot["power_cap_w"] is None else f"cap {snapshot['power_cap_w']:g} W"
    return f"{now}, {cap}"


def show_models(snapshot: Values) -> None:
    """Each model with what it may cost and where it runs."""
    columns = ("MODEL", "VERSION", "FROM", "READY", "DIGEST", "BUDGET", "RUNS")
    rows = [
        [
            model["name"],
            _version(model),
            model["origin"],
            "yes" if model["ready"] else "no",
            model["digest"][:12],
            budget(model["budget"]),
            runs(model["candidate"]),
        ]
        for model in snapshot["models"]
    ]
    print_table(columns, rows)
    for model in snapshot["models"]:
        if model["why"].startswith("building "):
            print_wrapped(f"{model['name']}: {model['why']}")


def show_devices(board: Values) -> None:
    """Devices, the runtimes that work on each, power meters, and what is not usable."""
    devices = board["devices"]
    rows = [
        [
            device["id"],
            device["kind"],
            device["memory_mb"],
            f"{device['name']}{' (simulated)' if device['simulated'] else ''}",
        ]
        for device in devices
    ]
    simulated = " (simulated: outputs are true, time and power are modelled)" if board["simulated"] else ""
    print_table(("DEVICE", "KIND", "MEMORY MB", "NAME"), rows, f"board {board['name']}{simulated}")
    for device in devices:
        if device.get("note"):
            print_wrapped(f"{device['id']}: {device['note']}", "", "    ")
        if device.get("overlays"):
            overlays = (
                f"{o['id']} {o['version']} ({o['lanes']} x {o['lanes']} MAC)" for o in device["overlays"]
            )
            print_wrapped(f"{device['id']}: loads overlays {', '.join(overlays)}", "", "    ")
    print()
    runtimes = [
        [device["id"], backend["name"], ", ".join(backend["formats"]), backend["version"]]
        for device in devices
        for backend in device["backends"]
    ]
    print_table(("DEVICE", "RUNTIME", "OPENS", "VERSION"), runtimes)
    print(f"\npower meters: {', '.join(board['meters']) or 'none; energy is not known'}")
    for problem in board["problems"]:
        print_wrapped(f"not usable: {problem}", "", "    ")


def runs(candidate: Values | None, backend: bool = True) -> str:
    """``int8 on cpu (onnxruntime)``."""
    if candidate is None:
        return "-"
    return f"{candidate['variant']} on {candidate['device']}" + (
        f" ({candidate['backend']})" if backend else ""
    )


def budget(values: Values | None) -> str | None:
    """``p99 20 ms at 10/s, 0.5 W, accuracy >= 0.97``."""
    if values is None:
        return None
    parts = [f"p99 {values['latency_p99_ms']:g} ms at {values['rate_hz']:g}/s"]
    if values["power_w"] is not None:
        parts.append(f"{values['power_w']:g} W")
    if values["min_accuracy"] is not None:
        parts.append(f"accuracy >= {values['min_accuracy']:g}")
    if values["priority"]:
        parts.append(f"priority {values['priority']}")
    return ", ".join(parts)


def number(value: float | None) -> str | None:
    """Three significant digits, without an exponent."""
    if value is None:
        return None
    if abs(value) < LEAST_SHOWN:
        return "0"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.6f}"


def span(seconds: float) -> str:
    """``3 d 4 h``, ``5 min``, ``12 s``."""
    if seconds < 0:
        return "0 s (its time lies in the future: a clock was changed)"
    for unit, length, smaller, small in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if seconds >= length:
            rest = int(seconds % length // small)
            return f"{int(seconds // length)} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{int(seconds)} s"


def clock(seconds: float) -> str:
    """Unix seconds as local date and time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"t={seconds:g}"


def pairs(*lines: tuple[str, str | None]) -> None:
    """A line for each key that has a value."""
    for key, value in lines:
        if value:
            print_wrapped(value, f"{key:<9} ", " " * 10)
