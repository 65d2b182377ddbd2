"""A session whose runs the daemon sees go on, so that it can end a worker whose run never does."""

from __future__ import annotations

from agent.hal import Run, Session
from agent.hal.device import Tensors
from agent.serving.processes.vitals import Vitals


class Watched:
    """See ``Session``. ``instance``: which of the worker's sessions this is, from 0."""

    def __init__(self, session: Session, vitals: Vitals, instance: int = 0) -> None:
        self.inputs, self.outputs = session.inputs, session.outputs
        self.close = session.close
        self._run = session.run
        self._vitals, self._instance = vitals, instance

    def run(self, tensors: Tensors) -> Run:
        """See ``Session.run``."""
        self._vitals.run_started(self._instance)
        try:
            return self._run(tensors)
        finally:
            self._vitals.run_ended(self._instance)
