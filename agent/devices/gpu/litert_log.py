"""What LiteRT's GPU accelerator tells in its log alone: pure functions over that text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.devices.gpu.gpus import Gpu
from agent.errors import DeviceLost, DeviceMismatch, OutOfDeviceMemory, OverlaidError, one_line

MOST_LINES = 10
_ADAPTER = re.compile(r"Selected adapter: ([^\n]+?), arch=[^\n]*?vendor=([^,\n]*)[^\n]*?adapterType=([^\n]+)")
_UNSUPPORTED = re.compile(r"not supported by GPU delegate:\n(.*?)(?=\n\d+ operations will run|\Z)", re.S)
# Of the accelerator; LiteRT's own begin with ERROR. A graph of other shapes than the model's computes something else:
# release 2.3.0 forgets the stride of quantised 1x1 convolutions.
_ERROR = re.compile(r"^(?:[EF]\d{4}|W\d{4}(?=[^\n]*Shape mismatch)) [^\]\n]*\] (.+)$", re.M)
_NONE = re.compile(r"no adapters found", re.I)
_LOST = re.compile(r"\bdevice\b[^\n]{0,40}\blost\b|device_lost|failed to initialize webgpu", re.I)
_MEMORY = re.compile(
    r"out[ _]of[ _](\w+_)?memory|resource_exhausted|max buffer size|max allocation size", re.I
)
_NOISE = re.compile(
    r"INFO:|I\d{4} |WARNING: Logging before|└|\s*$|error: XDG_RUNTIME_DIR"
    r"|WARNING: \[(npu_registry|compiler_plugin|compiled_model\S* Failed to get buffer requirements)"
)


@dataclass(frozen=True, slots=True)
class Adapter:
    """What the accelerator chose to compute on. ``vendor``: as Dawn calls it (nvidia, amd, intel, arm, mesa …)."""

    name: str
    vendor: str
    software: bool

    def check(self, gpu: Gpu) -> None:
        """DeviceMismatch when this is not ``gpu``."""
        if self.software and not gpu.software:
            raise DeviceMismatch(
                f"only a software renderer ({self.name}) answers LiteRT here; install the Vulkan driver of {gpu.name} "
                "and let the agent's user into the group of /dev/dri (render)"
            )
        if gpu.software and not self.software:
            raise DeviceMismatch(f"LiteRT chose {self.name}, which is no software renderer")
        if gpu.vendor and not self.software and self.vendor != gpu.vendor:
            raise DeviceMismatch(
                f"LiteRT chooses the GPU by itself and took {self.name} ({self.vendor}), not {gpu.name}; models run by "
                "it on that one"
            )


def adapter(text: str) -> Adapter | None:
    """The adapter that was selected last; None when none is named."""
    found = _ADAPTER.findall(text)
    if not found:
        return None
    name, vendor, kind = found[-1]
    return Adapter(name[:100], vendor, "CPU" in kind or "Software" in kind)


def errors(text: str) -> list[str]:
    """The accelerator's errors, which need not come with an exception."""
    return _ERROR.findall(text)


def notable(text: str) -> list[str]:
    """Lines that are worth a look in the daemon's log: at most ten, of 300 characters."""
    return [line[:300] for line in text.splitlines() if not _NOISE.match(line)][:MOST_LINES]


def partial(file: str, text: str) -> DeviceMismatch:
    """The model would run on the GPU in part only."""
    match = _UNSUPPORTED.search(text)
    named = [line.strip().rstrip(".") for line in match[1].splitlines()] if match else []
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    operators = f": {'; '.join(named[:5])[:400]}{more}" if named else ""
    return DeviceMismatch(
        f"LiteRT's GPU accelerator cannot run all of {file}{operators}; convert it without these operators, or leave "
        "this variant to the CPU"
    )


def explained(
    file: str,
    gpu: Gpu,
    failure: Exception | None,
    text: str,
    sizes: str,
    kind: type[OverlaidError],
    what: str,
) -> OverlaidError:
    """The error behind a call that raised ``failure`` or logged errors (``text``).

    ``sizes``: what the model and its tensors take. ``kind`` and ``what``: the error when it is no special one.
    """
    if "ops are not accelerated" in str(failure):
        return partial(file, text)
    found = errors(text)
    said = one_line(RuntimeError(found[0] if found else str(failure)))
    everything = f"{text}\n{failure}"
    if _NONE.search(everything):
        return DeviceLost(
            f"Vulkan has no {gpu.name} for LiteRT; install its driver and see vulkaninfo --summary"
        )
    if _LOST.search(everything):
        return DeviceLost(f"{gpu.name} does not answer LiteRT: {said}; see the kernel's log (dmesg)")
    if _MEMORY.search(everything):
        return OutOfDeviceMemory(
            f"{gpu.name} has no memory for {file}: {sizes}; LiteRT says: {said}; send smaller batches or deploy a "
            "smaller variant"
        )
    return kind(f"LiteRT's GPU accelerator {what}: {said}")
