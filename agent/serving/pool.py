"""The pool: worker processes of this node, which model each serves, and their restart after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from agent.errors import OverlaidError, WorkerError, one_line
from agent.serving.builds import Builds
from agent.serving.events import Kind, PoolEvent, WorkerStatus
from agent.serving.homes import Homes
from agent.serving.http.listeners import listen_unix
from agent.serving.processes.custody import Orphan
from agent.serving.processes.nursery import Nursery
from agent.serving.processes.process import OnConnection, OnStats, Worker
from agent.serving.processes.restart import Backoff
from agent.serving.processes.vitals import PATIENCE, Patience
from agent.serving.recent import Recent, Report
from agent.serving.route import Route
from agent.serving.spec import WorkerSpec

log = logging.getLogger(__name__)

MakeWorker = Callable[[WorkerSpec, OnStats, OnConnection], Worker]


class Pool:
    """``runtime_dir/models/<name>.sock`` are the models' own sockets. Use from one event loop."""

    def __init__(
        self,
        runtime_dir: Path,
        on_event: Callable[[PoolEvent], None],
        make_worker: MakeWorker | None = None,
        patience: Patience = PATIENCE,
    ) -> None:
        self._dir = runtime_dir / "models"
        self._on_event = on_event
        self._nursery = Nursery()
        self._make_worker = make_worker or functools.partial(Worker, spawn=self._nursery.start)
        self._patience = patience
        self._routes: dict[str, Route] = {}
        self.homes = Homes(self._routes)
        self._workers: set[Worker] = set()
        self.builds = Builds()
        self._retired: set[Worker] = set()  # replaced, not ended yet
        self._expected: set[str] = set()
        self._closed = False
        # A worker that has just loaded is told of shared memory before it serves.
        self.introduce: Callable[[Worker], Awaitable[None]] | None = None

    async def start(self, spec: WorkerSpec) -> Worker:
        """A new worker with the model loaded, serving nobody yet.

        Raises what ``Worker.start`` raises; nothing is left running then.
        """
        if self._closed:
            raise WorkerError("the daemon is stopping: no worker is started any more")
        worker = self._make_worker(spec, self._stats, self.homes.returned)
        worker.on_unwell, worker.on_orphans = self._unwell, self._orphaned
        worker.on_building = self._building
        self._workers.add(worker)
        try:
            await worker.start()
            await self._introduce(worker)
        except BaseException:
            self._workers.discard(worker)
            raise
        return worker

    async def route(self, model: str, worker: Worker) -> Worker | None:
        """Serve ``model`` by ``worker`` from now on; the previous worker, still loaded, is returned.

        The previous one finishes its requests; its connections move to the new one. Raises WorkerError when the new
        worker does not take over: then nothing has changed.
        """
        old = await self._take_over(model, worker)
        if old is not worker:
            route = self._routes[model]
            route.recent, route.restarts, route.backoff = Recent(), 0, Backoff()
            route.failures.clear()
            route.backoff.started(time.monotonic())
        return old

    async def hold(self, spec: WorkerSpec, why: str) -> None:
        """Serve the model by nobody until ``route`` is called: its requests are answered 503 with ``why``.

        Those in flight finish, then its worker ends. OSError when there is no socket to be had.
        """
        route = self._routes.get(spec.model) or self._fresh_route(spec)
        async with route.changing:
            if route.listener.fileno() < 0:
                raise WorkerError(f"model {spec.model!r} was removed meanwhile")
            self._routes[spec.model] = route
            old = await route.hold(why)
        if old is not None:
            self._retired.add(old)
            await self.stop(old)

    async def unroute(self, model: str) -> None:
        """Serve ``model`` no more: requests in flight finish, the worker ends, the socket goes."""
        self._expected.discard(model)
        route = self._routes.get(model)
        if route is None:
            return
        async with route.changing:
            if self._routes.get(model) is not route:
                return
            del self._routes[model]
            await self._close_route(model, route)
            if route.worker is not None:
                await self.stop(route.worker)

    async def stop(self, worker: Worker) -> None:
        """End a worker that serves nobody (any more); its requests in flight finish first."""
        await worker.stop()
        self._workers.discard(worker)
        self._retired.discard(worker)

    async def restart(self, model: str) -> None:
        """Replace the worker by a fresh one of the same spec without refusing a request.

        Raises WorkerError (unknown model) and what ``start`` and ``Worker.check`` raise; the old worker stays then.
        """
        route = self._routes.get(model)
        if route is None:
            raise WorkerError(f"model {model!r} is not served; `overlaid models` lists those that are")
        if route.held:
            raise WorkerError(route.trouble)
        if route.worker is None:
            route.retry_now.set()
            return
        spec = route.spec
        worker = await self._start_checked(spec)
        try:
            if self._routes.get(model) is not route or route.spec is not spec:
                raise WorkerError(f"model {model!r} was replaced or removed meanwhile; nothing to restart")
            old = await self._take_over(model, worker)
        except OverlaidError:
            await self.stop(worker)
            raise
        route.restarts += 1
        self._emit("restarted", route.spec, "on request")
        if old is not None:
            await self.stop(old)

    async def close(self) -> None:
        """End every worker and remove every socket."""
        self._closed = True
        for model in list(self._routes):
            await self.unroute(model)
        await asyncio.gather(*(worker.stop() for worker in self._workers))
        self._workers.clear()
        await self._nursery.close()

    def status(self, model: str) -> WorkerStatus | None:
        """None for a model that is not routed."""
        route = self._routes.get(model)
        if route is None:
            return None
        worker, now = route.worker, time.monotonic()
        return WorkerStatus(
            ready=not route.trouble,
            pid=worker.pid if worker else None,
            version=route.spec.version,
            digest=route.spec.digest,
            candidate=route.spec.candidate,
            restarts=route.restarts,
            requests=route.recent.requests,
            errors=route.recent.errors,
            histogram=route.recent.histogram(now),
            total=route.recent.total,
            seconds=route.recent.seconds(now),
            failures=dict(route.failures),
            waiting=route.waiting,
            memory_mb=worker.memory_mb if worker else 0.0,
            why=route.trouble,
            held=bool(route.held),
        )

    def models(self) -> list[str]:
        """Names of the routed models."""
        return sorted({*self._routes, *self._expected})

    def serves(self, model: str) -> bool:
        """True when ``model`` is routed, be its worker alive or just being restarted."""
        return model in self._routes or model in self._expected

    def expect(self, models: Iterable[str]) -> None:
        """Models that are about to be routed: until then they are unavailable, not unknown (503, not 404)."""
        self._expected = set(models)

    def socket_of(self, model: str) -> Path | None:
        """The path of a routed model's own socket; None when it is not routed."""
        return self._path(model) if model in self._routes else None

    def worker(self, model: str) -> Worker | None:
        """The worker that serves ``model`` now; None while it is restarted or when it is not routed."""
        route = self._routes.get(model)
        return route.worker if route else None

    def trouble(self, model: str) -> str:
        """Why a model that is served (``serves``) cannot answer now; empty when it can."""
        route = self._routes.get(model)
        if route:
            return route.trouble
        building = self.builds.text(model)
        return f"model {model!r} is being loaded{building and f' ({building})'}; try again"

    async def _take_over(self, model: str, worker: Worker) -> Worker | None:
        route = self._routes.get(model) or self._fresh_route(worker.spec)
        async with route.changing:
            if route.listener.fileno() < 0:
                raise WorkerError(f"model {model!r} was removed meanwhile; deploy it again")
            try:
                await worker.serve(route.listener)
            except OverlaidError:
                if model not in self._routes:
                    await self._close_route(model, route)
                raise
            self._routes[model] = route
            self._retired.discard(worker)
            old = await route.serve_by(worker)
            if old is not None and old is not worker:
                self._retired.add(old)
                with contextlib.suppress(WorkerError):  # it may have died just now: nothing to drain
                    await old.drain()
        return old

    def _fresh_route(self, spec: WorkerSpec) -> Route:
        listener = listen_unix(self._path(spec.model))
        building = functools.partial(self.builds.text, spec.model)
        return Route(listener, spec, self._start_checked, self._emit, self._patience, building)

    async def _start_checked(self, spec: WorkerSpec, listener: socket.socket | None = None) -> Worker:
        """A worker whose golden vectors agree, serving on ``listener`` if there is one; none is left on an error."""
        worker = await self.start(spec)
        try:
            await worker.check()
            if listener is not None:
                await worker.serve(listener)
        except BaseException:
            await worker.end()
            self._workers.discard(worker)
            raise
        return worker

    async def _introduce(self, worker: Worker) -> None:
        if self.introduce is None:
            return
        try:
            await self.introduce(worker)
        except BaseException:
            await worker.end()
            raise

    def _path(self, model: str) -> Path:
        return self._dir / f"{model}.sock"

    async def _close_route(self, model: str, route: Route) -> None:
        await route.close()
        with contextlib.suppress(OSError):
            self._path(model).unlink()

    def _stats(self, worker: Worker, report: Report) -> None:
        route = self._routes.get(worker.spec.model)
        if route is not None and route.worker is worker:
            route.recent.add(time.monotonic(), report.latency, report.errors)
            route.failures.update(report.failures)
            route.waiting = report.waiting
        spec = worker.spec
        self._tell(
            PoolEvent(
                "stats",
                spec.model,
                spec.version,
                spec.candidate,
                histogram=report.latency,
                errors=report.errors,
                failures=report.failures,
                device=report.device,
            )
        )

    def _unwell(self, worker: Worker, error: OverlaidError) -> None:
        if worker not in self._retired:  # a worker that was moved off a device has nothing new to say of it
            spec, text = worker.spec, f"{error.name}: {one_line(error)}"
            self._tell(PoolEvent("unwell", spec.model, spec.version, spec.candidate, text, failure=error))

    def _building(self, worker: Worker) -> None:
        self.builds.changed(worker)
        spec, building = worker.spec, worker.building
        if building.what:
            self._emit("building", spec, f"{building.what}, for {spec.candidate}")
        else:
            self._emit("built", spec, f"after {building.last_s:.0f} s, for {spec.candidate}")
        route = self._routes.get(spec.model)
        if route is not None:
            route.building_began()

    def _orphaned(self, worker: Worker, orphans: list[Orphan]) -> None:
        self._workers.discard(worker)
        self.homes.orphaned(worker, orphans)

    def _emit(self, kind: Kind, spec: WorkerSpec, text: str = "") -> None:
        self._tell(PoolEvent(kind, spec.model, spec.version, spec.candidate, text))

    def _tell(self, event: PoolEvent) -> None:
        try:
            self._on_event(event)
        except Exception:  # a listener's fault must not cost a worker
            log.exception("listener of pool events failed")
