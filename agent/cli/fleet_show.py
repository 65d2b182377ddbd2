"""How the fleet is shown: status tables, the progress of a deployment, results of commands."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agent.cli.candidates import Measured, show_candidates
from agent.cli.output import one_cell, print_table
from agent.cli.views import span
from agent.errors import MessageError
from agent.link.topics import Target
from agent.logs.rows import line
from agent.types import to_jsonable

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID

    from agent.fleet.actions import Desk
    from agent.fleet.views import NodeView
    from agent.link.messages import Result
    from agent.types import DesiredModel


class DeployProgress:
    """One bar a node on a terminal, one line a change elsewhere."""

    def __init__(self, model: DesiredModel, quiet: bool) -> None:
        self._model, self._quiet = model, quiet
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lines: dict[str, str] = {}

    def __enter__(self) -> DeployProgress:
        if not self._quiet and sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            text = TextColumn("{task.description}", markup=False)
            self._bars = Progress(text, BarColumn(), TimeElapsedColumn(), transient=True)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, view: NodeView) -> None:
        """The node as it is now."""
        from agent.fleet.views import describe_state

        model = view.model(self._model.name)
        if model is None or model.version != self._model.version:
            text = "online, has not begun" if view.online else "waiting for the node to come online"
        elif model.state.final:
            return  # said at the end, with its reason; before that it may be an older deployment's
        else:
            text = describe_state(model, progress=self._bars is not None)
        share = model.progress if model is not None else None
        if self._bars is not None:
            task = self._tasks.get(view.node)
            if task is None:
                task = self._tasks[view.node] = self._bars.add_task(view.node, total=1.0)
            self._bars.update(task, description=f"{view.node}  {text}", completed=share or 0.0)
        elif not self._quiet and self._lines.get(view.node) != text:
            self._lines[view.node] = text
            print(f"{view.node}: {text}", flush=True)


def _wanted(view: NodeView, desk: Desk) -> int:
    """The newest revision that concerns the node, 0 when there is none."""
    targets = [Target(desk.site, view.node), *(Target(desk.site, name, group=True) for name in view.groups)]
    return max((state.revision for target in targets if (state := desk.operator.latest(target))), default=0)


def status_document(views: Sequence[NodeView], desk: Desk, problem: str | None) -> dict[str, Any]:
    """What ``fleet status --json`` prints. ``problem``: why the broker was not asked, then these are records."""
    now = time.time()
    nodes = []
    for view in views:
        node: dict[str, Any] = {
            "node": view.node,
            "online": view.online,
            "groups": list(view.groups),
            "wanted_revision": _wanted(view, desk),
            "results": [
                {"time": when, **result.model_dump(mode="json")}
                for when, result in desk.operator.results(view.node)
            ],
            "deployments": [end.model_dump(mode="json") for end in desk.operator.ends(view.node)],
            "streams": [
                {
                    "stream": stream.name,
                    "series": stream.series,
                    "time": stream.time,
                    "last": stream.tally.last,
                    "received": stream.tally.received,
                    "duplicates": stream.tally.duplicates,
                    "missing": stream.tally.missing,
                    "gaps": stream.tally.gaps,
                }
                for stream in desk.operator.streams(view.node)
            ],
        }
        for kind in ("status", "reported", "capabilities"):
            message = getattr(view, kind)
            node[kind] = message.model_dump(mode="json", exclude_none=True) if message else None
        if problem is not None:
            node["age_s"] = round(now - view.heard, 1)
        nodes.append(node)
    return {
        "site": desk.site,
        "source": "operator.db" if problem else "broker",
        "problem": problem,
        "nodes": nodes,
    }


def print_status(views: Sequence[NodeView], desk: Desk, problem: str | None, detail: bool) -> None:
    """A table; with ``detail`` also what one node is made of."""
    if problem is not None:
        print(f"{problem}\nshown as {desk.home.command('serve')} last recorded it:", file=sys.stderr)
    if not views:
        print("no node was ever heard on this site; start one: overlaid run")
        return
    columns = ["NODE", "ONLINE", "MODEL", "VERSION", "STATE", "RUNS", "P99 MS", "REVISION", "WHY"]
    if problem is not None:
        columns.insert(2, "AGE")
    rows: list[Sequence[object]] = []
    for view in views:
        head: list[object] = [view.node, "yes" if view.online else "no"]
        if problem is not None:
            head.append(span(time.time() - view.heard))
        rows += [[*head, *row] for row in _model_rows(view, _wanted(view, desk))]
    print_table(columns, rows)
    print_bindings(views)
    if detail:
        _print_detail(views[0], desk)


def print_bindings(views: Sequence[NodeView]) -> None:
    """A table of what is bound on the nodes, nothing without any."""
    rows = [
        (view.node, binding.input_topic, binding.model, binding.output_topic, binding.state, binding.why)
        for view in views
        for binding in (view.reported.bindings if view.reported else ())
    ]
    if rows:
        print()
        print_table(("NODE", "FROM", "MODEL", "TO", "BINDING", "WHY"), rows)


def _model_rows(view: NodeView, wanted: int) -> list[list[object]]:
    from agent.fleet.views import describe_place, describe_state

    reported = view.reported
    if reported is None:
        return [[None, None, None, None, None, f"-/{wanted}", "it has not reported"]]
    revision = f"{reported.revision_applied}/{wanted}"
    rows: list[list[object]] = []
    for model in reported.models:
        why = model.why
        if model.running_version not in (None, model.version):
            why = f"{model.running_version} still serves; {why}"
        p99 = None if model.p99_ms is None else f"{model.p99_ms:.2f}"
        rows.append(
            [model.name, model.version, describe_state(model), describe_place(model), p99, revision, why]
        )
    if reported.why or not rows:
        rows.append(
            [None, None, None, None, None, revision, f"refused: {reported.why}" if reported.why else None]
        )
    return rows


def _print_detail(view: NodeView, desk: Desk) -> None:
    from agent.fleet.tally import describe
    from agent.fleet.views import describe_capabilities

    if view.capabilities is not None:
        print(one_cell(describe_capabilities(view.capabilities)))
        print(f"groups: {', '.join(view.groups) or 'none'}")
    if view.reported is not None and view.reported.power_cap_w is not None:
        print(f"power cap: {view.reported.power_cap_w:g} W")
    for when, result in desk.operator.results(view.node):
        age = span(time.time() - when)
        print(one_cell(f"{age} ago: {result.op} {result.id} {result.state.value} {result.why}"))
    for end in desk.operator.ends(view.node):
        print(one_cell(f"deployment {end.id}: {end.model} {end.version} {end.state.value} {end.why}"))
    for stream in desk.operator.streams(view.node):
        tally = stream.tally
        if tally.missing:
            share = f"{tally.missing} of {tally.missing + tally.received} batches did not arrive"
            print(one_cell(f"telemetry/{stream.name}: {share}: {describe(tally.gaps)}"))


def print_step(result: Result) -> None:
    """A command that goes on."""
    print(one_cell(f"{result.op}: {result.state.value} {result.why}"), file=sys.stderr)


def print_result(node: str, result: Result) -> None:
    """A command's end: the reason when it failed, else what it brought. MessageError when that is of no known form."""
    if result.why or not result.output:
        why = f": {one_cell(result.why)}" if result.why else ""
        print(f"{node}: {result.op} {result.state.value}{why}")
    rows = result.output.get("rows")
    if result.op == "logs" and isinstance(rows, list):
        for row in rows:
            print(one_cell(line(row) if isinstance(row, dict) else row))
        if result.output.get("left_out"):
            print(f"{node}: older lines are left out; see --lines, --bytes, --since", file=sys.stderr)
    elif result.op == "bench" and "verdicts" in result.output:
        _print_measured(node, result.output)
    else:
        for key, value in result.output.items():
            print(one_cell(f"{node}: {key} {value}"))


def _print_measured(node: str, output: dict[str, Any]) -> None:
    from pydantic import TypeAdapter

    try:
        found = TypeAdapter(Measured).validate_json(json.dumps(output))
        print(one_cell(f"{node}: runs {found.candidate or 'nowhere'}"))
        show_candidates(to_jsonable(found), found.budget.rate_hz if found.budget else None)
    except (ValueError, OverflowError) as error:  # also what pydantic raises; the last for an endless number
        raise MessageError(
            "the node's verdicts are of no known form; is it of this version? --json prints them as they are"
        ) from error
