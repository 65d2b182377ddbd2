"""Numpy's threads spin while they wait: one thread a process, for tests that run beside each other's processes."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
