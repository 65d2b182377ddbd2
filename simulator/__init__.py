"""Boards without hardware (docs/simulator.md).

Asked for by name (``board = "sim:NAME"``) through the entry points of ``agent.hal``, never fallen back to. ``profile``
and ``boards/`` say what a board can do, ``work`` and ``speed`` what a model asks of it, ``physics`` and ``faults`` what
happens (pure, over event or real time), ``cell`` where the state lives, ``board`` puts it behind ``hal``. These import
hal, types, errors and devices.cpu. ``scenario``, ``nodes`` and ``cli`` are compositions on top and may import any room.
``agent`` never imports this package.
"""
