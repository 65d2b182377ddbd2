"""How much work a model is: multiply-accumulates and bytes, read from its file without running it.

The speed of a simulated device follows from both by the roofline model (S. Williams, A. Waterman, D. Patterson,
"Roofline", CACM 52(4), 2009): a device is bound by its arithmetic or by its memory.

What counts as moved is what a good runtime moves: reshaping costs nothing, an activation function is done where its
input is made, and a quantised model keeps its tensors as integers between the operators.
"""

from __future__ import annotations

from pathlib import Path

from agent.errors import ModelLoadError, RuntimeUnavailable, one_line
from simulator.work.graph import Work, total
from simulator.work.onnx import read_onnx
from simulator.work.tflite import read_tflite

__all__ = ["Work", "count_work"]
MAX_FILE_BYTES = 2 << 30
INSTALL = "pip install 'overlaid[sim]'"


def count_work(path: Path, format: str) -> Work:
    """Count the work of a model file; ``format``: onnx or tflite.

    Raises ModelLoadError (corrupt, over 2 GiB, control flow, or sizes that only a run would tell) and
    RuntimeUnavailable (the package that reads the format is not installed).
    """
    readers = {"onnx": read_onnx, "tflite": read_tflite}
    if format not in readers:
        raise ModelLoadError(f"the work of {format!r} models cannot be counted, only of {', '.join(readers)}")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelLoadError(f"{size} bytes, the limit is {MAX_FILE_BYTES}")
        return total(readers[format](path))
    except ImportError as error:
        raise RuntimeUnavailable(f"cannot read {format} files here: {one_line(error)}; {INSTALL}") from error
    except Exception as error:  # whatever a parser makes of a corrupt file
        raise ModelLoadError(
            f"cannot count the work of {path.name}: {one_line(error)}; export the model again, "
            "with fixed sizes but for the batch, and pack a new version"
        ) from error
