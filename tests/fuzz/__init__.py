"""Damaged input, as much of it as there is time for: ``python -m tests.fuzz.codec --seconds 600``."""
