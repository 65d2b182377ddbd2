"""The daemon's table of shared memory and the workers' use of it."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ModelLoadError, OverlaidError, WorkerCrashed
from agent.serving.door import regions
from agent.serving.door.regions import Region, RegionTable, memfd_region, posix_region
from agent.serving.http.messages import RequestError
from agent.serving.worker.regions import WorkerRegions
from tests.unit.serving.descriptors import open_descriptors

SIZE = 64
ANY = st.integers(-(1 << 70), 1 << 70) | st.integers(-4, SIZE + 4)
UID = os.getuid()


def memfd(size: int = SIZE) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


class FakeWorker:
    """Notes what it is told of; ``error``: what it answers."""

    def __init__(self) -> None:
        self.known: list[str] = []
        self.gone = asyncio.Event()
        self.error: OverlaidError | None = None

    async def ask(self, op: str, timeout: float, *, name: str, **rest: Any) -> None:
        await asyncio.sleep(0)
        if self.error is not None and op == "region":
            raise self.error
        if op == "region":
            os.fstat(rest["fds"][0])
            self.known.append(name)
        elif name in self.known:
            self.known.remove(name)


def in_table(steps: Callable[[RegionTable, Any], Awaitable[None]], max_bytes: int = 1 << 20) -> None:
    """Run with a table that has one worker; every descriptor is closed at the end."""

    async def run() -> None:
        table, worker = RegionTable(max_bytes), FakeWorker()
        await table.introduce(worker)  # type: ignore[arg-type]
        await steps(table, worker)
        table.close()

    before = len(open_descriptors())
    asyncio.run(run())
    assert len(open_descriptors()) <= before


def region(name: str, uid: int = UID, size: int = SIZE) -> Region:
    fd = memfd(size)
    try:
        return memfd_region(uid, name, fd)
    finally:
        os.close(fd)


def test_workers_follow_the_table_and_new_ones_hear_all() -> None:
    async def steps(table: RegionTable, worker: FakeWorker) -> None:
        await table.add(region("a"))
        late: Any = FakeWorker()
        await asyncio.gather(table.add(region("b")), table.introduce(late), table.remove(UID, "a"))
        assert sorted(worker.known) == sorted(late.known) == [each.name for each in table.own(UID)] == ["b"]
        worker.gone.set()
        await table.add(region("c"))
        assert worker.known == ["b"] and late.known == ["b", "c"]
        await table.remove(UID)
        assert late.known == [] and table.own(UID) == []

    in_table(steps)


def test_what_a_worker_cannot_map_is_not_registered() -> None:
    async def steps(table: RegionTable, worker: FakeWorker) -> None:
        worker.error = ModelLoadError("no memory")
        with pytest.raises(ModelLoadError):
            await table.add(region("a"))
        assert table.own(UID) == []
        worker.error = WorkerCrashed("it ended meanwhile")
        await table.add(region("a"))
        assert len(table.own(UID)) == 1

    in_table(steps)


def test_names_belong_to_users() -> None:
    async def steps(table: RegionTable, worker: FakeWorker) -> None:
        first = region("a", uid=1)
        await table.add(first)
        with pytest.raises(RequestError, match="registered already") as caught:
            await table.add(region("a", uid=1))
        assert caught.value.status == 409
        await table.add(region("a", uid=2))
        await table.remove(3)
        await table.remove(2, "b")
        await table.remove(2)
        assert [each.uid for each in (*table.own(1), *table.own(2))] == [1]
        await table.remove(1, "a")
        second = region("a", uid=1)
        await table.add(second)
        await table.discard(first)  # what its connection registered is not what has the name now
        assert table.own(1) == [second]

    in_table(steps)


def test_there_is_room_for_so_many_and_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "MAX_REGIONS", 4)

    async def steps(table: RegionTable, worker: FakeWorker) -> None:
        async def refused(candidate: Region) -> None:
            with pytest.raises(RequestError, match="unregister some") as caught:
                await table.add(candidate)
            assert caught.value.status == 503

        await refused(region("a", uid=1, size=501))  # half of what there is
        for uid in (1, 2):
            for name in ("a", "b"):
                await table.add(region(name, uid))
            await refused(region("c", uid))  # half of those there are
        await refused(region("a", uid=3))
        await table.remove(1)
        await table.add(region("a", uid=3, size=500))
        await refused(region("b", uid=4, size=501 - 2 * SIZE))
        await table.add(region("b", uid=4, size=500 - 2 * SIZE))

    in_table(steps, max_bytes=1000)


def test_a_removed_file_is_forgotten(tmp_path: Path) -> None:
    async def steps(table: RegionTable, worker: FakeWorker) -> None:
        for name in ("a", "b"):
            (tmp_path / name).write_bytes(bytes(SIZE))
            await table.add(posix_region(UID, name, {"key": name, "byte_size": SIZE}, tmp_path))
        (tmp_path / "a").unlink()
        await table.forget_removed()
        assert worker.known == ["b"]

    in_table(steps)


@given(offset=ANY, size=ANY)
def test_no_region_reaches_beyond_its_file(offset: int, size: int) -> None:
    folder = Path("/dev/shm")
    path = folder / f"overlaid-unit-{os.getpid()}"
    path.write_bytes(bytes(SIZE))
    try:
        found = posix_region(UID, "r", {"key": path.name, "offset": offset, "byte_size": size}, folder)
    except RequestError as error:
        assert error.status == 400 and not (0 <= offset < offset + size <= SIZE)
    else:
        os.close(found.fd)
        assert 0 <= offset < offset + size <= SIZE
    finally:
        path.unlink()


def test_another_users_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(SIZE))
    with pytest.raises(RequestError, match="only its owner") as caught:
        posix_region(UID + 1, "r", {"key": "key", "byte_size": SIZE}, tmp_path)
    assert caught.value.status == 403


@pytest.fixture(scope="module", params=[True, False], ids=["mapped", "by position"])
def worker(request: pytest.FixtureRequest) -> WorkerRegions:
    """Region ``r`` of user 7: 64 bytes, 0 to 63, from byte 16 of a larger file unless it is mapped."""
    known = WorkerRegions(largest=32)
    start = 0 if request.param else 16
    fd = memfd(SIZE + 2 * start)
    os.pwrite(fd, bytes(range(SIZE)), start)
    known.add(7, "r", fd, request.param, start, SIZE)
    return known


@given(offset=ANY, nbytes=ANY)
def test_reading_gives_exactly_the_bytes_or_an_error(worker: WorkerRegions, offset: int, nbytes: int) -> None:
    inside = 0 <= offset <= offset + nbytes <= SIZE and nbytes >= 0
    try:
        data = worker.read(7, "r", offset, nbytes)
    except RequestError as error:
        assert error.status == (413 if inside else 400) and not (inside and nbytes <= 32)
    else:
        assert inside and bytes(data) == bytes(range(offset, offset + nbytes))


@given(offset=ANY, data=st.binary(max_size=40))
def test_writing_changes_exactly_the_bytes_or_nothing(
    worker: WorkerRegions, offset: int, data: bytes
) -> None:
    def whole() -> bytes:
        return b"".join(bytes(worker.read(7, "r", start, 32)) for start in (0, 32))

    before = whole()
    want = before
    if offset >= 0 and offset + len(data) <= SIZE and len(data) <= 32:
        want = before[:offset] + data + before[offset + len(data) :]
    try:
        worker.write(7, "r", offset, np.frombuffer(data, np.uint8))
    except RequestError:
        assert want == before
    assert whole() == want
    worker.write(7, "r", 0, np.arange(32, dtype=np.uint8))
    worker.write(7, "r", 32, np.arange(32, 64, dtype=np.uint8))


def test_other_users_have_no_such_region(worker: WorkerRegions) -> None:
    for uid, name in ((8, "r"), (7, "s")):
        with pytest.raises(RequestError, match="not registered by this client's user"):
            worker.read(uid, name, 0, 1)


@pytest.mark.parametrize("mapped", [True, False])
def test_a_run_keeps_what_is_unregistered_meanwhile(mapped: bool) -> None:
    known = WorkerRegions(largest=SIZE)
    fds = len(open_descriptors())
    fd = memfd()
    os.pwrite(fd, b"\x07" * SIZE, 0)
    known.add(7, "r", fd, mapped, 0, SIZE)
    tensor = np.frombuffer(known.read(7, "r", 0, SIZE), np.uint8)
    known.forget(7, "r")
    known.forget(7, "r")
    other = memfd()
    known.add(7, "r", other, mapped, 0, SIZE)
    assert known.read(7, "r", 0, 1)[0] == 0 and int(tensor.sum()) == 7 * SIZE
    known.forget(7, "r")
    del tensor
    assert len(open_descriptors()) <= fds


def test_a_file_that_was_cut_is_neither_read_nor_grown(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(SIZE))
    found = posix_region(UID, "r", {"key": "key", "byte_size": SIZE}, tmp_path)
    known = WorkerRegions(largest=SIZE)
    known.add(UID, "r", found.fd, False, 0, SIZE)
    os.truncate(tmp_path / "key", 8)
    assert len(known.read(UID, "r", 0, 8)) == 8
    with pytest.raises(RequestError, match="smaller than it was registered"):
        known.read(UID, "r", 0, 9)
    with pytest.raises(RequestError, match="smaller than it was registered"):
        known.write(UID, "r", 8, np.zeros(1, np.uint8))
    assert (tmp_path / "key").stat().st_size == 8
