"""The phases of one deployment, each a function that either does its work or raises a named error."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from agent.deploy.measuring import Progress, candidates_of
from agent.deploy.resources import BlockSource, Resources
from agent.errors import (
    BlockError,
    NoFeasibleCandidate,
    OverlayLoadError,
    SoakFailed,
    StoreError,
)
from agent.package.manifest import Block, File, Manifest, Variant
from agent.package.verify import Trusted, VerifiedPackage, check_identity, digest_of, verify_package
from agent.placement.planning.candidates import NEEDS_OVERLAY
from agent.serving.processes.process import Worker
from agent.types import DesiredModel

log = logging.getLogger("deploy")


def runnable_variants(res: Resources, manifest: Manifest) -> tuple[Variant, ...]:
    """The variants worth downloading; NoFeasibleCandidate with each one's reason when there is none, or
    OverlayLoadError when an overlay is missing, which may still come."""
    candidates, impossible = candidates_of(res, manifest)
    names = {candidate.variant for candidate in candidates}
    if not names:
        reasons = "; ".join(f"{verdict.candidate.variant}: {verdict.reason}" for verdict in impossible)
        error = OverlayLoadError if NEEDS_OVERLAY in reasons else NoFeasibleCandidate
        raise error(f"no variant of {manifest.name} {manifest.version} can run here: {reasons}")
    return tuple(variant for variant in manifest.variants if variant.name in names)


async def download(
    res: Resources,
    source: BlockSource,
    model: DesiredModel,
    make_room: Callable[[], Awaitable[None]],
    progress: Progress,
) -> VerifiedPackage:
    """DOWNLOADING: whether it may be installed, its manifest, then the blocks that are missing of the variants this
    node can run.

    ``make_room`` is called when the space does not suffice.
    """
    trusted = await _trusted(res, source, model)
    package = await _manifest(res, source, model, trusted)
    files = package.manifest.files_for(runnable_variants(res, package.manifest))
    missing = {block.sha256: block for block in await _missing(res, files, make_room)}
    total = sum(block.size for block in missing.values())
    arrived, loop = 0, asyncio.get_running_loop()

    def deliver(sha: str, data: bytes) -> None:
        nonlocal arrived
        block = missing[sha]
        res.store.put_block(block, data)
        arrived += block.size
        loop.call_soon_threadsafe(progress, arrived / total)

    if missing:
        await source.fetch(model.digest, {sha: block.size for sha, block in missing.items()}, deliver)
    size = sum(file.size for file in files.values())
    text = f"{model.version}: fetched {total} of {size} bytes, the rest was on this node"
    log.info("%s %s", model.name, text, extra={"model": model.name})
    res.telemetry.event("fetched", text, model.name)
    return package


async def _missing(
    res: Resources, files: Mapping[str, File], make_room: Callable[[], Awaitable[None]]
) -> list[Block]:
    """What is to come, its space taken; what failed deployments left behind goes first when there is too little."""
    try:
        return await asyncio.to_thread(res.store.missing, files)
    except StoreError:
        await make_room()
        return await asyncio.to_thread(res.store.missing, files)


async def _trusted(res: Resources, source: BlockSource, model: DesiredModel) -> Trusted:
    """Asked anew at each attempt, but for what is installed: a repository that expired must not keep this node from
    going back."""
    with contextlib.suppress(StoreError):  # of a damaged file, which this deployment replaces
        installed = res.store.versions(model.name)
        if model.digest in (installed.current, installed.previous):
            return Trusted(model.digest)
    trusted = await res.verifier.check(model.name, model.version, model.digest, source)
    res.telemetry.event("verified", f"{model.version}: signed by {trusted.role}", model.name)
    return trusted


async def _manifest(
    res: Resources, source: BlockSource, model: DesiredModel, trusted: Trusted
) -> VerifiedPackage:
    try:
        data = res.store.manifest(trusted.digest)
    except StoreError:
        found: list[bytes] = []

        def deliver(sha: str, data: bytes) -> None:
            if digest_of(data) != sha:
                raise BlockError(f"manifest {sha[:12]} does not match its digest: deploy the model again")
            found.append(data)

        await source.fetch(trusted.digest, {trusted.digest: 0}, deliver)
        data = found[0]
    package = verify_package(data, trusted)
    check_identity(package, model.name, model.version)
    res.store.put_manifest(package)
    return package


async def assemble(res: Resources, package: VerifiedPackage, progress: Progress) -> None:
    """VERIFYING: join blocks to files and check the digest of the assembled bytes."""
    files = package.manifest.files_for(runnable_variants(res, package.manifest))
    for done, file in enumerate(files.values(), start=1):
        await asyncio.to_thread(res.store.assemble, file)
        progress(done / len(files))


def installed_package(res: Resources, digest: str) -> VerifiedPackage:
    """A package of the store, verified again; StoreError when it is not there."""
    return verify_package(res.store.manifest(digest), Trusted(digest))


async def soak(res: Resources, model: str, worker: Worker, progress: Progress) -> None:
    """SOAKING: the new worker lives, fails no request in its runtime, and answers its golden vectors at the end."""
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < res.settings.soak_s:
        progress(elapsed / res.settings.soak_s)
        await asyncio.sleep(min(0.2, res.settings.soak_s - elapsed))
        status = res.pool.status(model)
        if status is None or status.pid != worker.pid or not status.ready:
            raise SoakFailed(f"the new worker (pid {worker.pid}) died {elapsed:.1f} s after it took over")
        if status.errors:
            await worker.check()  # a device that is lost says so: such a deployment is tried again
            raise SoakFailed(
                f"{status.errors} of {status.requests} requests failed in the runtime after it took over"
            )
    await worker.check()
