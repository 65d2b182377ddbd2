"""The work in an overlay program: what its cycle model says of the overlay, and what numpy would do of it on a CPU."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from agent.overlay.spec import Overlay, load_spec
from agent.types import OverlayRef
from simulator.work.graph import Work

COPIES = 4  # times that a tensor's bytes are moved: read, written in the other form, read and written on the way across


def read_program_work(path: Path, overlay: Path | None) -> Work:
    """``overlay``: the delivered archive that the program needs. Raises ProgramError, OverlayLoadError."""
    from agent.overlay.archive import unpack_archive

    if overlay is None:
        return _work(path.read_bytes(), None)
    with TemporaryDirectory() as folder:
        return _work(path.read_bytes(), unpack_archive(overlay, Path(folder, "overlay")))


def read_overlay_work(path: Path) -> Work:
    """The work of an archive's self-test. Raises OverlayLoadError, ProgramError."""
    from agent.overlay.archive import SELF_TEST_NAME, unpack_archive

    with TemporaryDirectory() as folder:
        spec = unpack_archive(path, Path(folder, "overlay"))
        return _work(Path(folder, "overlay", SELF_TEST_NAME).read_bytes(), spec)


def _work(data: bytes, spec: Overlay | None) -> Work:
    from agent.overlay.cycles import chain_cycles
    from agent.overlay.graph import Conv
    from agent.overlay.program import Part, Segment
    from agent.overlay.programfile import read_program

    program = read_program(data)
    spec = spec or load_spec(program.overlay)
    segments = [step for step in program.steps if isinstance(step, Segment)]
    cycles = sum(chain_cycles(spec, segment.data[segment.chain :]).total for segment in segments)
    if len(segments) > 1:  # each takes the overlay's weight memory, every time
        chains = [segment.data[segment.resident :] for segment in segments if segment.resident is not None]
        cycles += sum(chain_cycles(spec, chain).total for chain in chains)
    weights = sum(layer.weights.size for step in segments for layer in step.layers if isinstance(layer, Conv))
    planes = sum(t.channels * t.height * t.width for t in program.tensors.values())
    parts = [_part_work(step) for step in program.steps if isinstance(step, Part)]
    beside = None
    if parts:
        precision = max(parts, key=lambda part: part.macs).precision
        beside = Work(sum(part.macs for part in parts), sum(part.nbytes for part in parts), precision)
    # On a CPU the functional model computes in float32 (numpy's matrix product), weights and planes once each way.
    return Work(
        program.macs,
        4 * (weights + 2 * planes),
        "fp32",
        OverlayRef(program.overlay, program.version, program.lanes),
        cycles / spec.clock.hz,
        beside,
        sum(len(segment.layers) for segment in segments),
        COPIES * sum(segment.input_bytes for segment in segments),
        COPIES * sum(segment.output_bytes for segment in segments),
    )


def _part_work(part: object) -> Work:
    from agent.overlay.program import Part
    from simulator.work import count_work

    assert isinstance(part, Part)
    with TemporaryDirectory() as folder:
        path = Path(folder, "part")
        path.write_bytes(part.model)
        return count_work(path, part.format)
