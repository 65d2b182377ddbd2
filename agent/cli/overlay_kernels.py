"""``overlaid overlay kernels``: OpenCL's kernels, built before they are needed."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.cli.bar import meanwhile, progress_bar
from agent.cli.opencl_devices import find_device
from agent.cli.output import interrupted
from agent.devices.opencl.platforms import ClDevice, traits_of
from agent.errors import RuntimeUnavailable, UsageError, one_line

SOURCE_NAME, OPTIONS_NAME = "overlaid.cl", "options.txt"


def kernels(args: argparse.Namespace) -> int:
    """Carry out ``overlaid overlay kernels``."""
    if args.source is not None:
        if args.output is not None:
            raise UsageError("--source writes no binary; leave -o out, or --source")
        return _write_source(args.source, args.device)
    if args.output is None:
        raise UsageError("name the file to write: -o FILE.clbin (or --source DIR for another compiler)")
    device = find_device(args.device)
    if args.pack is not None:
        _pack(args.pack, args.output, device)
    elif device.kind == "accelerator":
        raise UsageError(
            f"{device.label} does not build kernels: write their source with --source DIR, build it with the compiler "
            "of its vendor (v++, aoc), and give what that made with --pack"
        )
    else:
        building = f"building the kernels for {device.name}"
        with interrupted(f"{args.output} was not written"), progress_bar() as bar, meanwhile(bar, building):
            _build(args.output, device)
    print(f"{args.output}: {args.output.stat().st_size} bytes, for {device.label}, driver {device.driver}")
    return 0


def _write_source(target: Path, wanted: str | None) -> int:
    """For the device that is named; none needs to be here for a card, which has no dot products."""
    from agent.devices.opencl.plan import Traits
    from agent.devices.opencl.source import build_options, kernel_source

    traits = Traits("accelerator", False, 1, 1) if wanted is None else traits_of(find_device(wanted))
    target.mkdir(parents=True, exist_ok=True)
    (target / SOURCE_NAME).write_text(kernel_source(), encoding="utf-8")
    (target / OPTIONS_NAME).write_text("".join(f"{option}\n" for option in build_options(traits)))
    print(f"{target / SOURCE_NAME}: every kernel; options for their compiler are in {target / OPTIONS_NAME}")
    return 0


def _build(target: Path, device: ClDevice) -> None:
    import pyopencl

    from agent.devices.opencl.build import build_program, write_binary
    from agent.devices.opencl.platforms import handle

    found, traits = handle(device), traits_of(device)
    try:
        program = build_program(pyopencl.Context([found]), found, device, traits, None)
    except pyopencl.Error as error:
        raise RuntimeUnavailable(
            f"{device.label} cannot be opened: {one_line(error)}; see overlaid devices"
        ) from error
    write_binary(target, program, device, traits)


def _pack(built: Path, target: Path, device: ClDevice) -> None:
    from agent.devices.opencl.binary import header_of, pack

    data = built.read_bytes()
    if not data:
        raise UsageError(f"--pack {built} is empty; give what the compiler of the card's vendor made")
    target.write_bytes(pack(header_of(device, traits_of(device)), data))
