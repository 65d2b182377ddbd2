"""``make bench``: figures against their targets. Each module but ``harness`` and ``mobilenet`` is one:
``python -m tests.bench.NAME``."""
