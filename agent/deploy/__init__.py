"""Desired state → running state: reconcile (pure), phases, journal, recovery.

May import package, placement, serving, telemetry, trust; never link: blocks come through an interface it is given.
"""
