"""One thread a process for numpy's matrix products: threads that wait for each other spin beside working processes."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
