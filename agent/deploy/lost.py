"""Devices that do not answer any more: noticed by what fails on them, tried again until they are back."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from agent.deploy import phases, workers
from agent.deploy.health import PROBE_S, DeviceHealth
from agent.deploy.resources import Resources
from agent.deploy.service import Service
from agent.errors import OverlaidError, one_line
from agent.types import Candidate

log = logging.getLogger("deploy")


class LostDevices:
    """``services`` is shared with the manager: models by name. ``measuring`` is held while a device is probed.
    ``on_change`` hears of every device that is lost or back. ``stale``: models whose worker has seen its device get
    lost and was not replaced since."""

    def __init__(
        self,
        res: Resources,
        services: Mapping[str, Service],
        measuring: asyncio.Lock,
        on_change: Callable[[], None],
    ) -> None:
        self._res, self._services, self._measuring = res, services, measuring
        self._on_change = on_change
        self._health = DeviceHealth()
        self.stale: set[str] = set()
        self._probing: asyncio.Task[None] | None = None
        self._probes = itertools.count()
        self._resumed = False

    @property
    def why(self) -> Mapping[str, str]:
        """Lost devices: why."""
        return self._health.lost

    def resume(self) -> None:
        """The models are restored: probe from now on."""
        self._resumed = True
        self._probe_soon()

    def unwell(self, model: str, device: str, error: OverlaidError) -> None:
        """A worker of the model failed for its device's sake. One that waits for its replacement tells nothing new."""
        if device in self.why or model in self.stale:
            return
        topic = {"model": model, "device": device}
        log.warning("%s: %s on %s: %s", model, error.name, device, error, extra=topic)
        if self._health.failed(device, error, time.monotonic()):
            self._on_lost(device)
        else:
            self._res.telemetry.event("device-unwell", f"{device}: {error.name}: {one_line(error)}", model)

    def lose(self, device: str, error: OverlaidError) -> None:
        """The device could not even be opened."""
        if self._health.lose(device, error):
            self._on_lost(device)

    async def stop(self) -> None:
        """End the probing."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    def _on_lost(self, device: str) -> None:
        text = f"device {device} is lost: {self.why[device]}"
        log.error("%s", text, extra={"device": device})
        self._res.telemetry.event("device-lost", text)
        self.stale.update(
            name for name, s in self._services.items() if s.runs and s.placement.candidate.device == device
        )
        self._probe_soon()
        self._on_change()

    def _probe_soon(self) -> None:
        if self.why and self._resumed and self._probing is None:
            self._probing = asyncio.get_running_loop().create_task(self._probe())

    async def _probe(self) -> None:
        while self.why:
            await asyncio.sleep(PROBE_S)
            for device in list(self.why):
                there = self._usable_there(device)
                if there and not await self._answers(device, there):
                    continue
                self._health.found(device)
                text = (
                    f"device {device} is back" if there else f"no model here can use device {device} any more"
                )
                log.info("%s", text, extra={"device": device})
                self._res.telemetry.event("device-back", text)
                self._on_change()
        self._probing = None

    def _usable_there(self, device: str) -> list[tuple[str, Candidate]]:
        """Digests of models in service with their candidates on the device that once were measured."""
        return [
            (service.placement.digest, verdict.candidate)
            for _, service in sorted(self._services.items())
            for verdict in service.placement.verdicts
            if verdict.candidate.device == device and verdict.measurement is not None
        ]

    async def _answers(self, device: str, there: Sequence[tuple[str, Candidate]]) -> bool:
        """True when a worker starts there and its golden vectors agree; another candidate each time."""
        digest, candidate = there[next(self._probes) % len(there)]
        try:
            async with self._measuring:
                package = phases.installed_package(self._res, digest)
                await self._res.pool.stop(await workers.start_checked(self._res, package, candidate))
        except OverlaidError as error:
            topic = {"device": device}
            log.debug("device %s is still lost: %s: %s", device, error.name, one_line(error), extra=topic)
            return False
        except Exception:  # a bug must not end the probing
            log.exception("probing device %s", device, extra={"device": device})
            return False
        return True
