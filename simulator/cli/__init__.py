"""``overlaid sim``: found by ``overlaid`` through the entry-point group ``overlaid.commands``.

A composition root like ``agent.app``: it may import any room.
"""

from __future__ import annotations

import argparse

from agent.cli.output import Commands


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the commands below ``overlaid sim``."""
    from simulator.cli import boards, evaluate, faults, nodes, run

    boards.register(commands)
    run.register(commands)
    faults.register(commands)
    nodes.register(commands)
    evaluate.register(commands)
