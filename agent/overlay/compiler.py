"""A quantised model → an overlay program: import, lower what fits, leave the rest to the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from agent.errors import ModelLoadError, UnsupportedModel
from agent.overlay.graph import Add, Foreign, Graph, Host, Layer, Step
from agent.overlay.lower.segment import TooLong, lower_segment
from agent.overlay.lower.views import Unplaceable
from agent.overlay.program import Part, Program, Segment
from agent.overlay.spec import Overlay

Progress = Callable[[str, float], None]
MAX_MODEL_BYTES = 1 << 30
TFLITE_MAGIC = b"TFL3"  # at byte 4


def compile_model(
    source: Path | bytes, spec: Overlay, progress: Progress = lambda _text, _share: None, name: str = ""
) -> Program:
    """An overlay program for ``spec`` from a QDQ or QLinear ONNX model or a TFLite INT8 model.

    Raises UnsupportedModel when no layer of it can run on the overlay, ModelLoadError when it cannot be read.
    """
    progress("reading the model", 0.0)
    data, name = _read(source, name)
    form = "tflite" if data[4:8] == TFLITE_MAGIC else "onnx"
    graph = _import(data, form, name)
    return _compile(graph, spec, progress, data, form)


def compile_graph(graph: Graph, spec: Overlay) -> Program:
    """A program from layers and host operators alone. Raises UnsupportedModel when one does not fit the overlay."""
    return _compile(graph, spec, lambda _text, _share: None, b"", "")


def _read(source: Path | bytes, name: str) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, name or "model"
    try:
        if source.stat().st_size > MAX_MODEL_BYTES:
            raise ModelLoadError(f"{source} has {source.stat().st_size} bytes, more than {MAX_MODEL_BYTES}")
        return source.read_bytes(), name or source.stem
    except OSError as error:
        raise ModelLoadError(f"{source}: {error.strerror}; name a model file that can be read") from error


def _import(data: bytes, form: str, name: str) -> Graph:
    if form == "tflite":
        from agent.overlay.importers.import_tflite import import_tflite

        return import_tflite(data, name)
    from agent.overlay.importers.import_onnx import import_onnx

    return import_onnx(data, name)


def _compile(graph: Graph, spec: Overlay, progress: Progress, data: bytes, form: str) -> Program:
    layers = sum(isinstance(step, Layer) for step in graph.steps)
    refused = ""
    while True:
        graph = replace(graph, steps=_gathered(graph))
        try:
            steps = list(_lowered(graph, spec, progress, layers))
            break
        except _Refused as error:
            if not data:
                raise UnsupportedModel(
                    f"layer {error.layer.name} does not fit overlay {spec.id}: {error.why}"
                ) from None
            refused = refused or f"layer {error.layer.name}: {error.why}"
            graph = _to_cpu(graph, error.layer, error.why)
    if not any(isinstance(step, Segment) for step in steps):
        raise UnsupportedModel(_nothing(graph, spec, refused))
    progress("cutting CPU segments", 0.9)
    cut = [_part(step, data, form) if isinstance(step, Foreign) else step for step in steps]
    return Program(
        graph.name,
        spec.id,
        spec.version,
        spec.lanes,
        graph.inputs,
        graph.outputs,
        dict(graph.tensors),
        tuple(cut),
    )


def _gathered(graph: Graph) -> tuple[Step, ...]:
    """The steps with as many layers as possible after one another: what lies between two segments goes through DDR."""
    held, waiting, order = {spec.name for spec in graph.inputs}, list(graph.steps), list[Step]()
    layers = True
    while waiting:
        layers = not layers
        left = []
        for step in waiting:
            if isinstance(step, Layer) == layers and held.issuperset(inputs_of(step)):
                held.update(outputs_of(step))
                order.append(step)
            else:
                left.append(step)
        if layers and len(left) == len(waiting):
            return (*order, *left)  # they read what nothing writes: left to the program's checks
        waiting = left
    return tuple(order)


def _part(foreign: Foreign, data: bytes, form: str) -> Part:
    from agent.overlay.importers.cut import cut

    return Part(foreign, form, cut(data, form, foreign))


class _Refused(Exception):
    """A layer that the overlay cannot run."""

    def __init__(self, layer: Layer, why: str) -> None:
        super().__init__(why)
        self.layer, self.why = layer, why


def _lowered(
    graph: Graph, spec: Overlay, progress: Progress, layers: int
) -> Iterator[Segment | Host | Foreign]:
    """Consecutive layers become segments. Raises _Refused."""
    run: list[Layer] = []
    done = 0
    for index, step in enumerate([*graph.steps, None]):
        if isinstance(step, Layer):
            run.append(step)
            continue
        if run:
            progress("lowering", 0.1 + 0.8 * done / layers)
            yield from _segments(graph, spec, run, graph.steps[index:])
            done += len(run)
            run = []
        if step is not None:
            yield step


def _segments(graph: Graph, spec: Overlay, run: Sequence[Layer], after: Sequence[Step]) -> Iterator[Segment]:
    """Consecutive layers as one segment, or as two where one chain does not hold them."""
    try:
        yield _segment(graph, spec, run, after)
    except TooLong as error:
        if len(run) == 1:
            raise _Refused(run[0], str(error)) from None
        half = len(run) // 2
        yield from _segments(graph, spec, run[:half], [*run[half:], *after])
        yield from _segments(graph, spec, run[half:], after)


def _segment(graph: Graph, spec: Overlay, run: Sequence[Layer], after: Sequence[Step]) -> Segment:
    read = {name for step in after for name in inputs_of(step)}
    read |= {output.name for output in graph.outputs}
    wanted = frozenset(layer.output for layer in run if layer.output in read)
    try:
        return lower_segment(spec, run, graph.tensors, wanted)
    except Unplaceable as error:
        raise _Refused(run[error.layer], error.why) from None


def outputs_of(step: Step) -> tuple[str, ...]:
    """The tensors that a step writes."""
    return step.outputs if isinstance(step, Host | Foreign) else (step.output,)


def inputs_of(step: Step) -> tuple[str, ...]:
    """The tensors that a step reads."""
    if isinstance(step, Add):
        return step.a, step.b
    return step.inputs if isinstance(step, Host | Foreign) else (step.input,)


def _to_cpu(graph: Graph, layer: Layer, why: str) -> Graph:
    foreign = Foreign(inputs_of(layer), (layer.output,), layer.nodes, why)
    steps = tuple(foreign if step is layer else step for step in graph.steps)
    return Graph(graph.name, graph.inputs, graph.outputs, graph.tensors, steps)


def _nothing(graph: Graph, spec: Overlay, refused: str) -> str:
    reasons = [
        f"{step.nodes[0] if step.nodes else 'a node'}: {step.why}"
        for step in graph.steps
        if isinstance(step, Foreign)
    ]
    why = refused or (reasons[0] if reasons else "it has no convolution, pooling or addition")
    return f"nothing of {graph.name} can run on overlay {spec.id}: {why}; run the model on a CPU or GPU variant instead"
