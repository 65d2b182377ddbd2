"""Faults of machine, disk, link and clock against a real daemon: ``python -m tests.faults``, see docs/faults.md."""
