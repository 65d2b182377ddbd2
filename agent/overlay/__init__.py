"""From a quantised model to an overlay program, and from a program to answers: spec, importers, compiler, program,
functional model, cycle model, driver.

May touch ``hal``, types and errors; imports numpy, and onnx or the TFLite schema where a model is read. Never the
daemon's: workers, helpers and the operator's side import it.
"""

import os

# Matrix products of one inference are too small to share: threads that wait for each other made ResNet-8 take 12 ms
# instead of 1.1 on a busy machine. Read once, when numpy is imported; a worker's own setting comes first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
