"""Every fault in every phase, and kills at random instants: the node serves the old or the new version, says the truth,
keeps nothing half-installed, and takes the next deployment. Exit code 1 when an outcome is broken."""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import control
from tests.faults.daemon import Broken
from tests.faults.kills import Tally, kills, measure, mend
from tests.faults.lane import Lane
from tests.faults.launcher import PHASES
from tests.faults.matrix import Case, cases
from tests.system.stage import StageError

LANES = 2
SAY_S = 30.0
BATCH = 5  # kills between two looks at the clock
SHORT = {"phase": 6.0, "download": 15.0}  # deadlines, which the hangs wait for


@dataclass(slots=True)
class Run:
    """What two lanes have done so far."""

    table: dict[tuple[str, str], str] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    broken: list[str] = field(default_factory=list)
    total: int = 0
    began: float = field(default_factory=time.monotonic)
    said: float = 0.0
    end: float = 0.0  # nothing more is begun after this

    @property
    def done(self) -> int:
        return len(self.table) + self.tally.done


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="kills at random instants (default: 1000)")
    parser.add_argument("--seconds", type=float, default=7200, help="begin nothing more after so long")
    parser.add_argument(
        "--only", default="", metavar="NAME", help="faults and phases that contain NAME, or: kills"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = [case for case in cases() if args.only in case.fault or args.only in case.phase]
    count = args.kills if args.only in ("", "kills") else 0
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        run = play(Path(folder), chosen, count, args.seconds, args.seed, show=sys.stderr.isatty())
    _print(run, args.json, args.seed)
    return 1 if run.broken or run.tally.broken else 0


def play(
    folder: Path, chosen: Sequence[Case], count: int, seconds: float, seed: int, show: bool = False
) -> Run:
    """Two lanes beside each other, each a node with its broker and operator, take what is left to do."""
    run = Run(total=len(chosen) + count)
    work: queue.SimpleQueue[Case | int] = queue.SimpleQueue()
    for case in chosen:
        work.put(case)
    for first in range(0, count, BATCH):
        work.put(min(BATCH, count - first))
    library = control.build(folder)
    run.end = time.monotonic() + seconds
    failed: list[BaseException] = []

    def lane_of(number: int) -> None:
        try:
            _work(Lane(folder / f"lane{number}", library, **SHORT), work, run, seed + number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=lane_of, args=(number,)) for number in range(LANES)]
    for thread in threads:
        thread.start()
    _wait(threads, run, show)
    if show:
        print(file=sys.stderr)
    if failed:
        raise failed[0]
    return run


def _wait(threads: list[threading.Thread], run: Run, show: bool) -> None:
    """Until both lanes are done; after an interruption they end what they are at, and what they started."""
    try:
        while any(thread.is_alive() for thread in threads):
            threads[0].join(0.5)
            threads[-1].join(0.5)
            _show(run, bar=show)
    except KeyboardInterrupt:
        run.end = 0.0
        for thread in threads:
            thread.join()


def _work(lane: Lane, work: queue.SimpleQueue[Case | int], run: Run, seed: int) -> None:
    try:
        lane.daemon.start()
        measure(lane, run.tally)
        measure(lane, run.tally)
        while time.monotonic() < run.end:
            try:
                item = work.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, int):
                seed += LANES
                kills(lane, item, seed, run.tally)
            else:
                _play_case(lane, item, run)
    finally:
        lane.close()


def _play_case(lane: Lane, case: Case, run: Run) -> None:
    began = time.monotonic()
    try:
        run.table[case.fault, case.phase] = case.play(lane)
    except (Broken, StageError) as error:
        run.table[case.fault, case.phase] = "BROKEN"
        run.broken.append(f"{case.fault} in {case.phase} after {time.monotonic() - began:.1f} s: {error}")
        print(f"\nBROKEN {run.broken[-1]}", file=sys.stderr, flush=True)
        mend(lane)


def _show(run: Run, bar: bool) -> None:
    """A bar in a terminal, else a line now and then."""
    if not bar and time.monotonic() < run.said + SAY_S:
        return
    run.said = time.monotonic()
    broken = len(run.broken) + len(run.tally.broken)
    minutes = (time.monotonic() - run.began) / 60
    share = run.done / max(run.total, 1)
    text = f"{run.done}/{run.total}, {run.done / minutes:.0f} a minute, broken {broken} "
    if bar:
        text = f"\r[{'#' * round(30 * share):<30}] {text}"
    print(text, end="" if bar else "\n", file=sys.stderr, flush=True)


def _print(run: Run, as_json: bool, seed: int) -> None:
    broken = [*run.broken, *run.tally.broken]
    minutes = (time.monotonic() - run.began) / 60
    if as_json:
        figures = {
            "faults_outcomes": run.done, "faults_broken": len(broken), "faults_a_minute": round(run.done / minutes, 1),
            "faults_kills": run.tally.done, "faults_seed": seed, "broken": broken,
        }  # fmt: skip
        print(json.dumps(figures))
        return
    names = list(dict.fromkeys(fault for fault, _ in run.table))
    shown = sorted({phase for _, phase in run.table}, key=(*PHASES, "in service").index)
    if names:
        print(f"{'':22}" + "".join(f"{phase:14}" for phase in shown))
    for name in names:
        print(f"{name:22}" + "".join(f"{run.table.get((name, phase), '-'):14}" for phase in shown))
    if run.tally.done:
        print(f"kills at random instants: {run.tally.done}, seed {seed}")
        for title, found in (("killed in", run.tally.phases), ("ended", run.tally.states)):
            print(f"  {title}: " + ", ".join(f"{name} {number}" for name, number in sorted(found.items())))
    print(*(f"BROKEN {text}" for text in broken), sep="\n")
    print(f"{run.done / minutes:.0f} outcomes a minute")
    print(f"broken outcomes: {len(broken)} of {run.done}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
