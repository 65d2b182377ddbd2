"""What a package's candidates cost on this node: every one that it could run is measured in a worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from agent.deploy import overlays, workers
from agent.deploy.claims import Claim, granted
from agent.deploy.clock import PhaseClock
from agent.deploy.resources import Resources
from agent.errors import OverlaidError, StoreError, one_line
from agent.package.manifest import Manifest
from agent.package.verify import VerifiedPackage
from agent.placement import batching, profile
from agent.placement.planning.candidates import VariantInfo, candidates_for
from agent.placement.profile import Profile, cache, priors
from agent.placement.profile.cache import Key
from agent.serving.processes.process import Worker
from agent.types import PROGRAMS, Budget, Candidate, Measurement, OverlayRef, Placement, Verdict

log = logging.getLogger("deploy")
Progress = Callable[[float], None]
Quiet = Callable[[], bool]
UNMEASURED = "not measured: "  # as the beginning of a verdict
TIME_SHARE = 0.7  # of the phase's time, from which on nothing more is measured


def candidates_of(res: Resources, manifest: Manifest) -> tuple[tuple[Candidate, ...], tuple[Verdict, ...]]:
    """What this node could run, and why not the rest."""
    variants = tuple(
        VariantInfo(v.name, v.format, v.precision, v.devices, v.accuracy, v.overlay)
        for v in manifest.variants
    )
    # Every manifest that is installed is verified for it: only for packages that need an overlay.
    delivered = overlays.delivered(res) if any(v.overlay for v in variants) else ()
    return candidates_for(variants, res.board, delivered)


async def measure_all(
    res: Resources,
    package: VerifiedPackage,
    budget: Budget,
    running: Placement | None,
    progress: Progress,
    *,
    again: bool = False,
    quiet: Quiet = lambda: True,
    claim: Claim = granted,
) -> tuple[list[Measurement], list[Verdict], list[OverlaidError]]:
    """Measurements of the candidates, why the others have none, and the errors that were the reason.

    What was measured before under the same conditions counts, unless ``again``. ``running``: the model's placement so
    far, whose worker is loaded meanwhile. ``progress`` hears the share that is done. ``quiet``: False while a model in
    service is late; then nothing is run. ``claim``: asked before an FPGA takes a candidate's overlay. Ends in good time
    before the phase does, with the likely candidates measured. To be called by one at a time. Cancelling is safe.
    """
    candidates, failed = candidates_of(res, package.manifest)
    measuring = _Measuring(res, package, budget, _running(running), quiet, claim, again)
    measurements: list[Measurement] = []
    verdicts = list(failed)
    errors: list[OverlaidError] = []
    for done, candidate in enumerate(measuring.in_order(candidates), start=1):
        try:
            if measurements and measuring.late:
                verdicts.append(Verdict(candidate, False, measuring.unmeasured(candidate)))
            elif isinstance(found := await measuring.profile_of(candidate), Profile):
                measurements.append(found.measurement)
            else:
                verdicts.append(Verdict(candidate, False, UNMEASURED + found))
        except OverlaidError as error:
            errors.append(error)
            verdicts.append(Verdict(candidate, False, f"{error.name}: {one_line(error)}"))
        progress(done / len(candidates))
    return measurements, verdicts, errors


async def measure_batches(
    res: Resources, package: VerifiedPackage, budget: Budget, chosen: Measurement, claim: Claim
) -> Measurement:
    """``chosen`` with what answering several requests in a run brings, where a model and its budget allow it.

    ``claim``: see ``measure_all``.
    """
    manifest = package.manifest
    if not batching.worth_measuring(manifest.inputs, manifest.outputs, budget, chosen):
        return chosen
    if chosen.overlay is not None and await claim(chosen.candidate.device, chosen.overlay):
        return chosen
    try:
        worker = await workers.start_checked(res, package, chosen.candidate)
        try:
            times = await worker.batch_times(res.settings.profile_s / 2, batching.longest_s(budget))
        finally:
            await res.pool.stop(worker)
    except OverlaidError as error:  # requests are answered one by one then, which is no failure
        text = "%s: runs that answer several requests: %s: %s"
        topic = {"model": manifest.name, "device": chosen.candidate.device}
        log.info(text, manifest.name, error.name, error, extra=topic)
        return chosen
    return batching.with_batches(chosen, times, budget)


def _running(placement: Placement | None) -> Measurement | None:
    verdicts = placement.verdicts if placement else ()
    return next((verdict.measurement for verdict in verdicts if verdict.chosen), None)


class _Measuring:
    """Measures candidates of one package one after another; see ``measure_all``."""

    def __init__(
        self,
        res: Resources,
        package: VerifiedPackage,
        budget: Budget,
        running: Measurement | None,
        quiet: Quiet,
        claim: Claim,
        again: bool,
    ) -> None:
        self._res, self._package, self._budget = res, package, budget
        self._running, self._quiet, self._claim, self._again = running, quiet, claim, again
        self._board = res.board_now
        self._clock = PhaseClock(res.pool.builds, package.manifest.name)
        self._limit_s = TIME_SHARE * res.settings.phase_timeout_s
        self._kinds = {device.id: device.kind for device in res.board.devices}
        self._kept: dict[Key, Profile] = {}
        try:
            self._kept = dict(res.journal.profiles.of(package.manifest.name))
        except StoreError as error:
            log.warning(
                "what was measured before is not known: %s", error, extra={"model": package.manifest.name}
            )
        self._priors: dict[Candidate, priors.Prior] = {}

    @property
    def late(self) -> bool:
        """The time for measuring is over."""
        return self._clock.seconds > self._limit_s

    def in_order(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """The likely ones first: there may not be time for all."""
        found = list(candidates)
        for candidate in found:
            prior = priors.prior_of(self._key(candidate), self._kept.items())
            if prior is not None:
                self._priors[candidate] = prior
        precisions = {variant.name: variant.precision for variant in self._package.manifest.variants}
        return priors.likely_first(found, self._priors, self._kinds, precisions, self._budget)

    def unmeasured(self, candidate: Candidate) -> str:
        """Why it has no measurement, and what is known of it all the same."""
        prior = self._priors.get(candidate)
        known = f"; it had {prior}" if prior else ""
        return f"{UNMEASURED}the {self._limit_s:g} s for measuring were over{known}"

    async def profile_of(self, candidate: Candidate) -> Profile | str:
        """As kept, completed or measured; why not, where its device is refused and nothing is kept."""
        key, gate = self._key(candidate), self._gate()
        known = None if self._again else self._kept.get(key)
        if known is not None and self._suffices(known):
            return self._as_kept(known)
        overlay = self._overlay_of(candidate)
        if overlay is not None and (refused := await self._claim(candidate.device, overlay)):
            return refused if known is None else self._as_kept(known)
        if known is None or self._lacks_energy(known):
            found = await _measure(self._res, self._package, candidate, self._budget.rate_hz, gate)
            found = replace(found, closed=self._here(found.closed))
        else:
            found = await self._open_anew(candidate, known, gate)
        found = replace(found, closed=replace(found.closed, measured=time.time()))
        text = "%s: %s was measured in %d runs only, which is not kept: %s"
        told = self._package.manifest.name, candidate, found.closed.runs
        topic = {"model": self._package.manifest.name, "device": candidate.device}
        if gate.shut:
            log.warning(text, *told, "models in service got late", extra=topic)
        elif not cache.worth_keeping(found.closed, bool(self._res.meters)):
            log.warning(text, *told, "the meters told nothing of them", extra=topic)
        else:
            self._keep(key, found)
        return found

    def _suffices(self, known: Profile) -> bool:
        """Measuring would tell nothing more."""
        return not self._lacks_energy(known) and not (self._opens_anew(known) and self._opens(known))

    def _as_kept(self, known: Profile) -> Profile:
        return replace(known, open=None) if self._opens_anew(known) else known

    def _lacks_energy(self, known: Profile) -> bool:
        return cache.lacks_energy(known.closed, bool(self._res.meters), time.time())

    def _opens_anew(self, known: Profile) -> bool:
        return cache.opens_anew(known.open, self._budget.rate_hz)

    def _keep(self, key: Key, found: Profile) -> None:
        try:
            self._res.journal.profiles.keep(self._package.manifest.name, key, found)
        except StoreError as error:  # it can be measured again
            topic = {"model": self._package.manifest.name, "device": key.candidate.device}
            log.warning("the profile of %s is not kept: %s", key.candidate, error, extra=topic)

    def _opens(self, known: Profile) -> bool:
        open_s = self._res.settings.profile_s * profile.OPEN_SHARE
        return profile.open_rate(self._budget.rate_hz, known.closed.mean_ms / 1e3, open_s) is not None

    async def _open_anew(self, candidate: Candidate, known: Profile, gate: profile.Gate) -> Profile:
        """What is known of runs holds whatever the rate; what waiting and idle gaps cost does not."""
        res, seconds = self._res, self._res.settings.profile_s
        worker = await workers.start_checked(res, self._package, candidate)
        try:
            await profile.warm_up(worker, seconds * profile.WARM_UP_SHARE, gate)
            mean_s = known.closed.mean_ms / 1e3
            opened = await profile.open_loop(
                worker, self._budget.rate_hz, mean_s, seconds * profile.OPEN_SHARE, gate
            )
        finally:
            await res.pool.stop(worker)
        return replace(known, open=opened)

    def _here(self, closed: Measurement) -> Measurement:
        """With what the node knows of it: its devices, the model's other worker."""
        return replace(
            profile.beside(closed, self._running),
            parts=tuple((self._device_of(kind, closed.candidate), ms) for kind, ms in closed.parts),
            overlay=self._overlay_of(closed.candidate),
        )

    def _overlay_of(self, candidate: Candidate) -> OverlayRef | None:
        """What must be on the FPGA for it."""
        its = self._package.manifest.variant(candidate.variant)
        return its.overlay if candidate.backend == PROGRAMS else None

    def _gate(self) -> profile.Gate:
        return profile.Gate(self._quiet, self._res.settings.profile_s)

    def _key(self, candidate: Candidate) -> Key:
        settings = self._res.settings
        return Key.of(self._package.digest, candidate, self._board, settings.threads)

    def _device_of(self, kind: str, candidate: Candidate) -> str:
        """Where a part of a composite run is done."""
        if self._kinds.get(candidate.device) == kind:
            return candidate.device
        return next((device for device, its in self._kinds.items() if its == kind), kind)


async def _measure(
    res: Resources, package: VerifiedPackage, candidate: Candidate, rate_hz: float, gate: profile.Gate
) -> Profile:
    """In a worker of its own."""
    seconds = res.settings.profile_s
    rest_w = await profile.idle_watts(res.meters, seconds * profile.IDLE_SHARE)
    worker, loading = await _loaded(res, package, candidate)
    if worker.building.total_s:  # which the next start, the one that counts from now on, finds in the cache
        await res.pool.stop(worker)
        worker, loading = await _loaded(res, package, candidate)
    try:
        found = await profile.measure(
            candidate,
            package.manifest.variant(candidate.variant).accuracy,
            worker,
            res.meters,
            seconds,
            rest_w,
            rate_hz=rate_hz,
            loading=loading,
            gate=gate,
        )
    finally:
        await res.pool.stop(worker)
    return found


async def _loaded(
    res: Resources, package: VerifiedPackage, candidate: Candidate
) -> tuple[Worker, profile.Bracket | None]:
    """A proved worker, and the energy around its start."""
    with profile.watching(res.meters, time.monotonic) as loading:
        worker = await workers.start_checked(res, package, candidate)
    return worker, loading.bracket()
