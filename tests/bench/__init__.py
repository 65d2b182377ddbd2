"""``make bench``: figures against their targets. Every module but ``harness`` is a bench: ``python -m tests.bench.NAME``."""
