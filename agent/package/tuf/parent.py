"""Whether a package may be installed, asked of a helper process. Imports no TUF library: the daemon stays small."""

from __future__ import annotations

import abc
import asyncio
import base64
import contextlib
import json
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

from agent.children import environment_of_children
from agent.errors import RepositoryError, RootMissing, StoreError, from_name, signal_name
from agent.package.directory import read_bounded
from agent.package.tuf import problems
from agent.package.verify import Trusted, target_path
from agent.types import check_digest, check_metadata_name
from agent.waiting import to_the_end

log = logging.getLogger("package")
HELPER = "agent.package.tuf.helper"
HELPER_S = 120.0  # for what it computes between two files, on a board that is busy
PATIENCE_S = 10.0  # with a source before others may ask theirs
MAX_FILES = 400  # of one question: 256 new roots, 32 delegations
MAX_ROOT_BYTES = 64 << 10
MAX_FILE_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 10
MAX_TEXT = 2000  # characters of an error
MAX_LAST_WORDS = 4000  # bytes of its standard error that are logged


class MetadataSource(Protocol):
    """Where metadata of the repository comes from: the wire or a local folder."""

    @property
    def keep_newer(self) -> bool:
        """True where it may be older than what this node has seen, without that being an attack: a package folder."""
        ...

    async def metadata(self, name: str, limit: int) -> bytes | None:
        """The bytes of ``timestamp.json``, ``3.snapshot.json`` and the like (``types.check_metadata_name``); None when
        the repository has no such file. Of one that is larger than ``limit`` bytes any more than ``limit`` may come.
        Waits through lost connections: the caller has the deadline."""
        ...


class Verifier(Protocol):
    """Says what may be installed."""

    async def check(self, name: str, version: str, digest: str, source: MetadataSource) -> Trusted:
        """``digest``, when the repository's metadata names it as this version of the model.

        Raises RepositoryError (its subclasses say what is wrong) and StoreError, and what ``source`` raises.
        """
        ...


class TufVerifier(abc.ABC):
    """One question at a time: the folder with what was seen has one writer."""

    def __init__(self, root: Path | None, folder: Path, now: Callable[[], float]) -> None:
        """``root``: the file with the root that this node was given; ``folder``: for what was seen; ``now``: Unix
        seconds, a clock that never goes back before what is known to have passed."""
        self._root, self._folder, self._now = root, folder, now
        self._turn = asyncio.Lock()

    async def check(self, name: str, version: str, digest: str, source: MetadataSource) -> Trusted:
        """See ``Verifier``."""
        path = target_path(name, version)
        root = await asyncio.to_thread(self._read_root)
        answers = Answers(source)
        try:
            while True:
                request = {
                    "root": root,
                    "folder": self._folder,
                    "now": self._now(),
                    "path": path,
                    "keep_newer": source.keep_newer,
                }
                try:
                    async with self._turn:
                        sha256, role = await self._find(request, answers)
                    break
                except (
                    Late
                ):  # a silent server must not hold up who has a folder; the next round has its answer
                    await answers.wait()
        finally:
            await answers.close()
        if sha256 != digest:
            raise problems.other(path, role, sha256, digest)
        return Trusted(digest, role)

    @abc.abstractmethod
    async def _find(self, request: Mapping[str, Any], answers: Answers) -> tuple[str, str]:
        """``client.find``: the target's SHA-256 and the role that signed for it."""

    def _read_root(self) -> bytes:
        if self._root is None:
            raise RootMissing(
                "this node was not told who may sign packages: copy repo/root.json of the operator's folder to it, "
                "name that in [trust] root of its config, restart the agent and deploy again"
            )
        try:
            data = read_bounded(self._root, MAX_ROOT_BYTES)
        except OSError as error:
            why = error.strerror or str(error)
            raise RootMissing(
                f"[trust] root {self._root}: {why}; copy repo/root.json of the operator's folder there and deploy again"
            ) from error
        if data is None:
            raise problems.damaged("", f"more than {MAX_ROOT_BYTES} bytes")
        return data


class Late(Exception):
    """A file is not here yet."""


class Answers:
    """The files that a source gives for one question."""

    def __init__(self, source: MetadataSource) -> None:
        self._source = source
        self._were_late: dict[str, bytes | None] = {}
        self._asked: tuple[str, asyncio.Task[bytes | None]] | None = None

    async def get(self, name: str, limit: int) -> bytes | None:
        """Raises Late when it takes long; what the source raises."""
        if name in self._were_late:
            return self._were_late[name]
        task = asyncio.ensure_future(self._source.metadata(name, limit))
        self._asked = name, task
        await asyncio.wait({task}, timeout=PATIENCE_S)
        if not task.done():
            raise Late
        return task.result()

    async def wait(self) -> None:
        """Until what was late is here."""
        assert self._asked is not None
        name, task = self._asked
        self._were_late[name] = await task

    def cancel(self) -> None:
        """Stop waiting."""
        if self._asked is not None:
            self._asked[1].cancel()

    async def close(self) -> None:
        """Nothing is waited for any more."""
        self.cancel()
        if self._asked is not None:
            await asyncio.gather(self._asked[1], return_exceptions=True)


class HelperVerifier(TufVerifier):
    """Each question in a process of its own, which ends with it."""

    async def _find(self, request: Mapping[str, Any], answers: Answers) -> tuple[str, str]:
        process = await _start()
        words = asyncio.ensure_future(_last_words(process))
        try:
            return await _talk(process, request, answers)
        except _Died as died:
            _kill(process)
            raise RepositoryError(
                f"the process that verifies packages {died}: {await words or 'it said nothing'}; it is tried again in "
                "some minutes"
            ) from None
        finally:
            canceled = await to_the_end(asyncio.ensure_future(_end(process, words)))
            if canceled is not None:
                raise canceled


class _Died(Exception):
    """How the helper ended, for texts."""


async def _start() -> Process:
    """From /, where ``python -m`` looks first, and without the broker's password."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            sys.executable, "-m", HELPER,
            stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd="/", env=environment_of_children(), limit=MAX_LINE_BYTES,
        )
    )  # fmt: skip
    canceled = await to_the_end(starting)
    try:
        process = starting.result()
    except OSError as error:
        raise canceled or RepositoryError(
            f"no process can be started to verify packages: {error.strerror}; it is tried again in some minutes"
        ) from error
    if canceled is not None:
        await to_the_end(asyncio.ensure_future(_end(process, asyncio.ensure_future(_last_words(process)))))
        raise canceled
    return process


async def _talk(process: Process, request: Mapping[str, Any], answers: Answers) -> tuple[str, str]:
    assert process.stdin is not None
    root, folder = base64.b64encode(request["root"]).decode(), str(request["folder"])
    _write(process, {**request, "root": root, "folder": folder})
    for _ in range(MAX_FILES):
        message = await _message(process)
        if "get" not in message:
            return _result(message)
        try:
            name, limit = check_metadata_name(message["get"]), min(int(message["limit"]), MAX_FILE_BYTES)
        except (ValueError, TypeError, KeyError) as error:
            raise _Died("asked for what it may not") from error
        data = await answers.get(name, limit)
        if data is not None:
            data = data[: limit + 1]  # more is of no use
        _write(process, {"size": None if data is None else len(data)}, data or b"")
    raise _Died(f"asked for more than {MAX_FILES} files")


def _write(process: Process, message: Mapping[str, Any], data: bytes = b"") -> None:
    """Without waiting: never more than one answer is on its way. Should it be gone, reading tells."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(message).encode() + b"\n" + data)


async def _message(process: Process) -> dict[str, Any]:
    """The helper's next line. Its parser reads what strangers wrote, so that it is believed little, too."""
    assert process.stdout is not None
    reading = asyncio.ensure_future(process.stdout.readline())
    try:
        await asyncio.wait({reading}, timeout=HELPER_S)
        if not reading.done():
            raise _Died(f"did nothing for {HELPER_S:g} s")
        line = reading.result()
        if not line:
            await _died(process)
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise _Died("said what nobody understands") from error
    finally:
        reading.cancel()
    return message


async def _died(process: Process) -> NoReturn:
    waiting = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({waiting}, timeout=1.0)
    finally:
        waiting.cancel()
    code = process.returncode
    how = "closed its pipe" if code is None else f"ended with {signal_name(-code) if code < 0 else code}"
    raise _Died(how)


def _result(message: Mapping[str, Any]) -> tuple[str, str]:
    """What was found. Raises what the helper did."""
    try:
        if "found" in message:
            found = message["found"]
            return check_digest(found["sha256"]), str(found["role"])[:64]
        error = from_name(str(message["error"]), str(message["text"])[:MAX_TEXT])
    except (ValueError, TypeError, KeyError) as wrong:
        raise _Died("said what nobody understands") from wrong
    raise error if isinstance(error, RepositoryError | StoreError) else RepositoryError(str(error))


async def _last_words(process: Process) -> str:
    """All of its standard error is read, so that it never waits for that; the end is logged, its last line returned."""
    assert process.stderr is not None
    kept = b""
    while data := await process.stderr.read(1 << 16):
        kept = (kept + data)[-MAX_LAST_WORDS:]
    text = kept.decode(errors="replace").strip()
    if text:
        log.warning("verifying packages: %s", text)
    return text.rpartition("\n")[2][:200]


async def _end(process: Process, words: asyncio.Future[str]) -> None:
    """Kill it unless it is gone, and let go of everything: what it wrote to the disk was synced before it answered."""
    assert process.stdin is not None and process.stdout is not None
    _kill(process)
    process.stdin.close()
    while await process.stdout.read(1 << 16):
        pass
    await words
    await process.wait()
    with contextlib.suppress(ConnectionError):
        await process.stdin.wait_closed()


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
