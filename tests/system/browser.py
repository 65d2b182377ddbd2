"""A headless Chromium, driven over a pair of pipes by the DevTools protocol (one JSON object, then a zero byte)."""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.system.stage import stop_process, wait_until

ANSWER_S = 30.0
# Chromium reads commands from descriptor 3 and writes to 4; ours may have any number, those included.
LAUNCH = (
    "import os, sys; r, w = int(sys.argv[1]), int(sys.argv[2]); "
    "os.dup2(r, 3); os.dup2(w, 4); os.execvp(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """One page of a Chromium of its own. ``requests``: the addresses that it asked for; ``problems``: what its console
    says of errors."""

    def __init__(self, folder: Path, width: int = 1180, height: int = 720, dark: bool = False) -> None:
        read, self._commands = os.pipe()
        self._events, write = os.pipe()
        # From 10 on: LAUNCH must not overwrite one with the other.
        read, write = (_moved(fd) for fd in (read, write))
        command = [sys.executable, "-c", LAUNCH, str(read), str(write), "chromium"]
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ]
        options += ["--remote-debugging-pipe", "--disable-background-networking", "--no-first-run"]
        options += [f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"]
        with (folder.parent / "chromium.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *options], pass_fds=(read, write), stdout=log, stderr=log
            )
        os.close(read)
        os.close(write)
        self._unread = b""
        self._number = 0
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._session: str | None = None
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Network", "Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Go to an address."""
        self._call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """What is to be read of the first element that fits; empty when it is not shown."""
        element = f"document.querySelector({json.dumps(selector)})"
        return str(self.evaluate(f"{element}?.checkVisibility() ? {element}.innerText : ''"))

    def until(self, what: str, shown: Callable[[], Any], timeout_s: float = 30.0) -> Any:
        """Poll the page."""
        return wait_until(what, shown, timeout_s)

    def press(self, key: str) -> None:
        """A key, down and up."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"Tab": 9, "Enter": 13}[key]
        for kind, more in (("keyDown", text), ("keyUp", {})):
            self._call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more
            )

    def screenshot(self, file: Path) -> None:
        """The whole page as PNG."""
        import base64

        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser."""
        os.close(self._commands)
        os.close(self._events)
        stop_process(self._process)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._remember(answer)

    def _remember(self, event: dict[str, Any]) -> None:
        method, what = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(what["exceptionDetails"]))
        elif method == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.problems.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_S
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._events], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._events, 1 << 16) if ready else b""
            assert data, "chromium does not answer; see chromium.log"
            self._unread += data
        one, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(one)
        return message


def _moved(fd: int) -> int:
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return moved
