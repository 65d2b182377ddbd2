"""Round after round of a fuzzer of parsers, until the time is over or something is found."""

from __future__ import annotations

import argparse
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable

MEMORY = 1 << 30  # of the whole process
SLOW_S = 5.0  # of the processor; no input takes that long, even on a busy machine


def run_rounds(about: str | None, one_round: Callable[[int], str]) -> int:
    """``one_round(seed)`` names its outcome, or raises at a finding. The exit status: 1 after a finding."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the next ones follow")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    end, seed = time.monotonic() + arguments.seconds, arguments.seed
    outcomes: Counter[str] = Counter()
    slowest = (0.0, seed)
    while time.monotonic() < end:
        began = time.process_time()
        try:
            outcomes[one_round(seed)] += 1
        except Exception:
            traceback.print_exc()
            print(f"finding: --seed {seed} --seconds 0.001")
            return 1
        slowest = max(slowest, (time.process_time() - began, seed))
        if slowest[0] > SLOW_S:
            print(f"finding: seed {seed} took {slowest[0]:.1f} s")
            return 1
        seed += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for name, count in sorted(outcomes.items()):
        print(f"{count:8} {name}")
    print(
        f"{outcomes.total()} rounds; slowest {slowest[0] * 1e3:.0f} ms of processor (seed {slowest[1]}), {peak:.0f} MB"
    )
    return 0
