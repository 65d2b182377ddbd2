"""What could run where: every variant of a package on every backend of the node that opens it. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from agent.types import PROGRAMS, BoardInfo, Candidate, DeviceInfo, OverlayRef, Verdict

NO_BACKEND = "none"
NEEDS_OVERLAY = "needs overlay"


@dataclass(frozen=True, slots=True)
class VariantInfo:
    """What placement needs to know of a package's variant. ``devices``: kinds that it was made for; ``overlay``: what
    its program was made for, which the backend ``PROGRAMS`` needs."""

    name: str
    format: str
    precision: str
    devices: tuple[str, ...]
    accuracy: float | None
    overlay: OverlayRef | None = None


def candidates_for(
    variants: Sequence[VariantInfo], board: BoardInfo, delivered: Container[OverlayRef] = ()
) -> tuple[tuple[Candidate, ...], tuple[Verdict, ...]]:
    """Every variant on every backend that opens it, and a verdict for each variant and device without one.

    ``delivered``: overlays that the node has got as packages.
    """
    candidates: list[Candidate] = []
    verdicts: list[Verdict] = []
    for variant in variants:
        for device in board.devices:
            backends = _backends(variant, device, delivered) if device.kind in variant.devices else []
            if backends:
                candidates += [Candidate(variant.name, backend, device.id) for backend in backends]
            else:
                nowhere = Candidate(variant.name, NO_BACKEND, device.id)
                verdicts.append(Verdict(nowhere, False, _why_not(variant, device)))
    return tuple(sorted(candidates, key=str)), in_order(verdicts)


def short(candidate: Candidate, among: Iterable[Candidate]) -> str:
    """The candidate without its runtime, unless another one of ``among`` differs in nothing else."""
    plain = f"{candidate.variant} on {candidate.device}"
    same = {c.backend for c in among if (c.variant, c.device) == (candidate.variant, candidate.device)}
    return str(candidate) if same - {candidate.backend} else plain


def in_order(verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """The chosen one first, then by name."""
    return tuple(sorted(verdicts, key=lambda verdict: (not verdict.chosen, str(verdict.candidate))))


def _backends(variant: VariantInfo, device: DeviceInfo, delivered: Container[OverlayRef]) -> list[str]:
    """Those that open the variant. Only an FPGA's own overlay has to be there: OpenCL and numpy run any program."""
    ready = variant.overlay is None or variant.overlay in device.overlays or variant.overlay in delivered
    return [b.name for b in device.backends if variant.format in b.formats and (ready or b.name != PROGRAMS)]


def _why_not(variant: VariantInfo, device: DeviceInfo) -> str:
    if device.kind not in variant.devices:
        return f"made for {', '.join(variant.devices)}; {device.id} is a {device.kind}"
    if any(variant.format in b.formats for b in device.backends):
        has = ", ".join(map(str, device.overlays)) or "none"
        return f"{NEEDS_OVERLAY} {variant.overlay}; {device.id} has {has}: deploy a package of that overlay first"
    there = ", ".join(f"{b.name} ({', '.join(b.formats)})" for b in device.backends) or "no runtime"
    return f"{device.id} has no runtime for {variant.format}; it has {there}"
