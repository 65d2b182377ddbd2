"""``make bench``: figures against their targets. Each module but ``harness`` is one: ``python -m tests.bench.NAME``."""
