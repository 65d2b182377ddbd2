"""The workers of a package: what they are told, and that they prove themselves before they serve."""

from __future__ import annotations

from pathlib import Path

from agent.deploy import overlays
from agent.deploy.resources import Resources
from agent.hal import ModelFile
from agent.package.verify import VerifiedPackage
from agent.serving.processes.process import Worker
from agent.serving.spec import Golden, WorkerSpec
from agent.types import Candidate, Placement


def worker_spec(
    res: Resources, package: VerifiedPackage, candidate: Candidate, instances: int = 1, max_batch: int = 1
) -> WorkerSpec:
    """Everything a worker process needs to know; StoreError when a file is not on this node.

    Only a CPU gets several ``instances``: runs on a GPU or an FPGA follow one another anyway. No limit on memory on a
    GPU, whose driver reserves address space for all of the device's.
    """
    kind = next((device.kind for device in res.board.devices if device.id == candidate.device), "")
    manifest = package.manifest
    variant = manifest.variant(candidate.variant)

    def path(name: str) -> Path:
        return res.store.path(manifest.files[name])

    return WorkerSpec(
        model=manifest.name,
        version=manifest.version,
        digest=package.digest,
        board=res.settings.board,
        board_folder=res.settings.board_folder,
        candidate=candidate,
        file=ModelFile(
            path(variant.file),
            variant.format,
            manifest.inputs,
            manifest.outputs,
            res.settings.threads,
            overlays.delivered(res).get(variant.overlay) if variant.overlay else None,
            res.settings.engines,
        ),
        golden=Golden(
            manifest.golden.count,
            {tensor: path(name) for tensor, name in manifest.golden.inputs.items()},
            {tensor: path(name) for tensor, name in variant.golden.outputs.items()},
            variant.golden.atol,
            variant.golden.rtol,
        ),
        max_body_bytes=res.settings.max_body_bytes,
        memory_mb=0 if kind == "gpu" else res.settings.worker_memory_mb,
        instances=instances if kind == "cpu" else 1,
        max_batch=max_batch,
    )


async def start_placed(res: Resources, package: VerifiedPackage, placement: Placement) -> Worker:
    """``start_checked`` as the placement says."""
    return await start_checked(res, package, placement.candidate, placement.instances, placement.max_batch)


async def start_checked(
    res: Resources, package: VerifiedPackage, candidate: Candidate, instances: int = 1, max_batch: int = 1
) -> Worker:
    """A loaded worker whose golden vectors agree on the candidate's device; none is left running on an error."""
    worker = await res.pool.start(worker_spec(res, package, candidate, instances, max_batch))
    try:
        await worker.check()
    except BaseException:
        await res.pool.stop(worker)
        raise
    return worker
