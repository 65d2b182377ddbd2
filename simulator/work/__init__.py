"""How much work a model is: multiply-accumulates and bytes, read from its file without running it.

The speed of a simulated device follows from both by the roofline model (S. Williams, A. Waterman, D. Patterson,
"Roofline", CACM 52(4), 2009): a device is bound by its arithmetic or by its memory.

What counts as moved is what a good runtime moves: reshaping costs nothing, an activation function is done where its
input is made, and a quantised model keeps its tensors as integers between the operators.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.errors import ModelLoadError, RuntimeUnavailable, one_line
from simulator.work.graph import Work, total
from simulator.work.onnx import read_onnx
from simulator.work.program import read_overlay_work, read_program_work
from simulator.work.tflite import read_tflite

__all__ = ["Work", "count_work"]
MAX_FILE_BYTES = 2 << 30
INSTALL = "pip install 'overlaid[sim]'"


def count_work(path: Path, format: str, overlay: Path | None = None) -> Work:
    """Count the work of a model file; ``format``: onnx, tflite, npu (for a delivered ``overlay`` or one that ships with
    the agent) or overlay (of its self-test).

    Raises ModelLoadError (corrupt, over 2 GiB, control flow, or sizes that only a run would tell) and
    RuntimeUnavailable (the package that reads the format is not installed).
    """
    readers: dict[str, Callable[[Path], Work]] = {
        "onnx": lambda path: total(read_onnx(path)),
        "tflite": lambda path: total(read_tflite(path)),
        "npu": lambda path: read_program_work(path, overlay),
        "overlay": read_overlay_work,
    }
    if format not in readers:
        raise ModelLoadError(f"the work of {format!r} models cannot be counted, only of {', '.join(readers)}")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelLoadError(f"{size} bytes, the limit is {MAX_FILE_BYTES}")
        return readers[format](path)
    except ImportError as error:
        raise RuntimeUnavailable(f"cannot read {format} files here: {one_line(error)}; {INSTALL}") from error
    except Exception as error:  # whatever a parser makes of a corrupt file
        raise ModelLoadError(
            f"cannot count the work of {path.name}: {one_line(error)}; export the model again, "
            "with fixed sizes but for the batch, and pack a new version"
        ) from error
