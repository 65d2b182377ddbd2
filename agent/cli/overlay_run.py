"""``overlaid overlay run``: a program through the driver, with cycles and stalls per layer, or on OpenCL."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.cli.bar import progress_bar
from agent.cli.output import interrupted, one_cell, print_json, print_table
from agent.cli.overlay import LAYER_COLUMNS, percent, read
from agent.devices.parts import open_part
from agent.errors import TensorError, UsageError, one_line
from agent.overlay.counters import SegmentRun
from agent.overlay.cycles import reads
from agent.overlay.driver import Driver
from agent.overlay.execute import execute
from agent.overlay.program import Part, Program, Segment
from agent.overlay.report import kind_of, macs_of, read_fields, utilisation
from agent.overlay.spec import Overlay
from agent.overlay.transports import find_transport
from agent.types import TensorSpec, to_jsonable

Array = NDArray[Any]
Arrays = dict[str, Array]
OPENCL = "opencl"
DTYPES = {"FP32": "float32", "FP64": "float64", "FP16": "float16", "BOOL": "bool"}


def run(args: argparse.Namespace) -> int:
    """Carry out ``overlaid overlay run``."""
    if args.on != OPENCL and (args.device or args.binary):
        raise UsageError(f"--device and --binary are for --on {OPENCL}; leave them out, or run on that")
    program, spec, folder = read(args)
    sources = _files(args.input, program.inputs, "--input")
    targets = _files(args.output, program.outputs, "--output")
    inputs = {each.name: _load(sources[each.name], each) for each in program.inputs}
    with interrupted("nothing was written"), progress_bar() as progress:
        if args.on == OPENCL:
            from agent.cli.overlay_opencl import run_program, show

            outputs, stats = run_program(program, inputs, args.device, args.binary, progress)
        else:
            progress(f"loading overlay {spec.id} on {args.on}", 0.0)
            outputs, runs = _execute(program, spec, folder, args.on, inputs, progress)
            stats, show = make_stats(program, spec, args.on, runs), _print
    for each in program.outputs:
        with targets[each.name].open("wb") as file:  # numpy.save would add a suffix to a path without
            np.save(file, outputs[each.name])
    if args.stats:
        args.stats.write_text(json.dumps(stats, indent=2) + "\n")
    if args.json:
        print_json(stats)
    else:
        show(stats)
    return 0


def _files(given: Sequence[str], specs: Sequence[TensorSpec], option: str) -> dict[str, Path]:
    """The file of each tensor. UsageError when one is missing, unknown or named twice."""
    names = [each.name for each in specs]
    found: dict[str, Path] = {}
    for text in given:
        named = next((each for each in names if text.startswith(f"{each}=")), None)  # paths have "=", too
        before, equals, path = text.rpartition("=") if named is None else (named, "=", text[len(named) + 1 :])
        if not equals and len(names) > 1:
            raise UsageError(f"{option} {text}: name the tensor, NAME=FILE: one of {', '.join(names)}")
        name = before if equals else names[0]
        if name not in names or name in found:
            raise UsageError(f"{option} {text}: give each of these once: {', '.join(names)}")
        found[name] = Path(path)
    missing = [name for name in names if name not in found]
    if missing:
        raise UsageError(f"{option} {missing[0]}=FILE.npy is missing")
    return found


def _load(path: Path, spec: TensorSpec) -> Array:
    dtype = np.dtype(DTYPES.get(spec.dtype, spec.dtype.lower()))
    try:
        array = np.load(
            path, allow_pickle=False, mmap_mode="r"
        )  # not read before its shape is known to be right
    except OSError as error:
        if error.errno is not None:
            raise
        raise _no_array(path, error) from error
    except (ValueError, EOFError, SyntaxError, TokenError, MemoryError, OverflowError) as error:
        raise _no_array(path, error) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise UsageError(f"--input {path} is an archive of arrays; give one array, as numpy.save writes it")
    if array.dtype != dtype or array.shape != spec.concrete():
        raise TensorError(
            f"{path} holds {array.dtype} {list(array.shape)}, and input {spec.name} is {dtype} {list(spec.concrete())}"
        )
    return np.array(array)


def _no_array(path: Path, error: Exception) -> UsageError:
    return UsageError(f"--input {path}: {one_line(error)[:120]}; give an array that numpy.save wrote")


def _execute(
    program: Program, spec: Overlay, folder: Path, on: str, inputs: Arrays, progress: Any
) -> tuple[Arrays, list[tuple[Segment, SegmentRun]]]:
    transport = find_transport(on, (OPENCL,))(folder)
    try:
        driver = Driver(transport, spec)
        loaded = driver.load(program)
        parts = {id(step): open_part(step, 1) for step in program.steps if isinstance(step, Part)}
        runs: list[tuple[Segment, SegmentRun]] = []

        def run_segment(segment: Segment, tensors: Any) -> Any:
            progress(f"running on {on}", 0.5)
            done = loaded.run(segment, tensors)
            runs.append((segment, done))
            return done.outputs

        return execute(program, inputs, run_segment, lambda part, given: parts[id(part)](given)), runs
    finally:
        transport.close()


def make_stats(
    program: Program, spec: Overlay, on: str, runs: Sequence[tuple[Segment, SegmentRun]]
) -> dict[str, Any]:
    """Cycles, stalls (cycles in which the array was not fed) and utilisation, of each layer, each segment and in all.

    ``counters`` are the overlay's own; an executor that does not count leaves those at 0. ``pack_ms`` (with unpacking)
    and ``transfer_ms`` are wall time of this machine for a segment's tensors.
    """
    segments = [
        {
            "cycles": done.counters.cycles,
            "utilisation": _used(spec, sum(map(macs_of, segment.layers)), done.counters.cycles),
            "counters": to_jsonable(done.counters),
            "pack_ms": 1e3 * done.host.pack_s,
            "transfer_ms": 1e3 * done.host.transfer_s,
            "layers": _layers(spec, segment, done),
        }
        for segment, done in runs
    ]
    cycles = sum(done.counters.cycles for _, done in runs)
    return {
        "program": program.name,
        "overlay": spec.id,
        "version": spec.version,
        "on": on,
        "clock_hz": spec.clock.hz,
        "cycles": cycles,
        "stalls": cycles - sum(layer["issue"] for segment in segments for layer in segment["layers"]),
        "milliseconds": 1e3 * cycles / spec.clock.hz,
        "macs": program.macs,
        "utilisation": _used(spec, program.macs, cycles),
        "segments": segments,
    }


def _layers(spec: Overlay, segment: Segment, done: SegmentRun) -> list[dict[str, Any]]:
    transfers = (spec.opcodes["LOAD"], spec.opcodes["STORE"])
    chain = [each for each in read_fields(spec, segment, segment.chain) if each["opcode"] not in transfers]
    found = []
    first = before = 0
    for layer, count in zip(segment.layers, segment.counts, strict=True):
        issue = sum(reads(spec, fields).issue for fields in chain[first : first + count])
        first += count
        end = done.compute_ends[first - 1] if len(done.compute_ends) >= first else before
        macs = macs_of(layer)
        found.append(
            {
                "name": layer.name,
                "kind": kind_of(layer),
                "macs": macs,
                "cycles": end - before,
                "issue": issue,
                "stalls": end - before - issue,
                "utilisation": _used(spec, macs, end - before) if macs else None,
            }
        )
        before = end
    return found


def _used(spec: Overlay, macs: int, cycles: int) -> float | None:
    return utilisation(spec, macs, cycles) if cycles > 0 else None


def _print(stats: dict[str, Any]) -> None:
    for segment in stats["segments"]:
        rows = [
            (
                each["name"][-40:],
                each["kind"],
                each["macs"],
                each["cycles"],
                each["stalls"],
                percent(each["utilisation"]),
            )
            for each in segment["layers"]
        ]
        print_table((*LAYER_COLUMNS[:2], "MACs", "cycles", "stalls", "util"), rows)
        print()
    print(
        f"{one_cell(stats['program'])} on {stats['on']} ({stats['overlay']}): {stats['cycles']} cycles, "
        f"{stats['stalls']} of them stalls, {percent(stats['utilisation'])} of the array used, "
        f"{stats['milliseconds']:.3f} ms at {stats['clock_hz'] / 1e6:g} MHz"
    )
    packing, transfers = (sum(each[key] for each in stats["segments"]) for key in ("pack_ms", "transfer_ms"))
    print(f"beside it on this machine: packing and unpacking {packing:.3f} ms, transfers {transfers:.3f} ms")
