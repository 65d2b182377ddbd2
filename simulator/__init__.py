"""Boards without hardware.

Simulated boards are asked for by name (``board = "sim:NAME"``) through the entry points of ``agent.hal`` and never
fallen back to. May import hal, types, errors, overlay and devices.cpu; ``agent`` never imports this package.
No board is defined yet.
"""
