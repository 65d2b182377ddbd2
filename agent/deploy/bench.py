"""A model's candidates measured again, on demand."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

from agent.deploy import claims, phases
from agent.deploy.adaptation import Adaptation
from agent.deploy.explaining import devices_shown
from agent.deploy.measuring import Progress, measure_all
from agent.deploy.resources import Resources
from agent.deploy.service import Service
from agent.errors import UsageError
from agent.types import Measurement, Placement, Verdict, to_jsonable


class Bench:
    """``services`` is shared with the manager. ``measuring`` is held while candidates are measured."""

    def __init__(
        self,
        res: Resources,
        services: MutableMapping[str, Service],
        measuring: asyncio.Lock,
        adaptation: Adaptation,
    ) -> None:
        self._res, self._services, self._measuring = res, services, measuring
        self._adaptation = adaptation

    async def measure(self, model: str, progress: Progress) -> dict[str, Any]:
        """Measure every candidate of a model in service again, and go by that from now on: what was measured, as JSON
        values. Where an FPGA holds another overlay for a model in service, what was known stays. So does the placement,
        until the node's next look. UsageError when the model is not in service."""
        placement = self._serving(model)
        async with self._measuring:
            package = phases.installed_package(self._res, placement.digest)
            found, failed, _ = await measure_all(
                self._res,
                package,
                placement.budget,
                placement,
                progress,
                again=True,
                quiet=self._adaptation.quiet(),
                claim=claims.of_nobody(lambda: self._adaptation.as_seen()[0]),
            )
        now = self._serving(model)
        if now.digest == placement.digest:
            now = remeasured(now, found, failed)
            self._adaptation.keep(model, now)
        else:
            now = remeasured(placement, found, failed)
        demands, node = self._adaptation.as_seen()
        return {
            **to_jsonable(now),
            "candidate": None if now.shed else to_jsonable(now.candidate),
            "devices": devices_shown(demands, node, {}),
            "threads": node.threads,
            "power_cap_w": node.power_cap_w,
            "rest_w": node.rest_w,
        }

    def _serving(self, model: str) -> Placement:
        service = self._services.get(model)
        if service is None or not service.serves:
            raise UsageError(f"{model} is not deployed here; see: overlaid models")
        return service.placement


def remeasured(placement: Placement, found: list[Measurement], failed: list[Verdict]) -> Placement:
    """The placement with fresh figures; of a candidate that could not be measured this time the last ones stay."""
    fresh = {m.candidate: m for m in found}
    why = {verdict.candidate: verdict for verdict in failed}
    before = {verdict.candidate: verdict for verdict in placement.verdicts}
    verdicts = []
    for candidate in sorted({*fresh, *why, *before}, key=str):
        old = before.get(candidate) or Verdict(candidate, False, "measured just now")
        if candidate in fresh:
            keep = _with_energy(fresh[candidate], old.measurement)
            if old.measurement is not None and old.measurement.max_batch > 1:
                keep = replace(
                    keep, max_batch=old.measurement.max_batch, batch_gain=old.measurement.batch_gain
                )
            verdicts.append(replace(old, measurement=keep))
        elif candidate in why and old.measurement is None:
            verdicts.append(why[candidate])
        else:
            verdicts.append(old)
    return replace(
        placement, verdicts=tuple(sorted(verdicts, key=lambda v: (not v.chosen, str(v.candidate))))
    )


def _with_energy(fresh: Measurement, old: Measurement | None) -> Measurement:
    """A busy node may hide what a run draws; what was measured before holds then."""
    if fresh.joules is not None or old is None or old.joules is None:
        return fresh
    return replace(
        fresh,
        joules=old.joules,
        joules_sigma=old.joules_sigma,
        energy=old.energy,
        holding_w=old.holding_w,
        rest_w=old.rest_w,
        load_j=old.load_j,
    )
