"""The kernels on a device: compiled once and kept, or from a binary file. Imports pyopencl."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pyopencl as cl

from agent.devices.building import announce
from agent.devices.opencl.binary import ADVICE, MAX_BINARY_BYTES, SUFFIX, Header, header_of, pack, unpack
from agent.devices.opencl.failures import GONE
from agent.devices.opencl.plan import Traits
from agent.devices.opencl.platforms import ClDevice
from agent.devices.opencl.source import build_options, kernel_source
from agent.errors import KernelBuildFailed, OverlaidError, one_line

log = logging.getLogger(__name__)
FOLDER = "opencl"  # in the folder for what runtimes build
MAX_KEPT = 8  # binaries, and logs: one for each device and driver that was here of late
MAX_LOG_BYTES = 1 << 20
TEMPORARY_LOG = "overlaid-opencl-"


def build_program(
    context: cl.Context,
    handle: cl.Device,
    device: ClDevice,
    traits: Traits,
    cache: Path | None,
    binary: Path | None = None,
) -> cl.Program:
    """The kernels, ready to launch: from ``binary`` when given, else as kept in ``cache``, else compiled.

    ``handle``: the device in ``context``, or a part of it. What is kept and does not fit or load is built again.
    Raises KernelBuildFailed: the driver does not compile them (the text names the log), or does not take ``binary``;
    pyopencl's error when the device is gone.
    """
    header = header_of(device, traits)
    if binary is not None:
        return _from_file(context, handle, device, header, binary)
    if device.kind == "accelerator":
        raise KernelBuildFailed(
            f"{device.label} runs kernels from a binary file only, and none is given; {ADVICE}"
        )
    folder = cache / FOLDER if cache is not None else None
    kept = _from_cache(context, handle, header, folder)
    if kept is not None:
        return kept
    announce(f"the OpenCL kernels for {device.name}, once for this driver")
    program = compile_source(
        context, handle, device, build_options(traits), kernel_source(), folder, header.key
    )
    if folder is not None:
        _keep(folder, f"{header.key}{SUFFIX}", lambda: pack(header, program.binaries[0]))
    return program


def compile_source(
    context: cl.Context,
    handle: cl.Device,
    device: ClDevice,
    options: Sequence[str],
    source: str,
    folder: Path | None,
    key: str,
) -> cl.Program:
    """Compiled here and now. KernelBuildFailed with the log's first error; the log is kept in ``folder`` as
    build-``key``.log, or in a temporary file."""
    program = cl.Program(context, source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of compilers that have something to say, and of what comes next
        # pyopencl keeps binaries of its own, but not of a program that was asked about before it was built.
        program.get_info(cl.program_info.REFERENCE_COUNT)
        try:
            return program.build(list(options), devices=[handle])
        except cl.Error as error:
            if error.code in GONE:
                raise
            text = _build_log(program, handle) or str(error)
            raise KernelBuildFailed(
                f"{device.label} does not compile the kernels: {first_error(text)}; {_keep_log(folder, key, text)}; "
                f"update the driver ({device.driver})"
            ) from error


def least_group(program: cl.Program, handle: cl.Device) -> int:
    """Work-items that a work-group of any of the kernels may have (CL_KERNEL_WORK_GROUP_SIZE): drivers allow fewer than
    the device's limit where a kernel takes many registers."""
    asked = cl.kernel_work_group_info.WORK_GROUP_SIZE
    return min(int(kernel.get_work_group_info(asked, handle)) for kernel in program.all_kernels())


def write_binary(path: Path, program: cl.Program, device: ClDevice, traits: Traits) -> None:
    """Keep the kernels that ``build_program`` made as a file, for ``build_program`` to load elsewhere.

    Raises KernelBuildFailed when the file cannot be written.
    """
    try:
        path.write_bytes(pack(header_of(device, traits), program.binaries[0]))
    except OSError as error:
        raise KernelBuildFailed(f"{path} cannot be written: {one_line(error)}") from error


def read_binary(path: Path, device: ClDevice, traits: Traits) -> bytes:
    """The device's binary in a file, checked to be for it and of these kernels.

    Raises KernelBuildFailed: the file cannot be read, see also ``binary.unpack``.
    """
    return _read(path, header_of(device, traits))


def first_error(text: str) -> str:
    """The line of a compiler's log to show first, at most 300 characters."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    found = next(
        (line for line in lines if "error" in line.lower()), lines[0] if lines else "it says nothing"
    )
    return found[:300]


def _read(path: Path, header: Header) -> bytes:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            size = os.fstat(file.fileno()).st_size  # as read() takes memory for all that it is asked for
            data = file.read(size) if size <= MAX_BINARY_BYTES else b""
    except OSError as error:
        raise KernelBuildFailed(
            f"the kernels in {path} cannot be read: {one_line(error)}; {ADVICE}"
        ) from error
    if size > MAX_BINARY_BYTES:
        raise KernelBuildFailed(
            f"{path} has more than {MAX_BINARY_BYTES} bytes and is no file of kernels; {ADVICE}"
        )
    return unpack(data, header, str(path))


def _without_waiting(path: str, flags: int) -> int:
    """For a pipe's other end, which may never come."""
    return os.open(path, flags | os.O_NONBLOCK)


def _from_file(
    context: cl.Context, handle: cl.Device, device: ClDevice, header: Header, path: Path
) -> cl.Program:
    data = _read(path, header)
    try:
        return _load(context, handle, data)
    except cl.Error as error:
        if error.code in GONE:
            raise
        raise KernelBuildFailed(
            f"{device.label} does not take the kernels in {path}: {one_line(error)}; {ADVICE}"
        ) from error


def _load(context: cl.Context, handle: cl.Device, data: bytes) -> cl.Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cl.Program(context, [handle], [data]).build(devices=[handle])


def _from_cache(
    context: cl.Context, handle: cl.Device, header: Header, folder: Path | None
) -> cl.Program | None:
    """What was built earlier, if it is there and whole."""
    if folder is None:
        return None
    path = folder / f"{header.key}{SUFFIX}"
    try:
        if not path.is_file():
            return None
        program = _load(context, handle, _read(path, header))
    except (OverlaidError, OSError, cl.Error) as error:
        log.debug("kernels in %s are built again: %s", path, one_line(error))
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used of late
    return program


def _build_log(program: cl.Program, handle: cl.Device) -> str:
    with contextlib.suppress(cl.Error):
        return str(program.get_build_info(handle, cl.program_build_info.LOG)).strip()
    return ""


def _keep(folder: Path, name: str, content: Callable[[], bytes]) -> Path | None:
    """A file that appears whole or not at all, the oldest of its kind removed; None where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        suffix = Path(name).suffix  # what a killed process leaves half written is pruned too
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=suffix, delete=False) as file:
            written = Path(file.name)
            try:
                file.write(content())
                file.close()
                written.replace(folder / name)
            except BaseException:
                written.unlink(missing_ok=True)
                raise
        _prune(folder, f"*{suffix}")
    except (OSError, cl.Error) as error:
        log.debug("%s is not kept in %s: %s", name, folder, one_line(error))
        return None
    return folder / name


def _prune(folder: Path, pattern: str) -> None:
    """Keep the newest; another process may do the same."""
    aged = []
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            aged.append((path.stat().st_mtime, path))
    for _, path in sorted(aged, reverse=True)[MAX_KEPT:]:
        with contextlib.suppress(OSError):
            path.unlink()


def _keep_log(folder: Path | None, key: str, text: str) -> str:
    """Where it is now, in words."""
    content = text.encode("utf-8", "replace")[:MAX_LOG_BYTES]
    kept = _keep(folder, f"build-{key}.log", lambda: content) if folder is not None else None
    if kept is not None:
        return f"the whole log is in {kept}"
    try:
        with tempfile.NamedTemporaryFile(prefix=TEMPORARY_LOG, suffix=".log", delete=False) as file:
            file.write(content)
    except OSError as error:
        return f"the whole log cannot be kept ({one_line(error)})"
    _prune(Path(file.name).parent, f"{TEMPORARY_LOG}*.log")
    return f"the whole log is in {file.name}"
