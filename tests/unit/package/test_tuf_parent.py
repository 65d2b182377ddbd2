"""The daemon's side: one helper process a question, that leaves nothing behind; and the same in a thread."""

from __future__ import annotations

import ast
import asyncio
import base64
import hashlib
import json
import logging
import os
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.errors import (
    LinkError,
    MetadataDamaged,
    MetadataExpired,
    MetadataTooLarge,
    RepositoryError,
    RootMissing,
    StoreError,
    UnknownTarget,
)
from agent.package.tuf import parent
from agent.package.tuf.parent import HelperVerifier, TufVerifier
from agent.package.tuf.thread import ThreadVerifier
from agent.package.verify import Trusted
from tests.unit.package.repository import DAY, NOW, MadeRepository

REPO = MadeRepository()
REPO.add("digits/1.0.0.json", b"the manifest")
DIGEST = hashlib.sha256(b"the manifest").hexdigest()
TRUSTED = Trusted(DIGEST, "packages")
KINDS = pytest.mark.parametrize("kind", [HelperVerifier, ThreadVerifier])


class Source:
    """Gives a repository's files; ``hold``: names that come only when it is set."""

    def __init__(self, repo: MadeRepository = REPO, held: str = "", keep_newer: bool = False) -> None:
        self.repo, self.held, self.keep_newer = repo, held, keep_newer
        self.hold, self.asked = asyncio.Event(), asyncio.Event()
        self.canceled = 0
        self.error: Exception | None = None

    async def metadata(self, name: str, limit: int) -> bytes | None:
        if self.error is not None:
            raise self.error
        if name == self.held:
            self.asked.set()
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.canceled += 1
                raise
        return self.repo.get(name, limit)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """The helpers that were started."""
    real, started = parent._start, []

    async def start() -> Process:
        started.append(await real())
        return started[-1]

    monkeypatch.setattr(parent, "_start", start)
    return started


def verifier(kind: type[TufVerifier], folder: Path, now: float = NOW) -> TufVerifier:
    (folder / "root.json").write_bytes(REPO.given)
    return kind(folder / "root.json", folder / "repo", lambda: now)


def run(work: Callable[[], Awaitable[None]]) -> None:
    """As ``asyncio.run``; and no task, no process and no descriptor more than before."""

    async def bounded() -> None:
        await asyncio.wait_for(work(), 60)
        assert len(asyncio.all_tasks()) == 1

    before = _descriptors()
    asyncio.run(bounded())
    assert _descriptors() <= before


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def gone(process: Process) -> bool:
    return process.returncode is not None and not Path(f"/proc/{process.pid}").exists()


@KINDS
def test_what_the_repository_names_is_trusted(tmp_path: Path, kind: type[TufVerifier]) -> None:
    async def work() -> None:
        check = verifier(kind, tmp_path)
        for _ in range(2):
            assert await check.check("digits", "1.0.0", DIGEST, Source()) == TRUSTED
        with pytest.raises(UnknownTarget, match="digest"):
            await check.check("digits", "1.0.0", "0" * 64, Source())
        with pytest.raises(UnknownTarget, match=r"digits/2\.0\.0\.json"):
            await check.check("digits", "2.0.0", DIGEST, Source())

    run(work)


@KINDS
def test_errors_keep_their_names(tmp_path: Path, kind: type[TufVerifier]) -> None:
    async def work() -> None:
        late = verifier(kind, tmp_path, NOW + 30 * DAY)
        with pytest.raises(MetadataExpired, match="2026-10-21"):
            await late.check("digits", "1.0.0", DIGEST, Source())
        endless = REPO.copy()
        endless.files["timestamp.json"] = bytes(1 << 20)
        with pytest.raises(MetadataTooLarge, match=r"timestamp\.json"):
            await verifier(kind, tmp_path).check("digits", "1.0.0", DIGEST, Source(endless))
        source = Source()
        source.error = LinkError("the broker is away")
        with pytest.raises(LinkError):
            await verifier(kind, tmp_path).check("digits", "1.0.0", DIGEST, source)
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreError):
            await kind(tmp_path / "root.json", tmp_path / "file" / "repo", lambda: NOW).check(
                "digits", "1.0.0", DIGEST, Source()
            )

    run(work)


def test_a_root_that_the_node_does_not_have(tmp_path: Path) -> None:
    async def refused(root: Path | None) -> str:
        with pytest.raises(RootMissing) as caught:
            await HelperVerifier(root, tmp_path / "repo", lambda: NOW).check("d", "1", DIGEST, Source())
        return str(caught.value)

    async def work() -> None:
        assert "[trust] root" in await refused(None)
        assert "No such file" in await refused(tmp_path / "root.json")
        os.mkfifo(tmp_path / "pipe")
        assert "not a regular file" in await refused(tmp_path / "pipe")
        (tmp_path / "large").write_bytes(bytes(parent.MAX_ROOT_BYTES + 1))
        with pytest.raises(MetadataDamaged, match="65536"):
            await HelperVerifier(tmp_path / "large", tmp_path / "repo", lambda: NOW).check(
                "d", "1", DIGEST, Source()
            )

    run(work)


@pytest.mark.parametrize("held", ["2.root.json", "timestamp.json", "1.targets.json"])
@KINDS
def test_a_cancellation_ends_it_at_once_and_the_next_succeeds(
    tmp_path: Path, kind: type[TufVerifier], held: str, processes: list[Process]
) -> None:
    async def work() -> None:
        check, source = verifier(kind, tmp_path), Source(held=held)
        task = asyncio.ensure_future(check.check("digits", "1.0.0", DIGEST, source))
        await source.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert source.canceled == 1
        assert all(map(gone, processes)) and len(processes) == (kind is HelperVerifier)
        assert await check.check("digits", "1.0.0", DIGEST, Source()) == TRUSTED

    run(work)


@KINDS
def test_cancelled_at_any_moment(tmp_path: Path, kind: type[TufVerifier], processes: list[Process]) -> None:
    async def work() -> None:
        check = verifier(kind, tmp_path)
        for wait_ms in (0, 0, 1, 3, 10, 60, 120):
            task = asyncio.ensure_future(check.check("digits", "1.0.0", DIGEST, Source()))
            await asyncio.sleep(wait_ms / 1000)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert all(map(gone, processes))
        assert await check.check("digits", "1.0.0", DIGEST, Source()) == TRUSTED

    run(work)


def test_helpers_that_are_killed_leave_nothing_that_breaks_the_next(
    tmp_path: Path, processes: list[Process]
) -> None:
    async def work() -> None:
        check = verifier(HelperVerifier, tmp_path)
        for held in ("2.root.json", "timestamp.json", "2.snapshot.json", "2.packages.json"):
            source = Source(held=held)
            task = asyncio.ensure_future(check.check("digits", "1.0.0", DIGEST, source))
            await source.asked.wait()
            processes[-1].kill()
            source.hold.set()
            with pytest.raises(RepositoryError, match=r"SIGKILL.*tried again") as caught:
                await task
            assert type(caught.value) is RepositoryError and gone(processes[-1])
        assert await check.check("digits", "1.0.0", DIGEST, Source()) == TRUSTED

    run(work)


@KINDS
def test_a_silent_server_does_not_hold_up_who_has_a_folder(
    tmp_path: Path, kind: type[TufVerifier], monkeypatch: pytest.MonkeyPatch, processes: list[Process]
) -> None:
    monkeypatch.setattr(parent, "PATIENCE_S", 0.05)

    async def work() -> None:
        check, silent = verifier(kind, tmp_path), Source(held="timestamp.json")
        waiting = asyncio.ensure_future(check.check("digits", "1.0.0", DIGEST, silent))
        await silent.asked.wait()
        folder = Source(keep_newer=True)
        assert await check.check("digits", "1.0.0", DIGEST, folder) == TRUSTED
        assert not waiting.done() and all(map(gone, processes))
        silent.hold.set()
        assert await waiting == TRUSTED
        again = Source(held="timestamp.json")
        waiting = asyncio.ensure_future(check.check("digits", "1.0.0", DIGEST, again))
        await again.asked.wait()
        await asyncio.sleep(0.2)  # its helper has ended
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert again.canceled == 1

    run(work)


BROKEN = {
    "a crash": ("raise MemoryError('no memory left')", "MemoryError: no memory left"),
    "noise": ("print('noise', flush=True); input()", "nobody understands"),
    "a long line": ("print('x' * 1_000_000, flush=True); input()", "nobody understands"),
    "a list": ("print('[]', flush=True); input()", "nobody understands"),
    "deep": ("print('[' * 60_000, flush=True); input()", "nobody understands"),
    "no digest": (
        """print('{"found": {"sha256": "x", "role": "r"}}', flush=True); input()""",
        "nobody understands",
    ),
    "another name": (
        """print('{"get": "../../etc/passwd", "limit": 1}', flush=True); input()""",
        "asked for what",
    ),
    "endless asking": (
        """while True: print('{"get": "timestamp.json", "limit": 1}', flush=True); input(); """,
        "more than 400",
    ),
    "silence": ("import time; time.sleep(100)", "did nothing for 0.5 s"),
    "words": ("import sys; sys.stderr.write('é' * 3_000_000 + 'last'); sys.exit(3)", "ended with 3: é"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_helper_that_goes_wrong_is_an_error_that_says_so(
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    processes: list[Process],
    caplog: pytest.LogCaptureFixture,
) -> None:
    code, says = BROKEN[name]
    (tmp_path / "broken_helper.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(parent, "HELPER", "broken_helper")
    if name == "silence":
        monkeypatch.setattr(parent, "HELPER_S", 0.5)

    async def work() -> None:
        with pytest.raises(RepositoryError, match="tried again") as caught:
            await verifier(HelperVerifier, tmp_path).check("digits", "1.0.0", DIGEST, Source())
        assert says in str(caught.value) and len(str(caught.value)) <= 500
        assert all(map(gone, processes)) and len(processes) == 1

    with caplog.at_level(logging.WARNING, "package"):
        run(work)
    assert sum(len(record.getMessage()) for record in caplog.records) < 10_000
    if name in ("a crash", "words"):
        assert caplog.records


@pytest.mark.parametrize("given", ["nothing", "half a line", "a request"])
def test_a_helper_ends_when_its_parent_does(tmp_path: Path, given: str) -> None:
    """Its input ends, at whatever place."""
    root = base64.b64encode(REPO.given).decode()
    fields = {"root": root, "folder": str(tmp_path / "repo"), "now": NOW, "path": "p", "keep_newer": False}
    request = json.dumps(fields).encode() + b"\n"
    done = subprocess.run(
        [sys.executable, "-m", parent.HELPER],
        input={"nothing": b"", "half a line": request[:-9], "a request": request}[given],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    assert (b"2.root.json" in done.stdout) == (given == "a request")


def test_the_daemons_side_imports_no_tuf() -> None:
    code = "import sys, agent.app.daemon; print({name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tuf", "securesystemslib", "urllib3"} & ast.literal_eval(done.stdout)
