"""Clients of the soak: each asks, in a thread, until it is told to stop, and checks every answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.serving.client import Client
from agent.serving.client.errors import ConnectionLost, ModelNotFound, ModelUnavailable, ServiceUnreachable
from tests.fuzz.heads import damaged_stream
from tests.system.digits import DIGITS, infer_body

Ask = Callable[[NDArray[np.float32]], NDArray[np.float32]]
PAUSE_S = 0.01


class Load:
    """What the clients were told. ``steady``: a model that nobody touches, which therefore always answers.

    ``wrong`` answers, and refusals of ``steady``, are failures of the soak.
    """

    def __init__(self, port: int, run: Path, steady: str) -> None:
        self.port, self.run, self.steady = port, run, steady
        self.over = threading.Event()
        self.told: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._threads: list[threading.Thread] = []
        with np.load(DIGITS / "test.npz") as test:
            self._images, self._labels = test["images"].astype(np.float32), test["labels"]

    def start(self, *models: str) -> None:
        """Of every kind one for each model, and one that is no client at all."""
        for number, model in enumerate(models):
            for kind in (self.json, self.unix, self.shared, self.impatient):
                self._start(kind, model, number)
        self._start(self.garbage, self.steady, 0)

    def stop(self) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(60)
            if thread.is_alive():
                self.wrong.append(f"{thread.name} got no answer")

    def _start(self, kind: Callable[[str, random.Random], None], model: str, number: int) -> None:
        name = f"{kind.__name__} client of {model}"

        def run() -> None:
            try:
                kind(model, random.Random(number))
            except Exception as error:
                self.wrong.append(f"{name}: {type(error).__name__}: {error}")

        self._threads.append(threading.Thread(target=run, name=name, daemon=True))
        self._threads[-1].start()

    # kinds of clients

    def json(self, model: str, rng: random.Random) -> None:
        """JSON over TCP, through the front door, on one connection as long as it lasts."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

        def ask(images: NDArray[np.float32]) -> NDArray[np.float32]:
            connection.request(
                "POST", f"/v2/models/{model}/infer", infer_body(images), {"Accept-Encoding": "gzip"}
            )
            answer = connection.getresponse()
            told = json.loads(answer.read())
            if answer.status in (404, 503):
                raise ModelUnavailable(told["error"], 0.1)
            assert answer.status == 200, told
            return np.array(told["outputs"][0]["data"], np.float32).reshape(told["outputs"][0]["shape"])

        with contextlib.closing(connection):
            self._ask(model, rng, ask, connection.close)

    def unix(self, model: str, rng: random.Random) -> None:
        """Binary tensors on the model's own socket."""
        with Client(self.run / "models" / f"{model}.sock") as client:
            self._ask(model, rng, lambda images: client.infer(model, {"image": images})["logits"])

    def shared(self, model: str, rng: random.Random) -> None:
        """Tensors in shared memory, registered anew every now and then."""
        while not self.over.is_set():
            with Client(self.run / "http.sock") as client:
                place, out = client.shared((1, 1, 8, 8)), client.shared((1, 10))

                def ask(
                    images: NDArray[np.float32], client: Client = client, place: Any = place, out: Any = out
                ) -> NDArray[np.float32]:
                    place[:] = images[:1]
                    client.infer(model, {"image": place}, {"logits": out})
                    return np.array(out)

                self._ask(model, rng, ask, times=200)

    def impatient(self, model: str, rng: random.Random) -> None:
        """A new connection each time, left in the middle of what it was about."""
        body = infer_body(self._images[0])
        request = (
            b"POST /v2/models/%s/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (model.encode(), len(body))
            + body
        )
        while not self.over.wait(PAUSE_S):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 10) as sock:
                sock.sendall(request[: rng.randint(0, len(request))])
                if rng.random() < 0.5:
                    sock.shutdown(socket.SHUT_WR)
                    sock.recv(rng.randint(1, 4096))
            self.told["left"] += 1

    def garbage(self, _: str, rng: random.Random) -> None:
        """Damaged streams of requests: refused, or answered where they make sense."""
        while not self.over.wait(PAUSE_S):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 10) as sock:
                sock.sendall(damaged_stream(rng))
                sock.shutdown(socket.SHUT_WR)
                answer = b""
                while piece := sock.recv(65536):
                    answer += piece
                if (answer and not answer.startswith(b"HTTP/1.1 ")) or b"HTTP/1.1 500" in answer:
                    self.wrong.append(f"answer to garbage: {answer[:300]!r}")
            self.told["garbage"] += 1

    def _ask(
        self,
        model: str,
        rng: random.Random,
        ask: Ask,
        lost: Callable[[], None] = lambda: None,
        times: int = 1 << 60,
    ) -> None:
        for _ in range(times):
            if self.over.wait(PAUSE_S):
                return
            some = rng.sample(range(len(self._images)), rng.choice((1, 1, 3)))
            try:
                logits = ask(self._images[some])
            except (ModelUnavailable, ModelNotFound, ServiceUnreachable, ConnectionLost) as error:
                self._refused(model, error)
            except (OSError, http.client.HTTPException) as error:
                self._refused(model, error)
                lost()
            else:
                self.told["answered"] += 1
                if (logits.argmax(axis=1) != self._labels[some[: len(logits)]]).any():
                    self.wrong.append(f"{model} took {self._labels[some]} for {logits.argmax(axis=1)}")

    def _refused(self, model: str, error: Exception) -> None:
        self.told["refused"] += 1
        if model == self.steady:
            self.wrong.append(f"{model} refused: {type(error).__name__}: {error}")
        time.sleep(0.05)
