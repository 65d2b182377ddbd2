"""What ``overlaid explain`` shows of a decision and of the node's plan, from the daemon's JSON values."""

from __future__ import annotations

import time

from agent.cli.candidates import error, percent, show_candidates
from agent.cli.output import print_table, print_wrapped
from agent.cli.views import Values, budget, clock, number, pairs, runs, span


def show_explanation(found: Values) -> None:
    """The decision, every candidate with why it won or lost, the node's plan, and what would change the choice."""
    _show_decision(found)
    print()
    show_candidates(found, found["budget"]["rate_hz"])
    if found.get("plan"):
        _show_node(found["plan"])
        _show_models(found)
        _show_devices(found)
        _show_outlook(found)
    _show_changes(found)


def _show_decision(found: Values) -> None:
    several = found.get("instances", 1)
    pairs(
        ("model", f"{found['model']} {found['version']}"),
        ("chosen", runs(found["candidate"]) if found["candidate"] else "nowhere: its requests are refused"),
        ("why", found["reason"]),
        ("budget", budget(found["budget"])),
        *((("instances", f"{several}, on a CPU"),) if several > 1 else ()),
        ("decided", f"{clock(found['decided'])}, {span(time.time() - found['decided'])} ago"),
    )


def _show_node(plan: Values) -> None:
    print()
    pairs(
        ("node", _draw(plan)),
        ("plan", _planned(plan)),
        ("meters", plan.get("sensor") or "none"),
        ("note", "" if plan.get("optimal", True) else "the search was cut short; a better plan may exist"),
    )


def _draw(plan: Values) -> str:
    now = plan.get("power_w")
    cap = "no cap" if plan.get("cap_w") is None else f"cap {plan['cap_w']:g} W"
    return f"{'draw not known' if now is None else f'{number(now)} W now'}, {cap}"


def _planned(plan: Values) -> str:
    if plan.get("watts") is None:
        return "its watts are not known: no meter, or a candidate without an energy figure"
    rest, sigma = plan.get("rest_w"), plan.get("rest_sigma_w")
    text = f"{number(plan['watts'])} W at the budgets' rates"
    if plan.get("watts_bound") is not None:
        text += f", at most {number(plan['watts_bound'])} W (95%)"
    if rest is None:
        return text
    return f"{text}; {number(rest)}{error(sigma) if sigma else ''} W of it without models"


def _show_models(found: Values) -> None:
    models = found.get("models") or ()
    if not models:
        return
    print()
    rows = [
        [
            each["model"],
            runs(each["candidate"], backend=False) if each["candidate"] else "nowhere (refused)",
            each["priority"],
            number(each["budget_hz"]),
            number(each["rate_hz"]),
            number(each["watts"]),
            each["missed"] or "nothing",
        ]
        for each in models
    ]
    print_table(("MODEL", "RUNS", "PRIORITY", "BUDGET/S", "SEEN/S", "W", "MISSED OF ITS BUDGET"), rows)


def _show_devices(found: Values) -> None:
    devices = found.get("devices") or ()
    if not devices:
        return
    print()
    rows = [
        [
            each["id"],
            _slowdown(each),
            None if each.get("utilisation") is None else percent(each["utilisation"]),
            None if each.get("limit") is None else percent(each["limit"]),
            each.get("overlay"),
            f"lost: {each['lost']}" if each.get("lost") else "ok",
        ]
        for each in devices
    ]
    shown = [i for i, name in enumerate(DEVICE_COLUMNS) if name != "OVERLAY" or any(row[i] for row in rows)]
    print_table([DEVICE_COLUMNS[i] for i in shown], [[row[i] for i in shown] for row in rows])


DEVICE_COLUMNS = ("DEVICE", "SLOWDOWN", "USED", "LIMIT", "OVERLAY", "STATE")


def _slowdown(device: Values) -> str:
    sigma = device.get("sigma")
    return f"{number(device['slowdown'])}" + (error(sigma) if sigma else "")


def _show_outlook(found: Values) -> None:
    print()
    texts = [each if isinstance(each, str) else each["text"] for each in found.get("outlook") or ()]
    if not texts:
        print("no change of the cap, a rate, the latency bound or a device that was tried changes the choice")
        return
    print("the choice would change:")
    for text in texts:
        print_wrapped(text, "  ", "    ")


def _show_changes(found: Values) -> None:
    changes = found.get("changes") or ()
    if not changes:
        return
    print("\nlast changes:")
    for each in changes:
        print_wrapped(each["text"], f"  {clock(each['time'])}  ", "    ")
