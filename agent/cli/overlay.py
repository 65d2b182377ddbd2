"""``overlaid overlay``: compile, report, run, kernels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.output import Commands, add_command, add_json, interrupted, one_cell, print_json, print_table
from agent.errors import RuntimeUnavailable, UsageError

if TYPE_CHECKING:
    from agent.overlay.program import Program
    from agent.overlay.report import Report
    from agent.overlay.spec import Overlay

SHIPPED = "npu"


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    overlay = commands.add_parser(
        "overlay",
        help="FPGA overlays: compile a model, say what it costs, run it",
        description="Compiles quantised models to programs for an FPGA overlay, reports what they cost, runs them.",
        epilog="example: overlaid overlay compile resnet8_int8.tflite -o resnet8.npu",
    )
    its = overlay.add_subparsers(dest="overlay_command", required=True, metavar="COMMAND")

    example = "overlaid overlay compile resnet8_int8.tflite -o resnet8.npu --overlay npu-small"
    text = "make an overlay program from a QDQ or QLinear ONNX model or an INT8 TFLite model"
    compile_ = add_command(its, "compile", _compile, text, example)
    compile_.add_argument(
        "model", type=Path, metavar="MODEL", help="an .onnx or .tflite file, quantised to int8"
    )
    compile_.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PROG.npu", help="program to write"
    )
    _add_overlay(compile_)
    add_json(compile_)

    example = "overlaid overlay report resnet8.npu --plot resnet8.png"
    text = "say layer by layer what a program takes: cycles, utilisation, bytes moved, what bounds it"
    report = add_command(its, "report", _report, text, example)
    report.add_argument("program", type=Path, metavar="PROG.npu", help="what overlaid overlay compile made")
    report.add_argument("--plot", type=Path, metavar="OUT.png", help="draw it as well (extra: plot)")
    _add_overlay(report, default=None)
    add_json(report)

    _add_run(its)
    _add_kernels(its)


def _add_run(its: Commands[argparse.ArgumentParser]) -> None:
    example = "overlaid overlay run resnet8.npu --input x.npy --output y.npy --on opencl --stats stats.json"
    text = "run a program on the overlay's functional model, its RTL or an OpenCL device, and say what each layer took"
    run = add_command(its, "run", _run, text, example)
    run.add_argument("program", type=Path, metavar="PROG.npu", help="what overlaid overlay compile made")
    for option, what in (("--input", "read"), ("--output", "written")):
        run.add_argument(
            option,
            action="append",
            required=True,
            metavar="[NAME=]FILE.npy",
            help=f"tensor that is {what}; with its name where the program has several",
        )
    run.add_argument(
        "--on",
        default="functional",
        metavar="functional|rtl|opencl",
        help="what runs it (default: functional)",
    )
    _add_device(run)
    run.add_argument(
        "--binary", type=Path, metavar="FILE.clbin", help="kernels as overlaid overlay kernels wrote them"
    )
    run.add_argument(
        "--stats", type=Path, metavar="STATS.json", help="write there what each layer took: cycles or time"
    )
    _add_overlay(run, default=None)
    add_json(run)


def _add_kernels(its: Commands[argparse.ArgumentParser]) -> None:
    example = "overlaid overlay kernels --device u250 --pack kernels.xclbin -o u250.clbin"
    text = "build OpenCL's kernels ahead: for this machine's device, or with an FPGA card's own compiler"
    kernels = add_command(its, "kernels", _kernels, text, example)
    kernels.add_argument("-o", "--output", type=Path, metavar="FILE.clbin", help="kernels to write")
    _add_device(kernels)
    how = kernels.add_mutually_exclusive_group()
    how.add_argument(
        "--source", type=Path, metavar="DIR", help="write source and options there for another compiler"
    )
    how.add_argument(
        "--pack",
        type=Path,
        metavar="RAW",
        help="what that compiler made (.xclbin, .aocx), to go into FILE.clbin",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        metavar="NAME|N",
        help="part of an OpenCL device's name, or its number (default: a GPU before an FPGA card before a CPU)",
    )


def _add_overlay(parser: argparse.ArgumentParser, default: str | None = SHIPPED) -> None:
    meant = default or "the one that ships under the program's overlay id"
    parser.add_argument(
        "--overlay",
        default=default,
        metavar="NAME|FOLDER",
        help=f"an overlay that ships with the agent, or a folder with overlay.toml (default: {meant})",
    )


def read(args: argparse.Namespace) -> tuple[Program, Overlay, Path]:
    """The program that a command names, its overlay and the overlay's folder. Raises ProgramError, OverlayLoadError."""
    _need_numpy()
    from agent.overlay.programfile import read_program
    from agent.overlay.spec import find_overlay, read_spec

    data = args.program.read_bytes()
    if args.overlay is None:
        program = read_program(data)
        folder = find_overlay(program.overlay)
        return read_program(data, spec := read_spec(folder)), spec, folder
    folder = find_overlay(args.overlay)
    spec = read_spec(folder)
    return read_program(data, spec), spec, folder


def _need_numpy() -> None:
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise RuntimeUnavailable("overlay programs need numpy: pip install 'overlaid[fleet]'") from None


def _compile(args: argparse.Namespace) -> int:
    _need_numpy()
    from agent.cli.bar import progress_bar
    from agent.overlay.report import make_report
    from agent.overlay.spec import find_overlay, read_spec

    if args.output.resolve() == args.model.resolve():
        raise UsageError(f"-o {args.output} is the model itself; name another file")
    spec = read_spec(find_overlay(args.overlay))
    with interrupted(f"{args.output} was not written"), progress_bar() as progress:
        program = _compiled(args.model, spec, progress)
        report = make_report(program, spec)
    nbytes = _write(args.output, program)
    if args.json:
        print_json(report)
        return 0
    print_totals(report)
    print(f"{args.output}: {nbytes} bytes; overlaid overlay report {args.output} says more")
    return 0


def _compiled(model: Path, spec: Overlay, progress: Any) -> Program:
    try:
        from agent.overlay.compiler import compile_model

        return compile_model(model, spec, progress)
    except ImportError as error:
        raise RuntimeUnavailable(f"compiling needs {error.name}: pip install 'overlaid[fleet]'") from error


def _write(path: Path, program: Program) -> int:
    from agent.overlay.programfile import write_program

    data = write_program(program)
    path.write_bytes(data)
    return len(data)


def _report(args: argparse.Namespace) -> int:
    program, spec, _ = read(args)
    from agent.overlay.report import make_report

    report = make_report(program, spec)
    if args.plot:
        from agent.cli.overlay_plot import plot

        plot(report, args.plot)
    if args.json:
        print_json(report)
        return 0
    print_report(report)
    if args.plot:
        print(f"drawn: {args.plot}")
    return 0


LAYER_COLUMNS = ("layer", "kind", "output", "MACs", "cycles", "util", "read", "written", "bound by")


def print_report(report: Report) -> None:
    """Layers of each segment as a table, then the totals."""
    for number, segment in enumerate(report.segments):
        rows = [
            (
                _short(layer.name), layer.kind, "x".join(map(str, layer.shape)), layer.macs, layer.cycles,
                percent(layer.utilisation), layer.read, layer.written, layer.bound,
            )
            for layer in segment.layers
        ]  # fmt: skip
        title = f"segment {number + 1}: {segment.descriptors} descriptors, {segment.weight_bytes} bytes of weights"
        print_table(LAYER_COLUMNS, rows, f"{title}, {segment.resident_bytes} of them stay on the chip")
        print()
    print_totals(report)


def print_totals(report: Report) -> None:
    """What it takes in all, and what does not run on the overlay."""
    print(
        f"{one_cell(report.name)} on overlay {report.overlay} version {report.version}: {report.macs} MACs, "
        f"{report.cycles} cycles, {percent(report.utilisation)} of the array used, "
        f"{report.milliseconds:.3f} ms at {report.clock_hz / 1e6:g} MHz"
    )
    for aside in report.asides:
        where = "on the CPU" if aside.where == "cpu" else "beside it"
        print(f"{where}: {', '.join(_short(name) for name in aside.operators)}: {aside.why}")


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}%"


def _short(name: str, most: int = 40) -> str:
    """TFLite's fused names are hundreds of characters long; their last part says most."""
    name = one_cell(name)
    return name if len(name) <= most else f"...{name[3 - most :]}"


def _run(args: argparse.Namespace) -> int:
    from agent.cli.overlay_run import run

    return run(args)


def _kernels(args: argparse.Namespace) -> int:
    from agent.cli.overlay_kernels import kernels

    return kernels(args)
