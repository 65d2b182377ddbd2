"""CPU segments of overlay programs: models of their own, in the runtime of the format that they came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from agent.errors import InferenceError, ModelLoadError, OverlaidError, RuntimeUnavailable, one_line
from agent.overlay.program import Part

Arrays = Mapping[str, NDArray[Any]]
RunPart = Callable[[Arrays], Arrays]


def open_part(part: Part, threads: int) -> RunPart:
    """What runs the part on one sample; it raises InferenceError.

    Raises RuntimeUnavailable (the board lacks the runtime) and ModelLoadError.
    """
    opener = {"onnx": _open_onnx, "tflite": _open_tflite}.get(part.format)
    named = f"the CPU segment of {', '.join(part.foreign.nodes)[:200]}"
    if opener is None:
        raise ModelLoadError(f"{named} is in format {part.format!r}, which no runtime opens; update overlaid")
    try:
        run = opener(part, threads)
    except OverlaidError:
        raise
    except ImportError as error:
        raise RuntimeUnavailable(
            f"{named} needs a runtime for {part.format} ({one_line(error)}); pip install 'overlaid[onnx,litert]'"
        ) from error
    except Exception as error:  # the runtimes' errors share no base class but Exception
        raise ModelLoadError(f"{named} does not load: {one_line(error)}; compile the model again") from error

    def guarded(tensors: Arrays) -> Arrays:
        try:
            return run(tensors)
        except Exception as error:
            raise InferenceError(f"{named} failed: {one_line(error)}") from error

    return guarded


def _open_onnx(part: Part, threads: int) -> RunPart:
    from agent.devices.onnx_cpu import load

    session = load(part.model, threads)
    names = list(part.foreign.outputs)
    return lambda tensors: dict(zip(names, session.run(names, dict(tensors)), strict=True))


def _open_tflite(part: Part, threads: int) -> RunPart:
    from agent.devices.litert_cpu import runtime

    interpreter: Any = runtime().Interpreter(model_content=part.model, num_threads=threads)
    interpreter.allocate_tensors()
    inputs = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
    outputs = {detail["name"]: detail["index"] for detail in interpreter.get_output_details()}

    def run(tensors: Arrays) -> Arrays:
        for name, array in tensors.items():
            interpreter.set_tensor(inputs[name], array)
        interpreter.invoke()
        return {name: interpreter.get_tensor(outputs[name]) for name in part.foreign.outputs}

    return run
