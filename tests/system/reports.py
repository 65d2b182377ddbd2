"""What a node reports, as everybody who may read the broker sees it."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from types import TracebackType
from typing import Any

from tests.system.brokers import Broker
from tests.system.links import Recorded
from tests.system.stage import SITE, wait_until

Model = dict[str, Any]


class Reports:
    """Follows the retained ``reported`` of one node from a thread, until the block ends; first what is retained."""

    def __init__(self, broker: Broker, node: str) -> None:
        self._broker, self._topic = broker, f"overlaid/v1/{SITE}/{node}/reported"
        self._link: Recorded | None = None
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"reports of {node}", daemon=True)

    def __enter__(self) -> Reports:
        self._thread.start()
        wait_until(f"a message on {self._topic}", lambda: self._link and self._link.payloads, 20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)
        self._loop.close()

    def model(self, name: str) -> Model | None:
        """The newest report's part on a model."""
        assert self._link is not None
        newest = json.loads(self._link.payloads[-1])
        return next((model for model in newest["models"] if model["name"] == name), None)

    def wait(self, name: str, device: str | None, *words: str, timeout_s: float = 40.0) -> Model:
        """Until the model is reported on ``device`` (None: wherever it is), by a reason with these words (patterns)."""

        def there() -> Model | None:
            model = self.model(name)
            good = (
                model
                and device in (None, model["device"])
                and all(re.search(word, model["why"]) for word in words)
            )
            return model if good else None

        try:
            return wait_until(f"{name} on {device} for {words}", there, timeout_s)  # type: ignore[no-any-return]
        except Exception as error:
            raise AssertionError(f"{error}; the newest report says {self.model(name)}") from error

    def _run(self) -> None:
        self._loop.run_until_complete(self._follow())

    async def _follow(self) -> None:
        async with Recorded(self._broker, f"reports-{id(self)}") as link:
            link.subscribe(self._topic, 1)
            self._link = link
            await self._end.wait()
